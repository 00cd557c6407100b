"""The features of some images, served by their place among these."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discern.features.arrays import Places, features_of
from discern.features.store import FeatureStore

IN_MEMORY = 128 << 20
"""Bytes of features that a run reads into memory at once; others stay in their files."""


class FeatureTable:
    """The features of some images, in their order: in memory, or in files where they are many.

    Args:
        store: has them all.
        places: chunk and row of each, (N, 2).
        beside: bytes of other tables that are in memory.

    Raises:
        DamagedChunkError, OSError: a chunk can no longer be read.
    """

    def __init__(self, store: FeatureStore, places: Places, beside: int = 0) -> None:
        self.places = places
        self._chunks = {number: store.chunks[number] for number in np.unique(places[:, 0]).tolist()}
        self._reader = store.reader
        size = len(places) * store.width * torch.float32.itemsize
        self._all: Tensor | None = None
        if beside + size > IN_MEMORY:
            return
        self._all = torch.empty((len(places), store.width))
        for number, chunk in self._chunks.items():
            part = places[:, 0] == number
            chosen = torch.from_numpy(places[part, 1].astype(np.int64))
            self._all[torch.from_numpy(part)] = features_of(chunk).index_select(0, chosen).float()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def in_memory(self) -> int:
        """Bytes that it takes there."""
        return 0 if self._all is None else self._all.nbytes

    def rows(self, indices: NDArray[np.int64]) -> Tensor:
        """Features, float32 (B, width), at ``indices``; OSError where they are no longer there."""
        if self._all is None:
            return self._reader.read(self._chunks, self.places[indices]).float()
        return self._all.index_select(0, torch.from_numpy(indices))
