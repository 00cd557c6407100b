"""Pictures of more than eight bits a value: which value is white."""

from __future__ import annotations

import math
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from discern.errors import first_line

LEVELS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
"""White of 8, 10, 12, 14 and 16 bits."""

_FRACTIONS = (1.0, *LEVELS)
_FULL = LEVELS[-1]
# The upper byte that no value of a picture of at most 14 bits exceeds.
_FEW = 63
_PNG_SIGNATURE = 8

# TIFF's tags: MinSampleValue and MaxSampleValue, and the same of any type; bits of a value.
_MINIMA, _MAXIMA, _BITS = (340, 280), (341, 281), 258


class DepthError(ValueError):
    """A picture's values cannot be had in full; the message says why."""


def packing_of(image: Image.Image) -> tuple[Any, ...]:
    """How the values lie in the file of a picture that is opened, and not loaded yet."""
    arguments = [tile.args for tile in getattr(image, "tile", ())]
    return tuple(
        part for given in arguments for part in (given if isinstance(given, tuple) else (given,))
    )


def has_deep_colours(image: Image.Image, packing: tuple[Any, ...]) -> bool:
    """Whether a picture in colour, or grey with transparency, has sixteen bits a value."""
    if image.format == "PPM":
        return image.mode == "RGB" and _FULL in packing
    return any(isinstance(part, str) and ";16" in part for part in packing)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture is grey of more than eight bits: I, I;16, I;16B, F, …"""
    return image.mode.partition(";")[0] in ("I", "F")


def in_eight_bits(
    image: Image.Image, file: IO[bytes], packing: tuple[Any, ...]
) -> tuple[Image.Image, float]:
    """A deep picture in mode L, and the value that became white.

    It is the one that the file declares, by TIFF's tags, PNG's sBIT chunk or PGM's greatest value.
    Else it is the least level that holds the picture's brightest value, or that value itself where
    none does. What is in a file decides, and no other file: a picture has the same pixels in
    training, in evaluation and alone.

    Args:
        image: opened and loaded.
        file: what it was opened from.
        packing: see :func:`packing_of`.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0)
    extent = float(values.min()), float(values.max())
    if image.format == "PPM" and any(isinstance(p, int) and p < _FULL for p in packing):
        black, white = 0.0, _FULL  # which Pillow has made of the greatest value that is declared
    else:
        black, white = _range(image, file, *extent)
    scaled = (values - black) * (255 / (white - black))
    return Image.fromarray(scaled.round().astype(np.uint8)), white


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
    """The values of black and white that a file declares, if it does."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        white = next((w for w in (_number(tags.get(tag)) for tag in _MAXIMA) if w), None)
        black = next((b for b in (_number(tags.get(tag)) for tag in _MINIMA) if b), 0.0)
        bits = _number(tags.get(_BITS))
        if white is None and bits is not None and 8 < bits < 16:
            white = 2.0**bits - 1
        return (black, white) if white is not None and white > black >= 0 else None
    bits = _significant_bits(file) if image.format == "PNG" else None
    return None if bits is None else (0.0, 2.0**bits - 1)


def _number(value: Any) -> float | None:
    """What a tag of one or several values says, if these are one finite number."""
    values = set(value) if isinstance(value, tuple) else {value}
    try:
        (number,) = map(float, values)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _significant_bits(file: IO[bytes]) -> int | None:
    """What a PNG's sBIT chunk says, if it has one before its pixels."""
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


def deep_colours(
    image: Image.Image, kind: str | None, file: IO[bytes]
) -> tuple[Image.Image, float]:
    """A picture of 16 bits a colour, of which Pillow has the upper eight, and its white.

    Args:
        image: in mode L, RGB or RGBA.
        kind: the format of the file.
        file: what it was opened from.

    Raises:
        DepthError: no value has upper bits, and the lower ones cannot be had.
    """
    colours = np.asarray(image)[..., :3]
    if int(colours.max(initial=0)) > _FEW:
        return image, _FULL
    if kind != "PNG":
        raise DepthError(
            "its colours have 16 bits, of which only the lower ones are used; save it as a PNG, or "
            "with 8 bits a colour"
        )
    values = _values_of_png(file)
    colours_only = values[..., : (1 if values.shape[2] < 3 else 3)]
    bits = _significant_bits(file)
    brightest = float(colours_only.max(initial=0))
    white = _level(brightest, LEVELS)
    if bits is not None and bits < 16 and brightest < 2**bits:
        white = 2.0**bits - 1
    scaled = (colours_only * (255 / white)).round().astype(np.uint8)
    parts = [scaled if scaled.shape[2] == 3 else scaled.repeat(3, axis=2)]
    if image.mode == "RGBA":
        alpha = values[..., -1:]
        opaque = white if float(alpha.max(initial=0)) <= white else _FULL
        parts.append((alpha * (255 / opaque)).round().astype(np.uint8))
    return Image.fromarray(np.concatenate(parts, axis=2)), white


def _values_of_png(file: IO[bytes]) -> NDArray[np.float32]:
    """All sixteen bits of a PNG, float32 (H, W, C)."""
    # Half a second that hardly a picture needs.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    file.seek(0)
    content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    try:
        values = decode_image(content, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise DepthError(first_line(error)) from error
    pixels: NDArray[np.float32] = values.permute(1, 2, 0).numpy().astype(np.float32)
    return pixels
