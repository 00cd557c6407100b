"""A network with what stands before and after it: from pixels to class probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from discern.exports.pixels import Prepare
from discern.models.card import Card
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
        self.network = network
        self.temperature = temperature
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Class probabilities."""
        logits = self._logits(self.prepare(pixels))
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.softmax(1)

    def _logits(self, images: Tensor) -> Tensor:
        network = self.network
        if isinstance(network, TransferClassifier):
            # Without the engine and the inference mode of a frozen backbone, which leave no graph.
            return network.head(network.backbone(network._prepared(images)))  # type: ignore[no-any-return]
        logits: Tensor = network(images)
        return logits


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
