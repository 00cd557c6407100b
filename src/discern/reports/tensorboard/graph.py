"""A network's graph for TensorBoard, module by module."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from discern.models.layers import empty_image, undisturbed

PRODUCER = 22
"""The version of the format, as torch.utils.tensorboard writes it."""

CHANGE_NOTHING = ("requires_grad_", "detach", "contiguous", "float")
"""Operations that are left out of the graph if they return their input."""


def graph_of(network: nn.Module, input_shape: Sequence[int]) -> GraphDef:
    """The graph of a network in eval mode for an image of zeros, (1, C, H, W).

    One forward pass is recorded: a node for each torch function that returns a tensor, in the scope
    of the module that calls it. ``SummaryWriter.add_graph`` takes thirty times as long for a
    backbone, and uses ``torch.jit.trace``, which is deprecated. The network, its training mode and
    the random generators are left as they were.
    """
    watched = copy.copy(network)  # shallow: the parts are the network's own
    if hasattr(watched, "engine"):
        watched.__dict__["engine"] = None  # torch cannot see what another engine computes
    recorder = _Recorder()
    with ExitStack() as stack:
        stack.enter_context(undisturbed(watched))
        stack.enter_context(recorder.scopes(watched))
        image = empty_image(watched, input_shape)
        recorder.add("images", "input", [], image)
        stack.enter_context(recorder)
        output = watched(image)
    recorder.add("logits", "output", [output], output)
    return GraphDef(node=recorder.nodes, versions=VersionDef(producer=PRODUCER))


class _Recorder(TorchFunctionMode):
    """Records each function that returns a tensor, and which nodes its inputs come from.

    Attributes:
        nodes: one for each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[NodeDef] = []
        # The stack of running modules, the outermost first: name and scope.
        self._running: list[tuple[str, str]] = [("", "")]
        self._names: Counter[str] = Counter()
        # Not by id, which is reused after a tensor is freed.
        self._producers = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = list(_tensors((args, kwargs)))
        unchanged = name in CHANGE_NOTHING and any(output is tensor for tensor in given)
        if not name.startswith("__get") and not unchanged and any(True for _ in _tensors(output)):
            self.add(name.strip("_"), name.strip("_"), given, output)
        return output

    def add(self, name: str, kind: str, given: Sequence[object], output: object) -> None:
        """Add a node: its name in its scope, its operation, its inputs and its output."""
        path = self._running[-1][1] + name
        self._names[path] += 1
        unique = path if self._names[path] == 1 else f"{path}_{self._names[path]}"
        producers = dict.fromkeys(
            self._producers[tensor] for tensor in _tensors(given) if tensor in self._producers
        )
        outputs = list(_tensors(output))
        shapes = AttrValue.ListValue(shape=[_shape(tensor) for tensor in outputs])
        node = NodeDef(name=unique, op=kind, input=producers)
        node.attr["_output_shapes"].CopyFrom(AttrValue(list=shapes))
        for tensor in given:
            if isinstance(tensor, nn.Parameter):
                size = "x".join(map(str, tensor.shape))
                node.attr["parameters"].list.s.append(size.encode())
        self.nodes.append(node)
        for tensor in outputs:
            self._producers[tensor] = unique

    @contextmanager
    def scopes(self, network: nn.Module) -> Iterator[None]:
        """Track which module is running, within the block."""
        handles = []
        for name, module in network.named_modules():
            enter, leave = self._hooks(name)
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        calls = itertools.count(1)

        def enter(*_: object) -> None:
            outer, scope = self._running[-1]
            # A ModuleList does not run itself, so its layers stand side by side.
            own = name.removeprefix(f"{outer}.")
            # An activation shared by several layers would otherwise be one node of all of them.
            again = next(calls)
            own = f"{own}_{again}" if again > 1 else own
            self._running.append((name, f"{scope}{own}/" if name else ""))

        def leave(*_: object) -> None:
            self._running.pop()

        return enter, leave


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _shape(tensor: Tensor) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in tensor.shape])
