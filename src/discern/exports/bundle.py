"""A network with what stands before and after it: from pixels to class probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, float32, nn

from discern.exports.pixels import Prepare
from discern.models.card import Card
from discern.models.combined import Calibrated, Ensemble, FiveCrop, Flip
from discern.models.transfer import TransferClassifier


class Bundle(nn.Module):
    """Pixels, uint8 (N, H, W, C), of any one size, to probabilities, float32 (N, num_classes).

    Args:
        network: in eval mode, on the CPU; as :func:`discern.load` returns it.
        temperature: divides the logits.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        card: Card = network.card  # type: ignore[assignment]
        self.prepare = Prepare(card)
        self.network = _traceable(network)
        self.temperature = temperature
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Class probabilities."""
        logits: Tensor = self.network(self.prepare(pixels))
        if self.temperature != 1:
            logits = logits / self.temperature
        probabilities = logits.softmax(1)
        # A user's own network may compute in float64.
        return probabilities if probabilities.dtype == float32 else probabilities.float()


class _Transfer(nn.Module):
    """A backbone and its head, without engine and inference mode, which leave no graph."""

    def __init__(self, network: TransferClassifier) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self._prepared = network.prepared

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(self._prepared(images)))
        return logits


def _traceable(network: nn.Module) -> nn.Module:
    """A network, or one made of several, of whose forward pass a graph can be made."""
    if isinstance(network, TransferClassifier):
        return _Transfer(network)
    if isinstance(network, Ensemble):
        return Ensemble([_traceable(member) for member in network.members])
    if isinstance(network, Calibrated):
        return Calibrated(_traceable(network.network), network.temperature)
    if isinstance(network, Flip):
        return Flip(_traceable(network.network))
    if isinstance(network, FiveCrop):
        return FiveCrop(_traceable(network.network), network.height, network.width)
    return network


@contextmanager
def traceable() -> Iterator[None]:
    """Use attention operations that other formats have, and no engine's threads or gradients."""
    fused: bool = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def example(card: Card) -> Tensor:
    """Pixels to trace with, uint8 (2, H, W, C), of unlike height and width."""
    channels, height, width = card.input_shape
    generator = torch.Generator().manual_seed(0)
    shape = (2, height + 5, width + 9, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
