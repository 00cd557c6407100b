"""What the jobs of a sweep are ranked by."""

from __future__ import annotations

from collections.abc import Sequence

from discern.errors import DiscernError
from discern.runs.metric_table import direction_of
from discern.sweeps.rows import Objective

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
    told = directions or [direction_of(metric) for metric in metrics]
    return [Objective(*pair) for pair in zip(metrics, told, strict=True)]
