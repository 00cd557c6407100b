"""Dividing a labelled data set, each class in the same proportion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from discern.errors import DiscernError


def stratified_split(
    labels: Tensor, size: int | float, seed: int, setting: str = "data.val_size"
) -> tuple[Tensor, Tensor]:
    """Hold out ``size`` images, from each class in proportion to its share, drawn by ``seed``.

    Args:
        labels: class of each image, (N,), integers from 0.
        size: number of images held out (an int), or fraction of all images (a float).
        seed: decides which images of a class are held out.
        setting: what the size is called in errors.

    Returns:
        Indices kept and indices held out: int64, ascending, together 0 to N - 1. A class gives its
        exact share rounded up or down.

    Raises:
        DiscernError: the size is negative, or leaves no image to train on.
    """
    count = _held_out_count(len(labels), size, setting)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    shuffled_labels = labels[shuffled]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for class_index, quota in enumerate(_quotas(labels, count)):
        held_out[shuffled[shuffled_labels == class_index][:quota]] = True
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def stratified_folds(labels: Tensor, folds: int, fold: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out one of ``folds`` parts of the images, each class and the whole divided evenly.

    Args:
        labels: class of each image, (N,), integers from 0.
        folds: number of parts; every image is in one.
        fold: the part that is held out, from 0.
        seed: decides which images are in which part.

    Returns:
        Indices kept and indices held out, as :func:`stratified_split`.

    Raises:
        DiscernError: there is no such part, or there are more parts than images.
    """
    if not 2 <= folds <= len(labels):
        raise DiscernError(
            f"data.folds={folds} is not allowed; it must be from 2 to the number of training "
            f"images, {len(labels):,}."
        )
    if not 0 <= fold < folds:
        raise DiscernError(f"data.fold={fold} is not allowed; it must be from 0 to {folds - 1}.")
    # Dealt out like cards, class after class: no part gets two more of anything than another.
    dealt = torch.arange(len(labels)) % folds == fold
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[_by_class(labels, seed)] = dealt
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def stratified_sample(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices, int64, ascending, of a fraction of each class, at least one image of each."""
    shuffled = _by_class(labels, seed)
    parts = torch.split(shuffled, torch.bincount(labels).tolist())
    kept = [part[: max(1, round(fraction * len(part)))] for part in parts]
    return torch.cat(kept).sort().values


def _by_class(labels: Tensor, seed: int) -> Tensor:
    """All indices, those of a class together and shuffled by the seed."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    return shuffled[labels[shuffled].argsort(stable=True)]


def _held_out_count(total: int, size: int | float, setting: str) -> int:
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


def _quotas(labels: Tensor, count: int) -> list[int]:
    """Images held out of each class: the largest-remainder apportionment of ``count``."""
    if not count:
        return []
    class_sizes: list[int] = torch.bincount(labels).tolist()
    quotas, remainders = zip(*(divmod(count * n, len(labels)) for n in class_sizes), strict=True)
    by_remainder = sorted(range(len(class_sizes)), key=lambda c: -remainders[c])
    rounded_up = set(by_remainder[: count - sum(quotas)])
    return [quota + (c in rounded_up) for c, quota in enumerate(quotas)]
