"""Networks made of saved models: calibrated, averaged, and shown several views of an image.

Each is a module from images (N, C, H, W), float32, normalised, to the logarithms of class
probabilities, float32 (N, K), whose softmax is the probabilities themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from discern.errors import DiscernError
from discern.models.card import Card, Preprocessing


@dataclass(frozen=True, eq=False)
class Model:
    """A network and what has to be known to use it.

    Attributes:
        network: images (N, C, H, W), float32, normalised -> logits (N, K).
        card: its classes, preprocessing and the shape of an image. Its temperature is not in the
            network.
    """

    network: nn.Module
    card: Card

    @property
    def classes(self) -> list[str]:
        """K names, in the order of the logits."""
        return self.card.class_names

    @property
    def preprocessing(self) -> Preprocessing:
        """How a picture becomes the network's input, of the card's ``input_shape``."""
        return self.card.preprocessing


class Calibrated(nn.Module):
    """A network whose logits are divided by a temperature.

    Args:
        network: gives logits.
        temperature: None for 1.
    """

    def __init__(self, network: nn.Module, temperature: float | None) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the probabilities."""
        return log_probabilities(self.network(images), self.temperature)


class Ensemble(nn.Module):
    """The mean of the probabilities of several networks.

    Args:
        members: give the logarithms of their probabilities.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the probabilities."""
        return mean_of([member(images) for member in self.members])


class Flip(nn.Module):
    """The mean over an image and its mirror image, left to right.

    Args:
        network: gives the logarithms of probabilities.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the probabilities."""
        return mean_of([self.network(images), self.network(images.flip(-1))])


class FiveCrop(nn.Module):
    """The mean over the four corners and the centre of larger images (Krizhevsky et al., 2012).

    Args:
        network: gives the logarithms of probabilities, of images of ``height`` and ``width``.
        height, width: of a crop.
    """

    def __init__(self, network: nn.Module, height: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.height, self.width = height, width

    def forward(self, images: Tensor) -> Tensor:
        """The logarithms of the probabilities."""
        down, right = images.shape[-2] - self.height, images.shape[-1] - self.width
        corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
        return mean_of(
            [
                self.network(images[..., top : top + self.height, left : left + self.width])
                for top, left in corners
            ]
        )


def log_probabilities(logits: Tensor, temperature: float | None) -> Tensor:
    """The logarithms of probabilities, (N, K), from logits; a temperature of None is 1."""
    # The difference first: a large logit over a low temperature may be infinite.
    return ((logits - logits.amax(1, keepdim=True)) / (temperature or 1.0)).log_softmax(1)


def mean_of(log_probabilities: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, each (N, K), from their logarithms."""
    return torch.stack(list(log_probabilities)).logsumexp(0) - math.log(len(log_probabilities))


def combined(models: Sequence[Model], tta: str | int = "none", *, calibrated: bool = True) -> Model:
    """Several models, or one, as a model whose network gives the logarithms of probabilities.

    Args:
        models: of the same classes and preprocessing.
        tta: ``none``, ``flip`` or ``five_crop``; random views are not a network's to see.
        calibrated: whether the members' temperatures are used; the result has none of its own.

    Raises:
        DiscernError: there is nothing beyond the crop that the models see.
    """
    card = models[0].card.model_copy(update={"temperature": None})
    members = [
        Calibrated(model.network, model.card.temperature if calibrated else None)
        for model in models
    ]
    network: nn.Module = members[0] if len(members) == 1 else Ensemble(members)
    if tta == "flip":
        network = Flip(network)
    elif tta == "five_crop":
        channels, height, width = card.input_shape
        network = FiveCrop(network, height, width)
        side = _side_of_five_crops(card)
        card = card.model_copy(update={"input_shape": (channels, side, side)})
    return Model(network.eval(), card)


def _side_of_five_crops(card: Card) -> int:
    """Pixels of the square from which five crops are taken.

    Raises:
        DiscernError: it is no larger than a crop.
    """
    _, height, width = card.input_shape
    resize = card.preprocessing.resize
    if resize is None or resize <= max(height, width):
        scaled = "" if resize is None else f" of pictures scaled to {resize} pixels"
        raise DiscernError(
            f"tta=five_crop is not possible: the model sees {height} × {width} pixels{scaled}, and "
            "crops of that size are all the same; tta=flip is possible."
        )
    return resize
