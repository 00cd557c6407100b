"""Decoding of most JPEGs by libjpeg-turbo alone: Pillow's pixels in two thirds of its time."""

from __future__ import annotations

import re
from dataclasses import dataclass

import simplejpeg
from PIL import Image

from discern.data.costs import CostError, check_bytes, check_pixels, check_visits, factor_for

JPEG = b"\xff\xd8\xff"
"""The first bytes of a JPEG."""

ORIENTATION = 0x0112
"""EXIF tag of a photograph's orientation; from 5 on it lies on its side."""

_EXIF, _XMP = b"Exif\x00\x00", b"tiff:Orientation"
_SEGMENT = 1 << 16

MAX_REDUCED = 8
"""The largest factor by which libjpeg reduces a picture."""

_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_END_OF_SCAN = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_SCAN = b"\xff\xda"
_SOS, _EOI, _BASELINE, _PROGRESSIVE = 0xDA, 0xD9, (0xC0, 0xC1), 0xC2
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = {0x01, 0xD8, *range(0xD0, 0xD8)}

# Photographs have a few dozen; a depth map in XMP takes hundreds.
_MAX_SEGMENTS = 10_000
# Limit for the bytes between two segments, which readers skip one by one.
_MAX_JUNK = 1 << 16

_DAMAGED = "a JPEG that is truncated or damaged before its pixels"


@dataclass(frozen=True)
class Head:
    """The parts of a JPEG's header that decide its cost.

    Attributes:
        width, height: in pixels, as stored.
        passes: number of scans over its pixels; 1 for a baseline picture.
        coefficients: bytes that libjpeg keeps at any scale; 0 for a baseline picture.
        length: bytes before the pixels.
    """

    width: int
    height: int
    passes: int
    coefficients: int
    length: int

    def work(self, factor: int) -> int:
        """Bytes that decoding takes at a scale: for the pixels, the image and its upright copy."""
        return self.coefficients + 12 * -(-self.width // factor) * -(-self.height // factor)


def head_of(content: bytes) -> Head:
    """The header of a JPEG, checked to be decodable within the limits at a small scale.

    Raises:
        CostError: it is damaged, of a kind that no camera writes, or too expensive.
    """
    place, frame = 2, b""
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, place, place + _MAX_JUNK)
        if found is None:
            break
        marker, place = found[1][0], found.end()
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(content[place : place + 2])
        segment = content[place + 2 : place + length]
        if marker == _EOI or length < 2 or len(segment) < length - 2:
            break
        if marker == _SOS:
            return _checked(frame, segment, content, place + length)
        if marker in _FRAMES:
            if marker not in (*_BASELINE, _PROGRESSIVE):
                raise CostError(
                    "a JPEG that is neither baseline nor progressive, which is not read"
                )
            if frame:
                break
            frame = bytes([marker]) + segment
        place += length
    raise CostError(_DAMAGED)


def _checked(frame: bytes, scan: bytes, content: bytes, pixels_at: int) -> Head:
    """The header from the segments of its frame and its first scan."""
    parts = frame[6] if len(frame) > 6 else 0
    if parts not in (1, 3, 4) or len(frame) < 7 + 3 * parts or not scan:
        raise CostError(_DAMAGED)
    height, width = int.from_bytes(frame[2:4]), int.from_bytes(frame[4:6])
    if width * height == 0:
        raise CostError(_DAMAGED)
    check_pixels(width, height)
    if frame[0] != _PROGRESSIVE and scan[0] >= parts:
        return Head(width, height, 1, 0, pixels_at)
    sampling = [(byte >> 4 or 1, byte & 15 or 1) for byte in frame[8 : 7 + 3 * parts : 3]]
    widest, tallest = max(h for h, _ in sampling), max(v for _, v in sampling)
    values = sum(
        -(-width * h // widest + 8 * h) * -(-height * v // tallest + 8 * v) for h, v in sampling
    )
    passes = 1 + content.count(_START_OF_SCAN, pixels_at)
    try:
        check_visits(width * height, passes)
    except CostError:  # markers may also occur after the picture, or between its scans
        passes = _passes(content, pixels_at)
        check_visits(width * height, passes)
    head = Head(width, height, passes, 2 * values, pixels_at)
    check_bytes(0, head.work(min(MAX_REDUCED, factor_for(width * height))))
    return head


def _passes(content: bytes, place: int) -> int:
    """Number of scans of a JPEG whose first scan begins at ``place``."""
    passes = 1
    while (found := _END_OF_SCAN.search(content, place)) and found[1][0] != _EOI:
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
        passes += found[1][0] == _SOS
    return passes


def decode_jpeg(content: bytes, factor: int) -> Image.Image | None:
    """The picture in a JPEG, in mode RGB, or None if Pillow should read it.

    Pillow handles other colour spaces and explains what is damaged.

    Args:
        content: the file, upright, with a checked header.
        factor: by which it is reduced: 1, 2, 4 or 8.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours != "YCbCr":
            return None
        pixels = simplejpeg.decode_jpeg(
            content, min_height=height // factor, min_width=width // factor, min_factor=factor
        )
    except ValueError:
        return None
    return Image.fromarray(pixels)


def is_upright(content: bytes, head: Head) -> bool:
    """Whether a JPEG surely needs no turning."""
    if content.find(_XMP, 0, head.length) >= 0:
        return False  # Pillow reads this orientation
    start = content.find(_EXIF, 0, head.length)
    if start < 0:
        return True
    tags = Image.Exif()
    try:
        tags.load(content[start : start + _SEGMENT])
        return bool(tags.get(ORIENTATION, 1) == 1)
    except Exception:  # damaged tags, which Pillow handles
        return False
