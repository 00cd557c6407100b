from __future__ import annotations

import pytest

from discern.config.check import check_sweep
from discern.config.durations import seconds_of
from discern.errors import DiscernError
from run_files import composed


@pytest.mark.parametrize(
    ("time", "seconds"),
    [(1, 1.0), (0.5, 0.5), ("01:02:03:04", 93784.0), ({"hours": 1, "minutes": 1}, 3660.0)],
)
def test_a_duration_is_seconds_however_it_is_written(time, seconds):
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["null", "5", "0.5", "00:00:00:01", "{minutes:5}"])
def test_a_time_limit_of_jobs_is_any_duration(time):
    check_sweep(composed(f"sweep.job_timeout={time}"))


@pytest.mark.parametrize("time", ["0", "-1", "soon", "true", "00:00:00:00", "{minutes:0}", "{}"])
def test_a_time_limit_that_is_none_is_refused(time):
    with pytest.raises(DiscernError, match=r"^sweep\.job_timeout=.* is not allowed; it must be a"):
        check_sweep(composed(f"sweep.job_timeout={time}"))
