"""Features in the place of images, for whatever trains on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from discern.data.augment import View
from discern.data.images import Augmentable, Batch, Images, Shown, labels_of


class Features(Protocol):
    """Serves image features, computing missing ones on first use."""

    views: int

    @property
    def features_computed(self) -> int:
        """Number of features computed so far."""

    def rows(self, shown: Shown, indices: NDArray[np.int64]) -> Tensor:
        """Features, float32 (B, F), of the images at ``indices``."""


class ServedFeatures(Augmentable):
    """The features of images, with the images' labels: what a network's head is trained on.

    Batches are features, float32 (B, F), and labels, int64 (B,). In epoch ``e`` of training they
    are those of the view that the images show in epoch ``e`` modulo the number of views kept.
    """

    def __init__(self, images: Images, features: Features) -> None:
        self.images = images
        self.features = features
        self._labels = labels_of(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Batch:
        """Features as in evaluation."""
        return self.augmented(np.array(indices, dtype=np.int64), None)

    def augmented(
        self,
        indices: NDArray[np.int64],
        view: View | None,
        repeats: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Features of a view, which an epoch has once, however often it draws an image."""
        kept = view and replace(view, epoch=view.epoch % self.features.views)
        return self.features.rows(Shown(self.images, kept), indices), self._labels[indices]
