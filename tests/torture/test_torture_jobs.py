from __future__ import annotations

from torture.case import assert_holds
from torture.jobs import cases


def test_eleven_jobs_finish_and_a_rerun_does_the_twelfth():
    # A hang takes as long as its limit; tests/sweeps/test_launcher.py has a short one.
    assert_holds((case for case in cases() if not case.name.startswith("hang")), 1)
