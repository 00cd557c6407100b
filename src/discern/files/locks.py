"""Locks among processes, which end with the process that holds them, however it ends.

A file system without locks has a file in their place that names the process, its start and its
host, as `filelock <https://py-filelock.readthedocs.io>`_ writes it: one left by a process that has
died on this host is recognized.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from discern.text import visible

log = logging.getLogger(__name__)

LACKING = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
"""What flock answers on a file system that has no locks."""

STAND_IN = ".held"
"""Ending of the file that stands for a lock on such a file system."""

SILENT_SECONDS = 1.0
"""Time of waiting before the holder of a lock is named."""

LOOK_SECONDS = 5.0
"""Time between two looks at whether the holder has been stopped."""

_HOLDER = re.compile(r"([1-9][0-9]{0,9}) ([\w.-]{1,255})\n")


class InUseError(Exception):
    """Another process holds a lock; the message says which, as in ``process 12 on host``."""


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file, which is created, within the block.

    Args:
        path: of the lock's file, in a folder that exists.
        patience: seconds to wait for another process that holds it.

    Raises:
        InUseError: another process holds it still.
        OSError: the file cannot be created.
    """
    lock = acquire(path, patience)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_in_turn(path: Path, work: str) -> Iterator[None]:
    """Hold the lock of a file within the block, after those who hold it now.

    A line says who that is, and another one if that process has been stopped.

    Args:
        path: of the lock's file, in a folder that exists.
        work: of the holder, as in ``is computing these features``.
    """
    try:
        lock = acquire(path, SILENT_SECONDS)
    except InUseError as holder:
        log.info("Waiting for %s, which %s.", holder, work)
        lock = _acquire_at_last(path)
    try:
        yield
    finally:
        lock.release()


def _acquire_at_last(path: Path) -> BaseFileLock:
    warned = 0
    while True:
        try:
            return acquire(path, LOOK_SECONDS)
        except InUseError as error:
            process = _holder_of(path)
            if process is None or process == warned or not _is_stopped(process):
                continue
            warned = process
            log.warning(
                "P%s has been stopped while others wait for it: `kill -CONT %d` lets it go on, "
                "`kill -KILL %d` ends it.",
                str(error)[1:],
                process,
                process,
            )


def acquire(path: Path, patience: float = 0.0) -> BaseFileLock:
    """The lock of a file, held until it is released or this process ends.

    Raises:
        InUseError: another process holds it after ``patience`` seconds.
        OSError: the file cannot be created.
    """
    try:
        lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=patience)
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in LACKING:
                raise
            lock = SoftFileLock(f"{path}{STAND_IN}")
            lock.acquire(timeout=patience)
            return lock
    except Timeout as error:
        raise InUseError(_describe_holder(path)) from error
    _sign(path)
    return lock


def is_held(path: Path) -> bool:
    """Whether another process holds the lock of a file; False without such a file."""
    if not path.exists():
        return False
    try:
        acquire(path).release()
    except InUseError:
        return True
    except OSError:  # of a read-only folder
        return False
    return False


def _sign(path: Path) -> None:
    """Write into a lock's file who holds it, for those who wait."""
    with suppress(OSError):  # a full disk
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {socket.gethostname()}\n")


def _describe_holder(path: Path) -> str:
    holder = _signed(path)
    if holder is None:
        number = SoftFileLock(f"{path}{STAND_IN}").pid
        return "another process" if number is None else f"process {number}"
    number, host = holder
    return f"process {number} on {visible(host)}"


def _signed(path: Path) -> tuple[int, str] | None:
    """Number and host of the process that has signed a lock's file."""
    with suppress(OSError, UnicodeDecodeError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            if found := _HOLDER.fullmatch(file.read(300)):
                return int(found[1]), found[2]
    return None


def _holder_of(path: Path) -> int | None:
    """The number of the process on this host that holds a lock; None if unknown."""
    holder = _signed(path)
    if holder is None:
        return SoftFileLock(f"{path}{STAND_IN}").pid
    return holder[0] if holder[1] == socket.gethostname() else None


def _is_stopped(process: int) -> bool:
    """Whether a process of this host has been stopped, as by Ctrl-Z; False if unknown."""
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return status.rpartition(")")[2].split()[:1] == ["T"]
    return False
