"""From a picture of any size to a network's input."""

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
    """Preparation of a photograph for evaluation: resize, centre crop, normalisation.

    Attributes:
        image_size: side of the crop in pixels.
        resize: length in pixels of the shorter side before the crop; at least image_size.
        interpolation: ``bilinear`` or ``bicubic``, both antialiased.
        mean: of each channel, subtracted from pixels scaled to [0, 1].
        std: of each channel, divides the difference.
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
        """The factor by which a JPEG may be reduced: twice the needed size is left.

        The prepared image then differs from that of the whole picture by less than half a grey
        level in the mean, and takes a fraction of the time for photographs of many megapixels.
        """
        return min(width, height) // (2 * self.resize)

    def read(self, source: Path | IO[bytes]) -> Tensor:
        """The pixels of a file in evaluation, uint8 (3, image_size, image_size).

        Args:
            source: the file's path, or the file, open.

        Raises:
            PictureError: it cannot be read.
        """
        picture = read_whole(source, CHANNELS, self.reduction)
        return self.centre(picture.image, picture.full)

    def picture(self, source: Path | IO[bytes]) -> NDArray[np.uint8]:
        """The pixels of a file before any preprocessing, uint8 (H, W, 3).

        A large JPEG is reduced as by :meth:`read`, but only to a whole number of pixels a side,
        since what is left of a part of a pixel is not in the pixels.

        Raises:
            PictureError: it cannot be read.
        """

        def reduction(width: int, height: int) -> int:
            most = self.reduction(width, height)
            fits = (p for p in (8, 4, 2) if p <= most and width % p == 0 == height % p)
            return next(fits, 1)

        pixels: NDArray[np.uint8] = np.array(read_whole(source, CHANNELS, reduction).image)
        return pixels

    def centre(self, image: Image.Image, full: tuple[int, int] | None = None) -> Tensor:
        """The pixels of a picture in evaluation, uint8 (3, image_size, image_size).

        As torchvision's Resize, antialiased, and CenterCrop.

        Args:
            image: in mode RGB, perhaps reduced.
            full: width and height in pixels of the whole picture if it was reduced.
        """
        width, height = extent = [*map(extent_in, image.size, full or image.size)]
        if width.is_integer() and height.is_integer() and max(extent) <= 2 * min(extent):
            scaled = self.scaled(as_tensor(image), self.resize)
            cut: Tensor = F.center_crop(scaled, [self.image_size, self.image_size])
            return cut
        # torch scales several times faster than Pillow, but would scale all of a long picture and
        # does not support fractional edges.
        (left, right), (top, bottom) = (self._cut(length, min(extent)) for length in extent)
        side, resampling = self.image_size, Image.Resampling[self.interpolation.upper()]
        return as_tensor(image.resize((side, side), resampling, (left, top, right, bottom)))

    def _cut(self, length: float, shorter: float) -> tuple[float, float]:
        """First and last coordinate of the centre crop along a side of that length."""
        scaled = self.resize if length == shorter else int(self.resize * length / shorter)
        first = round((scaled - self.image_size) / 2)
        return first * length / scaled, min(length, (first + self.image_size) * length / scaled)

    def normalised(self, pixels: Tensor, room: Tensor | None = None) -> Tensor:
        """The network's input for pixels, uint8 (B, 3, S, S): float32, channels last.

        Args:
            pixels: of ``image_size``, the channels last in memory.
            room: receives the result.
        """
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        # (x / 255 - mean) / std as one multiplication and one addition of whole rows, which
        # vectorizes better than three channels at a time.
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
    """Pictures on their way from a worker process, in a quarter of the bytes of the input.

    Allocating shared memory for the input would take as long as decoding a picture.

    Attributes:
        values: uint8 (B, 3, S, S).
        preprocessing: normalises them.
    """

    values: Tensor
    preprocessing: Preprocessing

    def pin_memory(self) -> Pixels:
        """The same in page-locked memory."""
        return Pixels(self.values.pin_memory(), self.preprocessing)

    def normalised(self) -> Tensor:
        """The network's input, float32 (B, 3, S, S), pinned if the pixels are."""
        batch, channels, height, width = self.values.shape
        room = torch.empty(
            (batch, height, width, channels), pin_memory=self.values.is_pinned()
        ).permute(0, 3, 1, 2)
        return self.preprocessing.normalised(self.values, room)


_MAX_VALUES = 32_768
"""Values that torch processes in one thread, so that it does not compete with decoding processes;
so few also fit the processor's cache."""


def _strips(images: Tensor) -> Iterator[Tensor]:
    """Rows of each image in turn, (rows, S, 3), of few values."""
    rows = max(1, _MAX_VALUES // (images.shape[1] * images.shape[3]))
    for image in images.permute(0, 2, 3, 1):
        yield from image.split(rows)


def extent_in(length: int, full: int) -> float:
    """The extent of a picture of ``full`` pixels in an image that was reduced to ``length``.

    An eighth of 1,001 pixels is 125.125, and most of the last of 126 is beyond the picture's edge.
    """
    factors = (factor for factor in (1, 2, 4, 8) if length == -(-full // factor))
    return full / next(factors, full / length)


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 (3, H, W), the channels last in memory: torch scales those fastest."""
    pixels: NDArray[np.uint8] = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)
