"""Computing a backbone's features and storing them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from discern.console import is_terminal
from discern.data.images import Batch, Batched, Images, Shown
from discern.data.loader import ImageLoader
from discern.errors import DiscernError, first_line
from discern.features.arrays import DTYPES, Ids
from discern.features.chunks import ID_BYTES, DamagedChunkError
from discern.features.store import FeatureStore, FeatureTable
from discern.features.stores import make_room, name_of, size_of, stores

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when the same images and settings give other features than before."""

FLUSH_SECONDS, FLUSH_BYTES = 10.0, 64 << 20
"""Interval between two writes; a killed extraction loses no more."""

ATTEMPTS = 3
"""Attempts to compute features that turn out damaged on disk."""

Key = dict[str, object]


class CacheMissError(DiscernError):
    """Features are not in the cache, and ``cache.mode=require`` forbids computing them."""


class CacheFullError(DiscernError):
    """Features cannot be written."""


@dataclass(frozen=True)
class Kind:
    """Everything that features depend on besides the images.

    Attributes:
        backbone: digest of its weights, its library and name.
        shape: (C, H, W) of the images.
        preprocessing: from a picture to the images.
        readers: what decodes and scales pictures -> its version.
        engine: name and version of what computes.
        precision: of the stored features.
    """

    backbone: Key
    shape: tuple[int, int, int]
    preprocessing: Key
    readers: Key
    engine: str
    precision: str

    def about(self) -> Key:
        """All of it, as written beside the features."""
        return {"format": FORMAT, **asdict(self)}

    def digest(self) -> str:
        """Hex digest of the above."""
        return name_of(self.about())


