"""Files: writing one whole or not at all, printing the name of any, cells of tables."""

import errno
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# Controls, marks that turn the direction of writing or begin a line, and halves of characters.
_OBEYED = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_UNSEEN = re.compile(f"[{_OBEYED}]")
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


def printable(path: Path) -> str:
    """The path as text on one line; a name that is no UTF-8 shows its bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text.replace("\n", "\\n").replace("\r", "\\r")


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be read, without ever waiting for one that is a pipe, a socket or a device.

    Raises:
        OSError: it cannot be opened, or is no regular file, where ``strerror`` says so.
    """
    _check_regular(os.stat(path), path)  # noqa: PTH116 - for opening a device may do something
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(os.fstat(descriptor), path)
        yield file


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


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
