"""Dividing the images of a run into training, validation and test."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from discern.data.known import KnownImages, Rule, Side
from discern.data.splits import (
    END,
    Integers,
    Interval,
    Pool,
    before_fold,
    check_fold,
    drawn_as,
    held_out_count,
    quotas,
    sample,
)

TEST, VAL, USED = 101, 102, 103
"""Draws of positions; augmentation has those from 0."""


class Division(NamedTuple):
    """The side of each image.

    Attributes:
        sides: a ``Side`` of each, uint8 (N,).
        rule: by which further images are divided.
        kept_out: number of training images that the model's run held out.
    """

    sides: NDArray[np.uint8]
    rule: Rule
    kept_out: int = 0


class Content(NamedTuple):
    """The properties that decide the side of images.

    Attributes:
        keys: of their contents, int64 (N,).
        labels: int64 (N,).
        names: keys of their file names, int64 (N,), or none, (0,).
    """

    keys: Integers
    labels: Integers
    names: Integers


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
        images: those that the data set does not assign to a part.
        classes: number of classes.
        wanted: the settings; a test split is drawn if it has a ``test_size``.
        draws_val: whether images are held out for validation.
        known: images of the model used with these. A known image keeps its side.
        own: whether that model's rule divides the rest.

    Raises:
        DiscernError: the sizes or folds leave no image to train on.
    """
    stored = known.rule if own and known is not None else None
    keys, rule = images.keys, wanted.model_copy()
    if stored is not None:
        rule = stored.model_copy(update={"fraction": wanted.fraction})
    pool = Pool(keys, drawn_as(keys, images.labels), classes, rule.seed)
    before = np.full(len(keys), -1) if known is None else known.sides_of(keys)
    free = before < 0
    sides = np.full(len(keys), Side.TRAIN, dtype=np.uint8)

    draws_test = wanted.test_size is not None
    if draws_test:
        if rule.test is None:
            rule.test = _held_out(pool, free, wanted)
            rule.test_size = wanted.test_size
        sides[free & pool.inside(rule.test, TEST)] = Side.TEST
    sides[before == Side.TEST] = Side.TEST if draws_test else Side.KEPT_OUT
    rest = free & (sides == Side.TRAIN)
    if draws_val:
        if rule.val is None:
            rule.val = _validated(pool, rest, wanted)
            rule.val_size, rule.folds, rule.fold = wanted.val_size, wanted.folds, wanted.fold
        sides[rest & pool.inside(rule.val, VAL)] = Side.VAL
    sides[before == Side.VAL] = Side.VAL if draws_val else Side.KEPT_OUT
    sides[before == Side.KEPT_OUT] = Side.KEPT_OUT
    kept_out = int((sides == Side.KEPT_OUT).sum())
    _leave_out(pool, sides, before, rule, stored)
    return Division(sides, rule, kept_out)


def _held_out(pool: Pool, rows: NDArray[np.bool_], wanted: Rule) -> list[Interval]:
    """The intervals held out for the test."""
    assert wanted.test_size is not None
    count = held_out_count(int(rows.sum()), wanted.test_size, "data.test_size")
    shares = quotas(pool.counts(rows), count)
    return [(0, end) for end in pool.boundaries(rows, TEST, shares)]


def _validated(pool: Pool, rows: NDArray[np.bool_], wanted: Rule) -> list[Interval]:
    """The intervals held out for validation: a part, or one of the folds."""
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
    pool: Pool, sides: NDArray[np.uint8], before: Integers, rule: Rule, stored: Rule | None
) -> None:
    """Train on a fraction of the images that are not held out, the same of each class."""
    rule.used = None
    if rule.fraction == 1:
        return
    trained = sides == Side.TRAIN
    if stored is not None and stored.used is not None and stored.fraction == rule.fraction:
        rule.used = stored.used
        used = pool.inside(rule.used, USED) & (before != Side.UNUSED) | (before == Side.TRAIN)
    else:
        shares = sample(pool.counts(trained), rule.fraction)
        rule.used = [(0, end) for end in pool.boundaries(trained, USED, shares, least=1)]
        used = pool.inside(rule.used, USED)
    sides[trained & ~used] = Side.UNUSED


def all_on(side: Side, images: Content, known: KnownImages) -> NDArray[np.uint8]:
    """The side of each image, (N,): ``side``, except for images that a model knows."""
    before = known.sides_of(images.keys)
    stays = np.isin(before, [Side.TRAIN, Side.VAL, Side.TEST, Side.KEPT_OUT])
    return np.where(stays, before, side).astype(np.uint8)


def seen(
    parts: list[tuple[Content, NDArray[np.uint8]]],
    rule: Rule,
    class_names: list[str],
    fingerprint: str,
    known: KnownImages | None,
) -> KnownImages:
    """The images as a model trained on them will know them.

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
        np.empty(0, np.uint8),
        rule,
        class_names,
        fingerprint,
    )
    if known is None:
        return now
    keys, sides = known.all_sides()
    # What is trained on stays so, wherever it lies now; what is held out, while it is away.
    trained, there = np.isin(keys, now.trained_on), np.isin(keys, now.keys)
    stays = np.where(sides == Side.TRAIN, ~trained, ~there & (sides != Side.UNUSED))
    return replace(now, before=keys[stays], before_sides=sides[stays])
