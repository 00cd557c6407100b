"""What is known of picture files: whether they can be read, how large they are, their digest.

Each file is read and decoded once. What was found is remembered in discern's cache folder and
believed as long as the file's size and time of change stay what they were, so that a data set of
many files is checked in the time that listing it takes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from discern.cache import cache_dir
from discern.console import is_terminal
from discern.data.pictures import PictureError, check_picture

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of the file's name: what an older or newer discern has remembered is left alone."""

AT_ONCE = 500
"""Files between two writes of what was found; a killed check loses no more."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a picture file.

    Attributes:
        sha256: digest of the content, 32 bytes; empty where the file could not be opened.
        width, height: in pixels, upright; 0 where it is no picture.
        reason: why it cannot be used, or empty.
    """

    sha256: bytes
    width: int
    height: int
    reason: str


def examine(folder: Path, files: Sequence[Path]) -> list[Facts]:
    """The facts of picture files, in their order; those not known yet are read, with a bar.

    Args:
        folder: where the files are; what is remembered is kept under its name.
        files: their paths.
    """
    root = os.fsencode(folder.resolve())
    paths = [os.fsencode(os.path.abspath(file)) for file in files]  # noqa: PTH100 - no links
    with closing(_open()) as memory:
        known = _recall(memory, root)
        stamps = [_stamp(file) for file in files]
        facts: list[Facts | None] = [
            remembered[1] if remembered is not None and remembered[0] == stamp else None
            for remembered, stamp in zip(map(known.get, paths), stamps, strict=True)
        ]
        new = [number for number, fact in enumerate(facts) if fact is None]
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(
                desc="check", total=len(new), unit=" files", leave=False, dynamic_ncols=True,
                disable=not is_terminal(),
            ) as bar,
        ):  # fmt: skip
            for start in range(0, len(new), AT_ONCE):
                part = new[start : start + AT_ONCE]
                found = list(pool.map(_read, [files[number] for number in part]))
                rows = []
                for number, fact in zip(part, found, strict=True):
                    facts[number] = fact
                    rows.append((root, paths[number], *stamps[number], *_cells(fact)))
                _remember(memory, rows)
                bar.update(len(part))
    return [fact for fact in facts if fact is not None]


def _stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds; what is not there has neither."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _read(file: Path) -> Facts:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").digest()
    except OSError as error:
        return Facts(b"", 0, 0, error.strerror or str(error))
    try:
        return Facts(digest, *check_picture(file), reason="")
    except PictureError as error:
        return Facts(digest, 0, 0, str(error))


# The memory: a table in a file that SQLite keeps whole, whoever else writes to it or is killed.

_TABLE = """CREATE TABLE IF NOT EXISTS files (
    folder BLOB, path BLOB, size INTEGER, mtime_ns INTEGER,
    sha256 BLOB, width INTEGER, height INTEGER, reason TEXT, PRIMARY KEY (folder, path)
) WITHOUT ROWID"""


def _open() -> sqlite3.Connection:
    """The memory; one that is forgotten at once where the cache folder cannot be used."""
    path = cache_dir() / f"files-{FORMAT}.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(path, timeout=30)
        memory.execute(_TABLE)
    except (OSError, sqlite3.Error) as error:
        log.debug("%s is not used: %s.", path, error)
        memory = sqlite3.connect(":memory:")
        memory.execute(_TABLE)
    return memory


def _recall(memory: sqlite3.Connection, root: bytes) -> dict[bytes, tuple[tuple[int, int], Facts]]:
    """What is remembered of a folder: path -> stamp and facts."""
    query = "SELECT path, size, mtime_ns, sha256, width, height, reason FROM files WHERE folder = ?"
    try:
        rows = memory.execute(query, (root,)).fetchall()
        return {row[0]: ((row[1], row[2]), Facts(*row[3:])) for row in rows}
    except sqlite3.Error as error:
        log.debug("What was known of %s cannot be read: %s.", os.fsdecode(root), error)
        return {}


def _cells(fact: Facts) -> tuple[bytes, int, int, str]:
    return fact.sha256, fact.width, fact.height, fact.reason


def _remember(memory: sqlite3.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    try:
        with memory:
            memory.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?)", rows)
    except sqlite3.Error as error:  # a full disk, a folder that is only to be read
        log.debug("What was found is not remembered: %s.", error)
