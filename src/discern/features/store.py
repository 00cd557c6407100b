"""The stored features of one backbone and preprocessing, by the IDs of images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from discern.features.arrays import DTYPES, Ids, Places, Reader, features_of, ids_of, write_chunk
from discern.features.chunks import SUFFIX, Chunk, DamagedChunkError, open_chunk
from discern.features.stores import (
    ABOUT,
    hold,
    holding_alone,
    is_mark,
    read_json,
)
from discern.files.locks import locked_in_turn
from discern.files.writing import remove_abandoned, write_whole

log = logging.getLogger(__name__)

_MAX_COUNT = 1 << 50
"""Upper bound for plausible numbers of images and seconds."""


class FeatureStore:
    """A folder of chunks. Chunks are added, and removed while no process reads; never changed.

    Args:
        folder: created with the first chunk.
        width: features of an image.
        precision: of the stored features.
        about: description of the features for people; written beside them.
    """

    def __init__(self, folder: Path, width: int, precision: str, about: dict[str, object]) -> None:
        self.folder = folder
        self.width = width
        self.precision = precision
        self.about = json.loads(json.dumps(about))  # as it will be read
        self.chunks: dict[int, Chunk] = {}
        """Number -> chunk; of two features of an image the one with the higher number counts."""
        self.reader = Reader()
        self.damaged: list[Path] = []
        self._known: set[Path] = set()
        self._use: IO[bytes] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Find chunks written since; a damaged one is left out with a warning."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path in self._known:
                continue
            self._known.add(path)
            try:
                self.chunks[len(self._known)] = open_chunk(path, self.width, self.precision)
            except FileNotFoundError:  # removed meanwhile
                continue
            except (DamagedChunkError, OSError) as error:
                self._leave_out(path, error)

    def find(self, ids: Ids) -> Places:
        """Places of features: chunk and row of each, (N, 2), or -1 twice."""
        index = _Index(ids)
        for number, chunk in list(self.chunks.items()):
            try:
                index.match(number, ids_of(chunk))
            except (DamagedChunkError, OSError) as error:
                self._drop(number, error)
        return index.places()

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's stored features."""
        return self.width * DTYPES[self.precision].itemsize

    def add(self, ids: Ids, features: Tensor) -> None:
        """Store the features (N, width) of IDs; OSError if they cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hold()
        write_chunk(self.folder, ids, features.to(DTYPES[self.precision]))
        self.refresh()

    def drop_damaged(self, numbers: Iterable[int]) -> bool:
        """Verify chunks and leave out damaged or missing ones; whether there were any."""
        wrong = False
        for number in numbers:
            try:
                self.chunks[number].verify()
            except (DamagedChunkError, OSError) as error:
                self._drop(number, error)
                wrong = True
        return wrong

    def remove_superseded(self) -> None:
        """Remove chunks all of whose images are in newer ones, if no other process reads here."""
        if self._use is None:
            return
        with holding_alone(self._use) as alone:
            old = self._superseded() if alone else {}
            # Only if the newer ones are intact.
            if self.drop_damaged({newer for successors in old.values() for newer in successors}):
                return
            for number in old:
                with suppress(OSError):
                    self.chunks[number].path.unlink()
                    del self.chunks[number]

    def _superseded(self) -> dict[int, set[int]]:
        """Chunks all of whose images are in newer ones -> these."""
        numbers, parts = list(self.chunks), []
        for number in numbers:
            try:
                parts.append(ids_of(self.chunks[number]))
            except (DamagedChunkError, OSError) as error:
                self._drop(number, error)
                return {}
        if not parts:
            return {}
        newest = self.find(np.concatenate(parts))[:, 0]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        found = zip(numbers, np.split(newest, ends), strict=True)
        return {number: set(where.tolist()) for number, where in found if (where > number).all()}

    def _drop(self, number: int, error: DamagedChunkError | OSError) -> None:
        self._leave_out(self.chunks.pop(number).path, error)

    def _leave_out(self, path: Path, error: DamagedChunkError | OSError) -> None:
        self.damaged.append(path)
        if isinstance(error, OSError):
            # The fault may be temporary: the file stays.
            why = error.strerror or str(error)
            log.warning("%s cannot be read (%s): its features are computed again.", path, why)
            return
        log.warning("%s is damaged (%s): its features are computed again.", path, error)
        with suppress(OSError):
            path.unlink()

    # Time

    @property
    def seconds_per_image(self) -> float | None:
        """Measured time per image; None if unknown."""
        images, seconds = self._rate
        return seconds / images if images else None

    def remember_rate(self, images: int, seconds: float) -> None:
        """Store the time that so many images took, if it can be written."""
        known, before = self._rate
        with suppress(OSError), write_whole(self.folder / "rate.json") as file:
            json.dump({"images": known + images, "seconds": before + seconds}, file)

    @property
    def _rate(self) -> tuple[int, float]:
        """Number of images computed so far, and the seconds they took."""
        content = read_json(self.folder / "rate.json")
        if not isinstance(content, dict):
            return 0, 0.0
        images, seconds = content.get("images"), content.get("seconds")
        # JSON knows numbers of any size, and NaN.
        if type(images) is not int or type(seconds) is not float or not 0 < images < _MAX_COUNT:
            return 0, 0.0
        return (images, seconds) if 0 <= seconds < _MAX_COUNT else (0, 0.0)

    # Locks

    @contextmanager
    def writing(self, part: str = "all") -> Iterator[None]:
        """Hold the lock for computing these features; a crash releases it.

        Args:
            part: processes with different parts do not wait for each other.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hold()
        lock = self.folder / f".writing-{part}.lock"
        with locked_in_turn(lock, "is computing these features"):
            self.refresh()
            yield

    def hold(self) -> None:
        """Mark the store as used now, and as in use until this process ends."""
        if not self.folder.is_dir():
            return
        if self._use is None or not is_mark(self._use, self.folder):
            self._use = hold(self.folder)
            remove_abandoned(self.folder)
        if read_json(self.folder / ABOUT) != self.about:
            with suppress(OSError), write_whole(self.folder / ABOUT) as file:
                json.dump(self.about, file, indent=2, ensure_ascii=False)


