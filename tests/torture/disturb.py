"""Runs a writer in a process that strace watches, and disturbs."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from discern.errors import DiscernError, refusals_of_files
from discern.errors import said as sentence
from discern.files import writing
from discern.files.writing import warn_without
from discern.training import checkpointing
from torture.writers import Situation, States

PATIENCE = 30.0
"""Seconds after which strace counts as one that may not watch, and a writer as one that hangs."""

# OpenMP's threads do not survive a fork.
torch.set_num_threads(1)

PR_SET_PTRACER = 0x59616D61
"""Lets any process watch this one, where that needs to be allowed (Linux's Yama)."""

CALLS = (
    "openat", "write", "fsync", "rename", "link", "unlink", "mkdir", "lseek", "read", "close",
    "flock", "fstat", "newfstatat", "getdents64", "fadvise64",
)  # fmt: skip
"""Calls of the system in which a writer is disturbed."""


class Outcome(NamedTuple):
    """How a writer ended.

    Attributes:
        status: its exit status; negative for a signal.
        said: what it has complained of.
        log: of strace.
    """

    status: int
    said: str
    log: str

    @property
    def was_disturbed(self) -> bool:
        """Whether strace has changed what a call returns."""
        return "(INJECTED" in self.log


def write(
    situation: Situation, folder: Path, *options: str, limit: int = 0, watched: bool = True
) -> Outcome:
    """Let a writer write its next generation.

    Args:
        situation: the writer, and what it finds in the folder.
        folder: where it writes.
        options: of strace.
        limit: bytes that a file has at most, as on a full disk.
        watched: whether strace watches.
    """
    with tempfile.TemporaryDirectory(prefix="torture-log-") as name:
        log = Path(name, "log")
        log.touch()
        ours, go = os.pipe()
        ready, theirs = os.pipe()
        said, complaints = os.pipe()  # which no limit is for
        number = os.fork()  # it has imported all that writes
        if not number:
            status = 1
            try:
                for stream, file in enumerate((ours, theirs, complaints)):
                    os.dup2(file, stream)
                status = _write(situation, folder, limit)
            finally:
                os._exit(status)  # whatever was raised: it is a copy of whoever tests
        for theirs_alone in (ours, theirs, complaints):
            os.close(theirs_alone)
        os.read(ready, 5)
        tracer = _watch(number, log, *options) if watched else None
        os.write(go, b"!")  # the writer has the other end too, so that closing it says nothing
        os.close(go)
        os.close(ready)
        status = _ended(number)
        if tracer is not None:
            tracer.wait()
        with os.fdopen(said) as file:
            return Outcome(status, file.read(), log.read_text(errors="replace"))


def _ended(number: int) -> int:
    """The exit status of a writer, which is killed if it hangs."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
            raise AssertionError("the writer hangs")
        time.sleep(0.001)


def _write(situation: Situation, folder: Path, limit: int) -> int:
    """Write as a command does, once it is watched; its exit status."""
    for file in (sys.stdout, sys.stderr):
        file.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    logging.getLogger().handlers[:] = [logging.StreamHandler(sys.stderr)]
    checkpointing.PAUSES = (0.0, 0.0)
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    writing._sync_parents.cache_clear()
    warn_without.cache_clear()
    os.write(1, b"ready")
    select.select([0], [], [])  # none of the calls that are disturbed
    try:
        with refusals_of_files():
            situation.of.write(folder, situation.before)
    except DiscernError as error:
        print(sentence(error), file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _watch(number: int, log: Path, *options: str) -> subprocess.Popen[bytes]:
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(number), "-o", str(log), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + PATIENCE
    while "TracerPid:\t0\n" in Path(f"/proc/{number}/status").read_text():
        assert tracer.poll() is None, "strace may not watch"
        assert time.monotonic() < deadline, "strace does not watch"
        time.sleep(0.001)
    return tracer


@functools.cache
def may_watch() -> str:
    """Why strace cannot be used here; empty where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-e", "trace=none", "-e", "inject=fsync:error=EIO", "true"],
        capture_output=True,
        check=False,
    )
    return "" if done.returncode == 0 else "strace may not watch"


class Undisturbed(NamedTuple):
    """What a writer does where nothing disturbs it.

    Attributes:
        old: what was before.
        new: what is there afterwards.
        calls: how often it makes each call, of :data:`CALLS`.
    """

    old: States
    new: States
    calls: Counter[str]


@functools.cache
def undisturbed(situation: Situation) -> Undisturbed:
    """What a writer does where nothing disturbs it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        situation.of.write(Path(name, "first"), 0)  # what is imported late is imported by now
        situation.of.states(Path(name, "first"))
        folder = Path(name, "run")
        situation.prepare(folder)
        old = situation.of.states(folder)
        done = write(situation, folder, "-e", f"trace={','.join(CALLS)}")
        assert done.status == 0, done.said
        # Threads that compute digests make none of these calls.
        calls = Counter(re.findall(r"^\d+ +(\w+)\(", done.log, re.MULTILINE))
        return Undisturbed(old, situation.of.states(folder), calls)
