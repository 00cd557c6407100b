"""Images that fit in memory, served a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from discern.data.augment import Augmentation
from discern.errors import DiscernError


class InMemoryImages(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images kept as uint8 and normalised as they are served.

    An item is an image, float32 (C, H, W), equal to ``(pixels / 255 - mean) / std``, with its
    label, int64 (). ``__getitems__`` serves many items as one batch, (B, C, H, W) and (B,), so that
    a data loader has nothing left to collate: give it ``as_batch`` as its ``collate_fn``.

    Args:
        images: uint8 (N, C, H, W), shared, not copied.
        labels: int64 (N,).
        mean: subtracted from pixels scaled to [0, 1]; one number, or one per channel.
        std: what the difference is divided by; one number, or one per channel.
        indices: int64 (M,), the images that belong to this data set, or None for all.

    Raises:
        DiscernError: a mean or std does not suit the images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        indices: Tensor | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"expected uint8 images (N, C, H, W) with labels (N,), got {images.dtype} "
                f"{tuple(images.shape)} with {tuple(labels.shape)}"
            )
        channels = images.shape[1]
        means = _per_channel("data.mean", mean, channels)
        stds = _per_channel("data.std", std, channels)
        if not bool((stds > 0).all()):
            raise DiscernError(f"data.std={std} must be above 0.")
        self.images = images
        self.labels = labels
        self.indices = indices
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale = (1 / (255 * stds)).float()
        self._shift = (-means / stds).float()

    def __len__(self) -> int:
        return len(self.labels if self.indices is None else self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Images, float32 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        # By way of NumPy, which reads a list of ints several times faster than torch does.
        pixels, labels = self.cut(np.array(indices, dtype=np.int64))
        return self.normalised(pixels), labels

    def cut(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        chosen = torch.from_numpy(indices)
        if self.indices is not None:
            chosen = self.indices.index_select(0, chosen)
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (B, C, H, W), as the network sees them, float32."""
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift)


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a data set, each changed at random anew in every epoch.

    It is asked for places rather than indices: index ``i`` in epoch ``e`` is at ``e * N + i``. So
    the epoch reaches worker processes with every batch, however long these have been running.

    Args:
        images: the data set of N images.
        augmentation: what is done to them.
        seed: together with epoch and index decides how an image is changed.
    """

    def __init__(self, images: InMemoryImages, augmentation: Augmentation, seed: int) -> None:
        self.plain = images
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([place])
        return images[0], labels[0]

    def __getitems__(self, places: list[int]) -> tuple[Tensor, Tensor]:
        """Images, float32 (B, C, H, W), and labels, int64 (B,), at places of one epoch."""
        epoch, indices = places[0] // len(self), np.array(places, dtype=np.int64) % len(self)
        pixels, labels = self.plain.cut(indices)
        changed = self.augmentation(pixels.numpy(), self.seed, epoch, indices)
        return self.plain.normalised(torch.from_numpy(changed)), labels


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``collate_fn`` for a data set whose ``__getitems__`` already returns a batch."""
    return batch


def _per_channel(setting: str, value: float | Sequence[float], channels: int) -> Tensor:
    """``value`` as float64 (1, 1, 1) or (C, 1, 1), which broadcasts over images."""
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if len(values) not in (1, channels):
        raise DiscernError(
            f"{setting}={value} must be one number, or one for each of the {channels} channels."
        )
    return values.reshape(-1, 1, 1)
