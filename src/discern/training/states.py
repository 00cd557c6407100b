"""The states of loops, callbacks and schedules in a checkpoint, compared with the live ones.

What is continued loads its state by taking it over, key by key: a state of another form would be
found out by whatever breaks on it later, or replace a method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.swa_utils import SWALR

from discern.models.metrics import WAITING

MAX_COUNT = 2**53
"""A count of anything; larger ones are not exact in the float64 of a table or a logger."""

LONGEST = 1000
"""Characters of a text."""

MAX_STATE = 2**20
"""Bytes of the state of a device's generator."""


def check_like(saved: object, live: object, place: str, grows: bool = False) -> None:
    """Check that a state has the form of a live one: its keys, types and shapes.

    Keys may be missing. Where there is None or nothing yet, there may be a number or a text, or
    plain values. An infinite number may be where a live one is infinite.

    Args:
        saved: the state.
        live: what it is to take the place of.
        place: its name, for the message.
        grows: whether lists may have another length than the live ones, as in a user's own class.

    Raises:
        ValueError: it has another form; names the part.
    """
    if isinstance(live, Tensor):
        check_tensor(saved, live, place)
    elif live is None:
        if not _is_plain(saved):
            raise ValueError(f"{place} is not a plain value")
    elif isinstance(live, bool) or not isinstance(live, int | float | str | dict | list | tuple):
        if type(saved) is not type(live):
            raise ValueError(f"{place} is not a {type(live).__name__}")
    elif isinstance(live, dict):
        _check_mapping(saved, live, place, grows)
    elif isinstance(live, list | tuple):
        _check_list(saved, live, place, grows)
    elif isinstance(live, str):
        if not isinstance(saved, str) or len(saved) > LONGEST:
            raise ValueError(f"{place} is not a text")
    else:
        _check_number(saved, live, place)


def check_tensor(saved: object, live: Tensor, place: str) -> None:
    """Raise a ValueError unless it is a tensor of the same shape and kind of numbers."""
    if not isinstance(saved, Tensor) or saved.layout != torch.strided:
        raise ValueError(f"{place} is not a tensor")
    if saved.shape != live.shape:
        raise ValueError(f"{place} has the shape {[*saved.shape]} and not {[*live.shape]}")
    if saved.is_floating_point() != live.is_floating_point():
        raise ValueError(f"{place} is of {saved.dtype} and not of {live.dtype}")


def _check_number(saved: object, live: float, place: str) -> None:
    whole = isinstance(live, int)
    if isinstance(saved, bool) or not isinstance(saved, int if whole else int | float):
        raise ValueError(f"{place} is not a {'whole ' if whole else ''}number")
    if isinstance(saved, float) and math.isinf(saved) and math.isinf(live):
        return
    if not -MAX_COUNT <= saved <= MAX_COUNT:
        raise ValueError(f"{place} is not a number in its range")


def _check_mapping(saved: object, live: Mapping[object, object], place: str, grows: bool) -> None:
    if not isinstance(saved, dict) or type(saved) not in (dict, type(live)):
        raise ValueError(f"{place} has no parts")
    for key, part in saved.items():
        here = f"{place}.{str(key)[:40]}"
        if key in live:
            check_like(part, live[key], here, grows)
        elif live and all(isinstance(name, int) for name in live):
            check_count(key, here)  # as of the steps at which a schedule does something
            check_like(part, next(iter(live.values())), here, grows)
        elif live and not grows:
            raise ValueError(f"{here} is not known")


def _check_list(saved: object, live: Sequence[object], place: str, grows: bool) -> None:
    if not isinstance(saved, list | tuple):
        raise ValueError(f"{place} is not a list")
    if len(saved) != len(live) and live and not grows:
        raise ValueError(f"{place} has {len(saved)} values and not {len(live)}")
    for number, part in enumerate(saved if live else ()):
        check_like(part, live[min(number, len(live) - 1)], f"{place}.{number}", grows)


def check_count(value: object, place: str) -> None:
    """Raise a ValueError unless it is a whole number from 0 to :data:`MAX_COUNT`."""
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"{place} is not a count")


def _is_plain(value: object) -> bool:
    """Whether it is None, or one number or text."""
    if isinstance(value, Tensor):
        return value.ndim == 0
    if isinstance(value, str):
        return len(value) <= LONGEST
    return value is None or isinstance(value, bool | int | float)


# Progress of the loops


