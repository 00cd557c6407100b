"""Pictures of more than eight bits per value: which value is white."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from discern.data.costs import max_bytes
from discern.errors import first_line

LEVELS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""White of 8, 10, 12, 14 and 16 bits."""

_FRACTIONS = (1.0, *LEVELS)
_FULL = LEVELS[-1]
# Largest upper byte in a picture of at most 14 bits.
_MAX_DARK = 63
_PNG_SIGNATURE = 8

# TIFF's tags: MinSampleValue and MaxSampleValue, and the same of any type; bits of a value.
_MINIMA, _MAXIMA, _BITS = (340, 280), (341, 281), 258


class DepthError(ValueError):
    """A picture's full values cannot be read; the message gives the reason."""


def packing_of(image: Image.Image) -> tuple[object, ...]:
    """The packing of values in the file of a picture that is opened but not loaded."""
    arguments = [tile.args for tile in getattr(image, "tile", ())]
    return tuple(
        part for given in arguments for part in (given if isinstance(given, tuple) else (given,))
    )


def has_deep_colours(image: Image.Image, packing: tuple[object, ...]) -> bool:
    """Whether a picture in colour, or grey with transparency, has sixteen bits per value."""
    if image.format == "PPM":
        return image.mode == "RGB" and _FULL in packing
    return any(isinstance(part, str) and ";16" in part for part in packing)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture is grey of more than eight bits: I, I;16, I;16B, F, …"""
    return image.mode.partition(";")[0] in ("I", "F")


def range_of(
    image: Image.Image, file: IO[bytes], packing: tuple[object, ...]
) -> tuple[float, float]:
    """The values of a deep picture that become black and white.

    White is the one that the file declares, by TIFF's tags, PNG's sBIT chunk or PGM's greatest
    value. Else it is the least level that holds the picture's brightest value, or that value itself
    where none does. What is in a file decides, and no other file: a picture has the same pixels in
    training, in evaluation and alone.

    Args:
        image: opened and loaded.
        file: what it was opened from.
        packing: see :func:`packing_of`.
    """
    if image.format == "PPM" and any(isinstance(p, int) and p < _FULL for p in packing):
        return 0.0, _FULL  # which Pillow has made of the greatest value that is declared
    if _is_sixteen(image):
        least, most = image.getextrema()
        return _range(image, file, float(least), float(most))  # type: ignore[arg-type]
    extents = [
        (float(v.min()), float(v.max())) for v in map(_values, strips(image, 1, _FEW_PIXELS))
    ]
    return _range(image, file, min(least for least, _ in extents), max(most for _, most in extents))


def in_eight_bits(image: Image.Image, black: float, white: float) -> Image.Image:
    """A deep picture in mode L, between the values that become black and white."""
    pixels, top = np.empty((image.height, image.width), np.uint8), 0
    table = _scaled(np.arange(1 << 16, dtype=np.float32), black, white)
    for strip in strips(image, 1, _FEW_PIXELS):
        rows = pixels[top : top + strip.height]
        if _is_sixteen(image):
            np.take(table, np.asarray(strip), out=rows, mode="clip")
        else:
            rows[:] = _scaled(_values(strip), black, white)
        top += strip.height
    return Image.fromarray(pixels)


def _is_sixteen(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _scaled(values: NDArray[np.float32], black: float, white: float) -> NDArray[np.uint8]:
    """What values become, which may be overwritten."""
    values -= black
    values *= 255 / (white - black)
    return values.round(out=values).astype(np.uint8)


def _values(image: Image.Image) -> NDArray[np.float32]:
    values = np.array(image, dtype=np.float32)
    np.nan_to_num(values, copy=False)
    return values.clip(0, out=values)


_FEW_PIXELS = 1 << 18
"""Pixels that, as float32, stay in a processor's cache."""

_STRIP = 1 << 23
"""Pixels of a picture that are worked on at once: of most, all."""


