"""Images that fit in memory, served a whole batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discern.data.augment import Augmentation, View, Words
from discern.data.images import Batch, Images
from discern.errors import DiscernError


class InMemoryImages(Images):
    """Labelled images kept as uint8 and normalised as they are served.

    An item is an image, float32 (C, H, W), equal to ``(pixels / 255 - mean) / std``, with its
    label, int64 ().

    Args:
        images: uint8 (N, C, H, W), shared, not copied.
        labels: int64 (N,).
        mean: subtracted from pixels scaled to [0, 1]; one number, or one per channel.
        std: divides the difference; one number, or one per channel.
        indices: int64 (M,), the images in this data set; None for all.

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

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images, float32 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        # NumPy reads a list of ints several times faster than torch.
        pixels, labels = self.cut(np.array(indices, dtype=np.int64))
        return self.normalised(pixels), labels

    def augmented(
        self,
        indices: NDArray[np.int64],
        view: View | None,
        repeats: NDArray[np.int64] | None = None,
    ) -> Batch:
        """As ``__getitems__``, of the images in a view."""
        pixels, labels = self.cut(indices)
        return self.normalised(_in_view(pixels, indices, view, repeats)), labels

    def identify(self, view: View | None = None) -> Words:
        """IDs of the images, (M, 2), by their pixels and their view."""
        pixels = self.images if self.indices is None else self.images[self.indices]
        return _ids(pixels, np.arange(len(self)), view)

    def identified(self, indices: NDArray[np.int64], view: View | None) -> tuple[Tensor, Words]:
        """Images, float32 (B, C, H, W), as they are or in a view, and their IDs, (B, 2)."""
        pixels, _ = self.cut(indices)
        return self.normalised(_in_view(pixels, indices, view)), _ids(pixels, indices, view)

    def cut(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pixels, uint8 (B, C, H, W), and labels, int64 (B,), at ``indices``."""
        chosen = self.of_all(indices)
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def pictures(self, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The images at ``indices``, each uint8 (H, W, C)."""
        pixels, _ = self.cut(indices)
        return list(pixels.permute(0, 2, 3, 1).numpy())

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (B, C, H, W), as the network sees them, float32."""
        return pixels.to(torch.float32).mul_(self._scale).add_(self._shift)


def _in_view(
    pixels: Tensor,
    indices: NDArray[np.int64],
    view: View | None,
    repeats: NDArray[np.int64] | None = None,
) -> Tensor:
    """Pixels, uint8 (B, C, H, W), changed as the view changes images at ``indices``."""
    if view is None:
        return pixels
    assert isinstance(view.augmentation, Augmentation)
    changed = view.augmentation(pixels.numpy(), view.seed, view.epoch, indices, repeats)
    return torch.from_numpy(changed)


def _ids(pixels: Tensor, indices: NDArray[np.int64], view: View | None) -> Words:
    """IDs, (B, 2), of the images with these pixels, at ``indices``."""
    images = pixels.contiguous().numpy()
    digests = [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
    words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
    # A view is drawn by the image's place.
    return words if view is None else view.ids(words ^ indices.astype(np.uint64)[:, None])


def _per_channel(setting: str, value: float | Sequence[float], channels: int) -> Tensor:
    """``value`` as float64 (1, 1, 1) or (C, 1, 1), which broadcasts over images."""
    values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if len(values) not in (1, channels):
        raise DiscernError(
            f"{setting}={value} must be one number, or one for each of the {channels} channels."
        )
    return values.reshape(-1, 1, 1)
