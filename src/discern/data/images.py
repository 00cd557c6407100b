"""Images of a data set, wherever they are kept, served a whole batch at a time."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from discern.data.augment import View, Words
from discern.errors import DiscernError

Batch = tuple[Tensor, Tensor]
"""Images, float32 (B, C, H, W), normalised, and labels, int64 (B,)."""


class Batched(Dataset[Batch], ABC):
    """A data set whose ``__getitems__`` returns a whole batch.

    A data loader has nothing left to collate: give it ``as_batch`` as its ``collate_fn``.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    @abstractmethod
    def __getitems__(self, indices: list[int]) -> Batch:
        """The items at ``indices``, as the network sees them in evaluation."""


class Augmentable(Batched):
    """A data set that can also show the views of an epoch of training."""

    @abstractmethod
    def augmented(
        self,
        indices: NDArray[np.int64],
        view: View | None,
        repeats: NDArray[np.int64] | None = None,
    ) -> Batch:
        """The items at ``indices`` as training sees them, in a view if there is one.

        Args:
            indices: int64 (B,).
            view: of the epoch.
            repeats: how often the epoch has shown each before, int64 (B,), which is in another
                view each time; None for never.
        """


class Images(Augmentable):
    """Labelled images of a data set, or some of them."""

    labels: Tensor
    """Labels of all images of the data set, int64 (N,)."""

    indices: Tensor | None
    """Which images of the data set these are, int64 (M,); None for all."""

    def __len__(self) -> int:
        return len(self.labels if self.indices is None else self.indices)

    def subset(self, indices: Tensor) -> Self:
        """Images of the whole data set, by ``indices``, int64 (M,); the pixels are shared."""
        part = copy.copy(self)
        part.indices = indices
        return part

    def of_all(self, indices: NDArray[np.int64]) -> Tensor:
        """Indices among all images of the data set, int64 (B,)."""
        chosen = torch.from_numpy(indices)
        return chosen if self.indices is None else self.indices.index_select(0, chosen)

    def smaller(self, side: int) -> Self:
        """The same images, scaled to ``side`` if they would otherwise be scaled to a larger one."""
        return self

    def content_keys(self) -> NDArray[np.int64]:
        """Keys of the images' contents, int64 (M,); equal for equal content."""
        return keys_of(self.identify())

    def name_keys(self) -> NDArray[np.int64]:
        """Keys of the images' file names, int64 (M,); (0,) for images without files."""
        return np.empty(0, np.int64)

    def names(self) -> list[str] | None:
        """The images' files; None for images without files."""
        return None

    def pictures(self, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The pictures at ``indices`` before any preprocessing, each uint8 (H, W, C).

        Raises:
            DiscernError: an image can no longer be read, or this data set keeps no pictures.
        """
        raise DiscernError(
            f"{type(self).__name__} has no method `pictures`, which an exported model needs: it "
            "takes pictures as they were before any preprocessing."
        )

    @abstractmethod
    def identify(self, view: View | None = None) -> Words:
        """IDs of the images, two words each, (M, 2), that differ wherever the pixels may.

        Without a view they depend on the content alone.
        """

    @abstractmethod
    def identified(self, indices: NDArray[np.int64], view: View | None) -> tuple[Tensor, Words]:
        """The images at ``indices`` as the network sees them, and their IDs, (B, 2).

        The IDs are those of the pixels returned, even if a file has changed since it was listed.

        Raises:
            DiscernError: an image can no longer be read.
        """


@dataclass(frozen=True)
class Shown:
    """Images as the network sees them: in evaluation, or in a view."""

    images: Images
    view: View | None = None

    def __len__(self) -> int:
        return len(self.images)


class AugmentedImages(Batched):
    """The images of a data set, each changed at random anew in every epoch.

    It is indexed by places: index ``i``, which epoch ``e`` has shown ``k`` times before, is at
    ``(e * N + k) * N + i``. So both reach worker processes with every batch, however long they have
    been running.

    Args:
        images: N images.
        augmentation: what is done to them.
        seed: together with epoch and image decides how an image is changed.
    """

    def __init__(self, images: Augmentable, augmentation: object, seed: int) -> None:
        self.plain = images
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.plain)

    def __getitems__(self, places: list[int]) -> Batch:
        """The images at places of one epoch."""
        turns, indices = np.divmod(np.array(places, dtype=np.int64), len(self))
        view = View.of(self.augmentation, self.seed, int(turns[0]) // len(self))
        return self.plain.augmented(indices, view, turns % len(self))


def as_batch(batch: Batch) -> Batch:
    """``collate_fn`` for a data set whose ``__getitems__`` already returns a batch."""
    return batch


def labels_of(images: Images) -> Tensor:
    """The labels of these images, int64 (M,), in their order."""
    return images.labels if images.indices is None else images.labels[images.indices]


def keys_of(words: Words) -> NDArray[np.int64]:
    """The first word of each ID, (M, 2), as a key, int64 (M,), at least 0."""
    return (words[:, 0] >> np.uint64(1)).astype(np.int64)
