"""The metrics, one entry each: all that names, shows or ranks by a metric reads this table.

It imports nothing heavy: configs are checked by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from discern.errors import DiscernError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Images by class, (…, K) each.

    Attributes:
        correct: those of the class that are predicted as it.
        support: those of the class.
        predicted: those that are predicted as the class.
    """

    correct: NDArray[Any]
    support: NDArray[Any]
    predicted: NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """What discern measures.

    Attributes:
        name: in files and settings, after the split: ``val/NAME``.
        title: in tables and pages.
        mode: whether less or more of it is better.
        of_class: part and whole, (…, K) each, whose quotient is the score of a class: a column of
            the tables by class. None for a metric that is not counted by class; it is computed in
            models/metrics.py and reports/measures.py.
        average: over images ("micro"), or over classes, each of which counts as much ("macro").
        splits: in which an epoch measures it; reports measure all metrics of the test images.
        more_classes_than: it is measured with more classes than these.
        interval: of confidence, see reports/intervals.py: Wilson's for a proportion of images.
        unit: what its curve's axis says; "" for a metric whose curve is not drawn.
        listed: the splits of which ``discern runs`` has a column.
        digits: after the point.
    """

    name: str
    title: str
    mode: Literal["min", "max"]
    of_class: Callable[[Counts], tuple[NDArray[Any], NDArray[Any]]] | None = None
    average: Literal["micro", "macro"] = "micro"
    splits: tuple[str, ...] = ("val", "test")
    more_classes_than: int = 0
    interval: Literal["wilson", "percentile", "reflected"] = "percentile"
    unit: str = ""
    listed: tuple[str, ...] = ()
    digits: int = 4

    def label(self, images: str = "") -> str:
        """What is written at its curve, with whatever is said of the images."""
        return f"{self.title[:1].upper()}{self.title[1:]}{images} ({self.unit})"

    def of_classes(self, counts: Counts) -> NDArray[np.float64]:
        """The score of each class, (…, K); 0 for one without images to count."""
        assert self.of_class is not None
        return ratio(*self.of_class(counts))

    def of(self, counts: Counts) -> NDArray[np.float64]:
        """The average, (…).

        In that over classes, as torchmetrics and scikit-learn have it, a class that is neither a
        label nor predicted does not count.
        """
        assert self.of_class is not None
        if self.average == "micro":
            part, whole = self.of_class(counts)
            return ratio(part.sum(-1), whole.sum(-1))
        present = counts.support + counts.predicted > 0
        return ratio((self.of_classes(counts) * present).sum(-1), present.sum(-1))


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """``part / whole``, and 0 where both are 0."""
    quotient: NDArray[np.float64] = part / (whole + (whole == 0))
    return quotient


EVERY_SPLIT = ("train", "val", "test")

METRICS = (
    Metric("loss", "loss", "min", splits=EVERY_SPLIT, unit="cross-entropy, nats", listed=("val",)),
    Metric(
        "accuracy",
        "accuracy",
        "max",
        of_class=lambda of: (of.correct, of.support),
        splits=EVERY_SPLIT,
        interval="wilson",
        unit="fraction correct",
        listed=("val", "test"),
    ),
    Metric("precision", "precision", "max", lambda of: (of.correct, of.predicted), average="macro"),
    Metric("recall", "recall", "max", lambda of: (of.correct, of.support), average="macro"),
    Metric(
        "f1", "F1", "max", lambda of: (2 * of.correct, of.support + of.predicted), average="macro"
    ),
    Metric("top5_error", "top-5 error", "min", more_classes_than=5, interval="wilson"),
    Metric("ece", "calibration error", "min", splits=(), interval="reflected"),
)
"""In the order in which they are shown."""

BY_CLASS = [metric for metric in METRICS if metric.of_class is not None]
"""Columns of the tables by class."""

DRAWN = [metric for metric in METRICS if metric.unit]
"""Those whose curves are drawn, and which stand where there is room for few."""

LISTED = [f"{split}/{each.name}" for split in ("val", "test") for each in METRICS
          if split in each.listed]  # fmt: skip
"""What ``discern runs`` shows of a run's metrics; the first ranks runs."""

SMALL_IS_GOOD = ("loss", "error", "seconds")
"""Endings of the names of metrics that are not in the table and of which less is better."""


def find(name: str) -> Metric | None:
    """The entry of ``NAME`` or ``SPLIT/NAME``; None for a metric of a user's own."""
    return next((one for one in METRICS if one.name == name.rpartition("/")[2]), None)


def title_of(name: str) -> str:
    """What a metric ``NAME`` is called in tables and pages."""
    metric = find(name)
    return name.replace("_", " ") if metric is None else metric.title


def value_text(name: str, value: float | None) -> str:
    """A value of the metric ``NAME`` or ``SPLIT/NAME`` as text; a dash for none."""
    if value is None:
        return "–"
    metric = find(name)
    return f"{value:.{Metric.digits if metric is None else metric.digits}f}"


def mode_of(name: str) -> Literal["min", "max"]:
    """Which way a metric ``NAME`` or ``SPLIT/NAME`` is better, in Lightning's and torch's words."""
    metric = find(name)
    if metric is not None:
        return metric.mode
    return "min" if name.endswith(SMALL_IS_GOOD) else "max"


def direction_of(name: str) -> str:
    """The same in Optuna's words: ``minimize`` or ``maximize``."""
    return "minimize" if mode_of(name) == "min" else "maximize"


def check_mode(setting: str, mode: str | None, monitor: str) -> None:
    """Refuse to watch a metric in the direction in which it is worse.

    Args:
        setting: the name of the setting that holds the mode.
        mode: ``min`` or ``max``; None stands for the metric's own.
        monitor: the metric that is watched.

    Raises:
        DiscernError: the mode is not the metric's.
    """
    if mode is not None and mode != mode_of(monitor):
        better = "less" if mode_of(monitor) == "min" else "more"
        raise DiscernError(
            f"{setting}={mode} is not allowed with monitor={monitor}, of which {better} is better; "
            f"it must be {mode_of(monitor)}, or null for the metric's own direction."
        )
