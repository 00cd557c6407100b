"""Engines that compute the features of a frozen backbone, and the choice of the fastest."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from discern.errors import DiscernError
from discern.features.engine_choice import fastest, memory, recall, remember
from discern.features.engine_export import (
    MAX_WEIGHT_BYTES,
    as_float32,
    backbone_key,
    release,
    weight_bytes,
)
from discern.features.engine_runtime import STARTERS, EngineError, Infer, photographs, start
from discern.models.backbones import Backbone
from discern.models.threads import all_threads
from discern.models.transfer import TransferClassifier

log = logging.getLogger(__name__)

ENGINES = ("torch", *STARTERS)
"""All engines."""

AUTOMATIC = ("torch", "onnxruntime")
"""Engines that ``auto`` chooses from. OpenVINO is as fast as ONNX Runtime, but crashed a process
that started it dozens of times, so it is used only on request."""

SETTINGS = ("auto", *ENGINES)
"""Values of the setting ``engine``."""

FORMAT = 1
"""Raised when an engine of the same version gives other numbers than before."""

MIN_IMAGES = 200
"""Number of images from which measuring the engines pays."""

MEASURED_BATCH = 8
"""Batch size for measuring the engines."""

# Packages that an engine needs, and the arguments for pip.
_NEEDED = {
    "torch": ((), ""),
    "onnxruntime": (("onnxruntime", "onnx"), "onnxruntime onnx"),
    "openvino": (("openvino", "onnx"), "'discern[openvino]'"),
}

_TOO_LARGE = "its weights take more than the 2 GB that an ONNX model has room for"


class Engine(Protocol):
    """Computes features.

    Attributes:
        name: one of :data:`ENGINES`.
        version_class: the name with all versions that can change its numbers.
    """

    name: str
    version_class: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, C, H, W), both float32; they have no graph."""


class TorchEngine:
    """PyTorch itself, on the network's device and with torch's number of threads.

    Args:
        network: its backbone computes, with its current weights.
    """

    def __init__(self, network: TransferClassifier) -> None:
        self.name = "torch"
        self.version_class = version_class(self.name)
        self._network = network

    def __call__(self, images: Tensor) -> Tensor:
        """As :class:`Engine`; less exact within ``torch.autocast``."""
        with torch.inference_mode():
            features: Tensor = self._network.backbone(self._network.prepared(images))
        with torch.inference_mode(False):
            return features.clone().float()


