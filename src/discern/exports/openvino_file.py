"""``format=openvino``: model.xml and model.bin, made of the ONNX model by OpenVINO itself."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from discern.errors import DiscernError, first_line, not_installed
from discern.exports import onnx_file
from discern.exports.bundle import Bundle
from discern.exports.running import Floats, Pixels, Run
from discern.features.engine_runtime import no_telemetry
from discern.models.card import Card
from discern.models.threads import all_threads

FILE = "model.xml"


def is_installed() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


def write(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write model.xml and model.bin, with the facts in the part ``rt_info`` of the former.

    Raises:
        DiscernError: OpenVINO is not installed, or cannot read the model.
    """
    if not is_installed():
        raise not_installed("format=openvino", "openvino", "openvino")
    content = onnx_file.graph(bundle, card)
    path = folder / FILE
    openvino = _openvino()
    try:
        model = openvino.Core().read_model(io.BytesIO(content))
        for key, value in about.items():
            model.set_rt_info(value, ["discern", key])
        # Its default would be weights of 16 bits.
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except Exception as error:  # its errors have no common class
        raise DiscernError(
            f"format=openvino is not possible for this model: {first_line(error)}."
        ) from error
    return path


def run(path: Path, bundle: Bundle) -> Run:
    """The model in ``path``, ready to run."""
    return _compiled(str(path))


def run_onnx(content: bytes) -> Run:
    """An ONNX model, ready to run in OpenVINO.

    Raises:
        DiscernError: OpenVINO cannot run it.
    """
    try:
        return _compiled(io.BytesIO(content))
    except Exception as error:  # its errors have no common class
        raise DiscernError(f"OpenVINO cannot run the model: {first_line(error)}.") from error


def _compiled(source: str | io.BytesIO) -> Run:
    """A model, compiled for the CPU in float32."""
    settings = {
        # The default is bfloat16 if the CPU has it.
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": all_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    core = _openvino().Core()
    request = core.compile_model(core.read_model(source), "CPU", settings).create_infer_request()

    def probabilities(pixels: Pixels) -> Floats:
        return np.array(request.infer([pixels])[0], np.float32)

    return probabilities


def _openvino() -> ModuleType:
    with no_telemetry():
        return importlib.import_module("openvino")
