"""Thumbnails of some images, side by side in one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from discern.data.pictures import opened
from discern.runs.predictions import Predictions

SIDE = 96
"""Pixels of a larger image's thumbnail: a multiple of JPEG's blocks, so that none straddles two."""

LOSSLESS = 32
"""Images up to this many pixels a side are kept as they are."""

MAX_PIXELS = 40_000_000
"""The limit for a picture in a run's folder; discern's own have a tenth of it."""

GALLERY, OF_A_CONFUSION, OF_A_CLASS = 24, 12, 4
"""Numbers of images: with the highest loss, and as many of the least certain; of each confusion of
two classes; of each class classified correctly."""


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of some of a split's images.

    Attributes:
        rows: their rows in the predictions, int64 (M,).
        picture: a PNG or JPEG with M square thumbnails in rows of ``columns``.
        columns: thumbnails in a row.
    """

    rows: NDArray[np.int64]
    picture: bytes
    columns: int


def chosen(predictions: Predictions, most: int) -> NDArray[np.int64]:
    """The rows of at most ``most`` images worth a look, int64, the most interesting first.

    These are the worst, the least certain, the worst of each confusion of two classes in turn, and
    the least certain correct ones of each class.
    """
    seen = dict.fromkeys(predictions.worst(GALLERY).tolist())
    seen |= dict.fromkeys(predictions.least_certain(GALLERY).tolist())
    seen |= dict.fromkeys(_in_turn(predictions))
    return np.array(list(seen)[:most], np.int64)


def _in_turn(predictions: Predictions) -> Iterator[int]:
    """One of each confusion, then a second of each, …; then likewise the correct ones."""
    wrong = ~predictions.correct
    for part, order, of_each in (
        (wrong, -predictions.losses, OF_A_CONFUSION),
        (~wrong, predictions.margins, OF_A_CLASS),
    ):
        rows = np.flatnonzero(part)
        cells = predictions.labels[rows] * len(predictions.class_names)
        cells = cells + predictions.predicted[rows]
        rows = rows[np.lexsort((order[rows], cells))]
        cells = np.sort(cells)
        # The place of each row among those of its cell.
        places = np.arange(len(cells)) - np.searchsorted(cells, cells)
        kept = places < of_each
        yield from rows[kept][np.argsort(places[kept], kind="stable")].tolist()


def thumbnails(rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> Thumbnails:
    """Thumbnails of images, uint8 (M, C, H, W) with C of 1 or 3, in these rows (M,)."""
    count, channels, height, width = pixels.shape
    small = max(height, width) <= LOSSLESS
    side = max(height, width) if small else SIDE
    columns = max(1, math.ceil(math.sqrt(count)))
    mode = "L" if channels == 1 else "RGB"
    sheet = Image.new(mode, (columns * side, math.ceil(count / columns) * side))
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0), mode)
        if not small:
            picture.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
            # One that was smaller fills its square too.
            picture = ImageOps.contain(picture, (side, side), Image.Resampling.BILINEAR)
        left = column * side + (side - picture.width) // 2
        sheet.paste(picture, (left, row * side + (side - picture.height) // 2))
    content = io.BytesIO()
    if small:
        sheet.save(content, "PNG", compress_level=6)
    else:
        sheet.save(content, "JPEG", quality=80)
    return Thumbnails(rows, content.getvalue(), columns)


@contextmanager
def open_picture(content: bytes) -> Iterator[Image.Image]:
    """Open a picture of discern's, which may be a stranger's instead; it is not decoded yet.

    Raises:
        ValueError: it is not a PNG or JPEG, or it has too many pixels.
    """
    try:
        with opened(io.BytesIO(content), ("PNG", "JPEG")) as (picture, _):
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError("a picture of too many pixels")
            yield picture
    except ValueError:
        raise
    except Exception as error:  # each of Pillow's readers raises its own errors
        raise ValueError("no PNG or JPEG") from error


def side_of(shown: Thumbnails) -> int:
    """The side of each thumbnail in pixels.

    Raises:
        ValueError: they are not what :func:`thumbnails` makes.
    """
    count, columns = len(shown.rows), shown.columns
    if columns < 1:
        raise ValueError("a row of no pictures")
    with open_picture(shown.picture) as sheet:
        side = sheet.width // columns
        if side > SIDE or sheet.size != (columns * side, math.ceil(count / columns) * side):
            raise ValueError(f"a sheet of {sheet.size} pixels for {count} pictures")
    return side


def pixels_of(shown: Thumbnails) -> NDArray[np.uint8]:
    """The pictures one by one, uint8 (M, C, side, side) with C of 1 or 3.

    Raises:
        ValueError: they are not what :func:`thumbnails` makes.
    """
    count, columns, side = len(shown.rows), shown.columns, side_of(shown)
    tall = math.ceil(count / columns)
    with open_picture(shown.picture) as sheet:
        pixels = np.asarray(sheet.convert("L" if sheet.mode == "L" else "RGB"))
    pixels = pixels.reshape(tall, side, columns, side, -1)
    each: NDArray[np.uint8] = pixels.transpose(0, 2, 4, 1, 3).reshape(
        tall * columns, -1, side, side
    )
    return each[:count]
