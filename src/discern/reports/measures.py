"""The metrics of a split, each with its confidence interval."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from discern.reports.calibration import BINS, bin_of, calibration_error
from discern.reports.intervals import Estimate, bootstrap_weights, percentile, reflected, wilson
from discern.runs.metric_table import METRICS, Counts, Metric
from discern.runs.predictions import Predictions


def measure(predictions: Predictions, seed: int) -> dict[str, Estimate]:
    """All metrics that are measured with as many classes, in the table's order.

    The bootstrap of their intervals is one over images, and a function of ``seed``.
    """
    total, classes = len(predictions), len(predictions.class_names)
    metrics = [metric for metric in METRICS if classes > metric.more_classes_than]
    values = _weighted(predictions, metrics, np.ones((1, total)))
    resampled = _resampled(predictions, [m for m in metrics if m.interval != "wilson"], seed)
    estimates = {}
    for metric in metrics:
        name, value = metric.name, float(values[metric.name][0])
        if metric.interval == "wilson":
            estimates[name] = wilson(round(value * total), total)
        elif metric.interval == "reflected":
            estimates[name] = reflected(value, resampled[name])
        else:
            estimates[name] = percentile(value, resampled[name])
    return estimates


def _resampled(
    predictions: Predictions, metrics: Sequence[Metric], seed: int
) -> dict[str, NDArray[np.float64]]:
    """The replicates of each metric, (R,)."""
    blocks = [
        _weighted(predictions, metrics, weights)
        for weights in bootstrap_weights(len(predictions), seed)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _weighted(
    predictions: Predictions, metrics: Sequence[Metric], weights: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """The metrics of the images weighted by each row of ``weights`` (R, N): (R,) each."""
    classes = len(predictions.class_names)
    labels = _one_hot(predictions.labels, classes)
    counts = Counts(
        (weights @ (labels * predictions.correct[:, None])).astype(np.float64),
        (weights @ labels).astype(np.float64),
        (weights @ _one_hot(predictions.predicted, classes)).astype(np.float64),
    )
    return {
        metric.name: _other(metric.name, predictions, weights)
        if metric.of_class is None
        else metric.of(counts)
        for metric in metrics
    }


def _other(
    name: str, predictions: Predictions, weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """One that is not counted by class."""
    images = weights.sum(axis=1)
    if name == "ece":
        confidences = predictions.confidences
        excess = (confidences - predictions.correct)[:, None]
        return calibration_error(weights @ (_one_hot(bin_of(confidences), BINS) * excess), images)
    of_image = predictions.losses if name == "loss" else ~predictions.in_top
    mean: NDArray[np.float64] = weights @ of_image / images
    return mean


def _one_hot(numbers: NDArray[np.integer], size: int) -> NDArray[np.float32]:
    """Row i is 1 in column ``numbers[i]`` and 0 elsewhere, (N, size)."""
    rows = np.zeros((len(numbers), size), np.float32)
    rows[np.arange(len(numbers)), numbers] = 1
    return rows
