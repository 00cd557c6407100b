"""What a data module asks of the images of a data set, wherever they are kept."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Batch = tuple[Tensor, Tensor]
"""Images, float32 (B, C, H, W), normalised, and labels, int64 (B,)."""


class Augmentable(Protocol):
    """What can be served as it is in an epoch of training."""

    def __len__(self) -> int: ...

    def augmented(
        self, indices: NDArray[np.int64], augmentation: Any, seed: int, epoch: int
    ) -> Batch:
        """The images at ``indices`` as the network sees them in an epoch of training."""


class Images(Augmentable, Protocol):
    """Labelled images of a data set, or some of them, served a whole batch at a time."""

    labels: Tensor
    """Of all images of the data set, int64 (N,)."""

    indices: Tensor | None
    """The images of the data set that belong to these, int64 (M,); None for all."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...

    def __getitems__(self, indices: list[int]) -> Batch:
        """The images at ``indices`` as the network sees them in evaluation."""

    def subset(self, indices: Tensor) -> Self:
        """Those of the whole data set's images that ``indices``, int64 (M,), name."""

    def smaller(self, side: int) -> Self:
        """The same images, of that side if they would otherwise be scaled to a larger one."""

    def content_keys(self) -> NDArray[np.int64]:
        """Numbers, int64 (M,), that are equal for images of the same content."""

    def name_keys(self) -> NDArray[np.int64]:
        """Numbers, int64 (M,), of the names of the images' files; (0,) where there are none."""

    def identify(
        self, augmentation: Any = None, seed: int = 0, epoch: int = 0
    ) -> NDArray[np.uint64]:
        """Two words for each image, (M, 2), that tell its pixels, or those of its view, apart.

        Without an augmentation they depend on nothing but the image.
        """

    def identified(
        self, indices: NDArray[np.int64], augmentation: Any, seed: int, epoch: int
    ) -> tuple[Tensor, NDArray[np.uint64]]:
        """The images at ``indices`` as the network sees them, with two words for each, (B, 2).

        The words are those that ``identify`` would give to the very pixels that are returned, also
        where a file has become another one since. Without an augmentation the images are those of
        evaluation.

        Raises:
            DiscernError: an image can no longer be read.
        """

    def names(self) -> list[str] | None:
        """The images' files, or None if they come from no files of their own."""


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a data set, each changed at random anew in every epoch.

    It is asked for places rather than indices: index ``i`` in epoch ``e`` is at ``e * N + i``. So
    the epoch reaches worker processes with every batch, however long these have been running.

    Args:
        images: N images.
        augmentation: what is done to them.
        seed: together with epoch and image decides how an image is changed.
    """

    def __init__(self, images: Augmentable, augmentation: Any, seed: int) -> None:
        self.plain = images
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([place])
        return images[0], labels[0]

    def __getitems__(self, places: list[int]) -> Batch:
        """The images at places of one epoch."""
        epoch, indices = places[0] // len(self), np.array(places, dtype=np.int64) % len(self)
        return self.plain.augmented(indices, self.augmentation, self.seed, epoch)


def as_batch(batch: Batch) -> Batch:
    """``collate_fn`` for a data set whose ``__getitems__`` already returns a batch."""
    return batch


def labels_of(images: Images) -> Tensor:
    """The labels of these images, int64 (M,), in their order."""
    return images.labels if images.indices is None else images.labels[images.indices]
