"""Tests of two models on the same images: McNemar's test and the paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from discern.reports.intervals import Estimate, bootstrap_weights, percentile


@dataclass(frozen=True)
class Paired:
    """A second model against a first one, on the same images.

    Attributes:
        first, second: the numbers of the models.
        images: the number of images.
        only_first, only_second: images that only that model classifies correctly.
        differ: images for which their predictions differ.
        difference: accuracy of the second minus that of the first, with its interval.
        p: the p value of McNemar's test.
        adjusted: p, adjusted for the number of pairs by Holm's method.
    """

    first: int
    second: int
    images: int
    only_first: int
    only_second: int
    differ: int
    difference: Estimate
    p: float
    adjusted: float


def compare_pairs(
    predicted: Mapping[int, NDArray[np.int64]],
    labels: NDArray[np.int64],
    pairs: Sequence[tuple[int, int]],
    seed: int = 0,
) -> list[Paired]:
    """Compare pairs of models on the same images.

    A bootstrap sample has the same images for every model.

    Args:
        predicted: model -> predicted classes, (N,).
        labels: the images' labels, (N,).
        pairs: first and second model of each pair.
        seed: the bootstrap's.
    """
    if not pairs or not len(labels):
        return []
    correct = {model: each == labels for model, each in predicted.items()}
    gains = np.stack(
        [correct[second].astype(np.float32) - correct[first] for first, second in pairs], axis=1
    )
    replicates = np.concatenate(
        [
            weights @ gains / weights.sum(axis=1, keepdims=True)
            for weights in bootstrap_weights(len(labels), seed)
        ]
    )
    wins = [(int((gain < 0).sum()), int((gain > 0).sum())) for gain in gains.T]
    chances = [mcnemar(*each) for each in wins]
    return [
        Paired(
            first,
            second,
            len(labels),
            *wins[number],
            differ=int((predicted[first] != predicted[second]).sum()),
            difference=percentile(
                (wins[number][1] - wins[number][0]) / len(labels), replicates[:, number]
            ),
            p=chances[number],
            adjusted=adjusted,
        )
        for number, ((first, second), adjusted) in enumerate(zip(pairs, holm(chances), strict=True))
    ]


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p value of McNemar's test (1947).

    Under the null hypothesis, an image that only one model classifies correctly is either's with
    probability 1/2: p is twice the binomial tail, at most 1. Dietterich (1998) recommends this test
    for models that are trained once.
    """
    total = only_first + only_second
    return 1.0 if not total else min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5)))


def holm(chances: Sequence[float]) -> list[float]:
    """The p values of several tests, adjusted for the family-wise error rate (Holm, 1979).

    The smallest of m is multiplied by m, the next by m - 1, …, and none is less than the previous.
    """
    order = np.argsort(chances, kind="stable")
    factors = np.arange(len(chances), 0, -1)
    grown = np.maximum.accumulate(np.asarray(chances, np.float64)[order] * factors)
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(grown, 1.0)
    return [float(value) for value in adjusted]
