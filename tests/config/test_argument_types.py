from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal

import pytest
import torch

from discern.config.argument_types import check_types
from discern.errors import DiscernError


class Part:
    """A class as libraries write them."""

    def __init__(
        self,
        rate: float | torch.Tensor,
        count: int = 1,
        on: bool | None = None,
        mode: Literal["min", "max"] = "min",
        pair: tuple[float, float] = (0.0, 1.0),
        marks: Sequence[int] = (),
        every: timedelta | None = None,
        change: Callable[[int], float] | None = None,
        odd: int = None,  # type: ignore[assignment]  # noqa: RUF013 - as torch does
        anything: Any = None,
        **others: Any,
    ) -> None:
        pass


ALLOWED = [
    {"rate": 1, "count": 2, "on": True, "mode": "max", "pair": [1, 0.5], "marks": [1, 2]},
    {"rate": 1e-300, "on": None, "odd": None, "every": None, "marks": []},
    {"anything": "abc", "unknown": "abc", "change": {"_target_": "math.sqrt"}},
    {"every": {"_target_": "datetime.timedelta", "hours": 1}, "rate": torch.ones(1)},
]


@pytest.mark.parametrize("arguments", ALLOWED)
def test_what_a_class_declares_is_allowed(arguments):
    check_types("part", Part, arguments)


REFUSED = {
    "rate": (["abc", None, True, [1]], "a number"),
    "count": ([1.5, "1", None, True], "a whole number"),
    "on": (["maybe", 1, "true"], "true, false or null"),
    "mode": (["abc", None], "min or max"),
    "pair": ([[1], [1, 2, 3], 1, ["a", "b"]], "a list of 2 numbers"),
    "marks": (["abc", [1.5], 1], "a list of whole numbers"),
    "every": ([5, "1h", {"hours": 1}], "null or a _target_ entry"),
    "odd": ([1.5, "a"], "a whole number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_another_type_is_one_sentence(name):
    values, may_be = REFUSED[name]
    for value in values:
        with pytest.raises(DiscernError) as refusal:
            check_types("part", Part, {name: value})
        assert str(refusal.value).startswith(f"part.{name}=")
        assert str(refusal.value).endswith(f"is not allowed; it must be {may_be}.")


OPTIMIZERS = [
    kind for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
]  # fmt: skip
SCHEDULERS = [
    kind for kind in vars(torch.optim.lr_scheduler).values()
    if isinstance(kind, type) and issubclass(kind, torch.optim.lr_scheduler.LRScheduler)
]  # fmt: skip


@pytest.mark.parametrize("kind", OPTIMIZERS + SCHEDULERS, ids=lambda kind: kind.__name__)
def test_the_defaults_of_torchs_own_classes_are_allowed(kind):
    """A type that this module misreads would refuse what torch itself chooses."""
    import inspect

    parameters = inspect.signature(kind).parameters
    defaults = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
    check_types("part", kind, defaults)