@dataclass
class Account:
    """Counts of reused and computed features.

    Attributes:
        reused, computed: numbers of images in views.
        bytes: size of the features used.
        seconds: time spent computing.
    """

    reused: int = 0
    computed: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Settings:
    """The group ``cache``.

    Attributes:
        mode: ``auto``; ``refresh`` to compute all again; ``require`` to compute none.
        folder: of all stores.
        max_bytes: limit for all stores together.
        views: of each training image, if it is augmented.
        stop_if_full: whether the run ends if features cannot be written.
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
    """Serves image features, computing missing ones on first use.

    Args:
        compute: images (N, C, H, W) -> features (N, width), float32, both on the CPU.
        width: features per image.
        kind: what the features depend on.
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
            settings.folder / kind.digest(), width, kind.precision, kind.about()
        )
        self._full = False
        self._uncached = 0
        # With ``refresh`` existing chunks do not count.
        self._since = max(self.store.chunks, default=0) if settings.mode == "refresh" else -1
        self._tables: dict[Shown, FeatureTable] = {}

    @property
    def features_computed(self) -> int:
        """Number of features computed so far, including those that were not stored."""
        return self.account.computed + self._uncached

    def rows(self, shown: Shown, indices: NDArray[np.int64]) -> Tensor:
        """Features, float32 (B, width), of the images at ``indices``."""
        if not self._full:
            try:
                return self._kept_rows(shown, indices)
            except CacheFullError as error:
                if self.settings.stop_if_full:
                    raise
                self._full = True
                log.warning("%s Training goes on without the cache.", error)
        batch, _ = shown.images.identified(indices, shown.view)
        self._uncached += len(indices)
        # A head cannot be trained on tensors made in inference mode; on a copy it can.
        return self.compute(batch).clone()

    def _kept_rows(self, shown: Shown, indices: NDArray[np.int64]) -> Tensor:
        table = self.table(shown)
        try:
            return table.rows(indices)
        except OSError:  # removed while in use, or a disk fault
            del self._tables[shown]
        with self._on_disk("read"):
            return self.table(shown).rows(indices)

    def compute_share(self, shown: Shown) -> None:
        """Compute the missing features that belong to ``share``.

        Raises:
            CacheMissError, CacheFullError, DiscernError: as for ``table``.
        """
        ids = _ids_of(shown)
        if len(self._missing(ids)):
            self._compute(shown, ids)

    def table(self, shown: Shown) -> FeatureTable:
        """The features of all images, those missing computed first, behind a bar.

        Raises:
            CacheMissError: some are missing, and the mode is ``require``.
            CacheFullError: they cannot be written.
            DiscernError: a picture can no longer be read, or features are too many or too large.
        """
        if shown not in self._tables:
            self._tables[shown] = self._complete(shown)
        return self._tables[shown]

    def count_missing(self, shown: Shown) -> int:
        """Number of images whose features are not in the cache."""
        return len(self._missing(_ids_of(shown)))

    def check_room(self, count: int) -> None:
        """Refuse more new features than the cache may ever hold.

        Raises:
            DiscernError: ``cache.max_gb`` is too small.
        """
        needed, most = self._bytes(count), self.settings.max_bytes
        if needed > most:
            raise DiscernError(
                f"cache.max_gb={most / 1e9:g} is too small for the features of {count:,} images, "
                f"{needed / 1e9:.3g} GB; give more, or cache.mode=off."
            )

    def _complete(self, shown: Shown) -> FeatureTable:
        ids, before = _ids_of(shown), self.account.computed
        self.store.hold()
        for _ in range(ATTEMPTS):
            places = self.store.find(ids)
            if (places[:, 0] <= self._since).any():
                self._compute(shown, ids)
                places = self.store.find(ids)
            if (places < 0).any() or self.store.drop_damaged(np.unique(places[:, 0]).tolist()):
                continue
            if self.settings.mode == "refresh":
                self.store.remove_superseded()
            beside = sum(table.in_memory for table in self._tables.values())
            with suppress(OSError, DamagedChunkError):  # removed since it was verified
                table = FeatureTable(self.store, places, beside)
                self.account.reused += max(0, len(ids) - (self.account.computed - before))
                self.account.bytes += len(ids) * self.store.row_bytes
                return table
        raise CacheFullError(f"cache.dir={self.settings.folder} loses what is written to it.")

    def _missing(self, ids: Ids) -> NDArray[np.int64]:
        """Indices of missing features."""
        return np.flatnonzero(self.store.find(ids)[:, 0] <= self._since)

    def _compute(self, shown: Shown, ids: Ids) -> None:
        if self.settings.mode == "require":
            self.store.refresh()  # another process may have written them since
            missing = self._missing(ids)
            if not len(missing):
                return
            raise CacheMissError(
                f"cache.mode=require, and the features of {len(missing):,} of {len(ids):,} "
                f"images are not in {self.settings.folder}."
            )
        share = self.settings.share
        with ExitStack() as turn:
            with self._on_disk():
                part = f"{share[0]}of{share[1]}" if share else "all"
                turn.enter_context(self.store.writing(part))
            # Another process may have computed some meanwhile. A changed image no longer stands for
            # the images that it was equal to.
            while len(missing := self._own_missing(ids)):
                self._make_room(len(missing))
                if not self._extract(shown, ids, missing):
                    break

    def _own_missing(self, ids: Ids) -> NDArray[np.int64]:
        """Indices of missing features in this share, each image once."""
        missing, share = self._missing(ids), self.settings.share
        if share is not None:
            missing = missing[ids[missing, 0] % np.uint64(share[1]) == share[0] - 1]
        _, first = np.unique(ids[missing], axis=0, return_index=True)
        return missing[np.sort(first)]

    @contextmanager
    def _on_disk(self, used: str = "written") -> Iterator[None]:
        """Turn an OSError into a CacheFullError."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else error.strerror or first_line(error)
            raise CacheFullError(
                f"cache.dir={self.settings.folder} cannot be {used}: {why}; what was computed "
                "before is kept."
            ) from error

    def _bytes(self, count: int) -> int:
        return count * (self.store.row_bytes + ID_BYTES)

    def _make_room(self, count: int) -> None:
        self.check_room(count)
        needed, most, folder = self._bytes(count), self.settings.max_bytes, self.settings.folder
        with self._on_disk():
            for removed in make_room(folder, needed, most, keep=self.store.folder):
                log.info("Features not used for the longest were removed: %s.", removed.name)
            taken = sum(size_of(path) for path in stores(folder))
        if taken + needed > most:
            raise CacheFullError(
                f"cache.max_gb={most / 1e9:g} has no room for {needed / 1e9:.3g} GB of features "
                f"beside the {taken / 1e9:.3g} GB in use."
            )

    def _extract(self, shown: Shown, ids: Ids, missing: NDArray[np.int64]) -> int:
        """Compute and store missing features; returns the number of images that have changed.

        The IDs of these are updated in ``ids``.
        """
        asked = ids[missing]
        begun = flushed = time.perf_counter()
        done: list[tuple[Ids, Tensor]] = []
        size = 0
        title = f"features of view {shown.view.epoch + 1}" if shown.view else "features"
        with tqdm(
            desc=title, total=len(missing), unit=" images", leave=False, dynamic_ncols=True,
            disable=not is_terminal(),
        ) as bar:  # fmt: skip
            for part, batch, found in self._batches(shown, missing):
                features = self.compute(batch)
                ids[part] = found
                done.append((ids[part], features))
                size += features.nbytes
                bar.update(len(part))
                now = time.perf_counter()
                if now - flushed > FLUSH_SECONDS or size > FLUSH_BYTES:
                    self._keep(done)
                    done, size, flushed = [], 0, now
        if done:
            self._keep(done)
        seconds = time.perf_counter() - begun
        self.account.seconds += seconds
        self.store.remember_rate(len(missing), seconds)
        changed = missing[(ids[missing] != asked).any(axis=1)]
        if len(changed):
            _warn_of_changes(shown.images, changed)
        return len(changed)

    @property
    def seconds_saved(self) -> float | None:
        """Time that the reused features would have taken; None if unknown."""
        rate = self.store.seconds_per_image
        return None if rate is None else rate * self.account.reused

    def _batches(
        self, shown: Shown, missing: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Ids]]:
        """Indices, images (N, C, H, W) and their current IDs, in the order of ``missing``."""
        settings = self.settings
        loader = ImageLoader(
            _Identified(shown),
            sampler=missing.tolist(),
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            generator=torch.Generator().manual_seed(0),
        )
        parts = np.split(missing, range(settings.batch_size, len(missing), settings.batch_size))
        for part, (batch, found) in zip(parts, loader, strict=True):
            yield part, batch, found.numpy().view(np.uint64)

    def _keep(self, done: list[tuple[Ids, Tensor]]) -> None:
        ids = np.concatenate([part for part, _ in done])
        features = torch.cat([features for _, features in done])
        lost = features.to(DTYPES[self.kind.precision]).isinf() & features.isfinite()
        if lost.any():
            raise DiscernError(
                f"cache.precision={self.kind.precision} cannot hold a feature of "
                f"{features[lost][0]:.3g}; choose float32."
            )
        with self._on_disk():
            self.store.add(ids, features)
        self.account.computed += len(ids)


def _ids_of(shown: Shown) -> Ids:
    """IDs, (N, 2), of the images as they were when the data set was read."""
    return shown.images.identify(shown.view).copy()


def _warn_of_changes(images: Images, changed: NDArray[np.int64]) -> None:
    """Warn that files have changed since the data set was read."""
    names = images.names()
    first = names[changed[0]] if names else f"image {changed[0]}"
    others = f" and {len(changed) - 1:,} others" if len(changed) > 1 else ""
    log.warning("%s%s changed after this run had looked at the data: used as now.", first, others)


class _Identified(Batched):
    """Batches of images, float32 (B, C, H, W), with their IDs, int64 (B, 2), for labels."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown

    def __len__(self) -> int:
        return len(self.shown)

    def __getitems__(self, indices: list[int]) -> Batch:
        images, ids = self.shown.images.identified(np.array(indices), self.shown.view)
        return images, torch.from_numpy(ids.view(np.int64).copy())
