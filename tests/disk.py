"""What a test finds on a disk, and a disk that is full."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

from discern.runs.holding import LOCKS


def visible(folder: Path) -> set[str]:
    """The names in a folder that do not begin with a dot."""
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file can be longer than ``size`` bytes, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def hidden(folder: Path) -> list[Path]:
    """The files below a folder whose names begin with a dot, as those of unfinished writes do.

    A lock's file is none of them: one that a killed process has left locks nothing.
    """
    return [path for path in folder.rglob(".*") if path.is_file() and path.name not in LOCKS]
