"""Computing a backbone's features and keeping them."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from discern.console import is_terminal
from discern.data.images import AugmentedImages, Images, as_batch
from discern.errors import DiscernError, first_line
from discern.features.chunks import PRECISIONS
from discern.features.store import FeatureStore, FeatureTable, Ids, make_room

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same images and settings give other features than before."""

FLUSH_SECONDS, FLUSH_BYTES = 10.0, 256 << 20
"""How much is computed between two writes; a killed extraction loses no more."""

Key = dict[str, object]


class CacheMissError(DiscernError):
    """Features are not in the cache, and ``cache.mode=require`` forbids computing them."""


class CacheFullError(DiscernError):
    """Features cannot be written."""


@dataclass(frozen=True)
class Kind:
    """What features depend on besides the images.

    Attributes:
        backbone: digest of its weights, its library and name.
        shape: (C, H, W) of the images.
        preprocessing: from a picture to the images.
        engine: what computes, with what can change the numbers.
        precision: that they are kept with.
    """

    backbone: Key
    shape: tuple[int, int, int]
    preprocessing: Key
    engine: str
    precision: str

    def about(self) -> Key:
        """All of it, as it is written beside the features."""
        return {
            "format": FORMAT,
            "backbone": self.backbone,
            "shape": list(self.shape),
            "preprocessing": self.preprocessing,
            "engine": self.engine,
            "precision": self.precision,
        }

    def digest(self) -> str:
        """Hex digest that any change of the above changes."""
        text = json.dumps(self.about(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class Account:
    """What was reused and what computed.

    Attributes:
        reused, computed: images in views.
        bytes: of the features used.
        seconds: that computing took.
    """

    reused: int = 0
    computed: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Settings:
    """The group ``cache``.

    Attributes:
        mode: ``auto``; ``refresh`` to compute anew; ``require`` to compute nothing.
        folder: of all stores.
        max_bytes: that they may take together.
        views: of each training image, if it is augmented.
        stop_if_full: where features cannot be written, end the run; or else go on without.
        batch_size, num_workers: of the computation.
        share: (k, n) to compute the k-th of n parts, from 1.
    """

    mode: str
    folder: Path
    max_bytes: int
    views: int
    stop_if_full: bool
    batch_size: int
    num_workers: int
    share: tuple[int, int] | None = None


class FeatureSource:
    """Has the features of images, or computes them when they are first asked for.

    Args:
        compute: images (N, C, H, W) -> features (N, width), float32, both on the CPU.
        width: features of an image.
        kind: what they depend on.
        settings: of the cache.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], width: int, kind: Kind, settings: Settings
    ) -> None:
        self.compute = compute
        self.kind = kind
        self.settings = settings
        self.views = settings.views
        self.account = Account()
        self.store = FeatureStore(
            settings.folder / kind.digest(), width, PRECISIONS[kind.precision], kind.about()
        )
        self._full = False
        self._refreshed: set[bytes] = set()
        self._tables: dict[tuple[int, int | None], tuple[Images, FeatureTable]] = {}

    def rows(
        self,
        images: Images,
        indices: NDArray[np.int64],
        augmentation: Any,
        seed: int,
        view: int,
    ) -> Tensor:
        """Features, float32 (B, width), of the images at ``indices`` in a view of theirs."""
        if not self._full:
            try:
                return self.table(images, augmentation, seed, view).rows(indices)
            except CacheFullError as error:
                if self.settings.stop_if_full:
                    raise
                self._full = True
                log.warning("%s Training goes on without the cache.", error)
        if augmentation is None:
            batch, _ = images.__getitems__(indices.tolist())
        else:
            batch, _ = images.augmented(indices, augmentation, seed, view)
        return self.compute(batch)

    def compute_share(self, images: Images, augmentation: Any, seed: int, view: int) -> None:
        """Compute the part of the features that is missing and that ``share`` names."""
        ids = images.identify(augmentation, seed, view)
        self._compute(images, augmentation, seed, view, ids)

    def table(self, images: Images, augmentation: Any, seed: int, view: int) -> FeatureTable:
        """The features of all of ``images``, those missing computed first, behind a bar.

        Raises:
            CacheMissError: some are missing, and the mode is ``require``.
            CacheFullError: they cannot be written.
            DiscernError: a picture can no longer be read.
        """
        key = (id(images), None if augmentation is None else view)
        if key not in self._tables:
            table = self._complete(images, augmentation, seed, view)
            # The images are kept with it: another object could get the same id.
            self._tables[key] = images, table
        return self._tables[key][1]

    def _complete(self, images: Images, augmentation: Any, seed: int, view: int) -> FeatureTable:
        ids = images.identify(augmentation, seed, view)
        missing = self._missing(ids)
        self.account.reused += len(ids) - len(missing)
        if len(missing):
            if self.settings.mode == "require":
                raise CacheMissError(
                    f"cache.mode=require, and the features of {len(missing):,} of {len(ids):,} "
                    f"images are not in {self.settings.folder}."
                )
            self._compute(images, augmentation, seed, view, ids)
        self.store.hold()
        places = self.store.find(ids)
        if (places < 0).any() or self.store.drop_damaged(np.unique(places[:, 0]).tolist()):
            # Damaged meanwhile, or another's part of a division.
            return self._complete(images, augmentation, seed, view)
        self.account.bytes += len(ids) * self.store.width * self.store.dtype.itemsize
        return FeatureTable(self.store, places)

    def _missing(self, ids: Ids) -> NDArray[np.int64]:
        """Indices of what is to be computed."""
        absent = (self.store.find(ids) < 0).any(axis=1)
        if self.settings.mode == "refresh":
            absent |= np.array([word.tobytes() not in self._refreshed for word in ids])
        return np.flatnonzero(absent)

    def _compute(self, images: Images, augmentation: Any, seed: int, view: int, ids: Ids) -> None:
        share = self.settings.share
        part = f"{share[0]}of{share[1]}" if share else "all"
        try:
            with self.store.writing(part):
                # What another process has computed while this one waited is there now. Of equal
                # images one is enough.
                missing = self._missing(ids)
                if share is not None:
                    missing = missing[ids[missing, 0] % np.uint64(share[1]) == share[0] - 1]
                _, first = np.unique(ids[missing], axis=0, return_index=True)
                missing = missing[np.sort(first)]
                if len(missing):
                    self._make_room(len(missing))
                    self._extract(images, augmentation, seed, view, ids, missing)
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else first_line(error)
            raise CacheFullError(
                f"cache.dir={self.settings.folder} cannot be written: {why}; what was computed "
                "before is kept."
            ) from error

    def _make_room(self, count: int) -> None:
        needed = count * (self.store.width * self.store.dtype.itemsize + 16)
        most = self.settings.max_bytes
        if needed > most:
            raise DiscernError(
                f"cache.max_gb={most / 1e9:g} is too small for the features of {count:,} images, "
                f"{needed / 1e9:.3g} GB; give more, or cache.mode=off."
            )
        for folder in make_room(self.settings.folder, needed, most, keep=self.store.folder):
            log.info("Features not used for the longest were removed: %s.", folder.name)

    def _extract(
        self,
        images: Images,
        augmentation: Any,
        seed: int,
        view: int,
        ids: Ids,
        missing: NDArray[np.int64],
    ) -> None:
        begun = flushed = time.perf_counter()
        done: list[tuple[Ids, Tensor]] = []
        size = 0
        shown = "features" if augmentation is None else f"features of view {view + 1}"
        with tqdm(
            desc=shown, total=len(missing), unit=" images", leave=False, dynamic_ncols=True,
            disable=not is_terminal(),
        ) as bar:  # fmt: skip
            for part, batch in self._batches(images, augmentation, seed, view, missing):
                features = self.compute(batch)
                done.append((ids[part], features))
                size += features.numel() * 4
                bar.update(len(part))
                now = time.perf_counter()
                if now - flushed > FLUSH_SECONDS or size > FLUSH_BYTES:
                    self._keep(done)
                    done, size, flushed = [], 0, now
        if done:
            self._keep(done)
        seconds = time.perf_counter() - begun
        self.account.computed += len(missing)
        self.account.seconds += seconds
        self.store.remember_rate(seconds / len(missing))

    @property
    def seconds_saved(self) -> float | None:
        """What computing the reused features would have taken, if that is known."""
        rate = self.store.seconds_per_image
        return None if rate is None else rate * self.account.reused

    def _batches(
        self, images: Images, augmentation: Any, seed: int, view: int, missing: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Indices and images (N, C, H, W), in the order of ``missing``."""
        dataset: Dataset[Any] = images  # type: ignore[assignment]
        places = missing
        if augmentation is not None:
            dataset = AugmentedImages(images, augmentation, seed)
            places = missing + view * len(images)
        settings = self.settings
        loader = DataLoader(
            dataset,
            sampler=places.tolist(),
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            collate_fn=as_batch,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(0),
        )
        at = 0
        for batch, _ in loader:
            part = missing[at : at + settings.batch_size]
            if len(batch) != len(part):
                raise DiscernError("A picture can no longer be read, so its features are unknown.")
            at += len(part)
            yield part, batch

    def _keep(self, done: list[tuple[Ids, Tensor]]) -> None:
        ids = np.concatenate([part for part, _ in done])
        self.store.add(ids, torch.cat([features for _, features in done]))
        if self.settings.mode == "refresh":
            self._refreshed.update(word.tobytes() for word in ids)
