"""The facts that a run's page is made from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.config.check import as_typed_settings
from discern.config.typed import command_line
from discern.redaction import redacted
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


MAX_SETTINGS, MAX_TYPED = 200, 100_000
"""Settings of a command that is shown, and characters of them; to read one takes milliseconds."""


def command_of(run: Run, change: Callable[[list[str]], list[str]] = list) -> str:
    """The command of a run, without secrets; of very many settings it has the first ones.

    Args:
        run: the run.
        change: applied to the settings.
    """
    lengths = itertools.islice(itertools.accumulate(map(len, run.overrides)), MAX_SETTINGS)
    count = sum(length <= MAX_TYPED for length in lengths)
    command = command_line(change(redacted(run.overrides[:count])), as_typed_settings())
    more = len(run.overrides) - count
    return f"{command}  # … and {more:,} more" if more else command


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
