"""The converted files of others in the cache folder: which there are, and which go."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from discern.files import derived as engines_folder
from discern.files.cache import cache_dir
from discern.files.derived import last_used

SUFFIX = ".safetensors"

FORMAT = 1
"""Part of the files' names: raised where the same file is converted to another."""

MAX_BYTES = 10_000_000_000
"""What converted files may take together, but for one that is larger."""


BEGUN = ".new-"
"""What the names of folders begin with in which one is being made."""

_DAY = 86_400.0


def folder() -> Path:
    """Where they are."""
    return cache_dir() / "weights"


def name(digest: str, checksum: str) -> str:
    """The name of a converted file: the SHA-256 of the original, and its own checksum."""
    return f"{digest}-{FORMAT}-{checksum}{SUFFIX}"


def is_named(path: Path, checksum: str) -> bool:
    """Whether a file's checksum is the one in its name."""
    return path.stem.endswith(f"-{checksum}")


def converted(digest: str = "") -> list[Path]:
    """The converted files of one original or all, least recently used first."""
    named = name(digest, "*") if digest else f"*-*{SUFFIX}"
    return sorted(folder().glob(named), key=last_used)


def make_room(keep: Path) -> None:
    """Remove the least recently used files, except ``keep``, until the rest fit.

    What a process that was killed had begun goes after a day.
    """
    for begun in folder().glob(f"{BEGUN}*"):
        if last_used(begun) < time.time() - _DAY:
            shutil.rmtree(begun, ignore_errors=True)
    engines_folder.make_room(MAX_BYTES, keep, converted())
