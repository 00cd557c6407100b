"""Files: reading what may be a stranger's, writing one whole or not at all, removing folders.

Whatever is read from the folder of a run or a sweep comes through here: a regular file of a size
that is bounded, which is no link to outside of its folder.
"""

import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

# Controls, marks that turn the direction of writing or begin a line, and halves of characters.
_OBEYED = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSEEN = re.compile(f"[{_OBEYED}]")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNSEEN_IN_LINES = re.compile(f"(?![\n\t])[{_OBEYED}]")


def visible(text: str, *, lines: bool = False) -> str:
    """A text as a terminal may have it: what it would obey and not show is written as an escape.

    With ``lines``, ends of lines and tabs stay.
    """
    unseen = _UNSEEN_IN_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    names = {9: "\\t", 10: "\\n", 13: "\\r"}
    return names.get(code) or (f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}")


def decoded(path: Path) -> str:
    """The path as text; what is no UTF-8 shows its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(path: Path) -> str:
    """The path as text on one line, controls in it as escapes; what is no UTF-8 shows its bytes.

    Marks of the direction of writing stay: they are in names of people's own files.
    """
    return _CONTROLS.sub(lambda found: _escape(ord(found[0])), decoded(path))


MOST_JSON = 1 << 24
"""Bytes of a JSON file: Python takes up to 24 times as much for what is in it."""

MOST_PARTS, DEEPEST_PART = 1_000_000, 50
"""Values of a file, and lists in lists; with references a few lines of YAML can say more."""

_WITHOUT_WAITING = (
    getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)


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
    flags = os.O_RDONLY | _WITHOUT_WAITING
    if within is not None:
        path, flags = inside(path, within), flags | getattr(os, "O_NOFOLLOW", 0)
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
    """Where a path leads, which is in the folder.

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


def read_json(path: Path, within: Path | None = None, limit: int = MOST_JSON) -> Any:
    """The values in a JSON file, one for 16 bytes; arguments and errors as of :func:`read_bytes`.

    Raises:
        ValueError: it is no JSON, or not such as :func:`check_plain` allows.
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


def check_plain(content: Any) -> None:
    """Check that values have an end, and a near one: they may refer to their own parts.

    Raises:
        ValueError: there are too many of them, they nest too deep, or a whole number has more than
            64 bits, which no library takes.
    """
    left, count = [(content, 0)], 0
    while left:
        (part, depth), count = left.pop(), count + 1
        if isinstance(part, (dict, list, tuple, set)):
            if depth == DEEPEST_PART:
                raise ValueError("it nests too deep")
            left += [(each, depth + 1) for each in part]
            if isinstance(part, dict):
                left += [(each, depth + 1) for each in part.values()]
            if count + len(left) > MOST_PARTS:
                raise ValueError("it holds too many values")
        elif isinstance(part, int) and abs(part) >= 1 << 63:
            raise ValueError("it holds a whole number of more than 64 bits")


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What spreadsheets take for the beginning of a formula, or pass over to find one behind it."""


def csv_cell(value: str | float | None) -> str:
    """A cell's text; a spreadsheet would compute what begins like a formula and is no number.

    Such a text gets an apostrophe, as does one that begins like such a text with an apostrophe, so
    that :func:`csv_text` knows what it was.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        # float32 has seven digits; more are noise.
        return str(float(f"{value:.7g}")) if math.isfinite(value) else ""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if _is_formula(text) and not _NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """The text of which :func:`csv_cell` has made a cell."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    return text.lstrip("'").startswith(_FORMULA)


def write_csv(file: IO[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of texts and numbers, each cell through :func:`csv_cell`."""
    file.writelines(",".join(map(csv_field, row)) + "\n" for row in rows)


def csv_field(value: str | float | None) -> str:
    """A cell in quotes where it needs them: the csv module gives none to a carriage return."""
    text = csv_cell(value)
    return '"{}"'.format(text.replace('"', '""')) if set(',"\r\n') & set(text) else text


def as_json_values(value: Any) -> Any:
    """Plain values as JSON can hold them: it has no NaN, and what is none is null."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): as_json_values(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json_values(part) for part in value]
    return printable(value) if isinstance(value, Path) else value


def is_regular(path: Path, within: Path) -> bool:
    """Whether a regular file is there, and not outside of a folder by links."""
    try:
        return stat.S_ISREG(inside(path, within).lstat().st_mode)
    except (OSError, ValueError):
        return False


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it, however deep; links are removed and not followed.

    Raises:
        OSError: something in it cannot be removed, or it is itself no folder but a link to one.
    """
    try:
        shutil.rmtree(folder)
    except (RecursionError, OSError) as error:
        # It calls itself, and has a file open, for each folder in a folder.
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            raise
        _remove_deep(folder)


def _remove_deep(folder: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | _WITHOUT_WAITING
    here = os.open(folder, flags)
    entered: list[tuple[str, list[str]]] = []
    try:
        left = _emptied(here)
        while left or entered:
            name = left.pop() if left else None
            there = os.open(name or "..", flags, dir_fd=here)
            os.close(here)
            here = there
            if name:
                entered.append((name, left))
                left = _emptied(here)
            else:
                name, left = entered.pop()
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)
    folder.rmdir()


def _emptied(folder: int) -> list[str]:
    """Remove what is in a folder but its folders; the names of these."""
    left = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return left


@contextmanager
def write_whole(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a new file that takes the place of ``path`` when the block ends without an exception.

    The data are on disk before the name changes, so a crash leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; its ``filename`` is ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(
            descriptor, mode, encoding=encoding, newline="" if encoding else None
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a run's files are as readable as others.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = str(path)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
