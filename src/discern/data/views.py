"""Augmentation of photographs as a function of seed, epoch and image alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop, RandomRotation, v2

from discern.data.preprocessing import Preprocessing, as_tensor, extent_in


@dataclass(frozen=True)
class Crop:
    """A crop of a picture, in pixels of its full size.

    Attributes:
        angle: rotation of the picture in degrees, counter-clockwise about its centre.
        left, top, width, height: the box cut out after the rotation.
        mirrored: whether the box is flipped left to right.
    """

    angle: float
    left: int
    top: int
    width: int
    height: int
    mirrored: bool


@dataclass(frozen=True)
class PhotoAugmentation:
    """A random view of a photograph.

    The distributions are torchvision's: RandomRotation, RandomResizedCrop, RandomHorizontalFlip.
    They are drawn before the picture is decoded, so that only the visible pixels are computed: a
    large JPEG is decoded at a reduced size if the box is larger than the view, and only the box is
    rotated.

    Attributes:
        degrees: largest rotation either way; uncovered pixels are black.
        scale: smallest and largest fraction of the picture's area covered by the box.
        ratio: smallest and largest ratio of the box's width to its height.
        colour: applied to the view's pixels, uint8 (3, H, W); it draws from torch's global
            generator.
    """

    degrees: float = 0.0
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    colour: Callable[[Tensor], Tensor] | None = None

    def draw(self, width: int, height: int) -> Crop:
        """A crop of a picture of that size, drawn from torch's global generator."""
        turned = self.degrees > 0
        limits = [-self.degrees, self.degrees]
        angle = RandomRotation.get_params(limits) if turned else 0.0
        # get_params reads only its size.
        picture = torch.empty(1, device="meta").expand(1, height, width)
        top, left, tall, wide = RandomResizedCrop.get_params(
            picture, list(self.scale), list(self.ratio)
        )
        mirrored = bool(torch.rand(()) < 0.5)
        return Crop(angle, left, top, wide, tall, mirrored)

    def show(self, image: Image.Image, crop: Crop, full: int, target: Preprocessing) -> Tensor:
        """The view of a picture, uint8 (3, image_size, image_size).

        Args:
            image: the picture in mode RGB, perhaps reduced.
            crop: the visible part, in pixels of its full size.
            full: its full width in pixels.
            target: the size of the result, and the interpolation.
        """
        box = _box(image, crop, extent_in(image.width, full) / full)
        pixels = target.scaled(as_tensor(box), [target.image_size, target.image_size])
        if crop.mirrored:
            pixels = pixels.flip(-1)
        return pixels if self.colour is None else self.colour(pixels)


def reduction_of(crop: Crop, image_size: int) -> int:
    """The factor by which a JPEG may be reduced without losing detail of the view."""
    return min(crop.width, crop.height) // image_size


def _box(image: Image.Image, crop: Crop, scale: float) -> Image.Image:
    """The box of the turned picture, nearest pixel, as ``Image.rotate`` and ``Image.crop`` do."""
    left, right = _edges(crop.left, crop.width, scale, image.width)
    top, bottom = _edges(crop.top, crop.height, scale, image.height)
    if not crop.angle:
        return image.crop((left, top, right, bottom))
    angle = -math.radians(crop.angle)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = image.width / 2, image.height / 2
    # From a pixel of the box to one of the picture: move by the corner, turn about the centre.
    matrix = (
        cos, sin, cos * (left - x) + sin * (top - y) + x,
        -sin, cos, -sin * (left - x) + cos * (top - y) + y,
    )  # fmt: skip
    nearest = Image.Resampling.NEAREST
    size = right - left, bottom - top
    return image.transform(size, Image.Transform.AFFINE, matrix, nearest)


def _edges(start: int, length: int, scale: float, limit: int) -> tuple[int, int]:
    """Start and end of a side of the box in a picture of that scale and size."""
    first = min(round(start * scale), limit - 1)
    return first, max(first + 1, min(round((start + length) * scale), limit))


PHOTO_AUGMENTATIONS: dict[str, PhotoAugmentation | None] = {
    "none": None,
    "notes": PhotoAugmentation(degrees=30),
    "light": PhotoAugmentation(scale=(0.5, 1.0)),
    "strong": PhotoAugmentation(
        colour=v2.Compose([v2.RandAugment(), v2.RandomErasing(p=0.25, value=0)])
    ),
    "trivial": PhotoAugmentation(colour=v2.TrivialAugmentWide()),
}
"""Values of ``data.augment`` for photographs."""
