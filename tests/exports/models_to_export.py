"""Small models of every registered kind, as `discern.load` returns them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from discern.models.card import written
from discern.models.mlp import MLP
from discern.models.transfer import TransferClassifier
from run_files import Convolution

CLASSES = ["cat", "dog", 'a, "b"', "猫"]
PHOTOS = {"resize": 40, "interpolation": "bilinear"}


def with_card(
    network: nn.Module, shape: tuple[int, int, int], name: str, **photos: Any
) -> nn.Module:
    """The network in eval mode with a card of its own."""
    channels = shape[0]
    network.card = written(
        model={"name": name, "settings": {}},
        class_names=CLASSES,
        input_shape=shape,
        preprocessing={
            "mean": [0.485, 0.456, 0.406][:channels], "std": [0.229, 0.224, 0.225][:channels],
            **photos,
        },
        data={"title": "made up", "fingerprint": "0" * 64},
    )  # fmt: skip
    return network.eval()


def mlp(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return with_card(MLP((1, 28, 28), 4, (16,), **settings), (1, 28, 28), "mlp")


def own() -> nn.Module:
    torch.manual_seed(0)
    return with_card(Convolution((3, 32, 32), 4, 4), (3, 32, 32), "", **PHOTOS)


def transfer(library: str, backbone: str, side: int = 64, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    network = TransferClassifier((3, side, side), 4, library, backbone, weights=None, **settings)
    photos = {"resize": side + side // 8, "interpolation": "bicubic"}
    return with_card(network, (3, side, side), "transfer", **photos)


class Inverse(nn.Module):
    """A user's network with an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(28 * 28, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(torch.linalg.inv(images + 100 * torch.eye(28)).flatten(1))


def inverse() -> nn.Module:
    torch.manual_seed(0)
    return with_card(Inverse(), (1, 28, 28), "")


class _Small(nn.Module):
    """Ways of writing a network of which a graph is hard to make."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 4, 3)
        self.output = nn.Linear(4, 4)

    def pooled(self, images: Tensor) -> Tensor:
        return self.features(images).relu().mean((2, 3))


class Branching(_Small):
    """Its way depends on the values of the images."""

    def forward(self, images: Tensor) -> Tensor:
        found = self.output(self.pooled(images))
        return found if images.mean() > 0 else -5 * found


class OneByOne(_Small):
    """Its loop is as long as the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.output(self.pooled(image[None])) for image in images])


class Counting(_Small):
    """The number of the images is a plain number in it."""

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.pooled(images).view(int(images.shape[0]), -1))


class Noisy(_Small):
    """Its answers are left to chance."""

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.pooled(images + torch.randn_like(images)))


class InFloat64(_Small):
    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.pooled(images)).double()


class Spectral(_Small):
    """Some of its weights are computed from others."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.utils.parametrizations.spectral_norm(self.output)
        self.features = nn.utils.parametrizations.weight_norm(self.features)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.pooled(images))


class Pooling(_Small):
    """It pools to sides that do not divide those of its images."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        larger = nn.functional.interpolate(features, size=(39, 52))
        return self.output(
            nn.AdaptiveAvgPool2d(13)(larger)[:, :, 3, 4]
            + nn.functional.adaptive_avg_pool2d(features, (5, None))[..., :3].mean((2, 3))
            + nn.AdaptiveAvgPool2d(7)(features)[:, :, 1, 2]
            + nn.AdaptiveAvgPool2d((29, 13))(features).amax((2, 3))
            + nn.AdaptiveMaxPool2d(13)(features)[:, :, 3, 4]
            + nn.functional.adaptive_max_pool2d(features, (5, None))[..., :3].mean((2, 3))
        )


class Nearest(_Small):
    """A row at half a pixel is another one in ONNX than in torch."""

    def forward(self, images: Tensor) -> Tensor:
        larger = nn.functional.interpolate(self.features(images), size=(28, 28))
        return self.output(larger[:, :, ::7].mean((2, 3)))


class PlacesOfMaxima(_Small):
    def forward(self, images: Tensor) -> Tensor:
        pool = nn.AdaptiveMaxPool2d(5, return_indices=True)
        return self.output(pool(self.features(images))[1].float().mean((2, 3)))


def small(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return with_card(kind(), (1, 28, 28), "")
