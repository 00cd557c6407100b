"""``format=onnx``: one file that ONNX Runtime runs by itself."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils import parametrize

from discern.errors import DiscernError, first_line
from discern.exports.about import PIXELS, PROBABILITIES
from discern.exports.bundle import Bundle, example, traceable
from discern.exports.onnx_model import load_exported, session
from discern.exports.pooling import PlainPooling
from discern.exports.running import Run
from discern.features.engine_export import MAX_WEIGHT_BYTES, weight_bytes
from discern.files.writing import write_whole
from discern.models.card import Card

FILE = "model.onnx"

PREPARED = "prepared"
"""The output of the preprocessing where it runs by itself."""

OPSET = 18
"""The version of the operators, which every ONNX Runtime since 1.14 (2023) has."""


def write(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write model.onnx.

    Returns:
        The file.

    Raises:
        DiscernError: the network has an operator that ONNX lacks, or more weights than fit.
    """
    content = graph(bundle, card)
    described = onnx.load_model_from_string(content)
    describe(described, about)
    path = folder / FILE
    with write_whole(path, "wb") as file:
        file.write(described.SerializeToString())
    return path


def describe(model: onnx.ModelProto, about: Mapping[str, str]) -> None:
    """Put a model's facts in the place of its metadata, and leave out what it does not use."""
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(about))
    model.producer_name, model.producer_version = "discern", about["discern_version"]
    for node in model.graph.node:
        # Names of this machine's source files, line by line.
        node.doc_string = ""


def graph(bundle: Bundle, card: Card) -> bytes:
    """The ONNX model of a bundle, without metadata.

    Raises:
        DiscernError: as :func:`write`.
    """
    if weight_bytes(bundle) > MAX_WEIGHT_BYTES:
        raise DiscernError(
            f"format=onnx is not possible: the weights take {weight_bytes(bundle):,} bytes, more "
            f"than the {MAX_WEIGHT_BYTES:,} that one ONNX file has room for; format=safetensors "
            "has no such limit."
        )
    return traced(bundle, card, PROBABILITIES)


def traced(module: nn.Module, card: Card, output: str) -> bytes:
    """The ONNX model of a module that takes pixels, uint8 (N, H, W, C), without metadata.

    Args:
        module: gives one tensor, (N, …).
        card: of the model whose pixels it takes.
        output: the tensor's name.

    Raises:
        DiscernError: the module has an operator that ONNX lacks.
    """
    model = io.BytesIO()
    with traceable(), PlainPooling(), _silent(), warnings.catch_warnings():
        # The tracer warns of constants and of its deprecation.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _with_plain_weights(module),
                (example(card),),
                model,  # type: ignore[arg-type] # it takes open files as well
                # torch.export, which the newer exporter builds on, takes 38 s for DenseNet-121 and
                # onnxscript besides.
                dynamo=False,
                opset_version=OPSET,
                input_names=[PIXELS],
                output_names=[output],
                dynamic_axes={
                    PIXELS: {0: "images", 1: "height", 2: "width"},
                    output: {0: "images"},
                },
            )
        except Exception as error:  # the exporter has many kinds
            raise DiscernError(_reason(error)) from error
    return model.getvalue()


def _with_plain_weights(module: nn.Module) -> nn.Module:
    """A module whose weights are those that parametrizations compute, such as spectral_norm."""
    if not any(map(parametrize.is_parametrized, module.modules())):
        return module
    module = copy.deepcopy(module)
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            weights = {name: getattr(part, name).detach() for name in part.parametrizations}  # type: ignore[union-attr]
            # remove_parametrizations changes a class that the original shares.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, weight in weights.items():
                part.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return module


def _reason(error: Exception) -> str:
    """One sentence on a network that cannot be exported; names the operator."""
    if isinstance(error, torch.onnx.errors.UnsupportedOperatorError):
        found = re.search(r"[\w]+::[\w.]+", str(error))
        name = found[0] if found else first_line(error)
        return (
            f"format=onnx is not possible: the model uses {name}, an operator that ONNX "
            f"(opset {OPSET}) does not have; format=torch_export keeps it."
        )
    found = re.search(r"ONNX export of operator ([\w:]+), ([^.]+)\.", str(error))
    if found:
        return (
            f"format=onnx is not possible: the model uses {found[1]}, which ONNX (opset {OPSET}) "
            f"does not have so ({found[2]}); format=torch_export keeps it."
        )
    return f"format=onnx is not possible for this model: {first_line(error).removesuffix('.')}."


@contextmanager
def _silent() -> Iterator[None]:
    """Print no graph on failure: the exporter enables this log by mistake."""
    log_graph = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log_graph


def run(path: Path, bundle: Bundle) -> Run:
    """The file that was just written to ``path``, checked as a stranger's and ready to run."""
    model = load_exported(path, torch.get_num_threads())
    return lambda pixels: model(pixels).numpy()


def run_preparation(bundle: Bundle, card: Card) -> Run:
    """What stands before the network in the file, by itself, to measure what share it takes."""
    prepare = session(traced(bundle.prepare, card, PREPARED), torch.get_num_threads())
    return lambda pixels: prepare.run([PREPARED], {PIXELS: pixels})[0]
