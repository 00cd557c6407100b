"""Lines and tables for the terminal."""

import functools
import gc
import logging
import os
import shutil
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree
from tqdm import tqdm

from discern.errors import as_override, told
from discern.redaction import redacted, redacted_text
from discern.text import visible

# tqdm's own lock is shared with forks of the process, and for ever held by one that is killed while
# it prints: the other jobs of a sweep would wait for it.
tqdm.set_lock(threading.RLock())


class Formatter(logging.Formatter):
    """Records, with their tracebacks, as text without secrets and without what terminals obey.

    No line of a warning is long.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The text of one record."""
        text = redacted_text(super().format(record))
        if record.levelno >= logging.WARNING and not record.exc_info:
            return told(text)
        return visible(text, lines=True)


def say(text: str = "", end: str = "\n") -> None:
    """Print what a command answers, in which nothing is obeyed by a terminal."""
    print(visible(text, lines=True), end=end, flush=True)


class ConsoleHandler(logging.Handler):
    """Prints log records above a progress bar that may be showing, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except BrokenPipeError:
            # Whoever read it, `head` perhaps, has seen enough. The run goes on, as does its log.
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, stream.fileno())
            os.close(silence)
        except Exception:
            self.handleError(record)


class OwnDebug(logging.Filter):
    """Leaves out debug lines of libraries, unless ``hydra.verbose=LIBRARY`` asks for them.

    With ``hydra.verbose=true`` matplotlib alone would write a line for each font.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if record.levelno >= logging.INFO or not _is_of_library(record.name.partition(".")[0]):
            return True
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger.parent is not None:  # the root has none
            if logger.level:
                return True
            logger = logger.parent
        return False


@functools.cache
def _is_of_library(package: str) -> bool:
    """Whether a package is neither discern nor a module of its user's."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if package in ("discern", "hydra_plugins") or file is None:
        return False
    places = {sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")}
    return any(Path(file).is_relative_to(place) for place in places)


def in_notebook() -> bool:
    """Whether what is printed appears below a notebook's cell."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


def is_terminal() -> bool:
    """Whether somebody watches: a progress bar makes sense."""
    return sys.stderr.isatty()


@contextmanager
def loading(*packages: str) -> Iterator[None]:
    """Say in a terminal which packages the block imports, unless they have been imported.

    The collector is put off, which would look through them for a fifth of the time.
    """
    if is_terminal() and not sys.modules.keys() >= {*packages}:
        print(f"Loading {' and '.join(packages)} …", file=sys.stderr, flush=True)
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def for_terminal(text: str) -> str:
    """A text from a file on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _cell(text: str) -> str:
    # Brackets are markup to rich.
    return escape(visible(text))


def table_or_blocks(
    header: Sequence[str], cells: Sequence[Sequence[str]], blocks: Sequence[str], width: int = 0
) -> str:
    """The table of texts if each row fits into a line, else a block for each row of it.

    Args:
        header, cells: of the table.
        blocks: as many as rows; none for a table in any case.
        width: of a line; 0 for the terminal's, 100 where there is none.
    """
    ends = sum(cell.count("…") for line in [header, *cells] for cell in line)
    for gap in (3, 2):
        text = table(header, cells, width, gap)
        # One that is too wide breaks the lines of its cells, or ends them with an ellipsis.
        if len(text.splitlines()) == len(cells) + 2 and text.count("…") == ends:
            return text
    return "\n".join(blocks) if blocks else text


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], width: int = 0, gap: int = 3
) -> str:
    """A plain-text table, its first column to the left, the others to the right.

    A width of 0 is the terminal's, 100 where there is none; ``gap`` letters are between columns.
    """
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, gap - 2))
    for number, name in enumerate(header):
        grid.add_column(_cell(name), justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*map(_cell, row))
    width = width or shutil.get_terminal_size(fallback=(100, 24)).columns
    # In a notebook Rich would show an empty output for what is captured.
    console = Console(
        width=width, color_system=None, force_terminal=False, force_jupyter=False, emoji=False
    )
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())


def print_tree(title: str, settings: Mapping[str, Any]) -> None:
    """Print settings as a tree, without secrets."""
    tree = Tree(_cell(title), guide_style="dim")
    _grow(tree, redacted(settings))
    Console(emoji=False, highlight=False).print(tree)


def _grow(tree: Tree, settings: Mapping[str, Any]) -> None:
    for name, part in settings.items():
        if isinstance(part, Mapping) and part:
            _grow(tree.add(f"[bold]{_cell(str(name))}[/bold]"), part)
        else:
            tree.add(f"{_cell(str(name))}: [cyan]{_cell(as_override(part))}[/cyan]")


def line_width() -> int:
    """Letters of a terminal's line; a file or a pipe has longer ones than any table."""
    return shutil.get_terminal_size(fallback=(10_000, 24)).columns
