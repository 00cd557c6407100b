"""Pooling to any size, for which ONNX has no operator, by those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d
from torch.overrides import TorchFunctionMode


class PlainPooling(TorchFunctionMode):
    """Within it pooling to a given size is one of a fixed kernel, or products, or maxima.

    The exporter would ask for the size before, which is not always known to it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what stands for it."""
        if func is adaptive_avg_pool2d:
            return _means_of(*args, **(kwargs or {}))
        if func is adaptive_max_pool2d:  # with indices it is another function
            return _maxima_of(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _sizes(images: Tensor, output_size: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width before and after."""
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    before = int(images.shape[-2]), int(images.shape[-1])
    height, width = (old if new is None else new for old, new in zip(before, sizes, strict=True))
    return before, (height, width)


def _means_of(input: Tensor, output_size: Any) -> Tensor:  # noqa: A002 - as it is called
    before, (height, width) = _sizes(input, output_size)
    if (height, width) == (1, 1):
        return adaptive_avg_pool2d(input, 1)
    if before[0] % height == 0 and before[1] % width == 0:
        return avg_pool2d(input, (before[0] // height, before[1] // width))
    down, across = _means(before[0], height).to(input), _means(before[1], width).to(input)
    return down @ input @ across.T


def _maxima_of(input: Tensor, output_size: Any, return_indices: bool) -> Tensor:  # noqa: A002
    before, after = _sizes(input, output_size)
    for axis in (-2, -1):
        parts = [
            input.narrow(axis, start, end - start).amax(axis, keepdim=True)
            for start, end in _parts(before[axis], after[axis])
        ]
        input = torch.cat(parts, axis)  # noqa: A001
    return input


def _parts(before: int, after: int) -> list[tuple[int, int]]:
    """Where each part of a side begins and ends."""
    return [(place * before // after, -(-(place + 1) * before // after)) for place in range(after)]


def _means(before: int, after: int) -> Tensor:
    """The matrix (after, before) that takes the mean over each part of a side."""
    matrix = torch.zeros(after, before)
    for row, (start, end) in enumerate(_parts(before, after)):
        matrix[row, start:end] = 1 / (end - start)
    return matrix