class _Index:
    """Finds the places of IDs in any order, with repeats.

    It indexes the requested IDs, since a store may have many more.

    Args:
        ids: (N, 2).
    """

    def __init__(self, ids: Ids) -> None:
        order = np.lexsort((ids[:, 1], ids[:, 0]))
        ordered = ids[order]
        first = np.ones(len(ids), dtype=bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        self._which = np.empty(len(ids), np.int32)
        self._which[order] = np.cumsum(first, dtype=np.int32) - 1
        self._ids = ordered if first.all() else ordered[first]
        self._found = np.full((len(self._ids), 2), -1, np.int32)

    def match(self, number: int, ids: Ids) -> None:
        """Record which of the IDs in a chunk are requested."""
        rows = np.argsort(ids[:, 0])  # for locality of the search
        ids = ids[rows]
        at = np.searchsorted(self._ids[:, 0], ids[:, 0])
        while len(rows):
            inside = at < len(self._ids)
            at, ids, rows = at[inside], ids[inside], rows[inside]
            there = self._ids[at]
            same = (there == ids).all(axis=1)
            self._found[at[same]] = np.stack([np.full(same.sum(), number), rows[same]], axis=1)
            # Others may share the first word.
            next_ = ~same & (there[:, 0] == ids[:, 0])
            at, ids, rows = at[next_] + 1, ids[next_], rows[next_]

    def places(self) -> Places:
        """Chunk and row of each ID, (N, 2), or -1 twice."""
        return self._found[self._which]


IN_MEMORY = 128 << 20
"""Limit for features that a run reads into memory, in bytes; others stay in their files."""


class FeatureTable:
    """The features of some images, in their order: in memory, or in files if they are many.

    Args:
        store: has them all.
        places: chunk and row of each, (N, 2).
        beside: bytes of other tables in memory.

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
        """Bytes of the table in memory."""
        return 0 if self._all is None else self._all.nbytes

    def rows(self, indices: NDArray[np.int64]) -> Tensor:
        """Features, float32 (B, width), at ``indices``; OSError if they are no longer there."""
        if self._all is None:
            return self._reader.read(self._chunks, self.places[indices]).float()
        return self._all.index_select(0, torch.from_numpy(indices))
