"""Writing and reading the values in chunks."""

from __future__ import annotations

import errno
import os
import resource
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from discern.features.chunks import SUFFIX, Chunk, DamagedChunkError, open_chunk
from discern.files.writing import write_whole

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precision -> type of the stored numbers."""

Ids = NDArray[np.uint64]
"""Two words for each image and view, (N, 2)."""

Places = NDArray[np.int32]
"""Number of a chunk and row in it for each image, (N, 2)."""


MAX_OPEN = 1024
"""Files that a reader keeps open, if the process may open four times as many files."""


def write_chunk(folder: Path, ids: Ids, features: Tensor) -> Chunk:
    """Write a new chunk of ``ids`` (N, 2) and ``features`` (N, F), whole or not at all."""
    words = torch.from_numpy(ids.view(np.int64).copy())
    tensors = {"ids": words, "features": features.contiguous()}
    # Saved once without the checksum, since the library decides the order of the values.
    checksum = _checksum(save(tensors))
    # Names sort by age, since the newer of two features of an image counts.
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    with write_whole(path, "wb") as file:
        file.write(save(tensors, metadata={"crc32": f"{checksum:08x}"}))
    return open_chunk(path)


def _checksum(body: bytes) -> int:
    return zlib.crc32(memoryview(body)[8 + int.from_bytes(body[:8], "little") :])


def ids_of(chunk: Chunk) -> Ids:
    """The ids in a chunk, (rows, 2), a copy in memory.

    Raises:
        DamagedChunkError: the file has become shorter.
        OSError: it cannot be read.
    """
    words = np.fromfile(chunk.path, dtype="<u8", count=2 * chunk.rows, offset=chunk.ids_at)
    if len(words) < 2 * chunk.rows:
        raise DamagedChunkError("it is cut off")
    return words.reshape(-1, 2)


def features_of(chunk: Chunk) -> Tensor:
    """The features in a chunk, (rows, width), a copy in memory; errors as of ``ids_of``."""
    size = chunk.rows * chunk.row_bytes
    values = np.fromfile(chunk.path, dtype=np.uint8, count=size, offset=chunk.features_at)
    if len(values) < size:
        raise DamagedChunkError("it is cut off")
    return torch.from_numpy(values).view(DTYPES[chunk.precision]).view(chunk.rows, chunk.width)


class Reader:
    """Reads features from chunks, a few at a time.

    This is as fast as a memory map. With a map a row would take 2 MB of the process's memory if the
    system uses huge pages, and a truncated file would kill the process.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, FileIO] = OrderedDict()
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = allowed == resource.RLIM_INFINITY
        self._most = MAX_OPEN if unlimited else min(MAX_OPEN, max(1, allowed // 4))

    def read(self, chunks: Mapping[int, Chunk], places: Places) -> Tensor:
        """Features (B, width) at ``places`` (B, 2), in their stored precision.

        Args:
            chunks: number of a chunk -> chunk, all of one width and precision.
            places: at least one.

        Raises:
            OSError: a file is missing or cannot be read.
        """
        first = chunks[int(places[0, 0])]
        values = torch.empty((len(places), first.width), dtype=DTYPES[first.precision])
        buffers = values.view(torch.uint8).numpy()
        for buffer, (number, row) in zip(buffers, places.tolist(), strict=True):
            chunk = chunks[number]
            at = chunk.features_at + row * chunk.row_bytes
            if os.preadv(self._file(chunk.path), [buffer.data], at) < len(buffer):
                raise OSError(errno.EIO, "it is cut off", str(chunk.path))
        return values

    def _file(self, path: Path) -> int:
        """The descriptor of a file, opened if necessary in place of the oldest open one."""
        file = self._open.get(path)
        if file is None:
            while len(self._open) >= self._most:
                self._open.popitem(last=False)[1].close()
            file = self._open[path] = FileIO(path)
        return file.fileno()
