"""Whether two models differ on the same images: McNemar's test, the paired bootstrap."""

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
        first, second: which of the models.
        images: how many.
        only_first, only_second: images that only that model classifies correctly.
        differ: images of which they say different classes.
        difference: accuracy of the second minus that of the first, with its interval.
        p: McNemar's, that a difference at least so large comes by chance.
        adjusted: p, adjusted for as many pairs as there are.
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

    All differences are resampled together: a bootstrap sample has the same images for each model.

    Args:
        predicted: model -> the classes it says, (N,).
        labels: of the images, (N,).
        pairs: first and second of each.
        seed: of the bootstrap.
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
    """The exact two-sided p of McNemar's test (1947) of two models on the same images.

    If they were equally good, each image that only one of them classifies correctly would be
    either's with probability 1/2: twice the binomial's tail, at most 1 (Dietterich, 1998, compares
    tests for classifiers and recommends this one where a model is trained once).
    """
    total = only_first + only_second
    return 1.0 if not total else min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5)))


def holm(chances: Sequence[float]) -> list[float]:
    """The p values of several tests, adjusted so that any is wrongly small rarely (Holm, 1979).

    The smallest of m counts m times, the next m - 1 times, …, and none less than one before it.
    """
    order = np.argsort(chances, kind="stable")
    factors = np.arange(len(chances), 0, -1)
    grown = np.maximum.accumulate(np.asarray(chances, np.float64)[order] * factors)
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(grown, 1.0)
    return [float(value) for value in adjusted]
