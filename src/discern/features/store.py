"""The features of one backbone and preprocessing, under the ids of images."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from discern.features.chunks import (
    SUFFIX,
    Chunk,
    DamagedChunkError,
    forget_pages,
    open_chunk,
    write_chunk,
)
from discern.files import write_whole

log = logging.getLogger(__name__)

Ids = NDArray[np.uint64]
"""Two words for each image and view, (N, 2)."""

IN_MEMORY = 256 << 20
"""Bytes up to which the features of a split are read into memory at once."""

FORGET_AFTER = 128 << 20
"""Bytes read through memory maps after which their pages are given back."""


class FeatureStore:
    """A folder of chunks. What is in it is never changed: chunks are added, or the folder removed.

    Args:
        folder: made when the first chunk is written.
        width: features of an image.
        dtype: of the features that are kept.
        about: what the features are, for people; written beside them.
    """

    def __init__(
        self, folder: Path, width: int, dtype: torch.dtype, about: dict[str, object]
    ) -> None:
        self.folder = folder
        self.width = width
        self.dtype = dtype
        self.about = about
        self.chunks: list[Chunk] = []
        self.damaged: list[Path] = []
        self._known: set[Path] = set()
        self._words: Ids = np.empty((0, 2), np.uint64)
        self._places: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._use: IO[bytes] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Learn of chunks that were written since; a damaged one is left out and said."""
        words, places = [self._words], [self._places]
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path in self._known:
                continue
            self._known.add(path)
            try:
                chunk = open_chunk(path, self.width, self.dtype)
                words.append(chunk.ids().numpy().view(np.uint64))
            except DamagedChunkError as error:
                self._leave_out(path, error)
                continue
            rows = np.arange(chunk.rows, dtype=np.int64)
            places.append(np.stack([np.full_like(rows, len(self.chunks)), rows], axis=1))
            self.chunks.append(chunk)
        joined, where = np.concatenate(words), np.concatenate(places)
        order = np.argsort(joined[:, 0], kind="stable")
        self._words, self._places = joined[order], where[order]

    def find(self, ids: Ids) -> NDArray[np.int64]:
        """Where features are: chunk and row of each, int64 (N, 2), or -1 twice."""
        if not len(self._words):
            return np.full((len(ids), 2), -1, np.int64)
        # The last of equal ones, which is the newest.
        at = (np.searchsorted(self._words[:, 0], ids[:, 0], side="right") - 1).clip(min=0)
        there = (self._words[at] == ids).all(axis=1)
        return np.where(there[:, None], self._places[at], -1)

    def add(self, ids: Ids, features: Tensor) -> None:
        """Keep the features (N, width) of ids; OSError where that cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "about.json"
        if not about.exists():
            with write_whole(about) as file:
                json.dump(self.about, file, indent=2, ensure_ascii=False)
        words = torch.from_numpy(ids.view(np.int64).copy())
        write_chunk(self.folder, words, features.to(self.dtype))
        self.refresh()

    def drop_damaged(self, numbers: Iterator[int]) -> bool:
        """Verify chunks; leave out those that are damaged. Whether there was one."""
        wrong = set()
        for number in numbers:
            try:
                self.chunks[number].verify()
            except DamagedChunkError as error:
                self._leave_out(self.chunks[number].path, error)
                wrong.add(number)
        if wrong:
            keep = ~np.isin(self._places[:, 0], list(wrong))
            self._words, self._places = self._words[keep], self._places[keep]
        return bool(wrong)

    def _leave_out(self, path: Path, error: DamagedChunkError) -> None:
        log.warning("%s is damaged (%s): its features are computed again.", path, error)
        self.damaged.append(path)
        with suppress(OSError):
            path.unlink()

    @property
    def seconds_per_image(self) -> float | None:
        """What computing took the last time, if that is known."""
        try:
            seconds = json.loads((self.folder / "rate.json").read_text())["seconds_per_image"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return float(seconds) if isinstance(seconds, (int, float)) else None

    def remember_rate(self, seconds_per_image: float) -> None:
        """Keep what computing took."""
        with write_whole(self.folder / "rate.json") as file:
            json.dump({"seconds_per_image": seconds_per_image}, file)

    # Who uses it

    @contextmanager
    def writing(self, part: str = "all") -> Iterator[None]:
        """Be the only process that computes these features; a crash ends the turn as well.

        Args:
            part: processes that compute different parts do not wait for each other.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f".writing-{part}.lock")
        if not lock.is_locked and not _try(lock):
            log.info("Another process is computing these features: waiting for it.")
            lock.acquire()
        try:
            self.refresh()
            yield
        finally:
            lock.release()

    def hold(self) -> None:
        """Mark the store as in use by this process until it ends, and as used now."""
        if self._use is not None or not self.folder.is_dir():
            return
        with suppress(OSError):
            self._use = (self.folder / ".use.lock").open("ab")
            fcntl.flock(self._use, fcntl.LOCK_SH)
            os.utime(self.folder / ".use.lock")


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except TimeoutError:
        return False
    return True


def in_use(folder: Path) -> bool:
    """Whether a process holds the store in ``folder``."""
    try:
        with (folder / ".use.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def size_of(folder: Path) -> int:
    """Bytes that a store takes."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def last_used(folder: Path) -> float:
    """When a store was last used, in seconds since 1970."""
    marks = [folder / ".use.lock", folder / "about.json", folder]
    return next(mark.stat().st_mtime for mark in marks if mark.exists())


def stores(folder: Path) -> list[Path]:
    """The stores in the cache's folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / "about.json").is_file())


def make_room(folder: Path, needed: int, most: int, keep: Path) -> list[Path]:
    """Remove the least recently used stores until ``needed`` more bytes fit into ``most``.

    What is in use, and ``keep``, stays. Returns the stores removed.
    """
    sizes = {path: size_of(path) for path in stores(folder)}
    total, removed = sum(sizes.values()), []
    for path in sorted(sizes, key=last_used):
        if total + needed <= most:
            break
        if path != keep and not in_use(path):
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]
            removed.append(path)
    return removed


class FeatureTable:
    """The features of some images, in their order: in memory, or in maps where they are many.

    Args:
        store: has them all.
        places: chunk and row of each, int64 (N, 2).
    """

    def __init__(self, store: FeatureStore, places: NDArray[np.int64]) -> None:
        self.places = places
        numbers = np.unique(places[:, 0]).tolist()
        self._maps = {number: store.chunks[number].features() for number in numbers}
        self.width, self.bytes = store.width, len(places) * store.width * store.dtype.itemsize
        self._read = 0
        self._all: Tensor | None = None
        if self.bytes <= IN_MEMORY:
            self._all = self._gather(places)
            self._maps.clear()

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, indices: NDArray[np.int64]) -> Tensor:
        """Features, float32 (B, width), at ``indices``."""
        if self._all is not None:
            return self._all.index_select(0, torch.from_numpy(indices))
        return self._gather(self.places[indices])

    def _gather(self, places: NDArray[np.int64]) -> Tensor:
        out = torch.empty((len(places), self.width), dtype=torch.float32)
        order = np.argsort(places[:, 0], kind="stable")
        numbers, starts = np.unique(places[order, 0], return_index=True)
        for number, part in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            rows = torch.from_numpy(places[part, 1])
            out[torch.from_numpy(part)] = self._maps[number].index_select(0, rows).float()
        self._read += out.numel() * 4
        if self._read > FORGET_AFTER:
            self._read = 0
            for mapped in self._maps.values():
                forget_pages(mapped)
        return out
