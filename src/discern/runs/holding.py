"""The folder of a run belongs to one process while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock

from discern.errors import DiscernError
from discern.files.locks import STAND_IN, InUseError, acquire, is_held

LOCK = ".run.lock"
"""Lock file in a folder that a process writes to, removed at the end."""

LOCKS = (LOCK, f"{LOCK}{STAND_IN}")
"""Names of a lock's files, which do not make a folder one that has been used."""

INCOMPLETE = ".incomplete"
"""Folder in it of files that will move into it together, which does not make it one either."""

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables of which one is above 0 in all processes of a run but the first."""

MOMENT = 0.5
"""Seconds within which whoever only looks whether a lock is held has let go of it."""

_held: dict[Path, tuple[int, BaseFileLock]] = {}
"""Folder -> the process that holds it, which a fork of it is not, and its lock."""


def is_first_process() -> bool:
    """Whether this is a run's only process, or the first one of a distributed run."""
    return all(os.environ.get(rank, "0") in ("", "0") for rank in RANKS)


def hold(folder: Path, named_by: str = "folder", patience: float = MOMENT) -> bool:
    """Keep other processes out of a folder; whether this process did not do so already.

    The processes of a distributed run share the folder that the first one holds.

    Args:
        folder: that exists.
        named_by: the setting that names it.
        patience: seconds to wait for another process.

    Raises:
        DiscernError: another process holds it, or it cannot be written.
    """
    place = folder.resolve()
    if not is_first_process():
        return False
    if place in _held and _held[place][0] == os.getpid():
        return False
    try:
        _held[place] = os.getpid(), acquire(place / LOCK, patience)
    except InUseError as holder:
        raise DiscernError(
            f"{named_by}={folder} is in use: {holder} is at work in it; name another folder, or "
            "wait for its end."
        ) from holder
    except OSError as error:
        raise DiscernError(f"{named_by}={folder} cannot be written: {error.strerror}.") from error
    return True


def release(folder: Path) -> None:
    """Let other processes into a folder that this process holds."""
    process, lock = _held.pop(folder.resolve(), (0, None))
    if lock is None or process != os.getpid():
        return
    # First, while nobody else can hold it.
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
    lock.release()


def release_all() -> None:
    """Let other processes into all folders that this process holds."""
    for folder in list(_held):
        release(folder)


@contextmanager
def held(folder: Path, patience: float = MOMENT) -> Iterator[None]:
    """Keep other processes out of a folder, which is created, within the block.

    A folder that this process holds already stays held after the block.

    Raises:
        DiscernError: another process holds it, or it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_new = hold(folder, patience=patience)
    try:
        yield
    finally:
        if is_new:
            release(folder)


def is_in_use(folder: Path) -> bool:
    """Whether another process holds a folder."""
    return is_held(folder / LOCK)
