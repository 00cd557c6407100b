"""A multi-layer perceptron on flattened images."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

_ACTIVATIONS = {name.lower(): kind for name, kind in vars(nn.modules.activation).items()}


class MLP(nn.Module):
    """Fully connected layers from the flattened pixels to the class logits.

    A hidden layer is a linear map, batch normalisation if asked for, the activation, and dropout;
    the output layer is the linear map alone.

    Args:
        input_shape: (C, H, W) of an image.
        num_classes: number of logits.
        hidden: units of each hidden layer; empty for one linear layer.
        activation: a class of ``torch.nn`` in lower case, such as ``relu`` or ``leaky_relu``.
        dropout: probability of zeroing a hidden unit while training.
        norm: ``batch`` for batch normalisation (Ioffe & Szegedy, 2015), or ``none``.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int] = (128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        self.hidden = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)
        )
        # Empty without normalisation, so that the state dict holds the linear layers alone.
        self.norms = nn.ModuleList(nn.BatchNorm1d(w) for w in hidden if norm == "batch")
        self.output = nn.Linear(widths[-1], num_classes)
        self.activation: nn.Module = _ACTIVATIONS[activation.replace("_", "")]()
        # No dropout module at all for 0: it would cost a call a layer and draw random numbers.
        self.dropout: nn.Module | None = nn.Dropout(dropout) if dropout > 0 else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W), float32, normalised."""
        # Read once: looking a module up takes 1 us, and the step of a small one has no time.
        activation, dropout, norms = self.activation, self.dropout, [*self.norms]
        units = images.flatten(1)
        for number, layer in enumerate(self.hidden):
            units = layer(units)
            if norms:
                units = norms[number](units)
            units = activation(units)
            if dropout is not None:
                units = dropout(units)
        logits: Tensor = self.output(units)
        return logits
