"""Grad-CAM: that it is the one written by hand, for whatever network and memory order."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from discern.errors import DiscernError
from discern.models.mlp import MLP
from discern.models.transfer import TransferClassifier
from discern.reports.explain import GradCam, overlay, scale

SHAPE = (3, 64, 64)


def classifier(
    backbone: str, shape: tuple[int, int, int] = SHAPE, **settings: object
) -> TransferClassifier:
    torch.manual_seed(0)
    settings = {"weights": None, "head": [8], **settings}
    network = TransferClassifier(shape, 5, backbone=backbone, **settings)  # type: ignore[arg-type]
    return network.eval()


def picture(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def from_map(feature_map: Tensor, logit: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Grad-CAM as the paper has it, of a map (1, C, h, w) that has led to a logit."""
    (gradient,) = torch.autograd.grad(logit, feature_map, retain_graph=True)
    weights = gradient[0].mean(dim=(1, 2))
    cam = sum(weight * channel for weight, channel in zip(weights, feature_map[0], strict=True))
    cam = cam.detach().clamp(min=0)
    return interpolate(cam[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert expected.max() > 0, "says nothing"
    assert np.abs(found - expected).max() < 1e-4 * expected.max()


class Tiny(nn.Module):
    """A network that does what breaks hooks: it changes its map in place, and uses a module twice.

    ``last`` puts the channels last in the map, as a Swin transformer does.
    """

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 3)
        self.last = last

    def map(self, images: Tensor) -> Tensor:
        """What the last module over the picture gives, (N, 4, h, w)."""
        found = self.second(self.relu(self.first(images)))
        return self.norm(found.permute(0, 2, 3, 1)) if self.last else found

    def rest(self, found: Tensor) -> Tensor:
        pooled = found.relu_().mean(dim=(1, 2) if self.last else (2, 3))
        return self.output(self.relu(pooled))

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.map(images))


# What it computes


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_it_is_the_one_written_by_hand_though_the_map_is_changed_in_place(last, label):
    network, image = Tiny(last), picture(1, 20, 28)
    # By hand with nothing in place, and the channels first.
    feature_map = network.map(image[None]).detach().requires_grad_()
    logit = network.output(feature_map.relu().mean(dim=(1, 2) if last else (2, 3)))[0, label]
    (gradient,) = torch.autograd.grad(logit, feature_map)
    order = (0, 3, 1, 2) if last else (0, 1, 2, 3)
    cam = (gradient.permute(order).mean(dim=(2, 3), keepdim=True) * feature_map.permute(order)).sum(
        dim=1, keepdim=True
    )
    cam = interpolate(cam.detach().relu(), (20, 28), mode="bilinear", align_corners=False)
    assert_same(GradCam(network, (1, 20, 28), "tiny")(image, label), cam[0, 0].numpy())


def test_it_is_the_one_written_by_hand_for_a_frozen_squeezenet():
    network, image = classifier("squeezenet1_1"), picture(*SHAPE)
    feature_map = network.backbone.network.features(image[None]).detach().requires_grad_()
    explainer = GradCam(network, SHAPE, "squeezenet1_1")
    logits = network.head(feature_map.mean(dim=(2, 3)))[0]
    by_hand = [from_map(feature_map, logit, (64, 64)) for logit in logits]
    assert_same(np.stack([explainer(image, label) for label in range(5)]), np.stack(by_hand))


def test_small_grey_images_that_are_scaled_for_the_backbone():
    """The map is of the scaled square; what comes back is of the picture's own size."""
    network, image = classifier("resnet18", (1, 20, 40)), picture(1, 20, 40)
    body = nn.Sequential(*list(network.backbone.network.children())[:-2])
    scaled = interpolate(image[None].expand(-1, 3, -1, -1), (224, 224), mode="bilinear")
    feature_map = body(scaled).detach().requires_grad_()
    logit = network.head(feature_map.mean(dim=(2, 3)))[0, 1]
    expected = from_map(feature_map, logit, (20, 40))
    assert_same(GradCam(network, (1, 20, 40), "resnet18")(image, 1), expected)


