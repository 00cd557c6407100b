from __future__ import annotations

import pytest

from discern.errors import DiscernError
from discern.runs.place import Place
from discern.runs.state import Ended, State
from discern.runs.summary import Summary


def test_a_folder_that_another_has_taken_the_place_of_is_noticed(tmp_path):
    (tmp_path / "run").mkdir()
    place = Place(tmp_path / "run")
    place.check()
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    with pytest.raises(DiscernError):
        place.check()


def test_a_summary_is_not_written_into_another_folder(tmp_path):
    (tmp_path / "run").mkdir()
    summary = Summary(tmp_path / "run" / "summary.json")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(DiscernError, match="the run's folder, was moved, removed or replaced"):
        summary.write(Ended(State.DONE, "1 of 1 epochs"))
    assert not (tmp_path / "run").exists()
