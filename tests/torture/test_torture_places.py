"""A few of the places and clocks of `python tests/torture places`, and what would be found."""

from __future__ import annotations

import pytest

from torture import places
from torture.case import assert_holds


def test_a_sample_holds():
    assert_holds(places.cases(), 4)


def test_there_are_sixty():
    assert len(list(places.cases())) >= 60


def test_a_run_that_lost_an_epoch_or_its_settings_would_be_found(tmp_path):
    run = places.first_part(tmp_path)
    with pytest.raises(AssertionError):
        places.assert_right(run)
    (run / "config.yaml").unlink()
    with pytest.raises(AssertionError):
        places.assert_right(run)


def test_a_traceback_would_be_found(tmp_path):
    done = places.starter.invoke("-c", "raise OSError('x')", cwd=tmp_path)
    with pytest.raises(AssertionError):
        places.assert_refused(done)
