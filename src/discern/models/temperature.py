"""Temperature scaling: one number that makes a network's probabilities match its accuracy.

Guo et al. (2017), "On Calibration of Modern Neural Networks": the logits are divided by a
temperature that minimises the cross-entropy on images that were not trained on. Which class has the
highest logit does not change.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from discern.models.card import MAX_TEMPERATURE, MIN_TEMPERATURE


class NoTemperatureError(ValueError):
    """There is no temperature for these images; the message says why."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the mean cross-entropy, in float64.

    The cross-entropy is convex in the inverse temperature, so that its slope has one root.

    Args:
        logits: (N, K), finite.
        labels: int64 (N,).

    Raises:
        NoTemperatureError: there is no optimum within the limits of a checkpoint's card, or it
            would say nothing.
    """
    from scipy.optimize import brentq  # start-up time

    scores, truth = logits.double().numpy(force=True), labels.numpy(force=True)
    if not len(truth):
        raise NoTemperatureError("there are no validation images")
    if (truth == truth[0]).all():
        raise NoTemperatureError("all validation images are of one class")
    if not np.isfinite(scores).all():
        raise NoTemperatureError("the outputs for the validation images are not finite")
    scores -= scores.max(axis=1, keepdims=True)
    target = scores[np.arange(len(truth)), truth].mean()

    def slope(log_inverse: float) -> float:
        weights = np.exp(np.exp(log_inverse) * scores)
        expected = (weights * scores).sum(axis=1) / weights.sum(axis=1)
        return float(expected.mean() - target)

    coldest, hottest = -np.log(MIN_TEMPERATURE), -np.log(MAX_TEMPERATURE)
    if slope(hottest) >= 0:
        raise NoTemperatureError("on the validation images the network is no better than guessing")
    if target == 0:  # no logit is above the label's: the colder, the better
        raise NoTemperatureError(
            "every validation image is classified correctly, so that no temperature is the best"
        )
    if slope(coldest) <= 0:
        raise NoTemperatureError(f"the best one is below {MIN_TEMPERATURE}")
    return float(np.exp(-brentq(slope, hottest, coldest, xtol=1e-10)))
