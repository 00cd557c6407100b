"""Writing a file whole or not at all."""

import errno
import fcntl
import functools
import logging
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from discern.errors import first_line
from discern.text import printable

log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""What the name of a file ends with while it is written; it begins with a dot."""

_NAME = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(UNFINISHED)}", re.DOTALL)

_NAME_SHOWN = 50
"""Letters of a file's name in that of its unfinished file: names have at most 255 bytes."""

ABANDONED = 86_400.0
"""Age in seconds from which an unfinished file is abandoned, where files cannot be locked."""


def as_json_values(value: Any) -> Any:
    """Plain values as JSON can hold them; numbers that are not finite become null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json_values(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json_values(part) for part in value]
    return printable(value) if isinstance(value, Path) else value


@contextmanager
def write_whole(
    path: Path,
    mode: str = "w",
    *,
    prove: Callable[[Path], None] | None = None,
    keep: Path | None = None,
) -> Iterator[IO[Any]]:
    """Open a new file that replaces ``path`` when the block ends without an exception.

    The data are on disk before the name changes, and the name before this returns: a crash leaves
    the old file or the new one. What a killed process has left unfinished in the folder is removed.

    Args:
        path: the file; its folder is made.
        mode: ``w``, for text in UTF-8, or ``wb``.
        prove: reads the new file back before it takes the name; raises an OSError if it cannot.
        keep: the name beside it that the file replaced gets.

    Raises:
        OSError: it cannot be written; its ``filename`` is ``path``.
    """
    temporary = None
    try:
        make_folder(path.parent)
        remove_abandoned(path.parent)
        descriptor, temporary = _unfinished(path)
        encoding = None if "b" in mode else "utf-8"
        newline = "" if encoding else None
        # Open, and thereby locked, until it has its name.
        with os.fdopen(descriptor, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if prove is not None:
                prove(temporary)
            if keep is not None:
                _keep(path, keep)
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def dispensable(name: str) -> Iterator[None]:
    """Go on where a file cannot be written that a run can do without; one warning for each file.

    Args:
        name: what the block writes, where the error does not name a file.
    """
    try:
        yield
    except OSError as error:
        warn_without(str(error.filename or name), error.strerror or first_line(error))


@functools.cache
def warn_without(name: str, why: str) -> None:
    """Say once that a run goes on without a file."""
    log.warning("%s cannot be written (%s): the run goes on without it.", name, why)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are missing, and have their names on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    status = folder.stat()
    _sync_parents(folder.absolute(), status.st_dev, status.st_ino)


@functools.cache
def _sync_parents(folder: Path, device: int, number: int) -> None:
    """Sync the folders above a folder on its file system, once for each folder in a process.

    Whoever made them, such as Hydra a run's folder, need not have.
    """
    for parent in folder.parents:
        if parent.stat().st_dev != device:
            return
        with suppress(PermissionError):  # to read a folder of somebody else's, who made it
            sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk.

    Raises:
        OSError: the disk has failed.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that syncs no folders
            raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        os.close(descriptor)


def is_unfinished(name: str) -> bool:
    """Whether a name is one of those that files have while :func:`write_whole` writes them."""
    return _NAME.fullmatch(name) is not None


def _unfinished(path: Path) -> tuple[int, Path]:
    """Create the file that becomes ``path``, locked so that nobody takes it for abandoned."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        name = f".{path.name[:_NAME_SHOWN]}.{secrets.token_hex(8)}{UNFINISHED}"
        temporary = path.with_name(name)
        descriptor = os.open(temporary, flags, 0o666)
        if _lock(descriptor) is not False and _is_at(descriptor, temporary):
            return descriptor, temporary
        os.close(descriptor)  # taken for abandoned before it was locked


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files in a folder whose writers have been killed; nothing else."""
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if is_unfinished(path.name):
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        alone = _lock(descriptor)
        if alone is None:
            alone = time.time() - path.lstat().st_mtime > ABANDONED
        if alone and _is_at(descriptor, path):
            path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False


def _keep(path: Path, kept: Path) -> None:
    """Give the file at ``path`` a second name beside it, in place of what has that name."""
    if not path.is_file():
        return
    link = path.with_name(f".{kept.name[:_NAME_SHOWN]}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        with path.open("rb") as old, write_whole(kept, "wb") as new:
            shutil.copyfileobj(old, new)
        return
    try:
        link.replace(kept)
    finally:
        with suppress(OSError):  # to a name of the same file it is not moved
            link.unlink(missing_ok=True)
