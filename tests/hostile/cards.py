"""Checkpoints of strangers: a real one with something in it that no run would have written.

Each is a content for :func:`discern.models.checkpoint.write`, whose digest is then right: what is
hostile is only what it says. All follow from a seed.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Content = dict[str, Any]
Path = tuple[Any, ...]

SECRET = "HOSTILE_SECRET"
"""A variable of the environment that some of them ask for."""

VALUES: dict[str, Callable[[random.Random], Any]] = {
    "none": lambda draw: None,
    "true": lambda draw: True,
    "zero": lambda draw: 0,
    "minus one": lambda draw: -1,
    "a whole number": lambda draw: draw.randrange(2, 100),
    "a large one": lambda draw: draw.choice([2**31, 2**53 + 1, 2**63 - 1, 2**64, 10**4000]),
    "a negative one": lambda draw: -draw.choice([2, 2**31, 2**63, 10**400]),
    "a fraction": lambda draw: draw.uniform(-2, 2),
    "nan": lambda draw: float("nan"),
    "infinity": lambda draw: draw.choice([float("inf"), float("-inf")]),
    "a tiny number": lambda draw: 5e-324,
    "a huge number": lambda draw: 1.7e308,
    "no text": lambda draw: "",
    "a word": lambda draw: draw.choice(["min", "test", "default", "state_dict", "step"]),
    "a long text": lambda draw: "x" * 200_000,
    "an interpolation": lambda draw: f"${{oc.env:{SECRET}}}",
    "a resolver": lambda draw: "${hydra:runtime.cwd}",
    "a path": lambda draw: draw.choice(["/etc/passwd", "../../x.safetensors", "/dev/zero", "~"]),
    "an address": lambda draw: "https://localhost:1/x.safetensors",
    "a terminal's": lambda draw: "\x1b]0;title\x07\x1b[31m\u202e\n\r\t\x00",
    "a formula": lambda draw: '=HYPERLINK("http://localhost:1")',
    "a surrogate": lambda draw: "\ud800",
    "a class": lambda draw: {"_target_": "sympy.sympify", "a": "1"},
    "a class's name": lambda draw: "os.system",
    "an empty list": lambda draw: [],
    "a list": lambda draw: [0, 1, "x"],
    "a long list": lambda draw: [1] * 100_000,
    "a deep list": lambda draw: _nested(35),
    "a tuple": lambda draw: (1, 2),
    "a set": lambda draw: {1, 2},
    "a counter": lambda draw: Counter({3: 1}),
    "no mapping": lambda draw: {},
    "a mapping": lambda draw: {"a": 1, 2: "b", (1, 2): None},
    "an empty tensor": lambda draw: torch.zeros(0),
    "a number's tensor": lambda draw: torch.tensor(draw.choice([0.0, -1.0, float("nan"), 1e38])),
    "a small tensor": lambda draw: torch.zeros(3),
    "a tensor of another shape": lambda draw: torch.ones(draw.randrange(1, 9), 784),
    "a turned tensor": lambda draw: torch.ones(784, draw.randrange(2, 9)).T,
    "whole numbers": lambda draw: torch.ones(8, 784, dtype=torch.int64),
    "truths": lambda draw: torch.ones(8, dtype=torch.bool),
    "a byte": lambda draw: torch.full((5056,), draw.randrange(256), dtype=torch.uint8),
    "doubles": lambda draw: torch.ones(8, 784, dtype=torch.float64),
    "halves": lambda draw: torch.ones(8, dtype=torch.bfloat16),
    "nothing of a size": lambda draw: torch.zeros(0, 2**40),
}
"""What stands in the place of something else."""


def _nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def places(node: Any, path: Path = ()) -> Iterator[Path]:
    """The places of all parts of a content, the whole left out."""
    parts: Any = ()
    if isinstance(node, dict):
        parts = node.items()
    elif isinstance(node, list | tuple):
        parts = enumerate(node[:50])
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def at(content: Any, path: Path) -> Any:
    """What stands at a place."""
    for key in path:
        content = content[key]
    return content


def put(content: Any, path: Path, value: Any) -> Any:
    """A content with something else at a place; the rest is shared."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(content, dict):
        return {**content, key: put(content.get(key), rest, value)}
    changed = list(content)
    changed[key] = put(content[key], rest, value)
    return type(content)(changed)


def without(content: Any, path: Path) -> Any:
    """A content that lacks what stands at a place."""
    parent = at(content, path[:-1])
    if isinstance(parent, dict):
        kept: Any = {key: part for key, part in parent.items() if key != path[-1]}
    else:
        kept = type(parent)(part for number, part in enumerate(parent) if number != path[-1])
    return put(content, path[:-1], kept)