def strip_rows(width: int, factor: int = 1, pixels: int = _STRIP) -> int:
    """Rows of a strip of at most so many pixels; a multiple of ``factor``."""
    return max(1, pixels // width // factor) * factor


def strips(image: Image.Image, factor: int = 1, pixels: int = _STRIP) -> Iterator[Image.Image]:
    """An image from top to bottom, so many rows at a time that a copy of them is small."""
    width, height = image.size
    rows = strip_rows(width, factor, pixels)
    if height <= rows:
        yield image
        return
    for top in range(0, height, rows):
        yield image.crop((0, top, width, min(height, top + rows)))


def _range(
    image: Image.Image, file: IO[bytes], darkest: float, brightest: float
) -> tuple[float, float]:
    declared = _declared(image, file)
    # Sixteen bits are no more than the room that the values have.
    if declared is not None and declared[1] != _FULL:
        black, white = declared
        if brightest <= white:
            return (black if black <= darkest else 0.0), white
    return 0.0, _level(brightest, _FRACTIONS if image.mode == "F" else LEVELS)


def _level(brightest: float, levels: tuple[float, ...]) -> float:
    return next((level for level in levels if brightest <= level), brightest)


def _declared(image: Image.Image, file: IO[bytes]) -> tuple[float, float] | None:
    """The values of black and white declared by a file; None if it declares none."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        white = next((w for w in (_number(tags.get(tag)) for tag in _MAXIMA) if w), None)
        black = next((b for b in (_number(tags.get(tag)) for tag in _MINIMA) if b), 0.0)
        bits = _number(tags.get(_BITS))
        if white is None and bits is not None and 8 < bits < 16:
            white = 2.0**bits - 1
        return (black, white) if white is not None and white > black >= 0 else None
    bits = _significant_bits(file) if image.format == "PNG" else None
    return None if bits is None else (0.0, 2.0**bits - 1)


def _number(value: object) -> float | None:
    """The number in a tag of one or several values; None unless all are one finite number."""
    values = set(value) if isinstance(value, tuple) else {value}
    try:
        (only,) = values
        number = float(only)  # type: ignore[arg-type] # whatever a file may hold
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _significant_bits(file: IO[bytes]) -> int | None:
    """Significant bits from a PNG's sBIT chunk; None without such a chunk before the pixels."""
    place = file.tell()
    try:
        file.seek(_PNG_SIGNATURE)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4])
            if head[4:] == b"sBIT":
                bits = max(file.read(min(length, 4)), default=0)
                return bits if 0 < bits <= 16 else None
            file.seek(length + 4, 1)
    finally:
        file.seek(place)
    return None


# Colours


def deep_colours(image: Image.Image, file: IO[bytes]) -> tuple[Image.Image, float]:
    """A picture of 16 bits per colour, of which Pillow has the upper eight, and its white.

    Args:
        image: opened and loaded.
        file: what it was opened from.

    Raises:
        DepthError: no value has upper bits, and the lower ones cannot be read.
    """
    if not _is_dark(image):
        return image, _FULL
    if image.format != "PNG":
        raise DepthError(
            "its colours have 16 bits, of which only the lower ones are used; save it as a PNG, or "
            "with 8 bits a colour"
        )
    if image.width * image.height * 2 * len(image.getbands()) > max_bytes() // 2:
        raise DepthError(
            "its colours have 16 bits, of which only the lower ones are used, and it is large; "
            "save it with 8 bits a colour"
        )
    values = _values_of_png(file)
    channels = values.shape[2]
    parts = 1 if channels < 3 else 3
    bits = _significant_bits(file)
    brightest = float(values[..., :parts].max(initial=0))
    white = _level(brightest, LEVELS)
    if bits is not None and bits < 16 and brightest < 2**bits:
        white = 2.0**bits - 1
    scale = np.full(channels, 255 / white, np.float32)
    if channels > parts:
        opaque = white if float(values[..., -1].max(initial=0)) <= white else _FULL
        scale[-1] = 255 / opaque
    pixels = np.empty((*values.shape[:2], 4 if channels > parts else 3), np.uint8)
    for top in range(0, len(values), strip_rows(image.width)):
        rows = slice(top, top + strip_rows(image.width))
        scaled = (values[rows] * scale).round().astype(np.uint8)
        pixels[rows, :, :3] = scaled[..., :parts]
        if channels > parts:
            pixels[rows, :, 3] = scaled[..., -1]
    return Image.fromarray(pixels), white


def _is_dark(image: Image.Image) -> bool:
    """Whether an image, in mode RGB, RGBA or LA, has no value with upper bits."""
    extrema: tuple[tuple[float, float], ...] = image.getextrema()  # type: ignore[assignment]
    colours = zip(image.getbands(), extrema, strict=True)
    return bool(max(most for name, (_, most) in colours if name != "A") <= _MAX_DARK)


def _values_of_png(file: IO[bytes]) -> NDArray[np.uint16]:
    """All sixteen bits of a PNG, uint16 (H, W, C)."""
    # Half a second that hardly a picture needs.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    file.seek(0)
    content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    try:
        values = decode_image(content, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise DepthError(first_line(error)) from error
    pixels: NDArray[np.uint16] = values.permute(1, 2, 0).numpy()
    return pixels
