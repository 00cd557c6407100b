"""Images that fit in memory, served a whole batch at a time."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from discern.data.augment import Augmentation, view_ids
from discern.data.images import Batch
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

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images, float32 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        # By way of NumPy, which reads a list of ints several times faster than torch does.
        pixels, labels = self.cut(np.array(indices, dtype=np.int64))
        return self.normalised(pixels), labels

    def augmented(
        self, indices: NDArray[np.int64], augmentation: Augmentation, seed: int, epoch: int
    ) -> Batch:
        """As ``__getitems__``, of images changed by ``augmentation``."""
        pixels, labels = self.cut(indices)
        changed = augmentation(pixels.numpy(), seed, epoch, indices)
        return self.normalised(torch.from_numpy(changed)), labels

    def subset(self, indices: Tensor) -> InMemoryImages:
        """Those of all images that ``indices``, int64 (M,), name; the pixels are shared."""
        part = copy.copy(self)
        part.indices = indices
        return part

    def smaller(self, side: int) -> InMemoryImages:
        """These images: they have the size that they have."""
        return self

    def content_keys(self) -> NDArray[np.int64]:
        """Numbers, int64 (M,), that are equal for images of the same pixels."""
        return (self._digests()[:, 0] >> np.uint64(1)).astype(np.int64)

    def identify(
        self, augmentation: Augmentation | None = None, seed: int = 0, epoch: int = 0
    ) -> NDArray[np.uint64]:
        """Two words for each image, (M, 2), by its pixels and its view."""
        return self._ids(self._digests(), np.arange(len(self)), augmentation, seed, epoch)

    def identified(
        self, indices: NDArray[np.int64], augmentation: Augmentation | None, seed: int, epoch: int
    ) -> tuple[Tensor, NDArray[np.uint64]]:
        """Images, float32 (B, C, H, W), as they are or in a view, and their words (B, 2)."""
        pixels, _ = self.cut(indices)
        ids = self._ids(_digests_of(pixels), indices, augmentation, seed, epoch)
        if augmentation is not None:
            pixels = torch.from_numpy(augmentation(pixels.numpy(), seed, epoch, indices))
        return self.normalised(pixels), ids

    @staticmethod
    def _ids(
        words: NDArray[np.uint64],
        indices: NDArray[np.int64],
        augmentation: Augmentation | None,
        seed: int,
        epoch: int,
    ) -> NDArray[np.uint64]:
        if augmentation is not None:
            # Its view is drawn by its place among these images.
            words = words ^ indices.astype(np.uint64)[:, None]
        return view_ids(words, augmentation, seed, epoch)

    def _digests(self) -> NDArray[np.uint64]:
        return _digests_of(self.images if self.indices is None else self.images[self.indices])

    def names(self) -> None:
        """None: the images come from no files of their own."""

    def name_keys(self) -> NDArray[np.int64]:
        """No numbers, (0,)."""
        return np.empty(0, np.int64)

    def cut(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        chosen = torch.from_numpy(indices)
        if self.indices is not None:
            chosen = self.indices.index_select(0, chosen)
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (B, C, H, W), as the network sees them, float32."""
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift)


def _digests_of(pixels: Tensor) -> NDArray[np.uint64]:
    """Two words for the pixels of each image, (N, 2)."""
    images = pixels.contiguous().numpy()
    digests = [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def _per_channel(setting: str, value: float | Sequence[float], channels: int) -> Tensor:
    """``value`` as float64 (1, 1, 1) or (C, 1, 1), which broadcasts over images."""
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if len(values) not in (1, channels):
        raise DiscernError(
            f"{setting}={value} must be one number, or one for each of the {channels} channels."
        )
    return values.reshape(-1, 1, 1)
