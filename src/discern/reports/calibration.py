"""Calibration: whether accuracy matches confidence; reliability.png."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from discern.reports.intervals import Estimate
from discern.reports.sheet import BLUE, VERMILION, legend_above, save
from discern.reports.sheet import title as write_title

BINS = 15
"""Bins of equal width for confidences from 0 to 1, as in Guo et al. (2017)."""


def bin_of(confidences: NDArray[np.float32]) -> NDArray[np.intp]:
    """The bin of each confidence (N,): bin b is (b / 15, (b + 1) / 15]; NaN is in bin 0."""
    return np.clip(np.ceil(np.nan_to_num(confidences) * BINS).astype(np.intp) - 1, 0, BINS - 1)


@dataclass(frozen=True)
class Reliability:
    """Images by confidence.

    Attributes:
        counts: images in each bin, int64 (BINS,).
        confidence: mean confidence of a bin's images, 0 for an empty bin, float64 (BINS,).
        accuracy: fraction of a bin's images classified correctly, 0 for an empty bin, (BINS,).
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(confidences: NDArray[np.float32], correct: NDArray[np.bool_]) -> Reliability:
    """The bins for images with these confidences (N,) and correctness (N,); NaN is left out."""
    known = np.isfinite(confidences)
    confidences, correct = confidences[known], correct[known]
    bins = bin_of(confidences)
    counts = np.bincount(bins, minlength=BINS)
    safe = np.maximum(counts, 1)
    return Reliability(
        counts,
        confidence=np.bincount(bins, confidences, BINS) / safe,
        accuracy=np.bincount(bins, correct, BINS) / safe,
    )


def draw_reliability(bins: Reliability, error: Estimate, title: str, path: Path) -> None:
    """Draw accuracy against confidence, with a histogram of the confidences below."""
    figure = Figure(figsize=(6, 7))
    FigureCanvasAgg(figure)
    diagram = figure.add_axes((0.16, 0.36, 0.8, 0.51))
    histogram = figure.add_axes((0.16, 0.08, 0.8, 0.21))
    _draw_diagram(diagram, bins)
    edges = np.arange(BINS) / BINS
    histogram.bar(edges, bins.counts, 1 / BINS, align="edge", color=BLUE, edgecolor="white")
    histogram.set(
        xlim=(0, 1), xlabel="Confidence (probability of the predicted class)", ylabel="Images"
    )
    # A good model has nearly all images in the last bin; the others would be invisible.
    histogram.set_yscale("symlog", linthresh=1)
    histogram.set_ylim(0, max(2, 2 * bins.counts.max()))
    # The default format is mathtext, whose parser takes a tenth of a second.
    histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    histogram.grid(alpha=0.3, axis="y")
    write_title(
        figure,
        f"{title}\nexpected calibration error {error.value:.4f} "
        f"(95 % interval {error.low:.4f} to {error.high:.4f})",
    )
    save(figure, path)


def _draw_diagram(axes: Axes, bins: Reliability) -> None:
    left = (np.arange(BINS) / BINS)[bins.counts > 0]
    accuracy, confidence = bins.accuracy[bins.counts > 0], bins.confidence[bins.counts > 0]
    width = 1 / BINS
    axes.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    axes.bar(
        left, confidence - accuracy, width, bottom=accuracy, align="edge", color="none",
        edgecolor=VERMILION, hatch="///", linewidth=1, label="gap to the confidence",
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color="0.3", linestyle="--", label="perfectly calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy (fraction correct)")
    axes.grid(alpha=0.3)
    legend_above(axes)
