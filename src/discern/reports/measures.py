"""The metrics of a split, each with its confidence interval."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from discern.reports.calibration import BINS, bin_of
from discern.reports.intervals import (
    Estimate,
    bootstrap_weights,
    correct_by_chance,
    percentile,
    reflected,
    wilson,
)
from discern.runs.metric_table import METRICS, ClassCounts, Metric, Sums
from discern.runs.predictions import Predictions


def measure(predictions: Predictions, seed: int) -> dict[str, Estimate]:
    """All metrics that exist for this number of classes, in the order of METRICS.

    Their intervals come from a bootstrap over images, which ``seed`` determines.
    """
    total, metrics = len(predictions), _existing(predictions)
    values = _weighted(predictions, metrics, np.ones((1, total)))
    resampled = _resampled(predictions, [m for m in metrics if m.interval != "wilson"], seed)
    estimates = {}
    for metric in metrics:
        name, value = metric.name, float(values[metric.name][0])
        if metric.interval == "wilson":
            estimates[name] = wilson(round(value * total), total)
        elif metric.interval == "reflected":
            by_chance = _errors_by_chance(predictions.confidences, seed)
            estimates[name] = reflected(value, resampled[name], by_chance)
        else:
            estimates[name] = percentile(value, resampled[name])
    return estimates


def values_of(predictions: Predictions) -> dict[str, float]:
    """The values of :func:`measure` without intervals, which take a thousand times as long."""
    found = _weighted(predictions, _existing(predictions), np.ones((1, len(predictions))))
    return {name: float(value[0]) for name, value in found.items()}


def _existing(predictions: Predictions) -> list[Metric]:
    classes = len(predictions.class_names)
    return [metric for metric in METRICS if classes > metric.more_classes_than]


def _resampled(
    predictions: Predictions, metrics: Sequence[Metric], seed: int
) -> dict[str, NDArray[np.floating]]:
    """The replicates of each metric, (R,)."""
    blocks = [
        _weighted(predictions, metrics, weights)
        for weights in bootstrap_weights(len(predictions), seed)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _errors_by_chance(confidences: NDArray[np.float32], seed: int) -> NDArray[np.floating]:
    """Calibration errors, (R,), of images with these confidences (N,) if they are true."""
    bins = _one_hot(bin_of(confidences), BINS)
    expected = confidences.astype(np.float64) @ bins
    excess = [expected - correct @ bins for correct in correct_by_chance(confidences, seed)]
    errors: NDArray[np.floating] = np.abs(np.concatenate(excess)).sum(axis=1) / len(confidences)
    return errors


def _weighted(
    predictions: Predictions, metrics: Sequence[Metric], weights: NDArray[np.floating]
) -> dict[str, NDArray[np.floating]]:
    """The metrics of the images weighted by each row of ``weights`` (R, N): (R,) each."""
    classes, correct = len(predictions.class_names), predictions.correct
    labels = _one_hot(predictions.labels, classes)
    predicted = _one_hot(predictions.predicted, classes)
    confidences = predictions.confidences
    excess = _one_hot(bin_of(confidences), BINS) * (confidences - correct)[:, None]
    sums = Sums(
        ClassCounts(
            (weights @ (labels * correct[:, None])).astype(np.float64),
            (weights @ labels).astype(np.float64),
            (weights @ predicted).astype(np.float64),
        ),
        images=weights.sum(axis=1),
        loss=weights @ predictions.losses,
        not_in_top5=weights @ ~predictions.in_top,
        excess=(weights @ excess).astype(np.float64),
    )
    return {metric.name: metric.of(sums) for metric in metrics}


def _one_hot(numbers: NDArray[np.integer], size: int) -> NDArray[np.float32]:
    """Row i is 1 in column ``numbers[i]`` and 0 elsewhere, (N, size)."""
    rows = np.zeros((len(numbers), size), np.float32)
    rows[np.arange(len(numbers)), numbers] = 1
    return rows
