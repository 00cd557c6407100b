from __future__ import annotations

import pytest

from torture.case import SEED, assert_holds, sample, try_case
from torture.disturb import may_watch
from torture.failing_disk import cases
from torture.writers import Situation

pytestmark = pytest.mark.skipif(bool(may_watch()), reason=may_watch())


def test_a_disk_that_fails_costs_no_file():
    some = [Situation("last", 1), Situation("csv", 1), Situation("cache", 0)]
    assert_holds(cases(some), 25)


def test_a_writer_that_writes_in_place_is_found():
    tried = [c for c in cases([Situation("writes in place", 1)]) if "ENOSPC at write" in c.name]
    assert any("is cut" in (try_case(case) or "") for case in sample(tried, None, SEED))
