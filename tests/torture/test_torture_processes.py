from __future__ import annotations

from torture.case import assert_holds
from torture.processes import cases


def test_processes_at_once_lose_nothing_whatever_becomes_of_one():
    assert_holds(cases(), 8)
