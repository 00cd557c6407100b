"""Reading an exported ONNX file, also a stranger's, and running it.

The file is parsed and checked before ONNX Runtime sees it: it has ONNX's own operators alone, no
file beside it, no loop, no tensor and no constant shape of unlimited size, and discern's own
description of the model. What its operators compute may be large: ONNX Runtime's memory is limited.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import Tensor, nn

from discern.data.known import KnownImages, unknown
from discern.errors import DiscernError, first_line
from discern.exports.about import PIXELS, PROBABILITIES, Facts, read_about
from discern.exports.running import Floats, Pixels, run_pictures
from discern.files.reading import open_regular
from discern.models.card import Card
from discern.models.threads import all_threads
from discern.runs.summary import memory_bytes

MAX_BYTES = 2**31 - 1
"""Of a file: what a protobuf message may have."""

MAX_NODES, MAX_DEPTH = 200_000, 4
"""Operators of a graph, and branches within each other."""

MAX_VALUES = 2**29
"""Numbers of a tensor that a file names, such as one that an operator makes of its shape."""

MAX_PIXELS = 2**28
"""Values of the pixels that are given to a model at once."""

MEMORY_SHARE = 0.5
"""The share of the machine's memory that ONNX Runtime may take."""

USUAL_MEMORY = 2**34
"""Bytes of memory that a machine is taken to have where it does not say."""

# They run as often as the file says.
_LOOPS = {"Loop", "Scan", "SequenceMap"}


class ExportedModel(nn.Module):
    """A model in an exported file: pixels, uint8 (N, H, W, C), to probabilities (N, K).

    It has no weights that torch knows of.

    Args:
        path: the file.
        content: its bytes, which were checked.
        facts: what it says of itself.
        threads: of ONNX Runtime; 0 for its own default.

    Raises:
        DiscernError: ONNX Runtime cannot run it.
    """

    epoch: int | None = None
    """Of the checkpoint; the file does not say it."""

    def __init__(self, path: Path, content: bytes, facts: Facts, threads: int = 0) -> None:
        super().__init__()
        self.card = facts.card
        self.facts = facts
        self.path = path
        try:
            self._session = session(content, threads or all_threads())
        except Exception as error:  # its errors have no common class
            raise DiscernError(
                f"{path} cannot be run by ONNX Runtime: {first_line(error)}."
            ) from error

    @property
    def known(self) -> KnownImages:
        """The images of the model's run, as far as the file says."""
        if self.facts.known is not None:
            return self.facts.known
        return unknown(self.card.class_names if self.card.data else None, self.path)

    def of_pictures(self, pictures: Sequence[Pixels]) -> Floats:
        """Probabilities, float32 (N, K), of pictures, each uint8 (H, W, C), of any sizes."""
        return run_pictures(lambda pixels: self(pixels).numpy(), pictures)

    def forward(self, pixels: Pixels) -> Tensor:
        """Probabilities, float32 (N, K), of pixels, uint8 (N, H, W, C).

        Raises:
            DiscernError: there are too many of them, or the model cannot be run on them.
        """
        if pixels.size > MAX_PIXELS:
            raise DiscernError(
                f"{pixels.size:,} values of pixels at once are more than {MAX_PIXELS:,}."
            )
        try:
            (found,) = self._session.run([PROBABILITIES], {PIXELS: pixels})
        except Exception as error:
            raise DiscernError(f"{self.path} cannot be run: {first_line(error)}.") from error
        shape = (len(pixels), len(self.card.class_names))
        if found.shape != shape or found.dtype != np.float32:
            raise DiscernError(
                f"{self.path} gives {found.dtype} {found.shape} where its description says "
                f"float32 {shape}."
            )
        return torch.from_numpy(found)


def session(content: bytes, threads: int) -> Any:
    """An inference session of ONNX Runtime on the CPU, with its own operators alone."""
    import onnxruntime

    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is fatal is raised as well
    # Its threads would wait for the next picture at full speed, and take the cores from whatever
    # else runs: two models in turns took twice as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@functools.cache
def _limit_memory() -> None:
    """Limit the memory of all sessions in this process together."""
    from onnxruntime import (
        OrtAllocatorType,
        OrtArenaCfg,
        OrtMemoryInfo,
        OrtMemType,
        create_and_register_allocator,
    )

    most = int(MEMORY_SHARE * (memory_bytes() or USUAL_MEMORY))
    place = OrtMemoryInfo("Cpu", OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, OrtMemType.DEFAULT)
    # -1 is ONNX Runtime's own choice of how the rest is done.
    usual = ("arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk")
    limits = {"max_mem": most, **dict.fromkeys(usual, -1)}
    create_and_register_allocator(place, OrtArenaCfg(limits))


def load_exported(path: Path, threads: int = 0) -> ExportedModel:
    """The model in an exported file.

    Raises:
        DiscernError: the file is missing, damaged, unsafe, or was not exported by discern.
    """
    content, facts = read(path)
    return ExportedModel(path, content, facts, threads)


