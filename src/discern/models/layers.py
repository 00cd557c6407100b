"""The layers of a network, with the shapes of their outputs and the sizes of their parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

MAX_LAYERS = 60
"""The most rows of the table; a network with more layers is shown by its larger blocks."""


class Layer(TypedDict):
    """A row of the table: a layer, or a block of several.

    ``shape`` is that of its output for one image, without the batch; None if it was not called or
    does not return a tensor.
    """

    name: str
    kind: str
    shape: list[int] | None
    trainable: int
    frozen: int


def layer_table(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a network in the order of their definition.

    The shapes are those of a forward pass of one empty image of ``input_shape`` (C, H, W). They
    are None if the network cannot be called with it.
    """
    blocks = _blocks(network)
    shapes: dict[nn.Module, list[int]] = {}

    def remember(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            shapes[module] = list(output.shape[1:])

    handles = [module.register_forward_hook(remember) for module in blocks.values()]
    try:
        # A user's own network may fail; its training then says why.
        with contextlib.suppress(Exception), undisturbed(network):
            network(empty_image(network, input_shape))
    finally:
        for handle in handles:
            handle.remove()
    layers = [_layer(name, module, shapes.get(module)) for name, module in blocks.items()]
    # An empty container, such as a list of norms that are switched off, is none.
    return [layer for layer in layers if layer["shape"] or layer["trainable"] + layer["frozen"]]


def _blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The finest division into blocks with at most MAX_LAYERS of them: name -> module."""
    blocks = {type(network).__name__.lower(): network}
    finer = dict(network.named_children())
    while finer and len(finer) <= MAX_LAYERS and finer != blocks:
        blocks, finer = finer, {}
        for name, module in blocks.items():
            children = dict(module.named_children())
            finer |= {f"{name}.{child}": part for child, part in children.items()}
            if not children:
                finer[name] = module
    return blocks


def empty_image(network: nn.Module, input_shape: Sequence[int]) -> Tensor:
    """An image of zeros, (1, C, H, W), of the type and on the device of a network's weights."""
    weights = _weights(network)
    return torch.zeros((1, *input_shape), device=weights.device, dtype=weights.dtype)


def shape_lazy_layers(network: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Give layers whose sizes follow from their input their weights, where a network has any.

    The sizes are those for an image of ``input_shape`` (C, H, W).
    """
    tensors = (*network.parameters(), *network.buffers())
    if any(map(is_lazy, tensors)):
        device = next((each.device for each in tensors), None)
        with undisturbed(network):
            network(torch.zeros((1, *input_shape), device=device))


def _weights(network: nn.Module) -> Tensor:
    return next(network.parameters(), torch.empty(0))


@contextlib.contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation without gradients that leaves modes and random numbers as they were."""
    modes = {module: module.training for module in network.modules()}
    device = _weights(network).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            network.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _layer(name: str, module: nn.Module, shape: list[int] | None) -> Layer:
    counts = count_parameters(module)
    return {
        "name": name,
        "kind": type(module).__name__,
        "shape": shape,
        "trainable": counts["trainable"],
        "frozen": counts["frozen"],
    }


def count_parameters(network: nn.Module) -> dict[str, int]:
    """The numbers of trainable and of frozen parameters."""
    counts = {"trainable": 0, "frozen": 0}
    for parameter in network.parameters():
        counts["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts
