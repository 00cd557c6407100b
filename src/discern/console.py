"""Lines and tables for the terminal."""

import gc
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from discern.errors import sanitize_message
from discern.redaction import redacted_text
from discern.text import visible

# tqdm's own lock is shared with forks. One that is killed while it prints would hold it for ever,
# and the other jobs of a sweep would wait.
tqdm.set_lock(threading.RLock())


class Formatter(logging.Formatter):
    """Formats records and tracebacks without secrets and control characters; shortens warnings."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of one record."""
        text = redacted_text(super().format(record))
        if record.levelno >= logging.WARNING and not record.exc_info:
            return sanitize_message(text)
        return visible(text, lines=True)


def say(text: str = "", end: str = "\n") -> None:
    """Print a command's output without control characters."""
    print(visible(text, lines=True), end=end, flush=True)


class ConsoleHandler(logging.Handler):
    """Prints log records above a progress bar that may be showing, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            tqdm.write(_in_width(self.format(record), line_width()), file=stream)
            stream.flush()
        except BrokenPipeError:
            # The reader, such as `head`, is gone. The run and its log go on.
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, stream.fileno())
            os.close(silence)
        except Exception:
            self.handleError(record)


_COMMAND = re.compile(r"\b(python train\.py|discern [a-z]+|pip install) ")
_LABEL = re.compile(r"  (?=\S).{10} (?=\S)")  # of the lines at a run's beginning


def _in_width(text: str, width: int) -> str:
    """A text whose lines end between words; commands stay whole, to be copied."""
    lines = []
    for line in text.split("\n"):
        if cell_len(line) <= width or _COMMAND.search(line):
            lines.append(line)
            continue
        label = _LABEL.match(line)
        begin = label[0] if label else " " * (len(line) - len(line.lstrip()))
        lines += wrapped(
            line[len(begin) :], width, begin, " " * len(begin if label else begin + "  ")
        )
    return "\n".join(lines)


def in_notebook() -> bool:
    """Whether printed text appears below a notebook's cell."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


def is_terminal() -> bool:
    """Whether standard error is a terminal, so that a progress bar makes sense."""
    return sys.stderr.isatty()


@contextmanager
def loading(*packages: str) -> Iterator[None]:
    """Show in a terminal which packages the block imports, unless they are imported already.

    Garbage collection waits meanwhile: it would take a fifth of the time.
    """
    if is_terminal() and not sys.modules.keys() >= {*packages}:
        print(f"Loading {' and '.join(packages)} …", file=sys.stderr, flush=True)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def for_terminal(text: str) -> str:
    """A text from a file on one line, with ``?`` for what is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int = 0,
    dispensable: Sequence[str] = (),
    blocks: Sequence[str] = (),
) -> str:
    """A plain-text table: the first column is left-aligned, the others are right-aligned.

    A table that is too wide becomes narrower step by step: its columns move together, a long first
    heading moves to a line above, dispensable columns are left out and named below, and the first
    column's cells continue on further lines; or, if there are any, the blocks are shown instead.

    Args:
        header, rows: the cells.
        width: characters of a line; 0 for the terminal's, 100 without a terminal.
        dispensable: headings of columns that may be left out, in the order in which they are.
        blocks: a block of lines for each row.
    """
    width = width or terminal_width(100)
    cells = [list(map(visible, row)) for row in (header, *rows)]
    if _narrowest(cells) <= width:
        return "\n".join(_drawn(cells, width))
    above: list[str] = []
    if cell_len(cells[0][0]) > max(SHORTEST_CELL, *(cell_len(row[0]) for row in cells[1:])):
        above, cells[0][0] = [*wrapped(cells[0][0], width), ""], ""
    left_out = []
    for name in filter(header.__contains__, dispensable):
        if _narrowest(cells, 2 * width // 5) <= width:
            break
        column = cells[0].index(visible(name))
        left_out.append(name)
        cells = [[*row[:column], *row[column + 1 :]] for row in cells]
    if _narrowest(cells) > width and blocks:
        return "\n".join(blocks)
    below = wrapped(f"Not shown on this narrow terminal: {', '.join(left_out)}.", width)
    return "\n".join([*above, *_drawn(cells, width), *(["", *below] if left_out else [])])


def fits(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = 0) -> bool:
    """Whether a table fits into a line, without its first heading and without leaving out any."""
    cells = [["", *map(visible, header[1:])], *(list(map(visible, row)) for row in rows)]
    return _narrowest(cells) <= (width or terminal_width(100))


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _narrowest(cells: Sequence[Sequence[str]], most: int = 10_000) -> int:
    """Characters of a line of a table whose columns are two spaces apart, the first at ``most``."""
    first, *others = _widths(cells)
    return min(first, most) + sum(others) + 2 * len(others)


SHORTEST_CELL = 12
"""Characters below which the first column is not made narrower, nor its heading moved."""


def _drawn(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of a table; the first column has several for a cell that is too wide."""
    first, *others = _widths(cells)
    gap = 3 if first + sum(others) + 3 * len(others) <= width else 2
    first = max(min(first, width - sum(others) - gap * len(others)), min(first, SHORTEST_CELL))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, gap - 2))
    for number, name in enumerate(cells[0]):
        justify: Literal["left", "right"] = "right" if number else "left"
        grid.add_column(Text(name), justify=justify, overflow="fold")
    for name, *values in cells[1:]:
        grid.add_row(Text("\n".join(_folded(name, first))), *map(Text, values))
    # In a notebook Rich would show an empty output for captured text.
    console = Console(
        width=width, color_system=None, force_terminal=False, force_jupyter=False, emoji=False
    )
    with console.capture() as capture:
        console.print(grid)
    return [line.rstrip() for line in capture.get().rstrip("\n").splitlines()]


def _folded(text: str, width: int) -> list[str]:
    """A text in lines, ended where possible after a mark that divides names, or a space."""
    lines = [""]
    for part in re.findall(r"[^\s/,_]*[\s/,_]?", text):
        if cell_len(lines[-1]) + cell_len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        *whole, lines[-1] = chop_cells(lines[-1] + part, width) or [""]
        lines[-1:-1] = whole
    return lines


def wrapped(text: str, width: int = 0, first: str = "", later: str = "") -> list[str]:
    """A text in lines that end between words, with the beginnings of the first and later lines.

    A word that is longer than a line, such as a path, stays whole so that it can be copied.
    """
    width = width or terminal_width(100)
    lines, line, start = [], first, first
    for word in text.split():
        if line != start and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = start = later
        line = f"{line} {word}" if line != start else f"{line}{word}"
    return [*lines, line]


def terminal_width(otherwise: int) -> int:
    """Characters of a line of the terminal, or ``otherwise`` in a file or a pipe."""
    return shutil.get_terminal_size(fallback=(otherwise, 24)).columns


def line_width() -> int:
    """Characters of a line: the terminal's width, or more than any table has in a file or pipe."""
    return terminal_width(10_000)
