"""Reading any picture, whatever its format, as upright grey or colour."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from discern.data import jpeg2000
from discern.data.costs import (
    JP2_REDUCED_FROM,
    SETTING,
    CostError,
    bytes_of,
    check_bytes,
    check_head,
    check_pixels,
    factor_for,
    max_pixels,
    room,
    work_of,
)
from discern.data.depth import (
    deep_colours,
    has_deep_colours,
    in_eight_bits,
    is_deep,
    packing_of,
    range_of,
    strip_rows,
    strips,
)
from discern.data.jpeg import JPEG, MAX_REDUCED, ORIENTATION, decode_jpeg, head_of, is_upright
from discern.errors import DiscernError, first_line
from discern.files.reading import open_regular


class PictureError(Exception):
    """A file cannot be read as a picture; the message gives the reason."""


_NO_PICTURE = "not a picture in a format that Pillow reads"

FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "JPEG2000", "AVIF", "PPM", "PCX", "SGI",
    "QOI", "TGA",
)  # fmt: skip
"""Pillow's names of the formats that are read. The others run programs (EPS, WMF), contain files of
other kinds (ICO, MIC), or have little-tested readers."""


def picture_suffixes() -> set[str]:
    """Lower-case suffixes of picture files, whether or not Pillow reads them."""
    formats = Image.registered_extensions()
    # Pillow writes PDF but does not read it, and knows films only by their names.
    read = {suffix for suffix, name in formats.items() if name in Image.OPEN and name != "MPEG"}
    return read | {".heic", ".heif", ".jxl"}


def no_reduction(width: int, height: int) -> int:
    """Decode at full size."""
    return 1


class Picture(NamedTuple):
    """A picture that was read.

    Attributes:
        image: in mode L or RGB, in memory, upright, perhaps reduced.
        full: width and height in pixels of the whole picture, upright.
        white: the value that became white; 0 for a picture of eight bits.
    """

    image: Image.Image
    full: tuple[int, int]
    white: float = 0.0


def read_picture(
    source: Path | IO[bytes],
    channels: int,
    reduction: Callable[[int, int], int] = no_reduction,
) -> Image.Image:
    """The picture in a file, upright, on white; of an animation it is the first frame.

    More than eight bits become eight, see :func:`discern.data.depth.in_eight_bits`.

    Args:
        source: a file of one of ``FORMATS``; its path, or open.
        channels: 1 for grey, 3 for red, green and blue.
        reduction: from width and height in pixels, upright, to how many times smaller a JPEG may
            be decoded, which saves most of its time. One that lies upright is reduced by the
            largest of 1, 2, 4 and 8 that is allowed, another by the largest that divides it: what
            is left over at the right and lower edges of the image is part of its last pixels.
            A picture of more than 33 megapixels (JPEG 2000: 16) is reduced in any case; it is asked
            for each that is reduced.

    Returns:
        An image in mode L or RGB, in memory.

    Raises:
        PictureError: the file cannot be opened, is no picture, is damaged, or takes more to decode
            than :mod:`discern.data.costs` allows.
    """
    return read_whole(source, channels, reduction).image


def read_whole(
    source: Path | IO[bytes],
    channels: int,
    reduction: Callable[[int, int], int] = no_reduction,
) -> Picture:
    """As :func:`read_picture`, with the picture's full size and the value that became white."""
    mode = "L" if channels == 1 else "RGB"
    # A path of 250 characters that Pillow prints would hide the reason, so it gets the file.
    with _refusing(), _open(source) as file:
        is_jpeg = file.read(len(JPEG)) == JPEG
        file.seek(0)
        if is_jpeg:
            return _read_jpeg(file, mode, reduction)
        with opened(file) as (image, factor):
            reduced = factor > 1 or image.format == "JPEG2000"
            full = upright_size(image) if reduced else None
            packing = packing_of(image)
            image.load()
            turn = _UPRIGHT.get(_orientation(image))  # a PNG may have it after its pixels
            plain, white = _in_eight_bits(image, file, packing, mode, factor)
            upright = _upright(plain, image, turn)
            return Picture(upright, full or upright.size, white)


