"""The cost of decoding a JPEG 2000, estimated from its header, which OpenJPEG trusts blindly."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from discern.data.costs import CostError

_CODESTREAM = b"\xff\x4f\xff\x51"
_SOT, _SOD, _COD, _COC, _EOC = 0xFF90, 0xFF93, 0xFF52, 0xFF53, 0xFFD9
_BOX = struct.Struct(">I4s")

# Bytes that OpenJPEG takes for a value of a tile, for a block of them and for a tile, as measured.
_OF_A_VALUE, _OF_A_BLOCK, _OF_A_TILE = 5, 250, 12_000
# Those of real files: a tile-part for each tile and resolution, and a few dozen segments.
_MAX_SEGMENTS, _MAX_BOXES = 1 << 17, 1000

_DAMAGED = "a JPEG 2000 that is damaged before its pixels"


@dataclass(frozen=True)
class Head:
    """The parts of a JPEG 2000's header that decide its cost.

    Attributes:
        values: number of values in its largest tile, all colours together.
        blocks: upper bound on the code blocks of this tile.
        tiles: number of tiles.
        levels: how often decoding can halve it.
    """

    values: int
    blocks: int
    tiles: int
    levels: int

    def work(self, factor: int) -> int:
        """Bytes that OpenJPEG takes besides the picture at a scale."""
        fixed = self.blocks * _OF_A_BLOCK + self.tiles * _OF_A_TILE
        return self.values * _OF_A_VALUE // factor**2 + fixed


def head_of(file: IO[bytes]) -> Head:
    """The head of an open file.

    Raises:
        CostError: it is damaged.
    """
    try:
        _find_codestream(file)
        sizes = file.read(int.from_bytes(file.read(2)) - 2)
        width, height, left, top, tile_width, tile_height = struct.unpack_from(">6I", sizes, 2)
        parts = int.from_bytes(sizes[34:36])
        width, height = width - left, height - top
        tile_width, tile_height = min(tile_width, width), min(tile_height, height)
        if min(tile_width, tile_height, parts) < 1:
            raise CostError(_DAMAGED)
        tiles = (width // tile_width + 2) * (height // tile_height + 2)
        styles = [
            style for marker, body in _segments(file) if (style := _style(marker, body, parts))
        ]
    except (struct.error, ValueError, IndexError, OverflowError, OSError) as error:
        raise CostError(_DAMAGED) from error
    if not styles:
        raise CostError(_DAMAGED)
    values = tile_width * tile_height * parts
    # Tiles and colours may differ in their style; the worst of each is taken.
    smallest = min(area for _, area in styles)
    return Head(values, 2 * values // smallest + 1, tiles, min(levels for levels, _ in styles))


def _find_codestream(file: IO[bytes]) -> None:
    """Seek to just after the SIZ marker, where OpenJPEG and Pillow begin."""
    file.seek(0)
    if file.read(4) == _CODESTREAM:
        return
    place = 0
    for _ in range(_MAX_BOXES):
        file.seek(place)
        length, kind = _BOX.unpack(file.read(_BOX.size))
        head = _BOX.size
        if length == 1:
            length, head = int.from_bytes(file.read(8)), 16
        if kind == b"jp2c":
            if file.read(4) != _CODESTREAM:
                break
            return
        if length < head:
            break
        place += length
    raise CostError(_DAMAGED)


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment before the pixels, in the main and tile headers."""
    part_end = 0
    for _ in range(_MAX_SEGMENTS):
        start = file.tell()
        marker = int.from_bytes(file.read(2))
        if marker in (_EOC, 0):
            return
        if marker == _SOD:
            if part_end <= start:  # the last part goes on to the end
                return
            file.seek(part_end)
            continue
        length = int.from_bytes(file.read(2))
        if length < 2:
            raise CostError(_DAMAGED)
        body = file.read(length - 2)
        if marker == _SOT:
            size = int.from_bytes(body[2:6])
            part_end = start + size if size else 0
        yield marker, body
    raise CostError(_DAMAGED)


def _style(marker: int, body: bytes, parts: int) -> tuple[int, int] | None:
    """Levels of a coding style and values of its smallest code block; None for other markers."""
    if marker == _COD:
        own_precincts, body = body[0] & 1, body[5:]
    elif marker == _COC:
        skipped = 1 if parts < 257 else 2
        own_precincts, body = body[skipped] & 1, body[skipped + 1 :]
    else:
        return None
    if len(body) < 5 or body[0] > 32:
        raise CostError(_DAMAGED)
    wide, tall = 2 + (body[1] & 15), 2 + (body[2] & 15)
    if own_precincts:
        # Below the lowest resolution a precinct is of a band of half the size.
        for byte in body[5 : 6 + body[0]]:
            wide, tall = min(wide, max(0, (byte & 15) - 1)), min(tall, max(0, (byte >> 4) - 1))
    return body[0], 1 << (wide + tall)
