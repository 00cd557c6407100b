"""Average pooling to any size, for which ONNX has no operator, by those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d
from torch.overrides import TorchFunctionMode


class PlainPooling(TorchFunctionMode):
    """Within it ``adaptive_avg_pool2d`` is a pooling of one kernel, or else two products."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, or what stands for it."""
        if func is adaptive_avg_pool2d:
            return _pooled(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pooled(input: Tensor, output_size: Any) -> Tensor:  # noqa: A002 - as it is called
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    before = int(input.shape[-2]), int(input.shape[-1])
    height, width = (old if new is None else new for old, new in zip(before, sizes, strict=True))
    if (height, width) == (1, 1):
        return adaptive_avg_pool2d(input, 1)
    if before[0] % height == 0 and before[1] % width == 0:
        # The exporter would ask for the size, which is not always known to it.
        return avg_pool2d(input, (before[0] // height, before[1] // width))
    down, across = _means(before[0], height).to(input), _means(before[1], width).to(input)
    return down @ input @ across.T


def _means(before: int, after: int) -> Tensor:
    """The matrix (after, before) that takes the mean over each part of a side."""
    matrix = torch.zeros(after, before)
    for row in range(after):
        start, end = row * before // after, -(-(row + 1) * before // after)
        matrix[row, start:end] = 1 / (end - start)
    return matrix
