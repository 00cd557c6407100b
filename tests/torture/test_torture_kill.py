from __future__ import annotations

import pytest

from torture.case import SEED, assert_holds, sample, try_case
from torture.disturb import may_watch
from torture.kill import cases
from torture.writers import Situation

pytestmark = pytest.mark.skipif(bool(may_watch()), reason=may_watch())


def test_a_process_killed_at_any_instant_leaves_each_file_whole():
    some = [Situation("last", 2), Situation("summary", 1), Situation("cache", 0)]
    assert_holds(cases(some), 30)


def test_a_writer_that_writes_in_place_is_found():
    tried = sample(cases([Situation("writes in place", 1)]), None, SEED)
    assert any("is cut" in (try_case(case) or "") for case in tried)
