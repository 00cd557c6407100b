"""Lines and tables for the terminal."""

import logging
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

# tqdm's own lock is shared with forks of the process, and for ever held by one that is killed while
# it prints: the other jobs of a sweep would wait for it.
tqdm.set_lock(threading.RLock())


class ConsoleHandler(logging.Handler):
    """Prints log records above a progress bar that may be showing, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


def is_terminal() -> bool:
    """Whether somebody watches: a progress bar makes sense."""
    return sys.stderr.isatty()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A plain-text table, its first column to the left, the others to the right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, name in enumerate(header):
        grid.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        grid.add_row(*row)
    width = shutil.get_terminal_size(fallback=(100, 24)).columns
    console = Console(width=width, color_system=None, force_terminal=False, emoji=False)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())
