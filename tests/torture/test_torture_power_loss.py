from __future__ import annotations

import pytest

from torture.case import assert_holds, try_case
from torture.disturb import may_watch
from torture.power_loss import cases
from torture.writers import Situation

pytestmark = pytest.mark.skipif(bool(may_watch()), reason=may_watch())


def test_power_lost_at_any_instant_leaves_each_file_whole():
    assert_holds(cases([Situation("last", 2), Situation("results", 0), Situation("csv", 1)]), 60)


@pytest.mark.parametrize(
    ("careless", "found"),
    [
        ("does not sync the file", r"is cut|is a mixture|neither the old nor the new|not there"),
        ("does not sync the folder", "what was said to be written is not there"),
        ("writes in place", r"is cut|is a mixture|neither the old nor the new|not there"),
    ],
)
def test_a_careless_writer_is_found(careless, found):
    failures = [try_case(case) or "" for case in cases([Situation(careless, 1)])]
    assert any(word in failure for failure in failures for word in found.split("|"))
