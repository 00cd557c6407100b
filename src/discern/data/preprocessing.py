"""From a picture of any size to the pixels that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from discern.data.pictures import read_picture

CHANNELS = 3
"""Photographs are used in colour."""


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph is prepared for evaluation: scaled, cut at the centre, normalised.

    Attributes:
        image_size: side in pixels of the square that is cut out.
        resize: length in pixels that the shorter side is scaled to before; at least image_size.
        interpolation: ``bilinear`` or ``bicubic``, either averaging over what a pixel covers.
        mean: of each channel, subtracted from pixels scaled to [0, 1].
        std: of each channel, what the difference is divided by.
    """

    image_size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a prepared image."""
        return CHANNELS, self.image_size, self.image_size

    def reduction(self, width: int, height: int) -> int:
        """How many times smaller a JPEG may be decoded: what is left is twice what is needed.

        The prepared image then differs from that of the whole picture by less than half a grey
        level in the mean, and takes a fraction of the time for photographs of many megapixels.
        """
        return min(width, height) // (2 * self.resize)

    def read(self, path: Path) -> Tensor:
        """What the network sees of a file in evaluation, uint8 (3, image_size, image_size).

        Raises:
            PictureError: it cannot be read.
        """
        return self.centre(read_picture(path, CHANNELS, self.reduction))

    def centre(self, image: Image.Image) -> Tensor:
        """The pixels that the network sees in evaluation, uint8 (3, image_size, image_size).

        As torchvision's Resize, antialiased, and CenterCrop.
        """
        width, height = image.size
        short = min(width, height)
        side = self.image_size * short / self.resize
        # Of a very long picture only the part is scaled that the cut can come from.
        if max(width, height) > 2 * short:
            image = _middle(image, round(side) + 2 * short)
        scaled = self.scaled(as_tensor(image), self.resize)
        cut: Tensor = F.center_crop(scaled, [self.image_size, self.image_size])
        return cut

    def scaled(self, pixels: Tensor, size: int | list[int]) -> Tensor:
        """Pixels, uint8 (3, H, W), with their shorter side, or both sides, of that length."""
        mode = InterpolationMode(self.interpolation)
        size = [size] if isinstance(size, int) else size
        scaled: Tensor = F.resize(pixels, size, interpolation=mode, antialias=True)
        return scaled


def _middle(image: Image.Image, length: int) -> Image.Image:
    width, height = image.size
    left, top = max(0, (width - length) // 2), max(0, (height - length) // 2)
    return image.crop((left, top, width - left, height - top))


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W), the channels last in memory: torch scales those fastest."""
    pixels: NDArray[np.uint8] = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)
