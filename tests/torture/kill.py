"""SIGKILL at every call of the system with which a file is written."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path

from torture.case import Case
from torture.disturb import CALLS, undisturbed, write
from torture.writers import SITUATIONS, Situation, check_again, check_old_or_new


def cases(situations: Collection[Situation] = SITUATIONS) -> Iterator[Case]:
    """A writer killed as it begins its n-th call of each kind."""
    for situation in situations:
        calls = undisturbed(situation).calls
        for call in CALLS:
            for number in range(1, calls[call] + 1):
                name = f"SIGKILL at {call} {number} of {situation}"
                yield Case(name, functools.partial(_check, situation, call, number))


def _check(situation: Situation, call: str, number: int, place: Path) -> None:
    folder = place / "run"
    situation.prepare(folder)
    known = undisturbed(situation)
    done = write(
        situation, folder, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"
    )
    assert done.status == -9, f"it was not killed: status {done.status}, {done.said}"
    check_old_or_new(situation, folder, known.old, known.new)
    check_again(situation, folder, known.new)