class ExportedEngine:
    """ONNX Runtime or OpenVINO, on the CPU, started with the first batch or before.

    It has a copy of the weights, and restarts if they have changed. Copies of a network share it; a
    process forked after its start cannot use it.

    Args:
        name: a key of :data:`discern.features.engine_runtime.STARTERS`.
        network: its backbone, frozen and on the CPU, is exported.
        input_shape: (C, H, W) of the images.
        threads: number of threads.
        fall_back: whether torch computes if the engine cannot, rather than raising.
    """

    def __init__(
        self,
        name: str,
        network: TransferClassifier,
        input_shape: Sequence[int],
        threads: int,
        fall_back: bool = False,
    ) -> None:
        self.name = name
        self.version_class = version_class(name)
        self._network = network
        self._shape = _prepared_shape(network, input_shape)
        self._threads = threads
        self._fall_back = fall_back
        self._infer: Infer | None = None
        self._weights: list[tuple[int, int]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> ExportedEngine:
        return self

    def start(self) -> None:
        """Export the backbone or find it exported, and compare the features with torch's.

        Raises:
            EngineError: it cannot be exported, or the engine cannot run it or gives other features.
        """
        self._weights = _state(self._network.backbone)
        self._infer = start(self.name, self._network.backbone, self._shape, self._threads)

    def __call__(self, images: Tensor) -> Tensor:
        """As :class:`Engine`.

        Raises:
            EngineError: it cannot start, and ``fall_back`` is false.
        """
        if self._infer is None or self._weights != _state(self._network.backbone):
            try:
                self.start()
            except EngineError as error:
                if not self._fall_back:
                    raise
                log.warning("%s PyTorch runs it.", error)
                self._infer = self._network.backbone
        assert self._infer is not None
        with as_float32():
            prepared = self._network.prepared(images)
            if not len(prepared):
                return torch.empty(0, self._network.backbone.num_features)
            return self._infer(prepared)


def version_class(engine: str) -> str:
    """An engine's name with all versions that can change its numbers: ``onnxruntime-1.32-1``."""
    return f"{engine}-{release(engine)}-{FORMAT}"


def engine_for(
    network: TransferClassifier,
    input_shape: Sequence[int],
    setting: str = "auto",
    threads: int | None = None,
) -> Engine:
    """The engine for a network's frozen backbone.

    Args:
        network: the classifier whose backbone's features are computed.
        input_shape: (C, H, W) of the images.
        setting: ``auto`` for the fastest on this machine, which is measured once and remembered;
            ``torch``; ``onnxruntime`` or ``openvino``, which start with the first batch.
        threads: of an engine other than torch; None for torch's default.

    Raises:
        DiscernError: there is no such engine, it is not installed, or it cannot run this network.
    """
    if setting not in SETTINGS:
        raise DiscernError(
            f"engine={setting} is not allowed; it must be {', '.join(SETTINGS[:-1])} or "
            f"{SETTINGS[-1]}."
        )
    if setting == "torch":
        return TorchEngine(network)
    why = _why_torch_alone(network)
    if setting == "auto":
        if why is None:
            return _fastest(network, input_shape, threads or all_threads())
        level = logging.INFO if why == _TOO_LARGE else logging.DEBUG
        log.log(level, "PyTorch runs %s, for %s.", network.backbone.provenance.name, why)
        return TorchEngine(network)
    if why is not None:
        raise DiscernError(f"engine={setting} is not possible, for {why}; choose torch.")
    if missing := _missing(setting):
        raise DiscernError(
            f"engine={setting} needs the package {missing[0]}, which is not installed; "
            f"pip install {_NEEDED[setting][1]} brings it."
        )
    return ExportedEngine(setting, network, input_shape, threads or all_threads())


def use_engine(network: nn.Module, input_shape: Sequence[int], setting: str, images: int) -> None:
    """Have an engine run a saved network's backbone, if it has one.

    Args:
        network: in eval mode, on the CPU.
        input_shape: (C, H, W) of the images.
        setting: see :func:`engine_for`.
        images: number of images; for few ``auto`` is torch, since measuring would take longer.

    Raises:
        DiscernError: as :func:`engine_for`; or an engine other than torch is requested and the
            network has no backbone.
    """
    if not isinstance(network, TransferClassifier):
        if setting not in ("auto", "torch"):
            raise DiscernError(
                f"engine={setting} is not possible, for the model has no backbone; choose auto."
            )
    elif setting != "auto" or images >= MIN_IMAGES:
        network.requires_grad_(False)
        network.unfreeze("head")
        network.engine = engine_for(network, input_shape, setting)


def _why_torch_alone(network: TransferClassifier) -> str | None:
    """The reason why only torch can run the backbone, or None."""
    parameter = next(network.backbone.parameters())
    if not network.frozen_backbone:
        return f"model.unfreeze={network.depth} trains the backbone"
    if parameter.device.type != "cpu":
        return f"the backbone is on {parameter.device}"
    if parameter.dtype != torch.float32:
        return f"the backbone's weights are {str(parameter.dtype).removeprefix('torch.')}"
    if weight_bytes(network.backbone) > MAX_WEIGHT_BYTES:
        return _TOO_LARGE
    return None


def _state(backbone: Backbone) -> list[tuple[int, int]]:
    """A value that changes with any weight's values or address."""
    tensors = (*backbone.parameters(), *backbone.buffers())
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


def _missing(engine: str) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    packages, _ = _NEEDED[engine]
    return [package for package in packages if importlib.util.find_spec(package) is None]


def _fastest(network: TransferClassifier, input_shape: Sequence[int], threads: int) -> Engine:
    """The fastest engine, by a measurement now or before."""
    names = tuple(name for name in AUTOMATIC if not _missing(name))
    if names == ("torch",):
        return TorchEngine(network)
    key = backbone_key(network.backbone, _prepared_shape(network, input_shape))
    path = memory(key, threads, names)
    chosen = recall(path)
    if chosen == "torch":
        return TorchEngine(network)
    if chosen in names:
        return ExportedEngine(chosen, network, input_shape, threads, fall_back=True)
    engines = _started(names, network, input_shape, threads)
    chosen, speeds = fastest(engines, photographs(MEASURED_BATCH, tuple(input_shape)))
    remember(path, chosen, speeds)
    measured = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
    log.info("%s runs %s (images/s: %s).", chosen, network.backbone.provenance.name, measured)
    return engines[chosen]


def _started(
    names: Sequence[str], network: TransferClassifier, input_shape: Sequence[int], threads: int
) -> dict[str, Engine]:
    """torch, and the other engines that can run the backbone."""
    engines: dict[str, Engine] = {"torch": TorchEngine(network)}
    for name in names[1:]:
        engine = ExportedEngine(name, network, input_shape, threads)
        try:
            engine.start()
        except EngineError as error:
            log.warning("%s It is not used.", error)
        else:
            engines[name] = engine
    return engines


def _prepared_shape(
    network: TransferClassifier, input_shape: Sequence[int]
) -> tuple[int, int, int]:
    """(3, H, W) of an image as the backbone takes it."""
    _, channels, height, width = network.prepared(torch.empty(1, *input_shape)).shape
    return channels, height, width
