"""What a fault is tried as: one case, in a folder of its own, with what must hold afterwards."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import NamedTuple

SEED = 20261127
"""Of the short forms that `make test` runs."""


class Case(NamedTuple):
    """One fault at one place.

    Attributes:
        name: says which, such as ``SIGKILL at write 12 of a checkpoint``.
        check: breaks something in an empty folder; raises an AssertionError unless the fault really
            fired and everything holds that must hold after it.
    """

    name: str
    check: Callable[[Path], None]


def sample(cases: Iterable[Case], number: int | None, seed: int) -> list[Case]:
    """Some of the cases in a random order; all of them where ``number`` is None."""
    every = list(cases)
    return Random(seed).sample(every, len(every) if number is None else min(number, len(every)))


def try_case(case: Case) -> str | None:
    """Why a case fails, or None."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        try:
            case.check(Path(folder))
        except Exception:
            return traceback.format_exc()
    return None


def assert_holds(cases: Iterable[Case], number: int | None, seed: int = SEED) -> None:
    """Assert that a sample of the cases holds; for the short forms."""
    for case in sample(cases, number, seed):
        failure = try_case(case)
        assert failure is None, f"{case.name} (seed {seed}): {failure}"
