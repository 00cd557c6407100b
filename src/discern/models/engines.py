"""Engines: what computes the features of a frozen backbone, the fastest that there is."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import torch
from torch import Tensor

from discern.errors import DiscernError
from discern.models.engines_export import MOST_BYTES, weight_bytes
from discern.models.engines_exported import STARTERS, EngineError, Infer, as_float32, start
from discern.models.transfer import TransferClassifier
from discern.threads import ALL

log = logging.getLogger(__name__)

ENGINES = ("torch", *STARTERS)
"""What there is to compute with."""

SETTINGS = ("auto", *ENGINES)
"""What the setting ``engine`` may be."""

FORMAT = 1
"""Part of the names below: raised where an engine of the same version gives other numbers."""

BATCH, ROUNDS, SECONDS = 8, 3, 4.0
"""Images that the engines are measured with, how often, and after what time no more."""

# Beside the engine itself, what it needs; the export needs onnx.
_PACKAGES = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino", "onnx")}
_REMEDIES = {"onnxruntime": "onnxruntime onnx", "openvino": "'discern[openvino]'"}


class Engine(Protocol):
    """Computes features.

    Attributes:
        name: one of :data:`ENGINES`.
        version_class: the name with what can change the numbers it gives.
    """

    name: str
    version_class: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, F) of images (N, C, H, W), float32, without a graph."""


class TorchEngine:
    """PyTorch itself, on the device that the network is on, with as many threads as it is set to.

    Args:
        network: its backbone computes.
    """

    name = "torch"

    def __init__(self, network: TransferClassifier) -> None:
        self.version_class = version_class(self.name)
        self._network = network

    def __call__(self, images: Tensor) -> Tensor:
        """As :class:`Engine`; within ``torch.autocast`` with less precision."""
        with torch.inference_mode():
            features: Tensor = self._network.backbone(self._network._prepared(images))
        with torch.inference_mode(False):
            return features.clone().float()


class ExportedEngine:
    """ONNX Runtime or OpenVINO on the CPU; started by the first batch, or before.

    Its weights are a copy of the backbone's as they were at the start. It is not to be used in a
    process that was forked after that. Copies of a network share it.

    Args:
        name: a key of :data:`STARTERS`.
        network: its backbone, frozen and on the CPU, is exported.
        input_shape: (C, H, W) of the images.
        threads: CPU threads that compute.
        fall_back: whether torch computes where the engine cannot, rather than to raise.
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
        self._input_shape = tuple(input_shape)
        self._threads = threads
        self._fall_back = fall_back
        self._infer: Infer | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> ExportedEngine:
        return self

    def start(self) -> None:
        """Export the backbone, if that is not done, and compare its features with torch's.

        Raises:
            EngineError: it cannot be exported, the engine cannot run it or gives other features.
        """
        self._infer = start(self.name, self._network, self._input_shape, self._threads)

    def __call__(self, images: Tensor) -> Tensor:
        """As :class:`Engine`.

        Raises:
            EngineError: it cannot be started, and is not to fall back.
        """
        if self._infer is None:
            try:
                self.start()
            except EngineError as error:
                if not self._fall_back:
                    raise
                log.warning("%s PyTorch runs it instead.", error)
                self._infer = TorchEngine(self._network)
        assert self._infer is not None
        if not len(images):
            return torch.empty(0, self._network.backbone.num_features)
        if isinstance(self._infer, TorchEngine):
            return self._infer(images)
        with as_float32():
            return self._infer(self._network._prepared(images.detach()))


def version_class(name: str) -> str:
    """An engine's name with what can change the numbers it gives: ``onnxruntime-1.32-1``."""
    return f"{name}-{_release(name)}-{FORMAT}"


def _release(package: str) -> str:
    """Major and minor version; empty without the package."""
    try:
        return ".".join(version(package).split(".")[:2])
    except PackageNotFoundError:
        return ""


