"""Reading any picture as the pixels that a network of some input shape takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from discern.errors import first_line


class PictureError(Exception):
    """A file is no picture that can be read; the message says why."""


def read_picture(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture in a file, upright, on white, cut at the centre and scaled to ``shape``.

    Of an animation it is the first frame. Scaling averages over what a pixel covers; a picture that
    has the shape keeps its pixels. Sixteen bits of grey become eight.

    Args:
        path: a file of any format that Pillow reads, but EPS.
        shape: (C, H, W), with 1 channel for grey or 3 for red, green and blue.

    Returns:
        uint8 (C, H, W).

    Raises:
        PictureError: the file cannot be opened, is no picture, is damaged, or has more than
            ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    """
    channels, height, width = shape
    with _refusing():
        # A path of 250 characters that Pillow prints would hide the reason, so it gets the file.
        with path.open("rb") as file, Image.open(file) as opened:
            if opened.format == "EPS":
                raise PictureError("EPS is a program for a printer, and is not run")
            ImageOps.exif_transpose(opened, in_place=True)
            image = _in_eight_bits(opened)
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        image = _on_white(image).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever Pillow raises into :class:`PictureError`."""
    try:
        with warnings.catch_warnings():
            # What Pillow warns of is a flaw that it reads past, but for this one.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError("not a picture in a format that Pillow reads") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except OSError as error:
        raise PictureError(error.strerror or first_line(error)) from error
    except Exception as error:  # each of Pillow's readers has errors of its own
        raise PictureError(first_line(error)) from error


# What the brightest value of a picture may mean by white; the least that holds it is taken.
_WHITE = {"I": (65_535.0,), "F": (1.0, 255.0, 65_535.0)}


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode L, RGB or RGBA."""
    usual = _WHITE.get(image.mode.partition(";")[0])  # sixteen bits are I, I;16, I;16B, …
    if usual is not None:
        values = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0)
        brightest = float(values.max())
        white = next((level for level in usual if brightest <= level), brightest)
        return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


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
