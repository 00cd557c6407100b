"""Features in the place of images, for whatever trains on them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from discern.data.images import Batch, Images, labels_of


class Features(Protocol):
    """Has the features of images, or computes them when they are first asked for."""

    views: int

    @property
    def features_computed(self) -> int:
        """How many it has computed so far."""

    def rows(
        self,
        images: Images,
        indices: NDArray[np.int64],
        augmentation: Any,
        seed: int,
        view: int,
    ) -> Tensor:
        """Features, float32 (B, F), of the images at ``indices`` in a view of theirs."""


class ServedFeatures:
    """The features of images, with the images' labels: what a network's head is trained on.

    Batches are features, float32 (B, F), and labels, int64 (B,). In epoch ``e`` of training they
    are those of the view that the images show in epoch ``e`` modulo the number of views kept.
    """

    def __init__(self, images: Images, features: Features) -> None:
        self.images = images
        self.features = features
        self.labels = images.labels
        self.indices = images.indices
        self._labels = labels_of(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features, labels = self.__getitems__([index])
        return features[0], labels[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Features as in evaluation."""
        return self._batch(np.array(indices, dtype=np.int64), None, 0, 0)

    def augmented(
        self, indices: NDArray[np.int64], augmentation: Any, seed: int, epoch: int
    ) -> Batch:
        """Features of the views of an epoch."""
        return self._batch(indices, augmentation, seed, epoch % self.features.views)

    def _batch(self, indices: NDArray[np.int64], augmentation: Any, seed: int, view: int) -> Batch:
        features = self.features.rows(self.images, indices, augmentation, seed, view)
        return features, self._labels[indices]
