"""The state of an optimizer in a checkpoint, compared with what the optimizer itself would have.

A fused step reads and writes the numbers of a state by their places in memory, without asking how
many there are: a state of another shape than its parameter corrupts the memory of the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from discern.models.optimizer import Group
from discern.training.states import check_tensor

Build = Callable[[list[Group]], Optimizer]
Shape = tuple[int, ...]

NOT_NEGATIVE = frozenset(
    ("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf",
     "row_var", "col_var", "variance", "step_size", "mu_product")
)  # fmt: skip
"""Parts of the state of torch's optimizers that are counts, sizes, or means of squares."""


def checked_state(saved: object, live: Optimizer, build: Build) -> dict[str, object]:
    """An optimizer's state from a checkpoint, safe to load.

    Numbers among its settings are the checkpoint's; what says how a step is computed is the live
    optimizer's.

    Args:
        saved: what the checkpoint holds.
        live: the optimizer that it is for.
        build: makes another optimizer like it, of groups of parameters.

    Raises:
        ValueError: it is not such as this optimizer has; names the part.
    """
    groups, state = (
        (saved.get("param_groups"), saved.get("state")) if isinstance(saved, dict) else (None, None)
    )
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise ValueError("it is not a state of an optimizer")
    current = live.state_dict()["param_groups"]
    if len(groups) != len(current):
        raise ValueError(f"its groups of parameters are not the {len(current)} of this run")
    parameters = [parameter for group in live.param_groups for parameter in group["params"]]
    if not all(type(number) is int and 0 <= number < len(parameters) for number in state):
        raise ValueError(f"it is not of {len(parameters)} parameters")
    settings = [_checked_group(*pair) for pair in zip(groups, current, strict=True)]
    if any(state.values()):
        _check_parts(state, live, _fresh(live, build))
    return {"state": state, "param_groups": settings}


# The settings of its groups


def _checked_group(saved: object, current: Group) -> Group:
    """A group's settings: numbers from the checkpoint, everything else from this run."""
    if not isinstance(saved, dict) or saved.get("params") != current["params"]:
        raise ValueError("its groups have other parameters than those of this run")
    # A schedule that the run had may have left numbers in it.
    numbers = {k: value for k, value in saved.items() if k not in current and _is_finite(value)}
    kept = {key: _checked_setting(key, saved.get(key, now), now) for key, now in current.items()}
    return {**numbers, **kept}


def _checked_setting(name: str, saved: object, now: object) -> object:
    if isinstance(now, list | tuple) and name != "params":
        if not isinstance(saved, list | tuple) or len(saved) != len(now):
            raise ValueError(f"{name} is not of {len(now)} numbers")
        return tuple(_checked_setting(name, *pair) for pair in zip(saved, now, strict=True))
    if isinstance(now, Tensor):
        if not isinstance(saved, Tensor) or saved.shape != now.shape:
            raise ValueError(f"{name} is not a number")
        return saved
    if isinstance(now, bool) or not isinstance(now, int | float):
        return now
    if not _is_finite(saved) or (saved < 0 <= now) or (name == "betas" and saved >= 1):
        raise ValueError(f"{name} is not a number in its range")
    return saved


def _is_finite(value: object) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


# What it keeps of each parameter


Kind = tuple[int, Shape, torch.dtype]
"""The number of a group, and the shape and type of a parameter in it."""

State = dict[str, object]
"""What an optimizer keeps of one parameter: name -> tensor or number."""


def _kind(group: int, parameter: Tensor) -> Kind:
    return group, tuple(parameter.shape), parameter.dtype


def _fresh(live: Optimizer, build: Build) -> dict[Kind, State] | None:
    """The state of an optimizer like ``live`` after one step, per kind of parameter.

    One parameter of zeros stands for all of a kind, so that it takes less than training will.

    Returns:
        None of an optimizer that takes no such step.
    """
    groups: list[Group] = []
    kinds: list[Kind] = []
    for number, group in enumerate(live.param_groups):
        like = {_kind(number, parameter): parameter for parameter in group["params"]}
        kinds += like
        zeros = [torch.zeros_like(parameter).requires_grad_() for parameter in like.values()]
        groups.append({**group, "params": zeros})
    zeros = [parameter for group in groups for parameter in group["params"]]
    try:
        with torch.random.fork_rng(devices=[]):
            probe = build(groups)
            for parameter in zeros:
                parameter.grad = torch.zeros_like(parameter)
            probe.step(lambda: 0.0)
    except Exception:  # of gradients that are sparse, say; a library's optimizer has its own
        return None
    return {kind: dict(probe.state[part]) for kind, part in zip(kinds, zeros, strict=True)}


def _check_parts(
    state: Mapping[int, object], live: Optimizer, fresh: Mapping[Kind, State] | None
) -> None:
    numbered = [
        (number, parameter)
        for number, group in enumerate(live.param_groups)
        for parameter in group["params"]
    ]
    whole = sum(parameter.numel() for _, parameter in numbered)
    # A fused step takes for granted what a state is like.
    fused = any(group.get("fused") for group in live.param_groups)
    torchs = type(live).__module__.startswith("torch.optim")
    for number, parts in state.items():
        if not isinstance(parts, dict):
            raise ValueError(f"its state of parameter {number} is not a mapping")
        group, parameter = numbered[number]
        known = {} if fresh is None else fresh[_kind(group, parameter)]
        shape = tuple(parameter.shape)
        # An optimizer starts anew where it has kept nothing.
        if parts and (missing := [name for name in known if name not in parts]):
            raise ValueError(f"its state {number} lacks {missing[0]}")
        for name, part in parts.items():
            place = f"its {str(name)[:40]} of parameter {number}"
            if isinstance(usual := known.get(name), Tensor):
                check_tensor(part, usual, place)
            else:
                # Of settings that this run has not, such as momentum, or that come with later
                # steps; (whole,) is that of an optimizer that sees all parameters as one.
                shapes = {shape} if fused else {shape, (), (whole,)}
                shapes |= {tuple(tensor.shape) for tensor in _tensors_in(usual)}
                for tensor in _tensors_in(part):
                    if tuple(tensor.shape) not in shapes:
                        raise ValueError(f"{place} has the shape {[*tensor.shape]}")
                if _is_finite(usual) and not _is_finite(part):
                    raise ValueError(f"{place} is not a number")
            if torchs:
                for tensor in _tensors_in(part):
                    _check_numbers(tensor, place, name in NOT_NEGATIVE)


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(part)


def _check_numbers(tensor: Tensor, place: str, not_negative: bool) -> None:
    if not tensor.numel() or not tensor.is_floating_point():
        return
    least, most = tensor.aminmax()
    if not math.isfinite(least) or not math.isfinite(most):
        raise ValueError(f"{place} is not finite")
    if not_negative and float(least) < 0:
        raise ValueError(f"{place} is negative")
