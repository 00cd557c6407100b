"""The metrics of a split, each with its confidence interval."""

import numpy as np
from numpy.typing import NDArray

from discern.reports.calibration import BINS, bin_of, calibration_error
from discern.reports.confusion import macro
from discern.reports.intervals import Estimate, bootstrap_weights, percentile, reflected, wilson
from discern.runs.predictions import TOP, Predictions


def measure(predictions: Predictions, seed: int) -> dict[str, Estimate]:
    """Loss, accuracy, macro precision and recall, top-5 error (above 5 classes), ECE.

    Proportions of images have Wilson's interval, the others that of a bootstrap over images which
    is a function of ``seed``.
    """
    total, correct = len(predictions), int(predictions.correct.sum())
    values = {name: float(one[0]) for name, one in _means(predictions, np.ones((1, total))).items()}
    resampled = _resampled(predictions, seed)
    estimates = {
        "loss": percentile(values["loss"], resampled["loss"]),
        "accuracy": wilson(correct, total),
        "precision": percentile(values["precision"], resampled["precision"]),
        "recall": percentile(values["recall"], resampled["recall"]),
    }
    if len(predictions.class_names) > TOP:
        estimates["top5_error"] = wilson(total - int(predictions.in_top.sum()), total)
    return {**estimates, "ece": reflected(values["ece"], resampled["ece"])}


def _resampled(predictions: Predictions, seed: int) -> dict[str, NDArray[np.float64]]:
    """The replicates of each metric, (R,)."""
    blocks = [_means(predictions, weights) for weights in bootstrap_weights(len(predictions), seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _means(
    predictions: Predictions, weights: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """The metrics of the images weighted by each row of ``weights`` (R, N): (R,) each."""
    classes, correct = len(predictions.class_names), predictions.correct
    found = weights @ (_one_hot(predictions.labels, classes) * correct[:, None])
    support = weights @ _one_hot(predictions.labels, classes)
    predicted = weights @ _one_hot(predictions.predicted, classes)
    present = support + predicted > 0
    confidences = predictions.confidences
    excess = _one_hot(bin_of(confidences), BINS) * (confidences - correct)[:, None]
    images = weights.sum(axis=1)
    return {
        "loss": weights @ predictions.losses / images,
        "precision": macro(found, predicted, present),
        "recall": macro(found, support, present),
        "ece": calibration_error(weights @ excess, images),
    }


def _one_hot(numbers: NDArray[np.integer], size: int) -> NDArray[np.float32]:
    """Row i is 1 in column ``numbers[i]`` and 0 elsewhere, (N, size)."""
    rows = np.zeros((len(numbers), size), np.float32)
    rows[np.arange(len(numbers)), numbers] = 1
    return rows
