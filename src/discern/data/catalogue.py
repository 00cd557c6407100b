"""Facts on picture files: whether they can be read, their size and digest.

Each content is decoded once. The facts are kept in discern's cache folder and reused while the
file's stamp is unchanged, so that checking a large data set takes as long as listing it. If a stamp
is not conclusive, see :mod:`discern.data.stamps`, the file is read and its digest compared.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import PIL
from tqdm import tqdm

from discern.console import is_terminal
from discern.data.costs import max_bytes
from discern.data.pictures import PictureError, check_picture
from discern.data.stamps import GONE, FileSystems, Stamp, is_settled, stamp_of
from discern.errors import first_line
from discern.files.cache import cache_dir
from discern.files.reading import open_regular

log = logging.getLogger(__name__)

FORMAT = 2
"""Part of the file's name, so that other versions of discern keep their own."""

FILES_PER_WRITE = 500
"""Files between two writes; a killed check loses no more."""

MAX_THREADS = 16
"""Each may hold a decoded picture of the greatest size."""

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process's write."""


class Facts(NamedTuple):
    """Facts on a picture file.

    Attributes:
        sha256: digest of the content, 32 bytes; empty where the file could not be read.
        width, height: in pixels, upright; 0 if it is not a picture.
        reason: why it cannot be used, or empty.
        white: the value that became white in a picture of more than eight bits; else 0.
    """

    sha256: bytes
    width: int
    height: int
    reason: str
    white: float = 0.0


def examine(folder: Path, files: Sequence[Path]) -> list[Facts]:
    """The facts of picture files, in their order; those not known yet are read, with a bar.

    Args:
        folder: where the files are; the key of the stored facts.
        files: their paths.
    """
    root = os.fsencode(folder.resolve())
    paths = [_absolute(file) for file in files]
    memory, known = _recall(root)
    with closing(memory):
        looked_ns, looks = time.time_ns(), _Stamps()
        stamps = [looks.stamp(path) for path in paths]
        facts: list[Facts | None] = [
            _facts(row) if row is not None and looks.is_unchanged(row, path, stamp) else None
            for row, path, stamp in zip(map(known.get, paths), paths, stamps, strict=True)
        ]
        looks.conclude()
        new = [number for number, fact in enumerate(facts) if fact is None]
        with (
            ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool,
            tqdm(
                desc="check", total=len(new), unit=" files", leave=False, dynamic_ncols=True,
                disable=not is_terminal(),
            ) as bar,
        ):  # fmt: skip
            for start in range(0, len(new), FILES_PER_WRITE):
                part = new[start : start + FILES_PER_WRITE]
                rows = []
                rows_before = (known.get(paths[number]) for number in part)
                before = [None if row is None else _facts(row) for row in rows_before]
                found = pool.map(_read, [files[number] for number in part], before)
                for number, fact in zip(part, found, strict=True):
                    facts[number] = fact
                    if fact.sha256:
                        stamp = *stamps[number], looked_ns
                        rows.append((root, paths[number], *stamp, *_cells(fact)))
                    bar.update()
                _remember(memory, rows)
    return [fact for fact in facts if fact is not None]


def about_depths(facts: Iterable[Facts]) -> str | None:
    """A sentence on the pictures of more than eight bits, if there are any."""
    counts = Counter(fact.white for fact in facts if fact.white)
    if not counts:
        return None
    whites = ", ".join(f"{white:,g} in {counts[white]:,}" for white in sorted(counts)[:6])
    mixed = "; the brightness of pictures with different whites cannot be compared"
    return (
        f"{sum(counts.values()):,} pictures have more than eight bits a value, of which white is "
        f"{whites}: what the file declares, else the least of 255, 1,023, 4,095, 16,383 and 65,535 "
        f"that holds its brightest value{mixed if len(counts) > 1 else ''}."
    )


def _absolute(file: Path) -> bytes:
    """The path from the root, no link followed."""
    path = os.fspath(file)
    # A Path has nothing else to be put in order, which for most saves more than asking for a stamp.
    if not file.is_absolute() or ".." in path:
        path = os.path.abspath(path)  # noqa: PTH100 - that one follows links
    return os.fsencode(path)


