"""What is known of each job of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from discern.errors import DiscernError
from discern.runs.metric_table import metric_of
from discern.runs.state import State


@dataclass(frozen=True)
class Objective:
    """What jobs are ranked by.

    Attributes:
        metric: its name, such as ``val/loss``.
        direction: ``minimize`` or ``maximize``.
    """

    metric: str
    direction: Direction

    @property
    def sign(self) -> int:
        """1 if less is better, else -1: a value times this is less for the better job."""
        return 1 if self.direction == "minimize" else -1


@dataclass(frozen=True)
class Row:
    """A job.

    Attributes:
        number: its place in the sweep, from 0.
        folder: where it writes.
        overrides: setting -> value, as it was typed, of all that jobs of the sweep differ in.
        state: how far it has come.
        values: an objective's metric -> its value in the model that the job kept; None where the
            job has none, and never a NaN.
        epochs: that it trained for.
        seconds: that it took.
        reason: why it is not done, or why it ended, in one sentence.
    """

    number: int
    folder: Path
    overrides: Mapping[str, str]
    state: State = State.WAITING
    values: Mapping[str, float | None] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    reason: str = ""


SPLITS = ("val", "train")
"""What may be ranked by: the test split is never used for choosing anything."""


def objectives_of(setting: str | Sequence[str], directions: Sequence[str] = ()) -> list[Objective]:
    """The objectives that ``objective=…`` names.

    Args:
        setting: one metric or several.
        directions: ``minimize`` or ``maximize`` for each; empty where the names tell.

    Raises:
        DiscernError: a metric of the test split, or another number of directions.
    """
    metrics = [setting] if isinstance(setting, str) else list(setting)
    if not metrics:
        raise DiscernError("objective=[] is not allowed; it must name a metric, such as val/loss.")
    for metric in map(str, metrics):
        split, _, name = metric.partition("/")
        if split not in SPLITS or not name:
            raise DiscernError(
                f"objective={metric} is not allowed; it must be a metric of val or train, such as "
                "val/loss or val/accuracy: the test split chooses nothing."
            )
    if directions and len(directions) != len(metrics):
        raise DiscernError(
            f"hydra.sweeper.direction has {len(directions)} values, and objective "
            f"{len(metrics)}; each objective needs one."
        )
    told = directions or [metric_of(metric).direction for metric in metrics]
    return [Objective(*pair) for pair in zip(metrics, told, strict=True)]
