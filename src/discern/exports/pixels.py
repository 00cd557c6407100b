"""From pixels of any size to a network's input, in operations that every format has.

It gives the pixels that discern's own reading gives, to the bit: the resizing of Pillow and of
torchvision, both of which round their weights and what they compute to whole numbers. A weight is
a function of the picture's height and width, so the graph computes the weights from these, and a
resize is a matrix product for each axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import PIL
import torch
from torch import Tensor, nn

from discern.models.card import Card

PILLOW_BITS = 22
"""Binary places of Pillow's weights (Resample.c: 32 - 8 - 2)."""

TORCH_LIMIT, TORCH_BITS = 2**15, 22
"""torch's weights of uint8 images are below this, with as many binary places as fit, at most 22."""

VERTICAL_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
"""Whether this Pillow resizes the columns first where a picture's height shrinks by far more than
its width; before, it always resized the rows first."""

HALF_WIDTHS = {"bilinear": 1, "bicubic": 2}
"""Interpolation -> pixels to either side that its filter covers."""

# As Pillow and torch have it.
_BICUBIC = -0.5


@dataclass(frozen=True)
class _Axis:
    """Which pixels of an axis, of ``length``, an output of ``size`` pixels is computed from.

    Output ``i`` lies at ``start + (offset + i + 0.5) * step`` of the input. All but ``size`` are
    float64 (1,).
    """

    length: Tensor
    size: int
    start: Tensor
    offset: Tensor
    step: Tensor


PARTS, MIN_OUTPUTS = 4, 32
"""Parts that the outputs of an axis are computed in, and outputs of each at least. One product of
all outputs with all pixels would be one with a matrix of which almost all is zero."""


