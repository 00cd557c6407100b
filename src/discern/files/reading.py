"""Reading files that may be a stranger's, within limits."""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from discern.errors import DiscernError
from discern.version import __version__

MAX_JSON = 1 << 24
"""Bytes of a JSON file: Python takes up to 24 times as much for what is in it."""


MAX_PARTS, MAX_PART_DEPTH = 1_000_000, 50
"""Values of a file, and lists in lists; with references a few lines of YAML can say more."""


WITHOUT_WAITING = os.O_NONBLOCK | os.O_CLOEXEC


def read_bytes(path: Path, limit: int, within: Path | None = None) -> bytes:
    """The content of a file that may be a stranger's.

    Args:
        path: the file.
        limit: bytes that it has at most.
        within: the folder that it has to lie in, wherever links lead; None for a file that the user
            has named, which may lie anywhere.

    Raises:
        OSError: it cannot be read, it is not a regular file (a pipe or a device may have no end),
            it is larger, or it lies outside; ``strerror`` says which.
        ValueError: no file can have that name.
    """
    with open_regular(path, within) as file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return content


def open_regular(path: Path, within: Path | None = None) -> BufferedReader:
    """Open a file for reading as :func:`read_bytes` does, for those who read it in pieces."""
    flags = os.O_RDONLY | WITHOUT_WAITING
    if within is not None:
        path, flags = inside(path, within), flags | os.O_NOFOLLOW
    _check_regular(os.stat(path), path)  # noqa: PTH116 - for opening a device may do something
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def inside(path: Path, folder: Path) -> Path:
    """The real path, which must be inside the folder.

    Raises:
        OSError: links lead it to outside.
    """
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, "it is a link that leads to itself", str(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise OSError(errno.EPERM, "it leads out of its folder", str(path))
    return real


def read_text(path: Path, limit: int, within: Path | None = None) -> str:
    """The text in a file; arguments and errors as of :func:`read_bytes`.

    Raises:
        ValueError: it is not UTF-8.
    """
    return read_bytes(path, limit, within).decode("utf-8")


def read_json(path: Path, within: Path | None = None, limit: int = MAX_JSON) -> Any:
    """The values in a JSON file, one for 16 bytes; arguments and errors as of :func:`read_bytes`.

    Raises:
        ValueError: it is not JSON, or not such as :func:`check_plain` allows.
    """
    text = read_text(path, limit, within)
    if sum(map(text.count, ",[{")) > limit // 16:  # before memory and time are taken for them
        raise ValueError("it holds too many values")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    check_plain(content)
    return content


def check_format(path: Path, found: Any, known: int) -> None:
    """Raise a DiscernError unless a file's format version is the known one; it says what to do."""
    if type(found) is int and found == known:
        return
    if type(found) is int and found > known:
        version, has = "a newer", f"format {found}"
        way = f"upgrade discern (pip install --upgrade discern) to read it; you have {__version__}"
    else:
        version, has = "another", f"format {found}" if type(found) is int else "no format"
        way = "read it with the version that wrote it"
    raise DiscernError(
        f"{path} is of {version} version of discern: it has {has}, and this version reads format "
        f"{known}; {way}."
    )


def check_plain(content: Any) -> None:
    """Check that nested values are few and shallow; they may contain themselves.

    Raises:
        ValueError: there are too many of them, they nest too deep, or a whole number has more than
            64 bits, which no library takes.
    """
    left, count = [(content, 0)], 0
    while left:
        (part, depth), count = left.pop(), count + 1
        if isinstance(part, (dict, list, tuple, set)):
            if depth == MAX_PART_DEPTH:
                raise ValueError("it nests too deep")
            left += [(each, depth + 1) for each in part]
            if isinstance(part, dict):
                left += [(each, depth + 1) for each in part.values()]
            if count + len(left) > MAX_PARTS:
                raise ValueError("it holds too many values")
        elif isinstance(part, int) and abs(part) >= 1 << 63:
            raise ValueError("it holds a whole number of more than 64 bits")


def is_regular(path: Path, within: Path) -> bool:
    """Whether a regular file is there, inside the folder after following links."""
    try:
        return stat.S_ISREG(inside(path, within).lstat().st_mode)
    except (OSError, ValueError):
        return False
