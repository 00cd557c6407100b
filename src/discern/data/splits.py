"""Which images of a data set are held out: a function of what they show, their class and a seed.

Each image has a position on a scale, a hash of its content. Of each class those whose position is
below a boundary are held out. With the boundaries the side of any further image is known, whatever
happens to the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discern.data.augment import random_words
from discern.errors import DiscernError

END = 1 << 62
"""Above every position."""

Integers = NDArray[np.int64]

Interval = tuple[int, int]
"""First position inside a part, and first position beyond it."""


def positions(keys: Integers, seed: int, draw: int) -> Integers:
    """Positions of images, (N,), from 0 to ``END``; equal for images of one content.

    Args:
        keys: of their contents, (N,).
        seed: decides the order.
        draw: separates independent draws, such as the test and validation splits.
    """
    return (random_words(seed, 0, keys, draw) >> np.uint64(2)).astype(np.int64)


def drawn_as(keys: Integers, labels: Integers) -> Integers:
    """The class, (N,), that each image is drawn in: the lowest label of its content.

    An image that occurs with two labels is thereby on one side with both.
    """
    contents, which = np.unique(keys, return_inverse=True)
    lowest = np.full(len(contents), np.iinfo(np.int64).max)
    np.minimum.at(lowest, which, labels)
    return lowest[which]


@dataclass(frozen=True)
class Pool:
    """Images to be divided.

    Attributes:
        keys: of their contents, (N,).
        labels: the classes that they are drawn in, (N,), see :func:`drawn_as`.
        classes: number of classes, K.
        seed: by which their positions are drawn.
    """

    keys: Integers
    labels: Integers
    classes: int
    seed: int

    def counts(self, rows: NDArray[np.bool_]) -> Integers:
        """Images of each class, (K,), among some."""
        return np.bincount(self.labels[rows], minlength=self.classes)

    def boundaries(
        self, rows: NDArray[np.bool_], draw: int, counts: Integers, least: int = 0
    ) -> list[int]:
        """The position in each class, (K,), before which so many of some images stand.

        Images of one content have one position and are never divided: the count is then the nearest
        possible, and a whole class only if that is asked for.

        Args:
            rows: the images, (N,).
            draw: see :func:`positions`.
            counts: images of each class that are asked for, (K,). A boundary lies as near to their
                fraction of the scale as its neighbours allow, so that the same fraction of further
                images falls before it.
            least: contents that stand before it at least.
        """
        places, labels = positions(self.keys[rows], self.seed, draw), self.labels[rows]
        fraction = float(counts.sum() / max(1, rows.sum()))
        order = np.lexsort((places, labels))
        ends = np.searchsorted(labels[order], np.arange(len(counts) + 1))
        return [
            _boundary(places[order[start:end]], count, fraction, least)
            for start, end, count in zip(ends, ends[1:], counts.tolist(), strict=False)
        ]

    def inside(self, intervals: Sequence[Interval], draw: int) -> NDArray[np.bool_]:
        """Which of all images, (N,), stand in the intervals of their classes."""
        places = positions(self.keys, self.seed, draw)
        limits = np.array(intervals, dtype=np.int64).reshape(-1, 2)[self.labels]
        within: NDArray[np.bool_] = (limits[:, 0] <= places) & (places < limits[:, 1])
        return within


def _boundary(places: Integers, count: int, fraction: float, least: int) -> int:
    """The boundary in one class, whose positions ascend."""
    # Where one content ends and the next begins: images before that, the first being none at all.
    cuts = np.concatenate(([0], np.flatnonzero(np.diff(places)) + 1, [len(places)]))
    if count < len(places) and len(cuts) > least + 1:
        cuts = cuts[:-1]
    nearest = np.abs(cuts - count)[::-1].argmin()  # of two as near the larger
    cut = int(cuts[max(len(cuts) - 1 - int(nearest), min(least, len(cuts) - 1))])
    lowest = int(places[cut - 1]) + 1 if cut else 0
    highest = int(places[cut]) if cut < len(places) else END
    return min(max(round(fraction * END), lowest), highest)


def held_out_count(total: int, size: int | float, setting: str) -> int:
    """How many of ``total`` images a size means: a number (an int) or a fraction (a float).

    Raises:
        DiscernError: the size is negative, or leaves no image to train on.
    """
    if not math.isfinite(size) or size < 0:
        raise DiscernError(
            f"{setting}={size} must be a number of images or a fraction of them, at least 0."
        )
    count = size if isinstance(size, int) else round(size * total)
    if count and count >= total:
        raise DiscernError(
            f"{setting}={size} holds out all of the {total:,} training images: give fewer "
            f"than {total:,} images, or a fraction below 1."
        )
    return count


def check_fold(total: int, folds: int, fold: int) -> None:
    """Check that a fold exists for so many images.

    Raises:
        DiscernError: there is no such part, or there are more parts than images.
    """
    if not 2 <= folds <= total:
        raise DiscernError(
            f"data.folds={folds} is not allowed; it must be from 2 to the number of training "
            f"images, {total:,}."
        )
    if not 0 <= fold < folds:
        raise DiscernError(f"data.fold={fold} is not allowed; it must be from 0 to {folds - 1}.")


def quotas(class_sizes: Integers, count: int) -> Integers:
    """Images of each class, (K,), of ``count``: the largest-remainder apportionment."""
    if not count:
        return np.zeros_like(class_sizes)
    exact = class_sizes.astype(object) * count  # beyond 64 bits for many images
    shares: Integers = (exact // class_sizes.sum()).astype(np.int64)
    remainders = (exact % class_sizes.sum()).astype(np.int64)
    rounded_up = np.argsort(-remainders, kind="stable")[: count - int(shares.sum())]
    shares[rounded_up] += 1
    return shares


def before_fold(class_sizes: Integers, folds: int, fold: int) -> Integers:
    """Images of each class, (K,), that are in the folds before one.

    They are dealt out like cards, class after class: no fold gets two more of anything, class or
    whole, than another.
    """
    ends = class_sizes.cumsum()
    begins = ends - class_sizes
    full, rest = np.divmod(np.stack([begins, ends]), folds)
    before: Integers = np.diff(full * fold + np.minimum(rest, fold), axis=0)[0]
    return before


def sample(class_sizes: Integers, fraction: float) -> Integers:
    """Images of each class, (K,), that are a fraction of it, at least one where there is one."""
    rounded = np.array([round(fraction * size) for size in class_sizes.tolist()], dtype=np.int64)
    return np.maximum(rounded, np.minimum(class_sizes, 1))
