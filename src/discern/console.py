"""Lines for the terminal."""

import functools
import gc
import logging
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree
from tqdm import tqdm

from discern.errors import as_override, sanitize_message
from discern.redaction import redacted, redacted_text
from discern.tables import line_width, wrapped
from discern.text import visible

log = logging.getLogger(__name__)

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
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        try:
            tqdm.write(_in_width(self.format(record), line_width()), file=stream)
            stream.flush()
        except OSError as error:
            if not _silence(stream):
                self.handleError(record)
            elif not isinstance(error, BrokenPipeError):  # as of `head`, which has read enough
                log.warning(
                    "%s cannot be written (%s); the lines to come are in the log alone.",
                    *(stream.name, error.strerror or error),
                )
        except Exception:
            self.handleError(record)


def _silence(stream: TextIO) -> bool:
    """Let what is printed go nowhere, also what waits to be; whether the stream is of a file.

    A terminal that was closed or a full disk behind it is not worth the run, which has its log.
    """
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # as of a notebook
        return False
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, number)
    os.close(silence)
    return True


class LogFile(logging.FileHandler):
    """Writes log records to a file; where it cannot, one warning on the terminal says so."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            super().emit(record)
        except OSError:  # it cannot be opened
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Warn of a disk that is full, lost or read-only; print the traceback of anything else."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            log.warning("%s cannot be written (%s).", self.baseFilename, error.strerror or error)


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
        first = label[0] if label else " " * (len(line) - len(line.lstrip()))
        later = " " * (len(first) + (0 if label else 2))
        lines += wrapped(line[len(first) :], width, first, later)
    return "\n".join(lines)


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


_JOINERS = "\u200c\u200d"  # which Persian, the scripts of India and emoji are written with


def for_terminal(text: str) -> str:
    """A text from a file on one line, with ``?`` for what is not printable."""
    return "".join(c if c.isprintable() or c in _JOINERS else "?" for c in text)


def _cell(text: str) -> str:
    # To rich, brackets are markup.
    return escape(visible(text))


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
