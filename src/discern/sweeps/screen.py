"""What a terminal shows of a sweep: one bar of all jobs, and above it what jobs print."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from discern.console import is_terminal

LAYOUT = "{n_fmt}/{total_fmt} jobs |{bar}| {elapsed}, {remaining} left{postfix}"


class Screen:
    """The bar of a sweep, drawn by the sweep's process alone.

    What jobs' processes print goes through a pipe to the sweep's, which writes it above the bar: on
    a terminal that several write to, a bar and other lines stand in each other.
    """

    seconds = 1.0
    """How long the bar stays as it is while no job ends."""

    def __init__(self) -> None:
        self._way_out, self._way_in = os.pipe()
        os.set_blocking(self._way_out, False)
        self._unfinished = b""
        self._bar: Any = None

    def fileno(self) -> int:
        """The file descriptor that can be read once a job has printed something."""
        return self._way_out

    def show(self, done: int, total: int, best: str) -> None:
        """Draw the bar.

        Args:
            done: jobs that have ended.
            total: jobs of the sweep.
            best: what came of the best so far; empty if nothing has come of any.
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
        """Write what jobs have printed, and draw the bar again."""
        lines = (self._unfinished + self._read()).split(b"\n")
        self._unfinished = lines.pop()
        for line in lines:
            tqdm.write(line.decode(errors="replace"), file=sys.stderr)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
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
        """In the process of a job: what is printed to the terminal goes to the sweep's process."""
        for stream in (sys.stdout.fileno(), sys.stderr.fileno()):
            if os.isatty(stream):
                os.dup2(self._way_in, stream)


@contextmanager
def screen_if_watched() -> Iterator[Screen | None]:
    """A screen for the length of the block, or None where there is no terminal."""
    if not is_terminal():
        yield None
        return
    screen = Screen()
    try:
        yield screen
    finally:
        screen.close()


def forget_bars() -> None:
    """In a process that was forked: leave the bars to the one that they are of.

    They share tqdm's lock, and a process that is killed while it holds it would never let go.
    """
    instances: Any = tqdm._instances
    instances.clear()
    tqdm.set_lock(threading.RLock())
