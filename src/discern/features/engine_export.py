"""Export of a backbone to an ONNX model, kept in the cache folder."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from discern.files.derived import MAX_BYTES, SUFFIX, beside, folder, make_room, mark_used
from discern.files.writing import write_whole
from discern.models.backbones import Backbone

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of the files' names; raised when the same backbone gives another model."""

MAX_WEIGHT_BYTES = 2**31 - 2**24
"""Limit for the weights. An ONNX model of 2 GiB would need external files; a margin is left."""

INPUT, OUTPUT = "images", "features"

# torch.export, which the newer exporter builds on, takes 38 s for DenseNet-121 where tracing takes
# 0.7 s, and needs onnxscript besides onnx; both models run equally fast. With operators of this
# version all of torchvision's and the usual ones of timm's networks can be exported.
_OPSET = 18

# The package with a network's code, which may change between releases.
_PACKAGES = {"efficientnet_lite": "efficientnet-lite-pytorch"}


@contextmanager
def as_float32() -> Iterator[None]:
    """Compute in float32 without a graph, also within inference mode or autocast."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def weight_bytes(network: nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def release(package: str) -> str:
    """Its major and minor version, such as ``2.14``; ``none`` without the package."""
    try:
        return ".".join(version(package).split(".")[:2])
    except PackageNotFoundError:
        return "none"


def backbone_key(backbone: Backbone, shape: Sequence[int]) -> str:
    """Key of a backbone for images of a shape (3, H, W): architecture and weights."""
    library, name = backbone.provenance.library, backbone.provenance.name
    code = f"{library}-{release(_PACKAGES.get(library, library))}-{name}"
    return f"{code}-{backbone.digest()}-{shape[1]}x{shape[2]}".replace("/", "_")


def model_path(backbone: Backbone, shape: Sequence[int]) -> Path:
    """The cached file of a backbone's model for images of a shape (3, H, W)."""
    name = f"{backbone_key(backbone, shape)}-torch-{release('torch')}-{FORMAT}{SUFFIX}"
    return folder() / name


def export(network: nn.Module, shape: Sequence[int]) -> bytes:
    """The ONNX model of a network: an image (1, 3, H, W) -> its features (1, F), float32.

    Args:
        network: in evaluation mode, on the CPU.
        shape: (3, H, W).

    Raises:
        Exception: of any kind, where the network has operations that ONNX lacks.
    """
    example = torch.zeros((1, *shape), device="cpu")
    model = io.BytesIO()
    with as_float32(), _traceable(), warnings.catch_warnings():
        # The tracer warns of constants and of its deprecation.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            model,  # type: ignore[arg-type] # it takes open files as well
            dynamo=False,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    return model.getvalue()


@contextmanager
def _traceable() -> Iterator[None]:
    """Use attention operations that ONNX has, and print no graph on failure."""
    fused: bool = torch.backends.mha.get_fastpath_enabled()
    log_graph = torch._C._jit_onnx_log
    torch.backends.mha.set_fastpath_enabled(False)
    # The exporter enables this log by mistake even if it is not verbose.
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._jit_onnx_log = log_graph


# The kept file


def kept(path: Path) -> bytes | None:
    """The model in an intact file; None if there is none."""
    try:
        model = path.read_bytes()
        sha256 = beside(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    if hashlib.sha256(model).hexdigest() != sha256.strip() or not _stands_alone(model):
        log.debug("%s is damaged and made anew.", path)
        return None
    mark_used(path)
    return model


def keep(path: Path, model: bytes) -> None:
    """Write a model for :func:`kept`, if possible; the least recently used ones may be removed."""
    try:
        with write_whole(path, "wb") as file:
            file.write(model)
        with write_whole(beside(path)) as file:
            file.write(hashlib.sha256(model).hexdigest() + "\n")
        make_room(MAX_BYTES, keep=path)
    except OSError as error:
        log.debug("%s is not kept: %s.", path, error)


def _stands_alone(model: bytes) -> bool:
    """Whether a model has only ONNX's own operators and no external data.

    An engine reads any file that a tensor refers to.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        content = onnx.load_model_from_string(model)
    except DecodeError:
        return False
    values = [
        [value.name for value in part] for part in (content.graph.input, content.graph.output)
    ]
    domains = {opset.domain for opset in content.opset_import}
    if values != [[INPUT], [OUTPUT]] or not domains <= {"", "ai.onnx"}:
        return False
    tensors = (m for m in _messages(content) if isinstance(m, onnx.TensorProto))
    return not any(
        tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in tensors
    )


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages in it."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