class _Stamps:
    """The stamps of files, and whether they prove that a file is unchanged."""

    def __init__(self) -> None:
        self._systems = FileSystems()
        self._devices: dict[bytes, int] = {}
        self._doubtful: Counter[str] = Counter()

    def stamp(self, path: bytes) -> Stamp:
        try:
            status = os.stat(path)  # noqa: PTH116 - of many thousands
        except OSError:
            return GONE
        self._devices[path] = status.st_dev
        return stamp_of(status)

    def is_unchanged(self, row: Row, path: bytes, stamp: Stamp) -> bool:
        """Whether the file of a stored row is the same."""
        if row[1:5] != stamp or not is_settled(stamp, row[5]):
            return False
        if not self._systems.keeps_stamps(path, self._devices[path]):
            self._doubtful[self._systems.kind(path, self._devices[path])] += 1
            return False
        return True

    def conclude(self) -> None:
        """Log how many files are read although their stamps are unchanged."""
        for kind, count in self._doubtful.items():
            log.info(
                "%s files are on %s, whose timestamps cannot prove a file unchanged: each is read.",
                f"{count:,}",
                kind or "a file system of unknown kind",
            )


def _read(file: Path, before: Facts | None = None) -> Facts:
    """The facts of a file; ``before`` if its digest is unchanged."""
    try:
        with open_regular(file) as content:
            digest = hashlib.file_digest(content, "sha256").digest()
        if before is not None and before.sha256 == digest:
            return before
        width, height, white = check_picture(file)
        return Facts(digest, width, height, "", white)
    except OSError as error:
        return Facts(b"", 0, 0, error.strerror or first_line(error))
    except PictureError as error:
        # Disk and network faults and a lack of memory are not properties of the file.
        cause = error.__cause__
        passing = isinstance(cause, MemoryError) or getattr(cause, "errno", None) is not None
        return Facts(b"" if passing else digest, 0, 0, _writable(str(error)))


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


# The store: an SQLite table, safe against concurrent writers and killed processes.

_TABLE = """CREATE TABLE IF NOT EXISTS files (
    folder BLOB, path BLOB, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    looked_ns INTEGER,
    sha256 BLOB, width INTEGER, height INTEGER, reason TEXT, white REAL, reader TEXT,
    PRIMARY KEY (folder, path)
) WITHOUT ROWID"""

# Only valid rows: SQLite keeps any type in any column.
_QUERY = f"""SELECT path, size, mtime_ns, ctime_ns, inode, looked_ns,
    sha256, width, height, reason, white FROM files
WHERE folder = ? AND (reason = '' OR reader = ?)
AND typeof(path) = 'blob' AND typeof(size) = 'integer' AND typeof(mtime_ns) = 'integer'
AND typeof(ctime_ns) = 'integer' AND typeof(inode) = 'integer' AND typeof(looked_ns) = 'integer'
AND typeof(white) = 'real' AND white >= 0 AND white < 1e300
AND typeof(sha256) = 'blob' AND length(sha256) = {hashlib.sha256().digest_size}
AND typeof(width) = 'integer' AND typeof(height) = 'integer' AND typeof(reason) = 'text'
AND (min(width, height) > 0) = (reason = '')"""

Row = tuple[bytes, int, int, int, int, int, bytes, int, int, str, float]
Known = dict[bytes, Row]
"""Path -> path, stamp, time of the look, and facts."""


def _facts(row: Row) -> Facts:
    return Facts._make(row[6:])


def _recall(root: bytes) -> tuple[sqlite3.Connection, Known]:
    """The store, and what it has on a folder.

    A damaged file is replaced. If the cache folder cannot be used, the store is in memory.
    """
    path = cache_dir() / f"pictures-{FORMAT}.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(path, root)
        except sqlite3.OperationalError:  # locked, not to be written, of another making
            raise
        except sqlite3.DatabaseError as error:
            log.debug("%s is damaged and made anew: %s.", path, error)
            for name in (f"{path.name}-journal", path.name):
                path.with_name(name).unlink(missing_ok=True)
            return _connect(path, root)
    except (OSError, sqlite3.Error) as error:
        log.debug("%s is not used: %s.", path, error)
        return _connect(":memory:", root)


def _connect(path: Path | str, root: bytes) -> tuple[sqlite3.Connection, Known]:
    memory = sqlite3.connect(path, timeout=LOCK_TIMEOUT)
    try:
        memory.execute(_TABLE)
        known = {row[0]: row for row in memory.execute(_QUERY, (root, _reader()))}
    except BaseException:
        memory.close()
        raise
    return memory, known


def _cells(fact: Facts) -> tuple[bytes, int, int, str, float, str]:
    return *fact, _reader()


def _reader() -> str:
    """The reader that refused a picture: a newer Pillow, or a higher limit, may read it."""
    return f"{PIL.__version__}, {max_bytes()} bytes"


def _remember(memory: sqlite3.Connection, rows: Iterable[tuple[object, ...]]) -> None:
    try:
        with memory:
            memory.executemany(
                "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", rows
            )
    except sqlite3.Error as error:  # a full disk, a read-only folder
        log.debug("What was found is not remembered: %s.", error)
