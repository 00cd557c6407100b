"""The exported backbones in the cache folder: which there are, and which go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from discern.files.cache import cache_dir
from discern.files.walk import file_size

SUFFIX = ".onnx"

MAX_BYTES = 2_000_000_000
"""What exported backbones may take together, but for one that is larger."""


def folder() -> Path:
    """The folder of exported backbones and measured engine speeds."""
    return cache_dir() / "engines"


def exported() -> list[Path]:
    """All exported backbones, least recently used first."""
    return sorted(folder().glob(f"*{SUFFIX}"), key=last_used)


def beside(path: Path) -> Path:
    """The file with the digest of an exported backbone."""
    return path.with_name(f"{path.name}.sha256")


def last_used(path: Path) -> float:
    """When a file was last used, in seconds since 1970; 0 if it is gone."""
    with suppress(OSError):
        return path.lstat().st_mtime
    return 0.0


def mark_used(path: Path) -> None:
    """Mark a file as used now, if possible."""
    with suppress(OSError):
        os.utime(path)


def remove(path: Path) -> bool:
    """Remove a file and its digest; return whether that worked. Running engines do not need it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
        beside(path).unlink(missing_ok=True)
        return True
    return False


def make_room(
    most: int, keep: Path | None = None, files: Sequence[Path] | None = None
) -> list[Path]:
    """Remove the least recently used files, except ``keep``, until the rest fit in ``most`` bytes.

    Args:
        files: which there are, in the order in which they go; all backbones by default.
    """
    found = exported() if files is None else files
    total, removed = sum(map(file_size, found)), []
    for path in found:
        if total <= most:
            break
        size = file_size(path)
        if path != keep and remove(path):
            total -= size
            removed.append(path)
    return removed


def forget_speeds() -> None:
    """Remove the measured engine speeds."""
    for path in folder().glob("choice-*.json"):
        with suppress(OSError):
            path.unlink()
