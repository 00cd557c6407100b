"""Jobs of a sweep: objective, plan and outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Len

from discern.errors import DiscernError
from discern.redaction import redacted_setting
from discern.runs.folder import FOLD
from discern.runs.metric_table import metric_of
from discern.runs.state import Ended, State

Direction = Literal["minimize", "maximize"]
Name = Annotated[str, Len(1, 1000)]
Text = Annotated[str, Len(0, 100_000)]
"""The limits are those of ``sweep.json``."""


@dataclass(frozen=True)
class Job:
    """A planned job.

    Attributes:
        number: from 0.
        name: of its folder in the sweep's.
        overrides: setting -> value as typed, without Hydra's own.
    """

    number: Annotated[int, Ge(0)]
    name: str
    overrides: Annotated[dict[Name, Text], Len(0, 1000)]

    @property
    def shown(self) -> dict[str, str]:
        """The overrides as written and shown, with possible secrets redacted."""
        return shown(self.overrides)


def shown(overrides: Mapping[str, str]) -> dict[str, str]:
    """Overrides with possible secrets redacted."""
    return {
        key: redacted_setting(f"{key}={value}").removeprefix(f"{key}=")
        for key, value in overrides.items()
    }


@dataclass(frozen=True)
class Objective:
    """What jobs are ranked by.

    Attributes:
        metric: its name, such as ``val/loss``.
        direction: whether less or more is better.
    """

    metric: Name
    direction: Direction

    @property
    def sign(self) -> int:
        """1 to minimize, -1 to maximize: the better value times this is the lower one."""
        return 1 if self.direction == "minimize" else -1


PARTS = ("data.seed", FOLD)
"""Settings that draw other validation images. Their jobs are parts of one estimate: they are not
ranked, and the best of them would only have the easiest images."""


@dataclass(frozen=True)
class Row:
    """The outcome of a job.

    Attributes:
        number: of the job in the sweep, from 0.
        folder: the job's output folder.
        overrides: setting -> value as typed, of the settings that differ between jobs.
        state: of the job.
        values: metric -> value of the kept model, for each objective; None where there is none;
            never NaN.
        epochs: trained.
        seconds: taken.
        reason: why the job is not done, or why it ended, in one sentence.
        folds: number of parts of the training images of which the job holds out one; None where
            jobs do not differ in their fold, or it is not known.
        validation_images: their number; None if it is not known.
    """

    number: int
    folder: Path
    overrides: Mapping[str, str]
    state: State = State.WAITING
    values: Mapping[str, float | None] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    reason: str = ""
    folds: int | None = None
    validation_images: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether the job is a fold, or has one of several splits."""
        return any(name.lstrip("+") in PARTS for name in self.overrides)

    @property
    def outcome(self) -> str:
        """Its state and the reason, as in ``failed: a mistake``."""
        return str(Ended(self.state, self.reason))


SPLITS = ("val", "train")
"""Splits to rank by; nothing is chosen by the test split."""


def objectives_of(
    setting: str | Sequence[str], directions: Sequence[Direction] = ()
) -> list[Objective]:
    """The objectives named by ``objective=…``.

    Args:
        setting: one metric or several.
        directions: one for each metric; empty for the metrics' own.

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
    each_direction = directions or [metric_of(metric).direction for metric in metrics]
    return [Objective(*pair) for pair in zip(metrics, each_direction, strict=True)]
