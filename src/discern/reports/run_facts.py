"""The facts that a run's page is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.reports.confusion import confusion_matrix
from discern.reports.intervals import Estimate
from discern.reports.measures import measure
from discern.runs.folder import Run, read_run
from discern.runs.tested import Tested, read_tested
from discern.runs.thumbnails import Thumbnails, side_of

Section = dict[str, object]
"""What a section's template shows, as ``this``; ``plots`` are charts: id -> chart."""


@dataclass(frozen=True)
class RunFacts:
    """The facts that sections are made from.

    Attributes:
        run: the contents of its folder.
        tested: predictions on the test images; None if the folder has no such file.
    """

    run: Run
    tested: Tested | None

    @cached_property
    def measured(self) -> dict[str, Estimate]:
        """The test metrics with intervals; empty without predictions."""
        seed = self.run.facts.get("seed")
        seed = seed if isinstance(seed, int) and seed >= 0 else 0
        return measure(self.tested.predictions, seed) if self.tested else {}

    @cached_property
    def confusions(self) -> NDArray[np.int64]:
        """The confusion matrix of the test images, (K, K); empty without predictions."""
        if self.tested is None:
            return np.zeros((0, 0), np.int64)
        found = self.tested.predictions
        return confusion_matrix(found.labels, found.predicted, len(found.class_names))


def read_facts(folder: Path) -> RunFacts:
    """The facts in a run's folder.

    Raises:
        DiscernError: it is not the folder of a run.
    """
    return RunFacts(read_run(folder), _without_bad_pictures(read_tested(folder)))


def _without_bad_pictures(tested: Tested | None) -> Tested | None:
    """The predictions, without thumbnails if the file's picture is not a sheet of thumbnails."""
    if tested is not None:
        try:
            side_of(tested.thumbnails)
        except ValueError:
            return replace(tested, thumbnails=Thumbnails(np.zeros(0, np.int64), b"", 1))
    return tested
