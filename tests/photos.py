"""Folders of small photographs for tests: a class has a colour, a picture noise of its own."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def photo(colour: float, seed: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture of a colour, the hue from 0 to 1, whose noise the seed decides."""
    width, height = size
    noise = np.random.default_rng(crc32(os.fsencode(seed))).normal(0, 40, (height, width, 3))
    base = 255 * np.array(colorsys.hsv_to_rgb(colour, 0.7, 0.7))
    return Image.fromarray((base + noise).clip(0, 255).astype(np.uint8))


def photo_folder(
    path: Path,
    classes: Sequence[str] = ("cat", "dog"),
    per_class: int = 6,
    parts: Sequence[str] = (),
    suffix: str = ".jpg",
    size: tuple[int, int] = (40, 30),
    colours: Sequence[str] | None = None,
) -> Path:
    """Write ``path/CLASS/0.jpg`` and so on, or with parts ``path/PART/CLASS/0.jpg``.

    Args:
        path: the folder; it may be there.
        classes: names of the classes.
        per_class: pictures of each class in each part.
        parts: names of folders such as ``train`` and ``test``.
        suffix: decides the format.
        size: width and height in pixels.
        colours: classes that share the colours between them, if not ``classes``: so that a folder
            with some of the classes of another has them in the same colours.

    Returns:
        ``path``.
    """
    hues = list(classes if colours is None else colours)
    for part in parts or ("",):
        for name in classes:
            folder = path / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                image = photo(hues.index(name) / len(hues), f"{part}/{name}/{number}", size)
                image.save(folder / f"{number}{suffix}")
    return path


def photos_in_turn(
    path: Path, count: int, classes: Sequence[str] = ("cat", "dog", "owl"), side: int = 12
) -> None:
    """Write ``path/CLASS/NUMBER.png``: so many pictures in all, of each class in turn."""
    for name in classes:
        (path / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = number % len(classes)
        image = photo(place / len(classes), f"{path.name}/{number}", (side, side))
        image.save(path / classes[place] / f"{number:03}.png")


def oriented(image: Image.Image, path: Path, orientation: int, **options: object) -> Path:
    """Save an image with an EXIF block that says how the camera was held."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif, **options)
    return path


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture as smooth as a photograph of many pixels, neither regular nor symmetric."""
    grain = min(size) / 10
    noise = np.random.default_rng(seed).integers(
        64, 192, (round(size[1] / grain), round(size[0] / grain), 3), dtype=np.uint8
    )
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def touch_back(path: Path, content: bytes) -> None:
    """Write a file of the same size without its time of change giving it away."""
    status = path.stat()
    assert len(content) == status.st_size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