def _read_jpeg(file: IO[bytes], mode: str, reduction: Callable[[int, int], int]) -> Picture:
    check_head(file)
    file.seek(0)
    content = file.read()
    head = head_of(content)
    forced = min(MAX_REDUCED, factor_for(head.width * head.height))
    if mode == "RGB" and is_upright(content, head):
        factor = max(forced, _power(reduction(head.width, head.height)))
        with room.taken(head.work(factor)):
            image = decode_jpeg(content, factor)
        if image is not None:
            return Picture(image, (head.width, head.height))
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as opened:
        turn = _UPRIGHT.get(_orientation(opened))
        lying = None if turn is None else opened
        full = upright_size(opened)
        factor = max(forced, _power(reduction(*full), lying))
        with room.taken(head.work(factor)):
            if factor > 1:
                width, height = opened.size
                opened.draft(None, (max(1, width // factor), max(1, height // factor)))
            opened.load()
            upright = _upright(_as_mode(opened, mode), opened, turn)
            opened.close()
            return Picture(upright, full)


def _upright(plain: Image.Image, opened: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    """The converted image, turned upright; it outlives the opened one."""
    if turn is not None:
        return plain.transpose(turn)
    return plain._new(plain.im) if plain is opened else plain


def _power(allowed: int, lying: Image.Image | None = None) -> int:
    """The largest allowed scale; for a picture that will be turned, one that divides its sides."""
    width, height = (0, 0) if lying is None else lying.size
    return next((p for p in (8, 4, 2) if p <= allowed and width % p == height % p == 0), 1)


@contextmanager
def opened(file: IO[bytes], formats: Sequence[str] = FORMATS) -> Iterator[tuple[Image.Image, int]]:
    """Open a picture that can be decoded within the limits, and reserve its memory for the block.

    Untrusted files reach Pillow here and nowhere else.

    Args:
        file: at any place.
        formats: the expected ones of ``FORMATS``.

    Yields:
        The image, not loaded yet, and the factor by which it is to be reduced once it is.

    Raises:
        PictureError: it is of another format, or too expensive.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        check_head(file)
        file.seek(0)
        with Image.open(file, formats=tuple(formats)) as image:
            check_pixels(*image.size)
            work, factor = _work(image, file)
            # The result has four bytes per pixel, and may be copied to turn it.
            with room.taken(work + 8 * image.width * image.height // factor**2):
                try:
                    yield image, factor
                except Exception as error:
                    traceback.clear_frames(error.__traceback__)  # which hold the decoder
                    raise
                finally:
                    # Free its memory before another picture reserves it; the file is the caller's.
                    image._im = None
                    vars(image).pop("_decoder", None)
    except UnidentifiedImageError as error:
        raise PictureError(_unread(file, formats)) from error
    except CostError as error:
        raise PictureError(str(error)) from error


def _work(image: Image.Image, file: IO[bytes]) -> tuple[int, int]:
    """Bytes that decoding takes, and the factor by which the picture is to be reduced afterwards.

    If a format can be decoded at a smaller scale, the image is set to it.
    """
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        factor = min(MAX_REDUCED, factor_for(pixels))
        image.draft(None, (image.width // factor, image.height // factor))
        work = head_of(file.read()).work(factor)
    elif image.format == "JPEG2000":
        coded = jpeg2000.head_of(file)
        halvings = factor_for(pixels, JP2_REDUCED_FROM).bit_length() - 1
        halvings = min(halvings, coded.levels)
        image.reduce = halvings  # type: ignore[assignment, method-assign]
        factor = 2**halvings
        work = coded.work(factor) + pixels * bytes_of(image.mode) // factor**2
    else:
        factor, work = 1, work_of(image, file)
    left = pixels // factor**2
    check_bytes(left * bytes_of(image.mode), work)
    return work, factor_for(left)


def check_picture(source: Path | IO[bytes]) -> tuple[int, int, float]:
    """Decode all of a picture.

    Args:
        source: the file's path, or the file, open.

    Returns:
        Its width and height, upright, and the value that became white; 0 for one of eight bits.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    # What is damaged shows at any scale.
    picture = read_whole(source, 3, lambda width, height: 8)
    return *picture.full, picture.white


def fit_picture(source: Path | IO[bytes], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture in a file, cut at the centre and scaled to ``shape`` (C, H, W), uint8.

    Scaling averages over what a pixel covers; a picture that has the shape keeps its pixels.

    Args:
        source: the file's path, or the file, open.
        shape: of the result.

    Raises:
        PictureError: as :func:`read_picture`.
    """
    channels, height, width = shape
    image = read_picture(source, channels)
    pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once its EXIF orientation is undone."""
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


# Orientation -> transposition to upright. Pillow's exif_transpose fails on a damaged EXIF block,
# since it rewrites the rest of it.
_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation: 1, and whatever ``_UPRIGHT`` does not have, is upright."""
    return image.getexif().get(ORIENTATION, 1)


@contextmanager
def _open(source: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(source, Path):
        with open_regular(source) as file:
            yield file
    else:
        yield source


# Pillow warns of flaws that it reads past, and of many pixels, which are limited by their bytes
# instead. Both are set once, since they belong to the process and pictures are read in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = max_pixels()


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever Pillow raises into :class:`PictureError`."""
    try:
        yield
    except (PictureError, DiscernError):
        raise
    except UnidentifiedImageError as error:  # its message shows a Python object
        raise PictureError(_NO_PICTURE) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"more than {max_pixels():,} pixels; {SETTING} allows more") from error
    except OSError as error:
        raise PictureError(error.strerror or first_line(error)) from error
    except Exception as error:  # each of Pillow's readers raises its own errors
        raise PictureError(first_line(error)) from error


def _unread(file: IO[bytes], formats: Sequence[str]) -> str:
    """Why a file is not read, with the name of its format if Pillow knows it."""
    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in Image.ID:
        if name not in formats and _is_claimed(name, prefix):
            why = (
                "which is a program for a printer, and is not run"
                if name == "EPS"
                else "which is not read"
            )
            return f"{name}, {why}; save it as a PNG or JPEG"
    return _NO_PICTURE


def _is_claimed(name: str, prefix: bytes) -> bool:
    """Whether Pillow's reader of a format takes a file that begins so."""
    accepts = Image.OPEN[name][1]
    try:
        return accepts is not None and accepts(prefix) is True
    except Exception:  # some look further than a short file goes
        return False


def _in_eight_bits(
    image: Image.Image, file: IO[bytes], packing: tuple[object, ...], mode: str, factor: int
) -> tuple[Image.Image, float]:
    """The image in a mode, on white, reduced by a factor, and the value that became white, or 0."""
    white, made = 0.0, image
    convert: Callable[[Image.Image], Image.Image] = _on_white
    if is_deep(image):
        black, white = range_of(image, file, packing)
        convert = partial(in_eight_bits, black=black, white=white)
    elif has_deep_colours(image, packing):
        made, white = deep_colours(image, file)
    elif image.mode == mode and factor == 1 and not image.has_transparency_data:
        return image, white
    width, height = made.size
    rows = strip_rows(width, factor)
    if height <= rows and factor == 1:
        return _as_mode(convert(made), mode), white
    whole = Image.new(mode, (-(-width // factor), -(-height // factor)))
    for top, strip in zip(range(0, height, rows), strips(made, factor), strict=True):
        if factor == 1:
            part = convert(strip)
        elif is_deep(image):
            part = convert(strip).reduce(factor)
        else:
            part = convert(_reducible(strip).reduce(factor))
        whole.paste(_as_mode(part, mode), (0, top // factor))
    return whole, white


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode and in memory; the same object if it has that mode, to save a copy."""
    if image.mode != mode:
        return image.convert(mode)
    image.load()
    return image


def _reducible(image: Image.Image) -> Image.Image:
    """The image with colour and transparency per pixel instead of a palette."""
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    return _as_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, what is transparent in it on white."""
    if not image.has_transparency_data:
        return _as_mode(image, "L" if image.mode in ("1", "L") else "RGB")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(_as_mode(image, "RGBA"))
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
