"""Splitting a labelled data set in two."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from discern.errors import DiscernError


def stratified_split(labels: Tensor, size: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out ``size`` images, from each class in proportion to its share, drawn by ``seed``.

    Args:
        labels: class of each image, (N,), integers from 0.
        size: number of images held out (an int), or fraction of all images (a float).
        seed: decides which images of a class are held out.

    Returns:
        Indices kept and indices held out: int64, ascending, together 0 to N - 1. A class gives its
        exact share rounded up or down.

    Raises:
        DiscernError: the size is negative, or leaves no image to train on.
    """
    count = _held_out_count(len(labels), size)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    shuffled_labels = labels[shuffled]
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for class_index, quota in enumerate(_quotas(labels, count)):
        held_out[shuffled[shuffled_labels == class_index][:quota]] = True
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def _held_out_count(total: int, size: int | float) -> int:
    if not math.isfinite(size) or size < 0:
        raise DiscernError(
            f"data.val_size={size} must be a number of images or a fraction of them, at least 0."
        )
    count = size if isinstance(size, int) else round(size * total)
    if count and count >= total:
        raise DiscernError(
            f"data.val_size={size} holds out all of the {total:,} training images: give fewer "
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
