"""The engines that run an exported backbone on the CPU."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from discern.errors import DiscernError, first_line
from discern.features.engine_export import INPUT, OUTPUT, as_float32, export, keep, kept, model_path
from discern.models.backbones import Backbone

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Features may differ from torch's by this fraction of the largest in the batch."""

Infer = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) as the backbone takes them, float32 -> features (N, F)."""

Floats = NDArray[np.float32]

Run = Callable[[Floats], Floats]
"""An image (1, 3, H, W) -> features (1, F), in any thread."""


class EngineError(DiscernError):
    """An engine cannot run a backbone; the message gives the reason."""


def start(engine: str, backbone: Backbone, shape: tuple[int, int, int], threads: int) -> Infer:
    """Start an engine with a frozen backbone, and compare its features with torch's.

    The exported backbone is read from the cache folder, or exported and stored there.

    Args:
        engine: a key of :data:`STARTERS`.
        backbone: in evaluation mode, on the CPU.
        shape: (3, H, W) of the images as the backbone takes them.
        threads: number of threads.

    Raises:
        EngineError: the backbone cannot be exported, or the engine cannot run it or gives other
            features.
    """
    path = model_path(backbone, shape)
    model = kept(path)
    try:
        if model is not None:
            try:
                return _agreeing(engine, model, backbone, shape, threads)
            except Exception as error:  # from another machine, or untrusted
                log.debug("%s is made anew: %s.", path, first_line(error))
        model = export(backbone.network, shape)
        infer = _agreeing(engine, model, backbone, shape, threads)
    except Exception as error:  # the exporter and each engine have errors of their own
        name = backbone.provenance.name
        raise EngineError(f"engine={engine} cannot run {name}: {first_line(error)}.") from error
    keep(path, model)
    return infer


def _agreeing(
    engine: str, model: bytes, backbone: Backbone, shape: tuple[int, int, int], threads: int
) -> Infer:
    """The started engine; ValueError if its features differ from torch's."""
    infer = _in_turn(STARTERS[engine](model, threads), threads)
    difference = _difference(infer, backbone, shape)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"its features differ from PyTorch's by {difference:.1e} of the largest, more than "
            f"{TOLERANCE:.0e}"
        )
    return infer


def _difference(infer: Infer, backbone: Backbone, shape: tuple[int, int, int]) -> float:
    """The largest difference of features from torch's, relative to the largest of them."""
    images = photographs(2, shape)
    with as_float32():
        right: Tensor = backbone(images.contiguous(memory_format=torch.channels_last))
        found = infer(images)
    if torch.equal(found, right):  # also if all are zero
        return 0.0
    return float((found - right).abs().max() / right.abs().max())


def photographs(count: int, shape: tuple[int, ...]) -> Tensor:
    """Images (N, C, H, W) with large areas and fine grain, normalised; always the same."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = shape
    areas = torch.randn(count, channels, 7, 7, generator=generator)
    grain = torch.randn(count, channels, height, width, generator=generator)
    return interpolate(areas, (height, width), mode="bilinear") + 0.3 * grain


def _onnxruntime(model: bytes, threads: int) -> Run:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(image: Floats) -> Floats:
        features: Floats = session.run([OUTPUT], {INPUT: image})[0]
        return features

    return run


def _openvino(model: bytes, threads: int) -> Run:
    with no_telemetry():
        openvino = importlib.import_module("openvino")
    core = openvino.Core()
    settings = {
        # The default is bfloat16 if the CPU has it.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        # The loader's workers use the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings)
    own = threading.local()  # a request serves one thread

    def run(image: Floats) -> Floats:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        features: Floats = own.request.infer([image])[0]
        return features

    return run


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Hide the package by which importing openvino reports to Google Analytics."""
    package = "openvino_telemetry"
    absent = package not in sys.modules
    if absent:
        sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[package]


def _in_turn(run: Run, threads: int) -> Infer:
    """Compute images one by one, in parallel threads.

    Threads do not wait for each other within an image, as they would within a batch of 32: on 2
    cores DenseNet-121 computes 1.2 times as many images a second. And the features of an image
    depend neither on the others in its batch nor on the number of threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")

    def infer(images: Tensor) -> Tensor:
        array = images.contiguous().numpy()
        rows = pool.map(run, (array[index : index + 1] for index in range(len(array))))
        return torch.from_numpy(np.concatenate(list(rows)))

    return infer


STARTERS: dict[str, Callable[[bytes, int], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Engine -> start from an ONNX model and the number of threads that will call it."""
