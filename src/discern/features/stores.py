"""The folders of the feature cache, one per kind of features: their locks and sizes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from discern.files import reading
from discern.files.locks import SILENT_SECONDS
from discern.files.places import is_folder
from discern.files.walk import file_size

log = logging.getLogger(__name__)

ABOUT = "about.json"
"""File with a description of the features in a folder."""

MARK = ".use.lock"
"""File locked by the users of a folder; its mtime is the last use."""

_NAME = re.compile(r"[0-9a-f]{32}")
_MAX_JSON = 1 << 20

POLL_SECONDS = 0.05
"""Time between two tries to lock a mark."""


def name_of(about: object) -> str:
    """The name of the folder for a description of features: a digest of it."""
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stores(folder: Path) -> list[Path]:
    """The folders of features in the cache's folder; nothing else in it is ever touched."""
    if not is_folder(folder):
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def size_of(folder: Path) -> int:
    """Bytes that the files in a folder take."""
    return sum(map(file_size, folder.iterdir())) if is_folder(folder) else 0


def bytes_of(gigabytes: float) -> int:
    """Gigabytes in bytes, at most the limit of a file system."""
    return int(min(gigabytes * 1e9, 2.0**63))


def last_used(folder: Path) -> float:
    """Last use of features in seconds since 1970; 0 if they are gone."""
    for mark in (folder / MARK, folder / ABOUT, folder):
        with suppress(OSError):
            return mark.lstat().st_mtime
    return 0.0


def read_json(path: Path) -> object:
    """The content of a small JSON file; None if it cannot be read."""
    with suppress(OSError, ValueError):
        return reading.read_json(path, limit=_MAX_JSON)
    return None


# Locks


def hold(folder: Path) -> IO[bytes] | None:
    """Mark features as used now, and as in use until the returned file is closed.

    None if they cannot be marked.
    """
    path, link = folder / MARK, os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | link, 0o666)
        except OSError:  # a read-only folder
            descriptor = os.open(path, os.O_RDONLY | link)
        file = os.fdopen(descriptor, "rb")
        _share(file, folder)
        with suppress(OSError):
            os.utime(file.fileno())
        return file
    except OSError:
        return None


def _share(file: IO[bytes], folder: Path) -> None:
    """Take a shared lock on a mark, waiting while another process removes features."""
    begun, told = time.monotonic(), False
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told and time.monotonic() - begun > SILENT_SECONDS:
                log.info("Waiting for another process, which removes features from %s.", folder)
                told = True
            time.sleep(POLL_SECONDS)


@contextmanager
def holding_alone(file: IO[bytes]) -> Iterator[bool]:
    """Keep others from holding the features that this process holds by ``file``.

    Yields False if another process holds them, or that is unknown.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except OSError:
        alone = False
    try:
        yield alone
    finally:
        # Also if it failed: asking for the exclusive lock releases the shared one.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)


def is_mark(file: IO[bytes], folder: Path) -> bool:
    """Whether ``file`` marks this folder, and not one that was removed since."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), (folder / MARK).lstat())
    except OSError:
        return False


def in_use(folder: Path) -> bool:
    """Whether a process holds the features."""
    with _alone(folder) as alone:
        return not alone


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep others from holding the features; yields False if one does, or that is unknown."""
    try:
        descriptor = os.open(folder / MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # never held; creating it here would record a use
        yield True
        return
    except OSError:
        yield False
        return
    with os.fdopen(descriptor, "rb") as file, holding_alone(file) as alone:
        yield alone


# Removal


def remove(folder: Path) -> bool:
    """Remove features unless a process uses them; whether they are gone."""
    with _alone(folder) as alone:
        if alone:
            shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


def make_room(folder: Path, needed: int, most: int, keep: Path | None = None) -> list[Path]:
    """Remove the least recently used features until ``needed`` more bytes fit into ``most``.

    Features in use, and ``keep``, stay. Returns the removed folders.
    """
    sizes = {path: size_of(path) for path in stores(folder)}
    total, removed = sum(sizes.values()), []
    for path in sorted(sizes, key=last_used):
        if total + needed <= most:
            break
        if path != keep and remove(path):
            total -= sizes[path]
            removed.append(path)
    return removed
