"""Reading any picture, whatever its format, as upright grey or colour."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from discern.data.depth import (
    deep_colours,
    has_deep_colours,
    in_eight_bits,
    is_deep,
    packing_of,
)
from discern.data.jpeg import JPEG, ORIENTATION, decode_jpeg
from discern.errors import first_line


class PictureError(Exception):
    """A file is no picture that can be read; the message says why."""


def picture_suffixes() -> set[str]:
    """Suffixes, in small letters, of files that should be pictures, whether Pillow reads them."""
    formats = Image.registered_extensions()
    # Pillow writes PDF but does not read it, and knows films only by their names.
    read = {suffix for suffix, name in formats.items() if name in Image.OPEN and name != "MPEG"}
    return read | {".heic", ".heif", ".jxl"}


def no_reduction(width: int, height: int) -> int:
    """Decode at full size."""
    return 1


def read_picture(
    source: Path | IO[bytes],
    channels: int,
    reduction: Callable[[int, int], int] = no_reduction,
) -> Image.Image:
    """The picture in a file, upright, on white; of an animation it is the first frame.

    More than eight bits become eight, see :func:`discern.data.depth.in_eight_bits`.

    Args:
        source: a file of any format that Pillow reads, but EPS; its path, or open.
        channels: 1 for grey, 3 for red, green and blue.
        reduction: from width and height in pixels, upright, to how many times smaller a JPEG may
            be decoded, which saves most of its time. One that lies upright is reduced by the
            largest of 1, 2, 4 and 8 that is allowed, another by the largest that divides it: what
            is left over at the right and lower edges of the image is part of its last pixels.

    Returns:
        An image in mode L or RGB, in memory.

    Raises:
        PictureError: the file cannot be opened, is no picture, is damaged, or has more than
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    """
    return _read(source, channels, reduction)[0]


def _read(
    source: Path | IO[bytes], channels: int, reduction: Callable[[int, int], int]
) -> tuple[Image.Image, float]:
    """As :func:`read_picture`, and the value that became white; 0 where it has eight bits."""
    with _refusing():
        # A path of 250 characters that Pillow prints would hide the reason, so it gets the file.
        with _open(source) as file:
            if channels == 3 and (image := _plain_jpeg(file, reduction)) is not None:
                return image, 0.0
            opened = Image.open(file)
            if opened.format == "EPS":
                raise PictureError("EPS is a program for a printer, and is not run")
            if opened.width * opened.height > _MOST_PIXELS:
                raise PictureError(_TOO_LARGE)
            if opened.format in ("JPEG", "MPO") and reduction is not no_reduction:
                _reduce(opened, reduction(*upright_size(opened)))
            packing = packing_of(opened)
            opened.load()
            turn = _UPRIGHT.get(_orientation(opened))  # a PNG may say it after its pixels
            image, white = _in_eight_bits(opened, file, packing)
        image = _as_mode(_on_white(image), "L" if channels == 1 else "RGB")
        return (image if turn is None else image.transpose(turn)), white


def _reduce(opened: Image.Image, allowed: int) -> None:
    """Have a JPEG decoded at a reduced size."""
    width, height = opened.size
    lies_upright = _orientation(opened) not in _UPRIGHT
    power = next(
        (p for p in (8, 4, 2) if p <= allowed and (lies_upright or width % p == height % p == 0)), 1
    )
    opened.draft(None, (max(1, width // power), max(1, height // power)))


def _plain_jpeg(file: IO[bytes], reduction: Callable[[int, int], int]) -> Image.Image | None:
    """A JPEG that needs nothing but decoding; None leaves the file at its beginning."""
    image = None
    if file.read(len(JPEG)) == JPEG:
        image = decode_jpeg(JPEG + file.read(), _MOST_PIXELS, reduction)
    if image is None:
        file.seek(0)
    return image


def check_picture(path: Path) -> tuple[int, int, float]:
    """Decode all of a picture.

    Returns:
        Its width and height, upright, and the value that became white; 0 for one of eight bits.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    image, white = _read(path, 3, no_reduction)
    return *image.size, white


def fit_picture(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture in a file, cut at the centre and scaled to ``shape`` (C, H, W), uint8.

    Scaling averages over what a pixel covers; a picture that has the shape keeps its pixels.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    channels, height, width = shape
    image = read_picture(path, channels)
    pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once its EXIF orientation is undone."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


# Orientation -> what makes the picture upright. Pillow's exif_transpose also writes the rest of the
# EXIF block anew, at which one that is damaged would fail.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def _orientation(image: Image.Image) -> Any:
    """What the EXIF block says: 1, and whatever ``_UPRIGHT`` does not have, is upright."""
    return image.getexif().get(ORIENTATION, 1)


@contextmanager
def _open(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    else:
        yield source


# What Pillow warns of is a flaw that it reads past; too many pixels are refused below. Filters are
# set here for good, since they belong to the process and pictures are read in several threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever Pillow raises into :class:`PictureError`."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError("not a picture in a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise PictureError(_TOO_LARGE) from error
    except OSError as error:
        raise PictureError(error.strerror or first_line(error)) from error
    except Exception as error:  # each of Pillow's readers has errors of its own
        raise PictureError(first_line(error)) from error


_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**27
_TOO_LARGE = f"more than {_MOST_PIXELS:,} pixels"


def _in_eight_bits(
    image: Image.Image, file: IO[bytes], packing: tuple[Any, ...]
) -> tuple[Image.Image, float]:
    """The image in mode L, RGB or RGBA, and the value that became white, or 0."""
    if is_deep(image):
        return in_eight_bits(image, file, packing)
    if image.has_transparency_data:
        eight = _as_mode(image, "RGBA")
    else:
        eight = _as_mode(image, "L" if image.mode in ("1", "L") else "RGB")
    return (
        deep_colours(eight, image.format, file)
        if has_deep_colours(image, packing)
        else (eight, 0.0)
    )


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in that mode and in memory; itself where it has the mode, which saves a copy."""
    if image.mode != mode:
        return image.convert(mode)
    image.load()
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return paper


def dark_on_light(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each grey picture, uint8 (N, 1, H, W), shows something dark on a light ground: (N,).

    The ground is the median of the outermost pixels, which a thing that touches the edge does not
    move; it is light if it is brighter than the mean of the pixels inside. Of the 140,000 images of
    MNIST and Fashion-MNIST, light on dark, and of their negatives this takes 1 for the other kind.
    """
    inside = pixels[:, 0, 1:-1, 1:-1]
    if inside.size == 0:
        return np.zeros(len(pixels), np.bool_)
    edge = np.concatenate(
        [pixels[:, 0, 0], pixels[:, 0, -1], pixels[:, 0, 1:-1, 0], pixels[:, 0, 1:-1, -1]], axis=1
    )
    light: NDArray[np.bool_] = np.median(edge, axis=1) > inside.mean(axis=(1, 2))
    return light