def engine_for(
    network: TransferClassifier,
    input_shape: Sequence[int],
    setting: str = "auto",
    threads: int | None = None,
) -> Engine:
    """The engine for a network's frozen backbone.

    Args:
        network: a classifier in whose place the engine computes features.
        input_shape: (C, H, W) of the images.
        setting: ``auto`` for the fastest on this machine, which is measured once and remembered;
            ``torch``; ``onnxruntime`` or ``openvino``, which start with the first batch.
        threads: CPU threads of an engine other than torch; None for as many as torch takes.

    Raises:
        DiscernError: there is no such engine, it is not installed, or it is not for this network.
    """
    if setting not in SETTINGS:
        raise DiscernError(
            f"engine={setting} is not allowed; it must be {', '.join(SETTINGS[:-1])} or "
            f"{SETTINGS[-1]}."
        )
    threads = threads or ALL
    why_not = _why_torch_alone(network)
    if setting == "torch" or (setting == "auto" and why_not):
        if why_not and weight_bytes(network) > MOST_BYTES:
            log.info("PyTorch runs the backbone, for %s.", why_not)
        return TorchEngine(network)
    if setting == "auto":
        return _fastest(network, tuple(input_shape), threads)
    if why_not:
        raise DiscernError(f"engine={setting} is not possible, for {why_not}; choose torch.")
    _require(setting)
    return ExportedEngine(setting, network, input_shape, threads)


def _why_torch_alone(network: TransferClassifier) -> str | None:
    """Why no other engine can run the backbone, if none can."""
    parameter = next(network.backbone.parameters())
    if not network.frozen_backbone:
        return "the backbone is trained"
    if parameter.device.type != "cpu":
        return f"the backbone is on {parameter.device.type} and not on the CPU"
    if parameter.dtype != torch.float32:
        return f"the backbone computes in {str(parameter.dtype).removeprefix('torch.')}"
    if weight_bytes(network) > MOST_BYTES:
        return f"the backbone has {weight_bytes(network) / 1e9:.1f} GB of weights, more than 2"
    return None


def _installed(engine: str) -> bool:
    return not _missing(engine)


def _missing(engine: str) -> list[str]:
    return [p for p in _PACKAGES.get(engine, ()) if importlib.util.find_spec(p) is None]


def _require(engine: str) -> None:
    if missing := _missing(engine):
        raise DiscernError(
            f"engine={engine} needs the package {missing[0]}, which is not installed; "
            f"pip install {_REMEDIES[engine]} brings it."
        )


# The fastest


def _fastest(network: TransferClassifier, input_shape: tuple[int, ...], threads: int) -> Engine:
    """The engine that a measurement on this machine chose, now or before."""
    names = [name for name in ENGINES if _installed(name)]
    if names == ["torch"]:
        return TorchEngine(network)
    path = _memory(network, input_shape, threads)
    chosen = _recall(path)
    if chosen not in names:
        engines = _started(names[1:], network, input_shape, threads)
        speeds = measure(engines, torch.randn(BATCH, *input_shape, generator=_generator()))
        chosen = max(speeds, key=lambda name: speeds[name])
        _remember(path, chosen, speeds)
        backbone = network.backbone.provenance.name
        listed = ", ".join(f"{name} {speed:.1f}" for name, speed in speeds.items())
        log.info("%s runs in %s; images/s measured: %s", backbone, chosen, listed)
        return engines[chosen]
    if chosen == "torch":
        return TorchEngine(network)
    return ExportedEngine(chosen, network, input_shape, threads, fall_back=True)


def _started(
    names: Sequence[str], network: TransferClassifier, input_shape: tuple[int, ...], threads: int
) -> dict[str, Engine]:
    """torch, and those of the engines that can run the backbone."""
    engines: dict[str, Engine] = {"torch": TorchEngine(network)}
    for name in names:
        engine = ExportedEngine(name, network, input_shape, threads)
        try:
            engine.start()
        except EngineError as error:
            log.warning("%s It is left out.", error)
        else:
            engines[name] = engine
    return engines


def measure(
    engines: Mapping[str, Callable[[Tensor], Tensor]], images: Tensor, rounds: int = ROUNDS
) -> dict[str, float]:
    """Images a second of each engine, taken in turn; the median of some rounds after a first."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    if len(engines) == 1:
        return dict.fromkeys(engines, 1.0)
    begun = time.perf_counter()
    for number in range(rounds + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(images)
            if number:
                seconds[name].append(time.perf_counter() - start)
        if number and time.perf_counter() - begun > SECONDS:
            break
    return {name: len(images) / statistics.median(taken) for name, taken in seconds.items()}
