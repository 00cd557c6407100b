"""From a picture of any size to the pixels that a network takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812 - its usual name

from discern.data.pictures import read_whole

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

    def read(self, source: Path | IO[bytes]) -> Tensor:
        """What the network sees of a file in evaluation, uint8 (3, image_size, image_size).

        Args:
            source: the file's path, or the file, open.

        Raises:
            PictureError: it cannot be read.
        """
        picture = read_whole(source, CHANNELS, self.reduction)
        return self.centre(picture.image, picture.full)

    def centre(self, image: Image.Image, full: tuple[int, int] | None = None) -> Tensor:
        """The pixels that the network sees in evaluation, uint8 (3, image_size, image_size).

        As torchvision's Resize, antialiased, and CenterCrop.

        Args:
            image: in mode RGB, perhaps reduced.
            full: width and height in pixels of the whole picture, if it was reduced.
        """
        width, height = extent = [*map(extent_in, image.size, full or image.size)]
        if width.is_integer() and height.is_integer() and max(extent) <= 2 * min(extent):
            scaled = self.scaled(as_tensor(image), self.resize)
            cut: Tensor = F.center_crop(scaled, [self.image_size, self.image_size])
            return cut
        # torch, which scales several times faster than Pillow, would scale all of a long picture,
        # and knows no edges within a pixel.
        (left, right), (top, bottom) = (self._cut(length, min(extent)) for length in extent)
        side, resampling = self.image_size, Image.Resampling[self.interpolation.upper()]
        return as_tensor(image.resize((side, side), resampling, (left, top, right, bottom)))

    def _cut(self, length: float, shorter: float) -> tuple[float, float]:
        """First and last coordinate of what ``centre`` cuts out along a side of that length."""
        scaled = self.resize if length == shorter else int(self.resize * length / shorter)
        first = round((scaled - self.image_size) / 2)
        return first * length / scaled, min(length, (first + self.image_size) * length / scaled)

    def normalised(self, pixels: Tensor, room: Tensor | None = None) -> Tensor:
        """What the network is given for pixels, uint8 (B, 3, S, S): float32, channels last.

        Args:
            pixels: of ``image_size``, the channels last in memory.
            room: where the result is put.
        """
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        # (x / 255 - mean) / std as one multiplication and one addition, of whole rows: numbers of
        # one channel each would be applied three at a time.
        scale, shift = (
            row.float().repeat(self.image_size).view(-1, CHANNELS)
            for row in (1 / (255 * std), -mean / std)
        )
        room = torch.empty_like(pixels, dtype=torch.float32) if room is None else room
        for image, result in zip(_strips(pixels), _strips(room), strict=True):
            result.copy_(image).mul_(scale).add_(shift)
        return room

    def scaled(self, pixels: Tensor, size: int | list[int]) -> Tensor:
        """Pixels, uint8 (3, H, W), with their shorter side, or both sides, of that length."""
        mode = InterpolationMode(self.interpolation)
        size = [size] if isinstance(size, int) else size
        scaled: Tensor = F.resize(pixels, size, interpolation=mode, antialias=True)
        return scaled


@dataclass(frozen=True)
class Pixels:
    """Pictures on their way from the process that decoded them: a quarter of the bytes.

    Memory that processes share is slow to get and to give back, by as much as a picture takes to
    be decoded if it has to hold what the network is given.

    Attributes:
        values: uint8 (B, 3, S, S).
        preprocessing: what is still to be done with them.
    """

    values: Tensor
    preprocessing: Preprocessing

    def pin_memory(self) -> Pixels:
        """The same, in memory that a GPU can read by itself."""
        return Pixels(self.values.pin_memory(), self.preprocessing)

    def normalised(self) -> Tensor:
        """What the network is given, float32 (B, 3, S, S), pinned where the pixels are."""
        batch, channels, height, width = self.values.shape
        room = torch.empty(
            (batch, height, width, channels), pin_memory=self.values.is_pinned()
        ).permute(0, 3, 1, 2)
        return self.preprocessing.normalised(self.values, room)


_FEW = 32_768
"""Numbers that torch works on with one thread: others would keep the processes that decode from
theirs. So few also stay in the processor's cache."""


def _strips(images: Tensor) -> Iterator[Tensor]:
    """Rows of each image in turn, (rows, S, 3), of few numbers."""
    rows = max(1, _FEW // (images.shape[1] * images.shape[3]))
    for image in images.permute(0, 2, 3, 1):
        yield from image.split(rows)


def extent_in(length: int, full: int) -> float:
    """How far a picture of ``full`` pixels reaches in an image that was reduced to ``length``.

    An eighth of 1,001 pixels is 125.125, and most of the last of 126 is beyond the picture's edge.
    """
    factors = (factor for factor in (1, 2, 4, 8) if length == -(-full // factor))
    return full / next(factors, full / length)


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W), the channels last in memory: torch scales those fastest."""
    pixels: NDArray[np.uint8] = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)