@dataclass(frozen=True)
class _Weights:
    """The weights that an axis is resized with.

    Attributes:
        every: of each pixel for each output, float64 (size, length).
        begin, end: the first pixel that has a weight for each output, and the one after the last,
            int64 (size, 1).
        share: 1; 0 where the result is not used: it is then one pixel, which takes no time, made of
            one, for ONNX Runtime up to 1.30 cannot multiply an empty batch.
    """

    every: Tensor
    begin: Tensor
    end: Tensor
    share: Tensor | int = 1

    def cut(self) -> _Weights:
        """Those of the pixels from the first that has a weight to the last."""
        first, end = self.begin[0], self.end[-1]
        return _Weights(self.every[:, first:end], self.begin - first, self.end - first)

    def where(self, used: Tensor) -> _Weights:
        """These where ``used``, bool (1,), and otherwise one pixel."""
        return replace(self, share=used.long())

    def resized(self, images: Tensor, parts: int = 1) -> Tensor:
        """Images, uint8 (N, C, M, length), with ``size`` for ``length``."""
        if not torch.onnx.is_in_onnx_export():
            # torch.export has no lengths that depend on values.
            return _rounded(images.double() @ self.every.T)
        size = self.every.shape[0]
        parts = max(1, min(parts, size // MIN_OUTPUTS))
        edges = [size * part // parts for part in range(parts + 1)]
        begin = self.begin[torch.tensor(edges[:-1])] * self.share
        end = 1 + (self.end[torch.tensor(edges[1:]) - 1] - 1) * self.share
        found = [
            _rounded(
                images[..., begin[part] : end[part]].double()
                @ self.every[first:last, begin[part] : end[part]].T
            )
            for part, (first, last) in enumerate(pairwise(edges))
        ]
        return torch.cat(found, 3)[..., : 1 + (size - 1) * self.share]


class Prepare(nn.Module):
    """Pixels, uint8 (N, H, W, C), to a network's input, float32 (N, C, S, S).

    Photographs are resized, their shorter side to ``resize``, and cut at the centre; images of data
    sets of small ones are cut to the shape of the input, and resized. Then they are normalised.

    Args:
        card: of the model.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        channels, self.height, self.width = card.input_shape
        known = card.preprocessing
        self.resize = known.resize
        self.interpolation = known.interpolation or "bilinear"
        mean, std = (
            torch.tensor(values, dtype=torch.float64).reshape(-1).expand(channels)
            for values in (known.mean, known.std)
        )
        shape = (1, channels, 1, 1)
        # (x / 255 - mean) / std as the data sets compute it
        self.register_buffer("scale", (1 / (255 * std)).float().reshape(shape), persistent=False)
        self.register_buffer("shift", (-mean / std).float().reshape(shape), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's input for pixels of one size."""
        normalised: Tensor = self.resized(pixels).float() * self.scale + self.shift
        return normalised

    def resized(self, pixels: Tensor) -> Tensor:
        """Pixels, uint8 (N, C, S, S), of pixels, uint8 (N, H, W, C), of any one size."""
        height, width = (_number(pixels.shape[axis]) for axis in (1, 2))
        by_pillow = torch.ones_like(height, dtype=torch.bool)
        if self.resize is None:
            rows, columns = self._fitted(height, width)
            places = torch.full((2, 1), float(PILLOW_BITS), dtype=torch.float64)
        else:
            by_pillow = torch.maximum(height, width) > 2 * torch.minimum(height, width)
            rows, columns = self._centred(height, width, self.resize)
            places = self._places(pixels, height, width, self.resize)
        down = self._weights(rows, pixels.shape[1], places[0])
        across = self._weights(columns, pixels.shape[2], places[1])
        if torch.onnx.is_in_onnx_export():
            pixels = pixels[:, down.begin[0] : down.end[-1], across.begin[0] : across.end[-1]]
            down, across = down.cut(), across.cut()
        if not VERTICAL_FIRST:
            return _rows_first(pixels, down, across)
        turned = by_pillow & (height > self.height)
        turned = turned & (height - self.height > 2 * (width - self.width))
        if not torch.onnx.is_in_onnx_export():
            one, other = _columns_first(pixels, down, across), _rows_first(pixels, down, across)
            return torch.where(turned, one, other)

        def part(used: Tensor) -> tuple[Tensor, _Weights, _Weights]:
            rows, columns = (1 + (pixels.shape[axis] - 1) * used.long() for axis in (1, 2))
            return pixels[:, :rows, :columns], down.where(used), across.where(used)

        return torch.where(turned, _columns_first(*part(turned)), _rows_first(*part(~turned)))

    # Where an output pixel lies in the picture

    def _fitted(self, height: Tensor, width: Tensor) -> tuple[_Axis, _Axis]:
        """As :func:`PIL.ImageOps.fit`: the largest part at the centre of the input's shape."""
        wanted = self.width / self.height
        ratio = width / height
        cut_width = torch.where(ratio >= wanted, wanted * height, width)
        cut_width = torch.where(ratio == wanted, width, cut_width)
        cut_height = torch.where(ratio < wanted, width / wanted, height)
        axes = (height, cut_height, self.height), (width, cut_width, self.width)
        rows, columns = (
            _boxed(length, (length - cut) * 0.5, (length - cut) * 0.5 + cut, size)
            for length, cut, size in axes
        )
        return rows, columns

    def _centred(self, height: Tensor, width: Tensor, resize: int) -> tuple[_Axis, _Axis]:
        """As :meth:`discern.data.preprocessing.Preprocessing.centre`."""
        shorter = torch.minimum(height, width)
        long = torch.maximum(height, width) > 2 * shorter
        axes = []
        for length, size in ((height, self.height), (width, self.width)):
            scaled = torch.where(length == shorter, resize, _whole(resize * length / shorter))
            first = ((scaled - size) / 2).round()
            box = _boxed(
                length,
                first * length / scaled,
                torch.minimum(length, (first + size) * length / scaled),
                size,
            )
            axes.append(
                _Axis(
                    length,
                    size,
                    torch.where(long, box.start, 0.0),
                    torch.where(long, 0.0, first),
                    torch.where(long, box.step, length / scaled),
                )
            )
        rows, columns = axes
        return rows, columns

    # The weights

    def _places(self, pixels: Tensor, height: Tensor, width: Tensor, resize: int) -> Tensor:
        """Binary places of the weights of rows and columns, float64 (2, 1).

        A picture more than twice as long as wide is resized by Pillow, any other by torch, whose
        weights have as many places as the largest of them allows.
        """
        shorter = torch.minimum(height, width)
        long = torch.maximum(height, width) > 2 * shorter
        taps = torch.arange(self._taps(_least(pixels.shape[1], pixels.shape[2]), resize))
        powers = 2.0 ** torch.arange(1, TORCH_BITS + 1, dtype=torch.float64)
        places = []
        for length in (height, width):
            scaled = torch.where(length == shorter, resize, _whole(resize * length / shorter))
            # Of all of the resized picture, of which only the centre is used.
            number = torch.arange(2 * resize, dtype=torch.float64)
            axis = _Axis(
                length, 2 * resize, torch.zeros_like(length), torch.zeros_like(length),
                length / scaled,
            )  # fmt: skip
            centre, begin, end = self._reach(axis)
            weights = self._filtered(axis, centre, begin, end, begin + taps.double())
            largest = torch.where((number < scaled)[:, None], weights, 0.0).max()
            fits = (0.5 + largest * powers) < TORCH_LIMIT
            places.append(torch.where(long, float(PILLOW_BITS), fits.double().sum()))
        return torch.stack(places)

    def _weights(self, axis: _Axis, length: Any, places: Tensor) -> _Weights:
        """The weights of an axis of ``length`` pixels, whole numbers in units of 2 ** -places."""
        centre, begin, end = self._reach(axis)
        taps = _least(self._taps(length, axis.size), length)
        # So many pixels, of which none lies beyond the picture.
        at = torch.minimum(begin, axis.length - taps) + torch.arange(taps, dtype=torch.float64)
        weights = self._filtered(axis, centre, begin, end, at) * 2.0**places
        weights = _whole(weights + torch.where(weights < 0, -0.5, 0.5)) / 2.0**places
        every = torch.zeros(axis.size, length, dtype=torch.float64).scatter(1, at.long(), weights)
        return _Weights(every, begin.long(), end.long())

    def _taps(self, length: Any, size: int) -> Any:
        """The most pixels that an output is computed from, where ``length`` become ``size``."""
        return 2 * HALF_WIDTHS[self.interpolation] * (length // size + 2) + 1

    def _reach(self, axis: _Axis) -> tuple[Tensor, Tensor, Tensor]:
        """Place in the input, first pixel and end of each output's filter, (size, 1)."""
        number = torch.arange(axis.size, dtype=torch.float64)[:, None]
        centre = axis.start + (axis.offset + number + 0.5) * axis.step
        support = HALF_WIDTHS[self.interpolation] * axis.step.clamp(min=1.0)
        begin = _whole(centre - support + 0.5).clamp(min=0.0)
        end = torch.minimum(_whole(centre + support + 0.5), axis.length)
        return centre, begin, end

    def _filtered(
        self, axis: _Axis, centre: Tensor, begin: Tensor, end: Tensor, at: Tensor
    ) -> Tensor:
        """Weights, with a sum of 1 a row, of pixels at places ``at``, (size, K) or (1, K)."""
        distance = ((at - centre + 0.5) / axis.step.clamp(min=1.0)).abs()
        if self.interpolation == "bilinear":
            weights = (1 - distance).clamp(min=0.0)
        else:
            a = _BICUBIC
            near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
            far = (((distance - 5) * distance + 8) * distance - 4) * a
            weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
        weights = torch.where((at >= begin) & (at < end), weights, 0.0)
        return weights / weights.sum(1, keepdim=True)


def _boxed(length: Tensor, start: Tensor, end: Tensor, size: int) -> _Axis:
    """An axis of Pillow's resize of a box, whose edges it keeps as float32."""
    start, end = start.float(), end.float()
    step = (end - start).double() / size
    return _Axis(length, size, start.double(), torch.zeros_like(length), step)


def _rows_first(pixels: Tensor, down: _Weights, across: _Weights) -> Tensor:
    """Pixels (N, H, W, C) resized along each row, and then along each column, (N, C, S, S)."""
    images = across.resized(pixels.permute(0, 3, 1, 2), PARTS)
    return down.resized(images.transpose(2, 3), PARTS).transpose(2, 3)


def _columns_first(pixels: Tensor, down: _Weights, across: _Weights) -> Tensor:
    """As :func:`_rows_first`, in the other order. Few pictures need it, so it is not in parts."""
    images = down.resized(pixels.permute(0, 3, 2, 1))
    return across.resized(images.transpose(2, 3))


def _rounded(images: Tensor) -> Tensor:
    """Sums of weighted pixels, float64, as pixels, uint8."""
    return (images + 0.5).clamp(0.0, 255.0).to(torch.uint8)


def _whole(values: Tensor) -> Tensor:
    """Values, float64, without their fraction."""
    return values.long().double()


def _number(length: int | Tensor) -> Tensor:
    """A length of a shape, which is a tensor while it is traced, as float64 (1,).

    The exporter to ONNX makes float32 of numbers without a dimension.
    """
    known = length if isinstance(length, Tensor) else torch.scalar_tensor(length)
    return known.double().reshape(1)


def _least(one: Any, other: Any) -> Any:
    """The least of two lengths of a shape: numbers, tensors while traced, or symbols of export."""
    if isinstance(one, Tensor):
        return torch.minimum(one, other)
    return torch.sym_min(one, other)
