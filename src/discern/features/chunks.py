"""Files that hold the features of some images: written whole, checked, mapped into memory.

A chunk is a safetensors file with two tensors: ``ids``, int64 (N, 2), and ``features``, (N, F). Its
header holds the checksum of both. Nothing in it is ever executed.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from discern.files import write_whole

SUFFIX = ".safetensors"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Name of a precision -> type of the numbers that are kept."""

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_MOST_HEADER = 100_000
_PIECE = 1 << 24


class DamagedChunkError(Exception):
    """A file is no whole chunk of the expected kind; the message says why."""


@dataclass(frozen=True)
class Chunk:
    """A chunk's file, and where in it the two tensors are.

    Attributes:
        path: the file.
        rows: number of images.
        checksum: CRC-32 of all bytes after the header.
        ids_at, features_at: first byte of the tensors' values.
        width: features of an image.
        dtype: of the features.
    """

    path: Path
    rows: int
    checksum: int
    ids_at: int
    features_at: int
    width: int
    dtype: torch.dtype

    def ids(self) -> Tensor:
        """int64 (rows, 2), a copy in memory."""
        with self.path.open("rb") as file:
            file.seek(self.ids_at)
            return torch.frombuffer(bytearray(file.read(16 * self.rows)), dtype=torch.int64).view(
                -1, 2
            )

    def features(self) -> Tensor:
        """(rows, width), mapped into memory: a page is read when it is used."""
        # torch's own map, which keeps no file open: there may be more chunks than open files.
        size = self.path.stat().st_size
        mapped = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.uint8)
        end = self.features_at + self.rows * self.width * self.dtype.itemsize
        return mapped[self.features_at : end].view(self.dtype).view(self.rows, self.width)

    def verify(self) -> None:
        """Read the whole file, some of it at a time.

        Raises:
            DamagedChunkError: the checksum is wrong, or it cannot be read.
        """
        found = 0
        try:
            with self.path.open("rb") as file:
                file.seek(min(self.ids_at, self.features_at))
                while piece := file.read(_PIECE):
                    found = zlib.crc32(piece, found)
        except OSError as error:
            raise DamagedChunkError(error.strerror or str(error)) from error
        if found != self.checksum:
            raise DamagedChunkError("its checksum is wrong")


def write_chunk(folder: Path, ids: Tensor, features: Tensor) -> Chunk:
    """Write a new chunk of ``ids``, int64 (N, 2), and ``features``, (N, F), whole or not at all."""
    tensors = {"ids": ids.contiguous(), "features": features.contiguous()}
    # Once without the checksum, to see the order in which the library lays the values out.
    body = save(tensors)
    checksum = zlib.crc32(memoryview(body)[8 + int.from_bytes(body[:8], "little") :])
    # Names sort by age: of two features for one image the newer counts.
    path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    with write_whole(path, "wb") as file:
        file.write(save(tensors, metadata={"crc32": f"{checksum:08x}"}))
    return open_chunk(path, features.shape[1], features.dtype)


def open_chunk(path: Path, width: int, dtype: torch.dtype) -> Chunk:
    """What the header of a chunk says, checked against the file's size and what is expected.

    Raises:
        DamagedChunkError: it is no chunk of features of that width and type.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MOST_HEADER:
                raise DamagedChunkError("it has no header")
            header = json.loads(file.read(length))
        size = path.stat().st_size
        rows = header["ids"]["shape"][0]
        ids_at = _place(header["ids"], [rows, 2], torch.int64, 8 + length, size)
        features_at = _place(header["features"], [rows, width], dtype, 8 + length, size)
        checksum = int(header["__metadata__"]["crc32"], 16)
    except OSError as error:
        raise DamagedChunkError(error.strerror or str(error)) from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedChunkError("its header is not a chunk's") from error
    return Chunk(path, rows, checksum, ids_at, features_at, width, dtype)


def _place(entry: Any, shape: list[int], dtype: torch.dtype, start: int, size: int) -> int:
    begin, end = entry["data_offsets"]
    values = shape[0] * shape[1]
    whole = (
        entry["dtype"] == _CODES[dtype]
        and entry["shape"] == shape
        and isinstance(shape[0], int)
        and shape[0] > 0
        and begin >= 0
        and end - begin == values * dtype.itemsize
        and start + end <= size
        and (start + begin) % dtype.itemsize == 0
    )
    if not whole:
        raise DamagedChunkError("it is cut off or of another kind")
    return int(start + begin)


def forget_pages(mapped: Tensor) -> None:
    """Let the system take back the memory of a mapped tensor's pages; its values stay readable."""
    if sys.platform != "linux":
        return
    page = os.sysconf("SC_PAGE_SIZE")
    begin = mapped.data_ptr() // page * page
    length = mapped.data_ptr() + mapped.numel() * mapped.element_size() - begin
    dont_need = 4
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), dont_need)
