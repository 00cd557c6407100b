"""The converted files of others in the cache folder: which there are, and which go."""

from __future__ import annotations

from pathlib import Path

from discern.cache import cache_dir
from discern.models import engines_folder
from discern.models.engines_folder import last_used

SUFFIX = ".safetensors"

MOST = 10_000_000_000
"""Bytes that converted files may take together, but for one that is larger."""


def folder() -> Path:
    """Where they are."""
    return cache_dir() / "weights"


def name(digest: str, own: str) -> str:
    """The name of what was made of a file: SHA-256 of the file, and of what was made of it."""
    return f"{digest}-{own}{SUFFIX}"


def is_named(path: Path, own: str) -> bool:
    """Whether a file is as it was written: its own SHA-256 is in its name."""
    return path.stem.endswith(f"-{own}")


def converted(digest: str = "") -> list[Path]:
    """What was made of the file of a SHA-256, or of all, those not used for the longest first."""
    return sorted(folder().glob(f"{digest}*-*{SUFFIX}"), key=last_used)


def make_room(keep: Path) -> None:
    """Remove those not used for the longest until ``keep`` and the others fit."""
    engines_folder.make_room(MOST, keep, converted())
