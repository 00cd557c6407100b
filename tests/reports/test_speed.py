from __future__ import annotations

from pathlib import Path

import pytest

from discern.reports.speed import counted_in, how_counted, speed_of
from discern.runs.folder import Run


@pytest.mark.parametrize(
    ("read", "computed", "words"),
    [(0, 0, ""), (9, 0, "features read"), (0, 9, "features computed"),
     (2000, 1000, "1,000 features computed, 2,000 read")],
)  # fmt: skip
def test_what_was_counted(read, computed, words):
    assert how_counted(read, computed) == words


def test_a_runs_speed_says_what_was_counted():
    facts = {"images_per_second": 1234.5, "images_counted": {"features_read": 5}}
    assert speed_of(Run(Path(), facts)) == "1,234 images/s (features read)"
    assert speed_of(Run(Path(), {"images_per_second": 1234.5})) == "1,234 images/s"
    assert speed_of(Run(Path(), {})) is None


@pytest.mark.parametrize("counts", [None, [], {"features_read": "many"}, {"features_read": {}}])
def test_a_summary_may_hold_anything(counts):
    assert counted_in(Run(Path(), {"images_counted": counts})) == ""
