"""Dividing the images of a run: what is trained on, what is for validation, what for the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from discern.data.known import KnownImages, Rule, Side
from discern.data.splits import (
    END,
    Integers,
    Interval,
    before_fold,
    boundaries,
    check_fold,
    drawn_as,
    held_out_count,
    inside,
    positions,
    quotas,
    sample,
)

TEST, VAL, USED = 101, 102, 103
"""Draws of positions; augmentation has those from 0."""


class Division(NamedTuple):
    """On which side each image is.

    Attributes:
        sides: a ``Side`` of each, uint8 (N,).
        rule: by which further images fall.
    """

    sides: NDArray[np.uint8]
    rule: Rule


class Content(NamedTuple):
    """What decides where images are.

    Attributes:
        keys: of their contents, int64 (N,).
        labels: int64 (N,).
        names: numbers of their files' names, int64 (N,), or none, (0,).
    """

    keys: Integers
    labels: Integers
    names: Integers


@dataclass
class _Pool:
    """Images to be divided.

    Attributes:
        keys: of their contents, (N,).
        labels: the classes that they are drawn in, (N,).
        classes: how many there are.
        seed: that the positions are drawn by.
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
        """The boundary in each class, (K,), that so many of some images stand before."""
        places = positions(self.keys[rows], self.seed, draw)
        fraction = counts.sum() / max(1, rows.sum())
        return boundaries(places, self.labels[rows], counts, float(fraction), least)

    def inside(self, intervals: list[Interval], draw: int) -> NDArray[np.bool_]:
        """Which of all images, (N,), stand in the intervals of their classes."""
        return inside(positions(self.keys, self.seed, draw), self.labels, intervals)


def divide(
    images: Content,
    classes: int,
    wanted: Rule,
    draws_val: bool,
    known: KnownImages | None = None,
    own: bool = False,
) -> Division:
    """Divide images, each class in the same proportion.

    Args:
        images: those that no part of the data set is made for.
        classes: how many there are.
        wanted: the settings; the test is drawn where it has a ``test_size``.
        draws_val: whether images are held out for validation.
        known: images of a model that meets these. What it was trained on is never held out.
        own: whether the data are the model's own: then an image that it knows keeps its side, and
            its rule decides of the rest.

    Raises:
        DiscernError: the sizes or folds leave no image to train on.
    """
    stored = known.rule if own and known is not None else None
    keys = images.keys
    pool = _Pool(keys, drawn_as(keys, images.labels), classes, (stored or wanted).seed)
    before = np.full(len(keys), -1) if known is None else known.sides_of(keys)
    if stored is None:  # what another data set held out may be trained on
        before[before != Side.TRAIN] = -1
    free = before < 0
    sides = np.full(len(keys), Side.TRAIN, dtype=np.uint8)
    rule = wanted.model_copy() if stored is None else _renewed(stored, wanted)

    draws_test = wanted.test_size is not None
    if draws_test:
        rule.test = (stored and stored.test) or _held_out(pool, free, wanted)
        sides[free & pool.inside(rule.test, TEST)] = Side.TEST
    sides[before == Side.TEST] = Side.TEST if draws_test else Side.UNUSED
    rest = free & (sides == Side.TRAIN)
    if draws_val:
        rule.val = (stored and stored.val) or _validated(pool, rest, wanted)
        sides[rest & pool.inside(rule.val, VAL)] = Side.VAL
    sides[before == Side.VAL] = Side.VAL if draws_val else Side.UNUSED
    _leave_out(pool, sides, before, rule, stored)
    return Division(sides, rule)


def _renewed(stored: Rule, wanted: Rule) -> Rule:
    """A model's rule for its data, of which another part may be trained on."""
    return stored.model_copy(update={"fraction": wanted.fraction, "test_size": wanted.test_size})


def _held_out(pool: _Pool, rows: NDArray[np.bool_], wanted: Rule) -> list[Interval]:
    """What is held out for the test."""
    assert wanted.test_size is not None
    count = held_out_count(int(rows.sum()), wanted.test_size, "data.test_size")
    shares = quotas(pool.counts(rows), count)
    return [(0, end) for end in pool.boundaries(rows, TEST, shares)]


def _validated(pool: _Pool, rows: NDArray[np.bool_], wanted: Rule) -> list[Interval]:
    """What is held out for validation: a part, or one of the folds."""
    counts = pool.counts(rows)
    if wanted.folds is None:
        count = held_out_count(int(rows.sum()), wanted.val_size, "data.val_size")
        return [(0, end) for end in pool.boundaries(rows, VAL, quotas(counts, count))]
    check_fold(int(rows.sum()), wanted.folds, wanted.fold)
    limits = [
        pool.boundaries(rows, VAL, before_fold(counts, wanted.folds, number))
        for number in (wanted.fold, wanted.fold + 1)
    ]
    begins = limits[0] if wanted.fold else [0] * pool.classes
    ends = limits[1] if wanted.fold + 1 < wanted.folds else [END] * pool.classes
    return list(zip(begins, ends, strict=True))


def _leave_out(
    pool: _Pool, sides: NDArray[np.uint8], before: Integers, rule: Rule, stored: Rule | None
) -> None:
    """Train on a fraction of the images that are not held out, the same of each class."""
    rule.used = None
    if rule.fraction == 1:
        return
    trained = sides == Side.TRAIN
    as_before = stored is not None and stored.fraction == rule.fraction
    if as_before and stored is not None and stored.used is not None:
        rule.used = stored.used
        used = pool.inside(rule.used, USED) & (before != Side.UNUSED) | (before == Side.TRAIN)
    else:
        shares = sample(pool.counts(trained), rule.fraction)
        rule.used = [(0, end) for end in pool.boundaries(trained, USED, shares, least=1)]
        used = pool.inside(rule.used, USED)
    sides[trained & ~used] = Side.UNUSED


def all_on(side: Side, images: Content, known: KnownImages) -> NDArray[np.uint8]:
    """A side of each image, (N,), that is this one but for those that a model was trained on."""
    trained = known.sides_of(images.keys) == Side.TRAIN
    return np.where(trained, Side.TRAIN, side).astype(np.uint8)


def seen(
    parts: list[tuple[Content, NDArray[np.uint8]]],
    rule: Rule,
    class_names: list[str],
    fingerprint: str,
    known: KnownImages | None,
) -> KnownImages:
    """What a model that is trained on images will know of them.

    Args:
        parts: images, and the side of each.
        rule: how they were divided.
        class_names: of the data set.
        fingerprint: of the data set.
        known: images of the model that is trained further.
    """
    keys, labels, names = (
        np.concatenate(each) for each in zip(*(p[0] for p in parts), strict=True)
    )
    sides = np.concatenate([sides for _, sides in parts])
    order = np.argsort(keys, kind="stable")
    now = KnownImages(
        keys[order],
        labels[order],
        sides[order],
        names[order] if len(names) == len(keys) else names[:0],
        np.empty(0, np.int64),
        rule,
        class_names,
        fingerprint,
    )
    if known is None:
        return now
    return replace(now, before=np.setdiff1d(known.trained_on, now.trained_on))