def check_progress(saved: object, live: Mapping[str, object], place: str) -> None:
    """Check the progress of a fit; ``saved`` and ``live`` are states of its loop.

    Raises:
        ValueError: it has another form, or counts below 0; names the part.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"{place} is not the progress of a fit")
    counts = {key: part for key, part in saved.items() if key != "state_dict"}
    check_like(counts, live, place)
    _check_counts(counts, place)
    check_like(saved.get("state_dict", {}), {"combined_loader": []}, f"{place}.state_dict")


def check_place_in_data(saved: Mapping[str, Any], place: str) -> None:
    """Check the state of discern's loader in the progress of a fit.

    Raises:
        ValueError: they have another form.
    """
    states = saved.get("state_dict", {}).get("combined_loader", [])
    if len(states) > 1:
        raise ValueError(f"{place}.state_dict is of {len(states)} loaders")
    for state in states:
        if not isinstance(state, dict) or state.keys() != {"epoch", "batches"}:
            raise ValueError(f"{place}.state_dict is not a place in the data")
        _check_counts(state, f"{place}.state_dict")


_IN_ORDER = ("ready", "started", "processed", "completed")


def _check_counts(value: object, place: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _check_counts(part, f"{place}.{key}")
        order = [value[key] for key in _IN_ORDER if key in value]
        if order != sorted(order, reverse=True):
            raise ValueError(f"{place} has ended more than it has begun")
    elif not isinstance(value, bool):
        check_count(value, place)


def check_metrics(saved: object, live: Mapping[str, Any], place: str) -> None:
    """Check a snapshot of an epoch's metrics, of which any number of batches may be waiting.

    Raises:
        ValueError: it has another form; names the part.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"{place} has no parts")
    here = f"{place}.{WAITING}"
    check_like({k: v for k, v in saved.items() if k != WAITING}, live, place)
    states = saved[WAITING].get("states") if isinstance(saved.get(WAITING), dict) else {}
    if WAITING in saved:
        if not isinstance(states, dict) or states.keys() != {"losses", "sizes"}:
            raise ValueError(f"{here} is not of losses and sizes")
        losses, sizes = states["losses"], states["sizes"]
        for part, dtype in ((losses, torch.float32), (sizes, torch.int64)):
            if not isinstance(part, Tensor) or part.ndim != 1 or part.dtype != dtype:
                raise ValueError(f"{here} is not of losses and sizes")
        if len(losses) != len(sizes) or bool((sizes < 0).any()):
            raise ValueError(f"{here} is not a size for each loss")


def check_averaging(state: Mapping[str, object], live: Mapping[str, object], place: str) -> None:
    """Check a state of Lightning's StochasticWeightAveraging, whose schedule begins in the fit.

    Raises:
        ValueError: it has another form; names the part.
    """
    check_like({k: v for k, v in state.items() if k != "scheduler_state"}, live, place)
    saved, here = state.get("scheduler_state"), f"{place}.scheduler_state"
    if saved is None:
        return
    usual = SWALR(SGD([torch.zeros(1)], lr=1.0), swa_lr=1.0).state_dict()
    if not isinstance(saved, dict) or not saved.keys() <= usual.keys():
        raise ValueError(f"{here} is not a state of a schedule")
    check_like(saved, usual, here, grows=True)  # a learning rate for each group of parameters
    if saved.get("_anneal_strategy", "cos") not in ("cos", "linear"):
        raise ValueError(f"{here}._anneal_strategy is neither cos nor linear")


def check_randomness(state: object, place: str) -> None:
    """Raise a ValueError for what is not a state of :class:`discern.training.resume.RngState`.

    A generator that is made for it checks the numbers.
    """
    if not isinstance(state, dict) or state.keys() != {"cpu", "cuda"}:
        raise ValueError(f"{place} has other parts than cpu and cuda")
    check_tensor(state["cpu"], torch.get_rng_state(), f"{place}.cpu")
    devices = state["cuda"] if isinstance(state["cuda"], list) else [None]
    for part in devices:
        if not (
            isinstance(part, Tensor)
            and (part.ndim, part.dtype) == (1, torch.uint8)
            and len(part) <= MAX_STATE
        ):
            raise ValueError(f"{place}.cuda is not a state of a device's generator")
    try:
        torch.Generator().set_state(state["cpu"])
    except RuntimeError as error:
        raise ValueError(f"{place}.cpu is not a state of a generator") from error
