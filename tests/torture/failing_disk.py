"""A disk that is full, fails, or may not be written; calls that are interrupted."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from torture.case import Case
from torture.disturb import Outcome, undisturbed, write
from torture.writers import SITUATIONS, Situation, check_again, check_old_or_new

ERRORS = {
    "openat": ("EACCES", "EIO", "ENOSPC", "EROFS", "EINTR"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "EINTR"),
    "read": ("EIO", "EINTR"),
    "fsync": ("EIO", "ENOSPC", "EINTR"),
    "rename": ("EIO", "ENOSPC", "EACCES"),
    "link": ("EPERM", "EIO", "EMLINK"),
    "mkdir": ("ENOSPC", "EACCES", "EIO"),
    "unlink": ("EIO",),
    "flock": ("ENOLCK", "EINTR"),
    "close": ("EIO",),
    "getdents64": ("EIO",),
    "fadvise64": ("EINVAL",),
}
"""Call of the system -> what is wrong with it."""

LIMITS = (1, 100, 500)
"""Bytes that a file has at most, which is then written in part."""

PAGE = 4096
"""Bytes in which a disk in memory counts."""

LONGER = ("results", "best", "last", "large")
"""Writers of a file that is longer than a page."""


def cases(situations: Collection[Situation] = SITUATIONS) -> Iterator[Case]:
    """A writer whose n-th call of each kind fails, once or from then on; and disks without room."""
    for situation in situations:
        calls = undisturbed(situation).calls
        for call, errors in ERRORS.items():
            for error in errors:
                for number in range(1, calls[call] + 1):
                    # Not of writing: a sentence is written as well.
                    once = error == "EINTR" or call == "write"
                    for lasting in ("",) if once else ("", "+"):
                        name = f"{error} at {call} {number}{lasting} of {situation}"
                        disturb = functools.partial(_injected, call, error, f"{number}{lasting}")
                        yield Case(name, functools.partial(_check, situation, disturb))
        for limit in LIMITS:
            name = f"files of {limit} bytes at most, {situation}"
            yield Case(name, functools.partial(_check, situation, functools.partial(_cut, limit)))
        longer = situation.writer in LONGER
        # Removing what is unfinished makes room, which is enough for a short file.
        if may_mount() and (longer or not situation.left):
            for left in (0, PAGE) if longer and not situation.left else (0,):
                name = f"a disk with {left} bytes left, {situation}"
                yield Case(name, functools.partial(_check_on_small_disk, left, situation))


def _injected(call: str, error: str, when: str, situation: Situation, folder: Path) -> Outcome:
    inject = f"inject={call}:error={error}:when={when}"
    done = write(situation, folder, "-e", f"trace={call}", "-e", inject)
    assert done.was_disturbed, f"{call} was not disturbed"
    # Python does not open a folder again, which on a disk of this machine is never interrupted.
    if error == "EINTR" and call not in ("flock", "openat"):
        assert done.status == 0, f"what was interrupted was not done again: {done.said}"
    return done


def _cut(limit: int, situation: Situation, folder: Path) -> Outcome:
    done = write(situation, folder, limit=limit, watched=False)
    assert "File too large" in done.said, f"no file was cut: {done}"
    return done


def _check(
    situation: Situation, disturb: Callable[[Situation, Path], Outcome], place: Path
) -> None:
    folder = place / "run"
    situation.prepare(folder)
    known = undisturbed(situation)
    _check_outcome(situation, disturb(situation, folder), folder)
    check_again(situation, folder, known.new)


def _check_outcome(situation: Situation, done: Outcome, folder: Path) -> None:
    known = undisturbed(situation)
    assert done.status in (0, 1), f"it ended with {done.status}: {done.said}"
    assert "Traceback" not in done.said, done.said
    check_old_or_new(situation, folder, known.old, known.new)
    sentences = [line for line in done.said.splitlines() if line.startswith("Error: ")]
    if done.status:
        assert len(sentences) == 1, done.said
        return
    assert not sentences, done.said
    if situation.of.does_without and "the run goes on without it" in done.said:
        return
    found = situation.of.states(folder)
    for name, state in known.new.items():
        if name.startswith(situation.of.settled):
            assert found.get(name) == state, f"{name} was not written, and nothing was said"


def _check_on_small_disk(left: int, situation: Situation, place: Path) -> None:
    mounted = place / "small"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", mounted], check=True)
    try:
        folder, filler = mounted / "run", mounted / "filler"
        situation.prepare(folder)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(PAGE * 16)) == PAGE * 16:
                pass
        os.truncate(filler, filler.stat().st_size // PAGE * PAGE - left)
        done = write(situation, folder, watched=False)
        _check_outcome(situation, done, folder)
        assert "No space left on device" in done.said, f"the disk was not full: {done}"
        filler.unlink()
        check_again(situation, folder, undisturbed(situation).new)
    finally:
        subprocess.run(["umount", mounted], check=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount a disk in memory."""
    with tempfile.TemporaryDirectory() as name:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", name]
        try:
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                return False
        except FileNotFoundError:
            return False
        return subprocess.run(["umount", name], check=False).returncode == 0
