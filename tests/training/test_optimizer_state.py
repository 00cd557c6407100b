"""An optimizer takes over its own states, and none that is of another form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from discern.models.checkpoint import read, write
from discern.models.optimizer import build_optimizer
from discern.training.optimizer_state import checked_state

ALL = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "Adam": [{}, {"amsgrad": True}, {"fused": False, "foreach": True}],
    "RMSprop": [{}, {"momentum": 0.5, "centered": True}],
    "LBFGS": [{}, {"line_search_fn": "strong_wolfe"}],
}
CASES = [(name, settings) for name in ALL for settings in SETTINGS.get(name, [{}])]


class Own(Optimizer):
    """A user's own, whose state has numbers, a list and a part that comes with the third step."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "word": "mine"})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                state["seen"] = [*state.get("seen", [])[-3:], parameter.grad.clone()]
                if state["count"] == 3:
                    state["late"] = torch.zeros_like(parameter)
        return None if closure is None else closure()


def parameters(name: str) -> list[nn.Parameter]:
    shapes: list[tuple[int, ...]] = [(4, 7), (4,), (3, 4, 2, 2), (), (4, 7)]
    shapes = [(4, 7), (7, 4)] if name == "Muon" else shapes
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def builder(name: str, options: dict[str, Any]) -> Callable[..., Optimizer]:
    kind = partial(ALL.get(name, Own), lr=1e-3, **options)
    return lambda groups: build_optimizer(kind, groups, may_fuse=True)


def trained(build: Callable[..., Optimizer], name: str, steps: int) -> Optimizer:
    weights = parameters(name)
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 1e-4, "name": "rest"}]
    optimizer = build([{"params": weights}] if name == "LBFGS" else groups)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(((weight - 1) ** 2).sum() for weight in weights)
        assert isinstance(loss, Tensor)
        loss.backward()
        if name == "SparseAdam":
            for weight in weights:
                weight.grad = None if weight.ndim < 2 else weight.grad.to_sparse()  # type: ignore
        return loss

    for _ in range(steps):
        if name == "SparseAdam":
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)  # type: ignore[arg-type]
    return optimizer


def through_a_file(state: dict[str, Any]) -> Any:
    with TemporaryDirectory() as folder:
        write({"state_dict": {}, "optimizer": state}, Path(folder) / "x.safetensors")
        return read(Path(folder) / "x.safetensors")["optimizer"]


@pytest.mark.parametrize(("name", "options"), [*CASES, ("Own", {})])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_what_an_optimizer_has_kept_is_its_own(name, options, steps):
    build = builder(name, options)
    before = trained(build, name, steps)
    live = trained(build, name, 0)
    saved = through_a_file(before.state_dict())
    live.load_state_dict(checked_state(saved, live, build))
    again = live.state_dict()["state"]
    for number, parts in before.state_dict()["state"].items():
        for key, part in parts.items():
            if isinstance(part, Tensor):
                assert torch.equal(again[number][key], part)


FUSED = [("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {}), ("Adagrad", {})]


@pytest.mark.parametrize(("name", "options"), FUSED)
@settings(max_examples=25)
@given(data=st.data())
def test_no_part_of_another_shape_reaches_a_fused_step(name, options, data):
    build = builder(name, options)
    state = trained(build, name, 2).state_dict()
    number = data.draw(st.sampled_from(sorted(state["state"])))
    key = data.draw(st.sampled_from(sorted(state["state"][number])))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=3).map(tuple))
    if shape == tuple(state["state"][number][key].shape):
        return
    state["state"][number] = {**state["state"][number], key: torch.zeros(shape)}
    live = trained(build, name, 0)
    with pytest.raises(ValueError, match=f"its {key} of parameter {number} "):
        checked_state(state, live, build)


def test_a_buffer_that_this_run_does_not_keep_cannot_have_another_shape():
    state = trained(builder("SGD", {"momentum": 0.9}), "SGD", 2).state_dict()
    build = builder("SGD", {})
    live = trained(build, "SGD", 0)
    taken = checked_state(state, live, build)
    assert taken["param_groups"][0]["momentum"] == 0.9
    state["state"][0]["momentum_buffer"] = torch.zeros(())
    with pytest.raises(ValueError, match=r"momentum_buffer of parameter 0 has the shape \[\]"):
        checked_state(state, live, build)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("exp_avg", torch.full((4, 7), float("nan")), "is not finite"),
        ("exp_avg_sq", torch.full((4, 7), -1.0), "is negative"),
        ("exp_avg_sq", torch.full((4, 7), float("inf")), "is not finite"),
        ("exp_avg", torch.ones(4, 7, dtype=torch.int64), "is of torch.int64"),
        ("exp_avg", torch.ones(7, 4), r"has the shape \[7, 4\] and not \[4, 7\]"),
        ("exp_avg", [1.0], "is not a tensor"),
        ("exp_avg", None, "is not a tensor"),
        ("step", torch.tensor(-1.0), "is negative"),
        ("step", 3, "is not a tensor"),
    ],
)
def test_numbers_that_no_step_leaves_are_refused(key, value, told):
    build = builder("Adam", {})
    state = trained(build, "Adam", 1).state_dict()
    state["state"][0] = {**state["state"][0], key: value}
    with pytest.raises(ValueError, match=told):
        checked_state(state, trained(build, "Adam", 0), build)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": float("nan")}, "lr is not a number"),
        ({"lr": -1.0}, "lr is not a number"),
        ({"lr": "0.1"}, "lr is not a number"),
        ({"lr": True}, "lr is not a number"),
        ({"betas": (0.9,)}, "betas is not of 2 numbers"),
        ({"betas": (0.9, 1.0)}, "betas is not a number"),
        ({"params": [0, 1]}, "groups have other parameters"),
        ({"params": None}, "groups have other parameters"),
    ],
)
def test_settings_that_are_none_are_refused(change, told):
    build = builder("Adam", {})
    state = trained(build, "Adam", 1).state_dict()
    state["param_groups"][0] |= change
    with pytest.raises(ValueError, match=told):
        checked_state(state, trained(build, "Adam", 0), build)


def test_how_a_step_is_computed_is_this_runs():
    build = builder("Adam", {})
    state = trained(build, "Adam", 1).state_dict()
    state["param_groups"][0] |= {"amsgrad": True, "fused": "x", "foreach": [1], "lr": 0.25}
    live = trained(build, "Adam", 0)
    (group, _) = checked_state(state, live, build)["param_groups"]
    assert (group["amsgrad"], group["fused"], group["foreach"], group["lr"]) == (
        False, True, None, 0.25,
    )  # fmt: skip


@pytest.mark.parametrize("state", [None, {}, {"state": [], "param_groups": []}, {"state": {}}])
def test_what_is_no_state_is_refused(state):
    build = builder("Adam", {})
    with pytest.raises(ValueError, match=r"it is not a state|its groups"):
        checked_state(state, trained(build, "Adam", 0), build)


def test_looking_draws_no_random_number_and_changes_nothing():
    build = builder("Adam", {})
    state = trained(build, "Adam", 1).state_dict()
    live = trained(build, "Adam", 0)
    before = [p.detach().clone() for group in live.param_groups for p in group["params"]]
    generator = torch.get_rng_state()
    checked_state(state, live, build)
    assert torch.equal(torch.get_rng_state(), generator)
    now = [p for group in live.param_groups for p in group["params"]]
    assert all(torch.equal(one, other) for one, other in zip(before, now, strict=True))
    assert not live.state
