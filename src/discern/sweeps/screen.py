"""The terminal of a sweep: a progress bar of all jobs, with their output above it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from discern.console import is_terminal

LAYOUT = "{n_fmt}/{total_fmt} jobs |{bar}| {elapsed}, {remaining} left{postfix}"


class Screen:
    """The progress bar of a sweep, drawn by the sweep's process alone.

    The output of jobs goes through a pipe to that process, which writes it above the bar. On a
    terminal that several processes write to, lines and a bar would overwrite each other.
    """

    seconds = 1.0
    """Interval between updates of the bar while no job ends."""

    def __init__(self) -> None:
        self._way_out, self._way_in = os.pipe()
        os.set_blocking(self._way_out, False)
        self._unfinished = b""
        self._bar: tqdm[NoReturn] | None = None

    def fileno(self) -> int:
        """The file descriptor that is readable when a job has printed something."""
        return self._way_out

    def show(self, done: int, total: int, best: str) -> None:
        """Draw the bar.

        Args:
            done: number of finished jobs.
            total: number of jobs.
            best: objective of the best job so far; empty without one.
        """
        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, leave=False, dynamic_ncols=True, mininterval=0,
                bar_format=LAYOUT,
            )  # fmt: skip
        self._bar.total = total
        self._bar.set_postfix_str(best, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()

    def refresh(self) -> None:
        """Write the output of jobs, and redraw the bar."""
        lines = (self._unfinished + self._read()).split(b"\n")
        self._unfinished = lines.pop()
        for line in lines:
            tqdm.write(line.decode(errors="replace"), file=sys.stderr)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self.refresh()
        if self._unfinished:
            tqdm.write(self._unfinished.decode(errors="replace"), file=sys.stderr)
        if self._bar is not None:
            self._bar.close()
        os.close(self._way_out)
        os.close(self._way_in)

    def _read(self) -> bytes:
        parts = []
        while True:
            try:
                parts.append(os.read(self._way_out, 1 << 16))
            except BlockingIOError:
                return b"".join(parts)

    def take_output(self) -> None:
        """In a worker: redirect output from the terminal to the sweep's process."""
        for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
            if os.isatty(stream):
                os.dup2(self._way_in, stream)


@contextmanager
def screen_if_watched() -> Iterator[Screen | None]:
    """A screen for the block, or None without a terminal."""
    if not is_terminal():
        yield None
        return
    screen = Screen()
    try:
        yield screen
    finally:
        screen.close()


def forget_bars() -> None:
    """In a fork: drop the parent's bars, and its lock, which a killed process does not release."""
    tqdm._instances.clear()
    tqdm.set_lock(threading.RLock())
