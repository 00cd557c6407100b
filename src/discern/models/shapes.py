"""Whether weights fit a network: the same layers, of the same shapes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from discern.errors import DiscernError
from discern.text import visible

SHOWN = 10
"""So many of the layers that differ are named in a message."""


def check_shapes(
    source: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor], network: str
) -> None:
    """Compare weights with those of a network.

    Args:
        source: what the message begins with: where the weights are from.
        given: layer -> weights.
        expected: the same of the network.
        network: what the message calls it.

    Raises:
        DiscernError: names the layers that differ, with both shapes.
    """
    differences = [
        f"{visible(key)} is {_shape(given.get(key))} there "
        f"and {_shape(expected.get(key))} in {network}"
        for key in sorted(expected.keys() | given.keys())
        if _shape(given.get(key)) != _shape(expected.get(key))
    ]
    if differences:
        more = len(differences) - SHOWN
        end = f"; and {more:,} more" if more > 0 else ""
        raise DiscernError(
            f"{source} has weights of another architecture: {'; '.join(differences[:SHOWN])}{end}."
        )


def _shape(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    shape = "×".join(map(str, tensor.shape)) or "a number"
    return shape if tensor.is_floating_point() else f"{shape} of {_kind(tensor)}"


def _kind(tensor: Tensor) -> str:
    """Integers of any width count as one kind; other types have their own names."""
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    return "whole numbers" if tensor.dtype in whole else str(tensor.dtype).removeprefix("torch.")
