"""Files with the features of some images, and the checks that they are complete.

A chunk is a safetensors file with two tensors: ``ids``, int64 (N, 2), and ``features``, (N, F). Its
header holds the checksum of both. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".safetensors"

PRECISIONS = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""Precision -> its name in the file, and bytes per number."""

ID_BYTES = 16
"""Bytes per image in ``ids``."""

_MAX_HEADER = 100_000
_PIECE = 1 << 24


class DamagedChunkError(Exception):
    """A file is not a complete chunk of the expected kind; the message gives the reason."""


@dataclass(frozen=True)
class Chunk:
    """A chunk's file, and the positions of its two tensors.

    Attributes:
        path: the file.
        rows: number of images.
        checksum: CRC-32 of all bytes after the header.
        ids_at, features_at: offsets of the tensors' values in bytes.
        width: features per image.
        precision: of the features.
    """

    path: Path
    rows: int
    checksum: int
    ids_at: int
    features_at: int
    width: int
    precision: str

    @property
    def row_bytes(self) -> int:
        """Bytes of an image's features."""
        return self.width * PRECISIONS[self.precision][1]

    def verify(self) -> None:
        """Check the checksum of the whole file, read in pieces.

        Raises:
            DamagedChunkError: the checksum is wrong.
            OSError: it cannot be read.
        """
        found = 0
        with self.path.open("rb") as file:
            file.seek(min(self.ids_at, self.features_at))
            while piece := file.read(_PIECE):
                found = zlib.crc32(piece, found)
        if found != self.checksum:
            raise DamagedChunkError("its checksum is wrong")


def open_chunk(path: Path, width: int | None = None, precision: str | None = None) -> Chunk:
    """The chunk described by a file's header, checked against the file's size and expected kind.

    Args:
        path: the file.
        width: features per image; None for any number.
        precision: of the features; None for any.

    Raises:
        DamagedChunkError: it is not a chunk of features of that width and precision.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedChunkError("it is not a regular file")  # a pipe or a device may have no end
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER:
            raise DamagedChunkError("it has no header")
        text = file.read(length)
    try:
        chunk = _as_chunk(path, json.loads(text), 8 + length, status.st_size)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedChunkError("its header is not a chunk's") from error
    if width not in (None, chunk.width) or precision not in (None, chunk.precision):
        raise DamagedChunkError("its features are of another kind")
    return chunk


def _as_chunk(path: Path, header: Any, start: int, size: int) -> Chunk:
    """The chunk described by a header, with its values in bytes ``start`` to ``size``."""
    ids, features = header["ids"], header["features"]
    codes = {code: name for name, (code, _) in PRECISIONS.items()}
    (rows, words), (images, width) = ids["shape"], features["shape"]
    shapes = rows, words, images, width
    if any(type(number) is not int or number < 1 for number in shapes):
        raise DamagedChunkError("its shapes are not a chunk's")
    precision = codes[features["dtype"]]
    row_bytes = {"ids": ID_BYTES, "features": width * PRECISIONS[precision][1]}
    # The tensors follow each other without a gap, so that the checksum covers exactly what is read.
    (first, second) = sorted(row_bytes, key=lambda name: header[name]["data_offsets"])
    middle = rows * row_bytes[first]
    end = middle + rows * row_bytes[second]
    whole = (
        (ids["dtype"], words, images) == ("I64", 2, rows)
        and header[first]["data_offsets"] == [0, middle]
        and header[second]["data_offsets"] == [middle, end]
        and size == start + end
    )
    if not whole or start % 8:
        raise DamagedChunkError("it is cut off or of another kind")
    at = {first: start, second: start + middle}
    checksum = int(header["__metadata__"]["crc32"], 16)
    return Chunk(path, rows, checksum, at["ids"], at["features"], width, precision)