def test_it_finds_the_part_that_decides():
    """Whose weights are all positive sees its classes where the picture is light."""
    network = Tiny()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    image = torch.zeros(1, 32, 32)
    image[:, 20:28, 20:28] = 5
    row, column = np.unravel_index(
        GradCam(network, (1, 32, 32), "tiny")(image, 0).argmax(), (32, 32)
    )
    assert 18 <= row < 30
    assert 18 <= column < 30


# Which map it takes


@pytest.mark.parametrize(
    ("library", "backbone", "layer"),
    [
        ("torchvision", "densenet121", "features"),  # its ReLU is no module, and is in place
        ("torchvision", "mobilenet_v3_small", "features"),
        ("timm", "mobilenetv3_small_050", "blocks"),  # after which it pools, and convolves again
        ("timm", "mambaout_femto", "stages"),  # the channels last, as in Swin
    ],
)
def test_the_map_is_the_last_one_over_the_picture(library, backbone, layer):
    network, image = classifier(backbone, library=library, head=[]), picture(*SHAPE)
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        maps.append(output)
        return output.clone()

    handle = network.backbone.network.get_submodule(layer).register_forward_hook(keep)
    logits = network(image[None].requires_grad_())[0]
    handle.remove()
    (found,) = maps
    explainer = GradCam(network, SHAPE, backbone)
    by_hand = []
    for logit in logits:
        (gradient,) = torch.autograd.grad(logit, found, retain_graph=True)
        axes = (1, 2) if layer == "stages" else (2, 3)
        cam = (gradient.mean(dim=axes, keepdim=True) * found).sum(dim=({1, 2, 3} - {*axes}).pop())
        by_hand.append(
            interpolate(cam.detach().relu()[None], SHAPE[1:], mode="bilinear")[0, 0].numpy()
        )
    assert_same(np.stack([explainer(image, label) for label in range(5)]), np.stack(by_hand))


@pytest.mark.parametrize("backbone", [None, "vit_tiny_patch16_224", "pit_ti_224"])
def test_a_network_without_maps_is_refused_in_one_sentence(backbone):
    """A vision transformer's patches are no such map, though they are in a square at first."""
    shape = (3, 32, 32)
    network = classifier(backbone, shape, library="timm") if backbone else MLP(shape, 5)
    with pytest.raises(DiscernError, match=r"^explain=true needs a convolutional model, .* of X "):
        GradCam(network, shape, "X")


# What it leaves as it was


@pytest.mark.parametrize("unfreeze", ["head", "all"])
def test_the_network_stays_as_it_was(unfreeze):
    network = classifier("mobilenet_v3_small", unfreeze=unfreeze, train_bn=True)
    image = picture(*SHAPE)
    network.head.train()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    asked = [parameter.requires_grad for parameter in network.parameters()]
    GradCam(network, SHAPE, "mobilenet_v3_small")(image, 0)
    assert not image.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == asked
    assert all(torch.equal(before[name], it) for name, it in network.state_dict().items())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


# What it looks like


def test_the_colours_go_from_nothing_to_the_pictures_most():
    importance = np.array([[0, 1], [2, 4]], np.float32)
    colours = overlay(np.full((3, 2, 2), 128, np.uint8), importance)
    assert (colours.shape, colours.dtype) == ((3, 2, 2), np.uint8)
    assert np.array_equal(colours, overlay(np.full((1, 2, 2), 128, np.uint8), 7 * importance))
    bar = scale(1, 5)
    assert np.array_equal(colours.reshape(3, 4), bar[:, 0, [0, 1, 2, 4]])
    lightness = bar[:, 0].sum(axis=0, dtype=int)
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_where_nothing_speaks_for_the_class_there_is_one_colour(value):
    importance = np.zeros((4, 4), np.float32)
    importance[0, 0] = value
    colours = overlay(np.full((1, 4, 4), 128, np.uint8), importance)
    assert (colours == scale(1, 2)[:, :, :1]).all()
