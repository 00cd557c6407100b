"""The table of metrics. Everything that names, shows or ranks by a metric reads it.

It imports nothing heavy, because the check of settings uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from discern.errors import DiscernError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating]


@dataclass(frozen=True)
class ClassCounts:
    """Counts of images per class, (…, K) each.

    Attributes:
        correct: images of the class that are predicted as it.
        support: images of the class.
        predicted: images that are predicted as the class.
    """

    correct: Array
    support: Array
    predicted: Array


@dataclass(frozen=True)
class Sums:
    """Sums over images, (…) each, from which every metric is computed.

    Attributes:
        classes: the counts per class.
        images: the number of images.
        loss: the sum of their losses.
        not_in_top5: images whose label is not among their five most probable classes.
        excess: confidence minus correctness, summed per confidence bin, (…, bins); None during an
            epoch, which does not measure calibration.
    """

    classes: ClassCounts
    images: Array
    loss: Array
    not_in_top5: Array
    excess: Array | None = None


@dataclass(frozen=True)
class Metric:
    """A metric that discern measures.

    Attributes:
        name: its name in files and settings, after the split: ``val/NAME``.
        title: its name in tables and pages.
        mode: whether lower or higher is better.
        of_class: numerator and denominator of the score of each class, (…, K) each; the score is a
            column of the per-class tables. None for a metric that is not counted by class.
        total: the sum over images, (…), whose mean is the metric, if it is not counted by class.
        average: over images ("micro"), or over classes with equal weight ("macro").
        splits: splits in which an epoch measures it; reports measure all metrics of the test split.
        more_classes_than: measured only if there are more classes than this.
        interval: the confidence interval, see reports/intervals.py; Wilson's for a proportion.
        unit: the unit on its curve's axis; "" for a metric whose curve is not drawn.
        listed: the splits for which ``discern runs`` has a column.
        digits: digits after the decimal point.
    """

    name: str
    title: str
    mode: Literal["min", "max"]
    of_class: Callable[[ClassCounts], tuple[Array, Array]] | None = None
    total: Callable[[Sums], Array] | None = None
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
        """A value for people; a dash for None."""
        return "–" if value is None else f"{value:.{self.digits}f}"

    def label(self, images: str = "") -> str:
        """The label of its curve's axis; ``images`` names the images it is measured on."""
        return f"{self.title[:1].upper()}{self.title[1:]}{images} ({self.unit})"

    def of_classes(self, counts: ClassCounts) -> Array:
        """The score of each class, (…, K); 0 for a class without images to count."""
        assert self.of_class is not None
        return ratio(*self.of_class(counts))

    def of(self, sums: Sums) -> Array:
        """The metric, (…).

        As in torchmetrics and scikit-learn, an average over classes leaves out a class that is
        neither a label nor predicted.
        """
        if self.total is not None:
            return self.total(sums) / sums.images
        assert self.of_class is not None
        counts = sums.classes
        if self.average == "micro":
            part, whole = self.of_class(counts)
            return ratio(part.sum(-1), whole.sum(-1))
        present = (counts.support + counts.predicted > 0).astype(float)
        return ratio((self.of_classes(counts) * present).sum(-1), present.sum(-1))


def ratio(part: Array, whole: Array) -> Array:
    """``part / whole``, and 0 where both are 0."""
    quotient: Array = part / (whole + (whole == 0))
    return quotient


def _absolute_excess(sums: Sums) -> Array:
    assert sums.excess is not None
    total: Array = abs(sums.excess).sum(-1)
    return total


SHARE = "fraction correct"
"""The unit of a metric that is at most 1."""

EVERY_SPLIT = ("train", "val", "test")

METRICS = (
    Metric("loss", "loss", "min", total=lambda sums: sums.loss, splits=EVERY_SPLIT,
           unit="cross-entropy, nats", listed=("val",)),
    Metric("accuracy", "accuracy", "max", lambda of: (of.correct, of.support), splits=EVERY_SPLIT,
           interval="wilson", unit=SHARE, listed=("val", "test")),
    Metric("precision", "precision", "max", lambda of: (of.correct, of.predicted), average="macro"),
    Metric("recall", "recall", "max", lambda of: (of.correct, of.support), average="macro"),
    Metric("f1", "F1", "max", lambda of: (2 * of.correct, of.support + of.predicted),
           average="macro"),
    Metric("top5_error", "top-5 error", "min", total=lambda sums: sums.not_in_top5,
           more_classes_than=5, interval="wilson"),
    # Expected calibration error, Σ_b (n_b / n) |confidence_b - accuracy_b| over bins b.
    Metric("ece", "calibration error", "min", total=_absolute_excess, splits=(),
           interval="reflected"),
)  # fmt: skip
"""All metrics, in the order in which they are shown."""

BY_CLASS = [metric for metric in METRICS if metric.of_class is not None]
"""Columns of the per-class tables."""

DRAWN = [metric for metric in METRICS if metric.unit]
"""Metrics whose curves are drawn; they come first where there is room for few."""

LISTED = [f"{split}/{each.name}" for split in ("val", "test") for each in METRICS
          if split in each.listed]  # fmt: skip
"""The metrics that ``discern runs`` lists; the first one ranks runs."""

CLASS_ACCURACY, MAX_CLASS_CURVES = "val/accuracy/", 12
"""What the columns of metrics.csv for single classes begin with, before a class's number, and the
most classes for which there are such columns."""

SMALL_IS_GOOD = ("loss", "error", "seconds")
"""Endings of names of a user's own metrics of which lower is better."""


def metric_of(name: str) -> Metric:
    """The entry for ``NAME`` or ``SPLIT/NAME``; a user's own metric is judged by its name."""
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
