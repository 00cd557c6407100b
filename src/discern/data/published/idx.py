"""The IDX file format, in which MNIST and its relatives are published.

A file is a header followed by the raw bytes of one array in C order. The header is two zero bytes,
the type code (8 for uint8), the number of dimensions, and each dimension's size as a big-endian
uint32.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.errors import DiscernError, file_errors
from discern.files.reading import open_regular

_UINT8 = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
# Deflate spends at least two bits on 258 bytes, so a stream grows at most by this factor.
_DEFLATE_MAX_RATIO = 1032
_KINDS = {1: "labels", 3: "images"}


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Header of the IDX file that holds a uint8 array of this shape."""
    return struct.pack(f">HBB{len(shape)}I", 0, _UINT8, len(shape), *shape)


def idx_sha256(array: NDArray[np.uint8]) -> str:
    """Hex SHA-256 of the uncompressed IDX file that holds ``array``."""
    digest = hashlib.sha256(idx_header(array.shape))
    digest.update(np.ascontiguousarray(array).reshape(-1).data)
    return digest.hexdigest()


MAX_BYTES = 200_000_000
"""Limit for an array: four times the largest published one. Four arrays are read at once, before
their digests can be checked."""


def read_idx(path: Path, dimensions: int, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """Array in the IDX file at ``path``, gzipped or not: 3 dimensions for images, 1 for labels.

    Raises:
        DiscernError: the file cannot be read, is not exactly one such array, or announces more than
            ``max_bytes``.
    """
    with file_errors(f"{path} cannot be read"), open_regular(path) as file:
        held = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] != _GZIP_MAGIC:
            return _read_array(file, held, path, dimensions, max_bytes)
        try:
            with gzip.GzipFile(fileobj=file) as content:
                return _read_array(content, held * _DEFLATE_MAX_RATIO, path, dimensions, max_bytes)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            reason = str(error).rstrip(".")
            raise DiscernError(f"{path} is not a complete gzip file: {reason}.") from error


def _read_array(
    file: BufferedReader | gzip.GzipFile,
    max_size: int,
    path: Path,
    dimensions: int,
    max_bytes: int,
) -> NDArray[np.uint8]:
    """Array in uncompressed content, which cannot be longer than ``max_size`` bytes."""
    shape = _read_shape(file, path, dimensions)
    size = math.prod(shape)
    announced = len(idx_header(shape)) + size
    truncated = DiscernError(
        f"{path} is truncated: its header announces {announced:,} bytes, more than it holds."
    )
    # Before anything is allocated: a damaged header may announce terabytes, or an empty array of
    # a shape that NumPy refuses.
    if announced > max_size or (0 in shape and max(shape) > max_size):
        raise truncated
    if announced > max_bytes:
        raise DiscernError(f"{path} announces {announced:,} bytes; at most {max_bytes:,} are read.")
    pixels = bytearray(file.read(size + 1))
    if len(pixels) < size:
        raise truncated
    if len(pixels) > size:
        raise DiscernError(
            f"{path} is too long: its header announces {announced:,} bytes, fewer than it holds."
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _read_shape(
    file: BufferedReader | gzip.GzipFile, path: Path, dimensions: int
) -> tuple[int, ...]:
    magic = file.read(4)
    wanted = idx_header((0,) * dimensions)[:4]
    if magic != wanted:
        for other, kind in _KINDS.items():
            if magic == idx_header((0,) * other)[:4]:
                raise DiscernError(
                    f"{path} holds {kind} (magic number {int.from_bytes(magic, 'big')}) where "
                    f"{_KINDS[dimensions]} ({int.from_bytes(wanted, 'big')}) are expected."
                )
        raise DiscernError(
            f"{path} is not an IDX file of {_KINDS[dimensions]}: it starts with "
            f"{magic.hex() or 'nothing'} instead of {wanted.hex()}."
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DiscernError(f"{path} is truncated: it ends within its header.")
    return struct.unpack(f">{dimensions}I", sizes)
