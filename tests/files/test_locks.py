from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from discern.files import locks
from discern.files.locks import InUseError, acquire, is_held, locked, locked_in_turn

FORK = multiprocessing.get_context("fork")
OURS = f"process {{}} on {socket.gethostname()}"

without_flock = pytest.mark.parametrize("lacking", [None, "ENOTSUP", "ENOLCK", "ENOSYS"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def lacks(monkeypatch: pytest.MonkeyPatch, lacking: str | None) -> None:
    """Make the file system one that has no locks, for the reason of that name."""
    if lacking is not None:

        def flock(descriptor: int, operation: int) -> None:
            number = getattr(errno, lacking)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)


def child(work: Callable[[Connection], None]) -> tuple[multiprocessing.Process, Connection]:
    """A process that works, once it has said that it has begun."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=work, args=(theirs,))
    process.start()
    assert ours.recv() == "begun"
    return process, ours


def holder(path: Path) -> tuple[multiprocessing.Process, Connection]:
    """A process that holds a lock until it is told to end."""

    def work(pipe: Connection) -> None:
        with locked(path):
            pipe.send("begun")
            pipe.recv()

    return child(work)


@without_flock
def test_one_process_at_a_time_holds_a_lock(path, monkeypatch, lacking):
    lacks(monkeypatch, lacking)
    process, pipe = holder(path)
    with pytest.raises(InUseError, match=f"^process {process.pid}"), locked(path):
        pass
    assert is_held(path)
    pipe.send("end")
    process.join()
    assert not is_held(path)
    with locked(path):
        assert is_held(path)


@without_flock
def test_a_killed_holder_leaves_no_lock(path, monkeypatch, lacking):
    lacks(monkeypatch, lacking)
    process, _ = holder(path)
    process.kill()
    process.join()
    with locked(path):
        pass


def test_a_child_of_a_killed_holder_keeps_nothing(path):
    def work(pipe: Connection) -> None:
        with locked(path):
            grandchild = os.fork()
            if not grandchild:
                signal.pause()
            pipe.send("begun")
            pipe.send(grandchild)
            pipe.recv()

    process, pipe = child(work)
    grandchild = pipe.recv()
    process.kill()
    process.join()
    try:
        with locked(path, 30):  # the child may have got no further than to its beginning
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_who_waits_says_for_whom_and_that_it_is_stopped(path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(locks, "SILENT_SECONDS", 0.01)
    monkeypatch.setattr(locks, "LOOK_SECONDS", 0.01)
    process, pipe = holder(path)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    pipe.send("end")  # as soon as it goes on

    class GoesOn(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                os.kill(process.pid, signal.SIGCONT)

    handler = GoesOn()
    logging.getLogger("discern.files.locks").addHandler(handler)
    try:
        with locked_in_turn(path, "is making it"):
            pass
    finally:
        logging.getLogger("discern.files.locks").removeHandler(handler)
        os.kill(process.pid, signal.SIGCONT)
    process.join()
    waiting, stopped = caplog.messages
    assert waiting == f"Waiting for {OURS.format(process.pid)}, which is making it."
    assert f"kill -CONT {process.pid}" in stopped


@pytest.mark.parametrize(
    "content", [b"", b"0 x\n", b"12 \x1b[31m\n", b"99999999999 x\n", b"\xff", b"1 a b\n"]
)
def test_what_a_stranger_writes_into_a_lock_is_not_shown(path, content):
    lock = acquire(path)
    try:
        path.write_bytes(content)
        with pytest.raises(InUseError, match=r"^another process$"):
            acquire(path)
    finally:
        lock.release()


def test_a_link_is_not_followed(path, tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    path.symlink_to(target)
    with pytest.raises(OSError), locked(path):  # noqa: PT011
        pass
    assert not is_held(path)
    assert target.read_text() == "mine"


def test_a_lock_that_nobody_has_made_is_not_held_and_not_made(path):
    assert not is_held(path)
    assert not path.exists()
