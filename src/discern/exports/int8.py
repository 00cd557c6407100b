"""Weights and activations of 8 bits, by ONNX Runtime's own quantiser."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from discern.errors import DiscernError, first_line
from discern.exports import onnx_file
from discern.exports.about import PIXELS
from discern.exports.running import Pixels
from discern.files.writing import write_whole

FILE = "model.int8.onnx"

IMAGES = 128
"""Training images that the ranges of the activations are read off."""

PREPARATION = "/prepare/"
"""What the names of the operators before the network begin with: they stay exact."""


def write(float32: Path, pictures: Sequence[Pixels], about: Mapping[str, str]) -> Path:
    """Write model.int8.onnx beside a model: static, one scale a channel.

    Args:
        float32: the exported model.
        pictures: images for calibration, each uint8 (H, W, C).
        about: the facts of the model.

    Raises:
        DiscernError: the quantiser cannot quantise this model.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Pixels] | None:
            picture = next(self._left, None)
            return None if picture is None else {PIXELS: picture[None]}

    with tempfile.TemporaryDirectory() as temporary, _quiet():
        ready, made = Path(temporary, "ready.onnx"), Path(temporary, "made.onnx")
        try:
            quant_pre_process(float32, ready, skip_symbolic_shape=True)
            model = onnx.load(ready)
            normalise_by_convolutions(model)
            onnx.save(model, ready)
            names = [node.name for node in model.graph.node]
            quantize_static(
                ready, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=[name for name in names if name.startswith(PREPARATION)],
            )  # fmt: skip
            model = onnx.load(made)
        except Exception as error:  # it has no errors of its own
            raise DiscernError(
                f"quantize=int8 is not possible for this model: {first_line(error)}."
            ) from error
    onnx_file.describe(model, about)
    path = float32.with_name(FILE)
    with write_whole(path, "wb") as file:
        file.write(model.SerializeToString())
    return path


def normalise_by_convolutions(model: onnx.ModelProto) -> None:
    """Replace each batch normalisation of images by a convolution of one pixel, in place.

    One that follows no convolution, as all of DenseNet's, is in no convolution's weights, and ONNX
    Runtime computes it in float32: its input and output are converted, which takes as long as the
    convolutions between. As a convolution it stays in 8 bits.
    """
    constants = {each.name: each for each in model.graph.initializer}
    ranks = {
        each.name: len(each.type.tensor_type.shape.dim)
        for each in model.graph.value_info
        if each.type.tensor_type.HasField("shape")
    }
    for node in model.graph.node:
        values = [constants[name] for name in node.input[1:] if name in constants]
        of_images = node.op_type == "BatchNormalization" and ranks.get(node.input[0]) == 4
        if not of_images or len(values) < 4 or len(node.output) > 1:
            continue
        scale, shift, mean, variance = (onnx.numpy_helper.to_array(each) for each in values)
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + np.float32(epsilon))
        weights = {
            f"{node.output[0]}.weight": factor.reshape(-1, 1, 1, 1),
            f"{node.output[0]}.bias": shift - mean * factor,
        }
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(each.astype(np.float32), name)
            for name, each in weights.items()
        )
        node.CopyFrom(
            onnx.helper.make_node(
                "Conv",
                [node.input[0], *weights],
                [node.output[0]],
                name=node.name,
                group=len(factor),
                kernel_shape=[1, 1],
            )
        )
    used = {name for node in model.graph.node for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice on its own use from the log; it has no logger but the root."""
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
