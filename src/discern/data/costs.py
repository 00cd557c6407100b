"""The cost of decoding a picture, estimated from its header, and a limit on concurrent decoding.

A file of a kilobyte can ask for gigabytes or minutes. A running decoder cannot be stopped, so its
cost is estimated beforehand from sizes, layout and the number of passes over the pixels. Expensive
pictures are decoded one at a time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from discern.errors import DiscernError

SETTING = "DISCERN_MAX_PICTURE_MB"
"""Environment variable that allows larger pictures. No file can set it."""

DEFAULT_MB = 512
"""Limit for a decoded picture in megabytes (2**20 bytes), unless the variable raises it."""

MAX_MB = 1 << 20

REDUCED_FROM = 1 << 25
"""Pixels beyond which a picture is read at half its size or less: 34 million."""

JP2_REDUCED_FROM = 1 << 24
"""The same limit for JPEG 2000, which takes ten times as long per pixel: 17 million."""

_REDUCED_TO = 1 << 24
"""Pixels left of a reduced picture: more than any network takes, few enough to copy."""

MAX_VISITS = 1 << 31
"""Limit for pixels times passes over them: at worst two seconds in libjpeg. Ten passes over 200
megapixels, a usual number, are within it."""

MAX_SIDE = 1 << 20
"""Limit for a side in pixels. Each row costs memory and time besides its pixels."""

MAX_TILES = 1 << 16
"""Limit for tiles, which Pillow decodes one by one, 20 µs each."""


class CostError(Exception):
    """Decoding a picture costs more than is allowed; the message names the cost."""


def max_bytes() -> int:
    """Limit for a decoded picture in bytes.

    Raises:
        DiscernError: the environment variable is no such number.
    """
    text = os.environ.get(SETTING) or str(DEFAULT_MB)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_MB):
        raise DiscernError(
            f"{SETTING}={text[:40]} must be a whole number of megabytes from 1 to {MAX_MB:,}."
        )
    return int(text) << 20


def max_pixels() -> int:
    """Limit for any picture in pixels: 268 million, unless more bytes are allowed."""
    return max_bytes() // 2


def max_work() -> int:
    """Limit for the total memory of decoding in bytes: the decoder's and the result's."""
    return max_bytes() * 3 // 2


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture of too many pixels.

    Raises:
        CostError: it has more; the message names the limit.
    """
    if max(width, height) > MAX_SIDE:
        raise CostError(f"{width:,} x {height:,} pixels, and a side may have {MAX_SIDE:,}")
    if width * height > max_pixels():
        raise CostError(f"more than {max_pixels():,} pixels; {SETTING} allows more")


def check_bytes(decoded: int, work: int) -> None:
    """Refuse a picture that takes too much memory.

    Args:
        decoded: bytes of the picture once it is decoded.
        work: bytes that decoding it takes in all.

    Raises:
        CostError: it takes more; the message names the amount.
    """
    for taken, most, what in (
        (decoded, max_bytes(), "it has {} MB once decoded"),
        (work, max_work(), "decoding it takes {} MB"),
    ):
        if taken > most:
            description = what.format(f"{taken >> 20:,}")
            raise CostError(f"{description}, more than {most >> 20:,} MB; {SETTING} allows more")