def read(path: Path) -> tuple[bytes, Facts]:
    """The bytes of a file, checked, and what it says of itself.

    Raises:
        DiscernError: as :func:`load_exported`.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise DiscernError(f"{path} is larger than {MAX_BYTES:,} bytes.")
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        model = onnx.load_model_from_string(content)
    except (DecodeError, ValueError, RecursionError) as error:
        raise DiscernError(f"{path} is not an ONNX model.") from error
    try:
        values = _checked(model)
    except ValueError as error:
        raise DiscernError(f"{path} is not run: {first_line(error)}.") from error
    except TypeError as error:  # protobuf gives bytes where a text is not UTF-8
        raise DiscernError(f"{path} is damaged: it has a name that is not a text.") from error
    facts = read_about(values, path)
    _check_ends(model, facts.card, path)
    return content, facts


def _checked(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model that may be run.

    Raises:
        ValueError: says why it may not.
    """
    domains = {opset.domain for opset in model.opset_import}
    if not domains <= {"", "ai.onnx"}:
        raise ValueError(f"it uses operators of {_shown(sorted(domains - {'', 'ai.onnx'})[0])}")
    if model.functions or model.training_info:
        raise ValueError("it brings functions of its own")
    nodes, graphs = 0, []
    for graph in _graphs(model.graph, 0):
        graphs.append(graph)
        nodes += len(graph.node)
        if nodes > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} operators")
        for node in graph.node:
            _check_node(node)
        if graph.sparse_initializer:
            raise ValueError("it has sparse tensors, which discern does not write")
    for tensor in _tensors(model):
        _check_tensor(tensor)
    _check_shapes(graphs)
    values: dict[str, str] = {}
    for prop in model.metadata_props:
        if not (isinstance(prop.key, str) and isinstance(prop.value, str)):
            raise ValueError("its metadata are not texts")
        if prop.key in values:
            raise ValueError(f"it says {_shown(prop.key)} twice")
        values[prop.key] = prop.value
    return values


def _check_node(node: onnx.NodeProto) -> None:
    if not isinstance(node.op_type, str):
        raise ValueError("an operator has a name that is not a text")
    if node.domain not in ("", "ai.onnx"):
        raise ValueError(f"it uses {_shown(node.op_type)} of {_shown(node.domain)}")
    if node.op_type in _LOOPS:
        raise ValueError(f"it has a loop ({node.op_type})")
    if not onnx.defs.has(node.op_type):
        raise ValueError(f"{_shown(node.op_type)} is not an operator of ONNX")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError("some of its weights are in another file")
    if any(length < 0 for length in tensor.dims) or math.prod(tensor.dims) > MAX_VALUES:
        raise ValueError(f"a tensor has more than {MAX_VALUES:,} numbers")


def _check_shapes(graphs: Sequence[onnx.GraphProto]) -> None:
    """Refuse a constant that, as the shape of a tensor to be made, would fill the memory."""
    harmless = _lengths_and_places(graphs)
    for graph in graphs:
        constants = [(tensor.name, _whole_numbers(tensor)) for tensor in graph.initializer]
        constants += [
            (node.output[0] if node.op_type == "Constant" and node.output else "", values)
            for node in graph.node
            for attribute in node.attribute
            for values in (list(attribute.ints), *map(_whole_numbers, _tensors(attribute)))
        ]
        for name, values in constants:
            # The largest index, which stands for the end of an axis, is no shape.
            is_shape = 0 < len(values) <= 8 and all(0 < value < 2**31 - 1 for value in values)
            if is_shape and name not in harmless and math.prod(values) > MAX_VALUES:
                raise ValueError(f"it makes a tensor of more than {MAX_VALUES:,} numbers")


def _lengths_and_places(graphs: Sequence[onnx.GraphProto]) -> set[str]:
    """Names of values that say how a tensor that is there is cut, and nothing else."""
    used: dict[bool, set[str]] = {True: set(), False: set()}
    for graph in graphs:
        used[False] |= {output.name for output in graph.output}
        for node in graph.node:
            for place, name in enumerate(node.input):
                used[place > 0 and node.op_type in ("Split", "Slice")].add(name)
    return used[True] - used[False]


def _whole_numbers(tensor: onnx.TensorProto) -> list[int]:
    """The values of a small tensor of whole numbers; none of another."""
    is_whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    if not (is_whole and tensor.dims and math.prod(tensor.dims) <= 8):
        return []
    values: list[int] = onnx.numpy_helper.to_array(tensor).ravel().tolist()
    return values


def _graphs(graph: onnx.GraphProto, depth: int) -> Iterator[onnx.GraphProto]:
    """A graph and those in its branches."""
    if depth > MAX_DEPTH:
        raise ValueError("its branches are nested too deeply")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner, depth + 1)


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors in a message, wherever they are."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _check_ends(model: onnx.ModelProto, card: Card, path: Path) -> None:
    """Refuse a model whose input or output is not what its card says."""
    channels, classes = card.input_shape[0], len(card.class_names)
    ends = [*_ends(model.graph.input), *_ends(model.graph.output)]
    wanted = [
        (PIXELS, onnx.TensorProto.UINT8, [0, 0, 0, channels]),
        (PROBABILITIES, onnx.TensorProto.FLOAT, [0, classes]),
    ]
    if ends != wanted:
        raise DiscernError(
            f"{path} is not a model that discern exported: it does not take {PIXELS}, uint8 "
            f"(N, H, W, {channels}), and give {PROBABILITIES}, float32 (N, {classes})."
        )


def _ends(values: Any) -> Iterator[tuple[str, int, list[int]]]:
    for value in values:
        tensor = value.type.tensor_type
        yield value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]


def _shown(text: str | bytes) -> str:
    return str(text)[:60] or "an unnamed domain"
