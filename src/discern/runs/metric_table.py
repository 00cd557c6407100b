"""The table of metrics. Everything that names, shows or ranks by a metric reads it.

It imports nothing heavy, because the check of settings uses it.
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

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The mode in Optuna's words."""
        return "minimize" if self.mode == "min" else "maximize"

    def text(self, value: float | None) -> str:
        """A value as people read it; a dash for none."""
        return "–" if value is None else f"{value:.{self.digits}f}"

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
"""Endings of the names of metrics of a user's own of which less is better."""


def metric_of(name: str) -> Metric:
    """The entry of ``NAME`` or ``SPLIT/NAME``; of a metric of a user's own what its name tells."""
    own = name.rpartition("/")[2]
    guess = Metric(own, own.replace("_", " "), "min" if own.endswith(SMALL_IS_GOOD) else "max")
    return next((metric for metric in METRICS if metric.name == own), guess)


def check_mode(setting: str, mode: str | None, monitor: str) -> None:
    """Refuse to watch a metric in the direction in which it is worse.

    Args:
        setting: the name of the setting that holds the mode.
        mode: ``min`` or ``max``; None stands for the metric's own.
        monitor: the metric that is watched.

    Raises:
        DiscernError: the mode is not the metric's.
    """
    right = metric_of(monitor).mode
    if mode not in (None, right):
        better = "less" if right == "min" else "more"
        raise DiscernError(
            f"{setting}={mode} is not allowed with monitor={monitor}, of which {better} is better; "
            f"it must be {right}, or null for the metric's own direction."
        )