def check_visits(pixels: int, passes: int) -> None:
    """Refuse a picture with too many passes over its pixels.

    Raises:
        CostError: there are too many passes.
    """
    if pixels * passes > MAX_VISITS * max(1, max_bytes() // (DEFAULT_MB << 20)):
        raise CostError(f"its {pixels:,} pixels are in {passes:,} passes, as in no real picture")


def bytes_of(mode: str) -> int:
    """Bytes that Pillow keeps of each pixel."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def factor_for(pixels: int, beyond: int = REDUCED_FROM) -> int:
    """The power of two by which both sides of a picture of more pixels are divided."""
    factor = 1
    while pixels > beyond and pixels > _REDUCED_TO * factor * factor:
        factor *= 2
    return factor


# Concurrent decoding


class _Room:
    """The memory shared by all pictures being decoded, in this process and its workers."""

    def __init__(self) -> None:
        # Locks of files belong to a process, and are gone with one that is killed.
        shared = hasattr(os, "memfd_create")  # elsewhere each process has its own bound
        self._turn = os.memfd_create("discern-pictures") if shared else -1
        self._start()
        os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._taken = 0
        self._change = threading.Condition()
        self._large = threading.Lock()

    @contextmanager
    def taken(self, work: int) -> Iterator[None]:
        """Reserve so many bytes for the block, waiting until they are free."""
        capacity = max_bytes()  # a picture that takes more reserves all of it
        wanted = min(work, capacity)
        with self._alone() if wanted > capacity // 4 else nullcontext():
            with self._change:
                self._change.wait_for(lambda: self._taken + wanted <= capacity)
                self._taken += wanted
            try:
                yield
            finally:
                if wanted > capacity // 8:
                    _trim()
                with self._change:
                    self._taken -= wanted
                    self._change.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Allow one large picture at a time among all worker processes."""
        with self._large:
            if self._turn >= 0:
                fcntl.lockf(self._turn, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if self._turn >= 0:
                    fcntl.lockf(self._turn, fcntl.LOCK_UN)


room = _Room()


def _trim() -> None:
    """Have the C library release free memory; it would keep half a gigabyte per thread."""
    with suppress(OSError, AttributeError, TypeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


# Files, before and after Pillow opens them

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 1 << 17
_NETPBM = tuple(b"P" + kind for kind in (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"f"))
_MAX_NETPBM = 1 << 16
_BIG_TIFF, _PIECES = 43, (273, 324)  # its version, and the tags of where its strips and tiles are
# All formats but these are read whole before they are decoded.
_READ_IN_PARTS = (_PNG, b"II", b"MM", b"BM", b"P", b"GIF8")


def check_head(file: IO[bytes]) -> None:
    """Refuse a file that is too long, or whose header would keep its reader busy.

    Raises:
        CostError: the message names the problem.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    if size > max_bytes() and not start.startswith(_READ_IN_PARTS):
        check_bytes(size, size)
    if start.startswith((b"II", b"MM")):
        _check_pieces(file, start)
    if start.startswith(_NETPBM):
        file.seek(0)
        _check_words(file.read(_MAX_NETPBM))
    if start != _PNG:
        return
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
    raise CostError(f"a PNG of more than {_MAX_CHUNKS:,} chunks")


def _check_words(head: bytes) -> None:
    """Refuse a PPM of long comments or many spaces, which Pillow reads a byte at a time."""
    words = re.sub(rb"#[^\r\n]*", b"", head).split(maxsplit=4)
    if len(head) == _MAX_NETPBM and len(words) < (3 if head[1:2] in b"14" else 4):
        raise CostError(f"a PPM whose sizes are not in its first {_MAX_NETPBM:,} bytes")


def _check_pieces(file: IO[bytes], start: bytes) -> None:
    """Refuse a TIFF of too many strips or tiles, for each of which Pillow creates an object."""
    order: Literal["little", "big"] = "little" if start[:1] == b"I" else "big"
    big = int.from_bytes(start[2:4], order) == _BIG_TIFF
    place = file.read(8) if big else start[4:]
    file.seek(min(int.from_bytes(place, order), 2**63 - 1))
    length, of_a_count = (20, 8) if big else (12, 2)
    for _ in range(int.from_bytes(file.read(of_a_count), order)):
        entry = file.read(length)
        if len(entry) < length:
            return
        count = int.from_bytes(entry[4 : 12 if big else 8], order)
        if int.from_bytes(entry[:2], order) in _PIECES and count > MAX_TILES:
            raise CostError(f"a TIFF of {count:,} pieces; at most {MAX_TILES:,} are read")


def _piece(image: TiffImageFile) -> tuple[int, int]:
    """Pixels and bytes of a TIFF's largest strip or tile."""
    tags = image.tag_v2
    bits = tags.get(258, (1,))
    pixel = -(-sum(bits[:8]) // 8) * max(1, int(tags.get(277, 1)) // max(1, len(bits)))
    width, height = image._tile_size
    if 322 in tags:
        width, height = int(tags[322]), int(tags[323])
    else:
        height = min(height, int(tags.get(278, height)))
    return width * height, width * height * pixel


_TIFF_COMPRESSIONS = frozenset(
    ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "zstd", "lzma",
     "webp", "tiff_ccitt", "group3", "group4", "tiff_raw_16")
)  # fmt: skip

# Pillow's decoders that are written in Python, which take a microsecond for a pixel.
_IN_PYTHON = frozenset(("bmp_rle", "ppm", "ppm_plain", "qoi", "SGI16"))
_MAX_IN_PYTHON = 1 << 23

# Bytes a pixel that the decoders of these take beside Pillow's own, as measured.
_BESIDE = {"WEBP": 12, "AVIF": 8, "GIF": 2}


def work_of(image: Image.Image, file: IO[bytes]) -> int:
    """Bytes that decoding an opened picture takes, before its colours are made others.

    Raises:
        CostError: it has parts that cannot be decoded in bounds.
    """
    pixels, own = image.width * image.height, bytes_of(image.mode)
    work = pixels * (own + _BESIDE.get(image.format or "", 0))
    if isinstance(image, TiffImageFile):
        kind = str(image.info.get("compression"))
        if kind not in _TIFF_COMPRESSIONS:
            raise CostError(f"a TIFF whose pixels are packed as {kind}, which is not read")
        of_a_piece, taken = _piece(image)
        work += taken
        if kind == "jpeg":
            check_visits(of_a_piece, _scans(file))
    tiles = getattr(image, "tile", ())
    if tiles and tiles[0][0] in _IN_PYTHON and pixels > _MAX_IN_PYTHON:
        raise CostError(f"a {image.format} of its kind may have {_MAX_IN_PYTHON:,} pixels")
    return work


def _scans(file: IO[bytes]) -> int:
    """Scans of all JPEGs in a file, at most."""
    file.seek(0)
    return sum(part.count(b"\xff\xda") + 1 for part in iter(lambda: file.read(1 << 24), b""))