def spoilt(tensor: Tensor, draw: random.Random) -> tuple[str, Tensor]:
    """A tensor with other numbers, another shape or type."""
    kinds: dict[str, Callable[[], Tensor]] = {
        "nan": lambda: torch.full_like(tensor.double(), float("nan")).to(tensor.dtype),
        "infinite": lambda: torch.full_like(tensor.double(), 1e39).to(torch.float32),
        "negative": lambda: -tensor.double().abs().to(torch.float32) - 1,
        "random bits": lambda: torch.randint(
            0, 256, (tensor.numel() * tensor.element_size(),), dtype=torch.uint8,
            generator=torch.Generator().manual_seed(draw.randrange(2**31)),
        ).view(tensor.dtype if tensor.dtype != torch.bool else torch.uint8).reshape(tensor.shape),
        "a number": lambda: torch.zeros((), dtype=tensor.dtype),
        "flat": lambda: tensor.reshape(-1).clone(),
        "shorter": lambda: tensor.reshape(-1)[: tensor.numel() // 2].clone(),
        "longer": lambda: torch.cat([tensor.reshape(-1)] * 2),
        "empty": lambda: tensor.reshape(-1)[:0].clone(),
        "turned": lambda: tensor.T.clone() if tensor.ndim == 2 else tensor[None].clone(),
        "doubles": lambda: tensor.double(),
        "whole numbers": lambda: tensor.double().nan_to_num().clamp(-9, 9).to(torch.int32),
        "truths": lambda: tensor != 0,
    }  # fmt: skip
    kind = draw.choice(sorted(kinds))
    return kind, kinds[kind]()


def changed(
    content: Content, seed: int, within: Sequence[str] | None = None
) -> tuple[str, Content]:
    """A content with one part, drawn by a seed, that is missing, another, or renamed."""
    draw = random.Random(seed)
    # Each of the parts of a checkpoint as often as any other, however many parts it has itself.
    top = draw.choice(sorted(within or content))
    found = [(top,), *((top, *rest) for rest in places(content[top]))]
    path = draw.choice(found)
    name = ".".join(str(part)[:30] for part in path)
    value = at(content, path)
    how = draw.random()
    if how < 0.1:
        return f"{name} left out", without(content, path)
    if how < 0.2 and len(path) > 1 and isinstance(at(content, path[:-1]), dict):
        keys = ["_target_", "${x}", "step", "../x", "", "x" * 5000]
        other = draw.choice(keys if top == "state_dict" else [*keys, 7, -1, None])
        return (
            f"{name} as {str(other)[:20]}",
            put(without(content, path), (*path[:-1], other), value),
        )
    # The file has a place for the network's tensors, and none for anything in their stead.
    if isinstance(value, Tensor) and (how < 0.6 or top == "state_dict"):
        kind, tensor = spoilt(value, draw)
        return f"{name}: {kind}", put(content, path, tensor)
    kind = draw.choice(sorted(VALUES)) if top != "state_dict" else "no mapping"
    return f"{name}: {kind}", put(content, path, VALUES[kind](draw))


def hostile(
    content: Content, count: int, seed: int = 0, within: Sequence[str] | None = None
) -> Iterator[tuple[str, Content]]:
    """So many contents, each with a name, that follow from a real one and a seed.

    Args:
        content: what :func:`discern.models.saved.read` reads of a run's checkpoint.
        count: of contents.
        seed: of the first; the others have those that follow.
        within: the parts of a checkpoint that are changed; all of them without.
    """
    for number in range(seed, seed + count):
        name, other = changed(content, number, within)
        yield f"{number} {name}", other


def named(content: Content) -> Iterator[tuple[str, Content]]:
    """Contents that were found to do harm, or are made to be as large as they can claim."""
    card, state = ("discern",), ("optimizer_states", 0, "state", 0)
    settings = (*card, "model", "settings")
    changes: dict[str, tuple[Path, Any]] = {
        "a seed that is a class": (
            (*card, "config", "seed"), {"_target_": "sympy.sympify", "a": "1"},
        ),
        "a seed from the environment": ((*card, "config", "seed"), f"${{oc.env:{SECRET}}}"),
        "a data set's seed from there": (
            (*card, "config", "data", "seed"), f"${{oc.env:{SECRET}}}",
        ),
        "a class among the data's settings": (
            (*card, "config", "data", "mean"), [{"_target_": "sympy.sympify", "a": "1"}],
        ),
        "many workers": ((*card, "config", "data", "num_workers"), 1024),
        "all images at once": ((*card, "config", "data", "eval_batch_size"), 2**31),
        "a large image": ((*card, "input_shape"), (3, 8000, 8000)),
        "layers": ((*settings, "hidden"), [10**6] * 1000),
        "a wide layer": ((*settings, "hidden"), [2**20]),
        "classes": ((*card, "class_names"), [str(number % 10) for number in range(2**20)]),
        "a resize": ((*card, "preprocessing", "resize"), 65536),
        "no temperature": ((*card, "temperature"), 0.0),
        "a temperature that is none": ((*card, "temperature"), float("nan")),
        "an endless temperature": ((*card, "temperature"), float("inf")),
        "a temperature from there": ((*card, "temperature"), f"${{oc.env:{SECRET}}}"),
        "a huge backbone": ((*card, "model"), {
            "name": "transfer",
            "settings": {"library": "torchvision", "backbone": "regnet_y_128gf", "weights": None},
        }),
        "a short average": ((*state, "exp_avg"), torch.zeros(3)),
        "an average that is a number": ((*state, "exp_avg"), torch.zeros(())),
        "a short average of squares": ((*state, "exp_avg_sq"), torch.zeros(3)),
        "many steps": ((*state, "step"), torch.zeros(6272)),
        "private files": (
            ("callbacks",),
            {
                key: {**part, "best_k_models": {"/etc/passwd": torch.tensor(0.0)}}
                if isinstance(part, dict) and "best_k_models" in part
                else part
                for key, part in content.get("callbacks", {}).items()
            },
        ),
        "a generator": (("callbacks", "RngState", "cpu"), torch.full((5056,), 255).byte()),
    }  # fmt: skip
    for name, (path, value) in changes.items():
        yield name, put(content, path, value)
    nan = copy.copy(content)
    nan["state_dict"] = {
        key: part * float("nan") if part.is_floating_point() else part
        for key, part in content["state_dict"].items()
    }
    yield "weights of nan", nan
    many = {f"layer.{number}": torch.zeros(1) for number in range(10_000)}
    yield "ten thousand layers", {**content, "state_dict": {**content["state_dict"], **many}}
