"""Grad-CAM: the parts of a picture that speak for a class (Selvaraju et al., 2017)."""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from discern.errors import DiscernError

COLOURS = "viridis"
"""matplotlib's colours for importance, ordered by lightness for colour blindness."""

OPACITY = 0.6
"""The opacity of the colours over the grey picture."""


class GradCam:
    """Computes how much each part of a picture speaks for a class.

    The channels of the network's last feature map are summed, each weighted by the mean gradient of
    the logit over the map; negative values become 0. The map is the last output of a module that
    still has spatial dimensions.

    The network is not changed: neither its mode nor its parameters' gradients.

    Args:
        network: images (N, C, H, W), float32, normalised -> logits (N, K), in eval mode.
        input_shape: (C, H, W) of an image.
        name: what errors call the network.

    Raises:
        DiscernError: the network has no such map, such as a vision transformer or an MLP.
    """

    def __init__(self, network: nn.Module, input_shape: tuple[int, int, int], name: str) -> None:
        found = _last_map(network, input_shape)
        if found is None:
            raise DiscernError(
                "explain=true needs a convolutional model, whose features are maps of the picture "
                f"up to the last; those of {name} are not."
            )
        self._network = network
        self._layer, self._channel = found

    def __call__(self, image: Tensor, label: int) -> NDArray[np.float32]:
        """How much each pixel of an image speaks for a class.

        Args:
            image: float32 (C, H, W), normalised.
            label: the class's number.

        Returns:
            float32 (H, W), 0 or above, bilinear between the places of the feature map.
        """
        from captum.attr import LayerGradCam  # an extra, and half a second

        # Without a gradient for the image, a frozen backbone would record nothing.
        images = image.detach()[None].requires_grad_()
        with self._tapped() as feature_map:
            cam = LayerGradCam(self._network, feature_map)
            places = cam.attribute(images, target=label, relu_attributions=True).detach()
        pixels = interpolate(places, image.shape[1:], mode="bilinear", align_corners=False)
        importance: NDArray[np.float32] = pixels[0, 0].numpy()
        return importance

    @contextmanager
    def _tapped(self) -> Iterator[nn.Module]:
        """An identity module that the map passes through as (N, C, H, W)."""
        tap = nn.Identity()

        def pass_on(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            # If the module runs several times, the last output is the map.
            passed: Tensor = tap(output.movedim(self._channel, 1))
            return passed.movedim(1, self._channel)

        handle = self._layer.register_forward_hook(pass_on)
        try:
            yield tap
        finally:
            handle.remove()


def _last_map(
    network: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[nn.Module, int] | None:
    """The module that outputs the last feature map, and the dimension of its channels.

    None if the network has no map, or continues with a sequence of tokens.
    """
    shapes: dict[nn.Module, torch.Size] = {}
    picture: list[torch.Size] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        shapes.pop(module, None)  # a module that runs several times counts where it ran last
        if isinstance(output, Tensor):
            shapes[module] = output.shape

    # Images may be scaled before they enter the backbone.
    part = getattr(network, "backbone", network)
    hooks = [module.register_forward_hook(keep) for module in part.modules()]
    hooks.append(part.register_forward_pre_hook(lambda _, inputs: picture.append(inputs[0].shape)))
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    for module, shape in reversed(shapes.items()):
        channel = _channel_of(shape, *picture[-1][-2:])
        if channel is not None:
            return module, channel
        if len(shape) == 3 and min(shape[1:]) > 1:
            return None
    return None


def _channel_of(shape: torch.Size, height: int, width: int) -> int | None:
    """The dimension of the channels in a map of one picture; None if it is not a map.

    The other two dimensions have the picture's proportions, up to rounding: (1, 49, 7, 7) and
    (1, 7, 7, 49) are maps, the (1, 12, 49, 64) of an attention with twelve heads is not.
    """
    if len(shape) != 4 or shape[0] != 1:
        return None
    for channel, (rows, columns) in ((1, shape[2:]), (-1, shape[1:3])):
        same = abs(rows * width - columns * height) < 2 * max(height, width)
        if same and rows * columns > 1:
            return channel
    return None


def overlay(pixels: NDArray[np.uint8], importance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Importance as colours over the grey picture, from 0 to the picture's maximum.

    Args:
        pixels: uint8 (C, H, W) of 1 or 3 channels.
        importance: float32 (H, W), 0 or above.

    Returns:
        uint8 (3, H, W).
    """
    peak = importance.max()
    shares = importance / peak if 0 < peak < np.inf else np.zeros_like(importance)
    # The weights of ITU-R 601, as Pillow's.
    weights = (1.0,) if len(pixels) == 1 else (0.299, 0.587, 0.114)
    return _blended(np.tensordot(weights, pixels, 1), shares)


def scale(rows: int, columns: int) -> NDArray[np.uint8]:
    """The colours of :func:`overlay` on a middle grey, from 0 to 1: uint8 (3, H, W)."""
    shares = np.tile(np.linspace(0, 1, columns, dtype=np.float32), (rows, 1))
    return _blended(np.full((rows, columns), 128.0), shares)


def _blended(grey: NDArray[np.float64], shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey (H, W), from 0 to 255, under the colours of shares (H, W), from 0 to 1."""
    colours = 255 * matplotlib.colormaps[COLOURS](shares)[..., :3].transpose(2, 0, 1)
    blended: NDArray[np.float64] = OPACITY * colours + (1 - OPACITY) * grey
    return blended.round().astype(np.uint8)
