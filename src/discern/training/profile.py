"""``trainer.profiler=…``: where its tables are written, and the longest rows on the terminal."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler

from discern.tables import line_width, table
from discern.training.job import relative
from discern.training.seam import callback_of, settings_of

log = logging.getLogger(__name__)

PROFILERS = {
    "simple": "lightning.pytorch.profilers.SimpleProfiler",
    "advanced": "lightning.pytorch.profilers.AdvancedProfiler",
    "pytorch": "lightning.pytorch.profilers.PyTorchProfiler",
}
"""Value of ``trainer.profiler`` -> class."""

FILE = "profile"
"""Part of the names of the tables' files."""

ROWS = 12
"""Rows that are printed; the file has all."""

MAX_WIDTH = 100


class ProfileTotals(Callback):
    """Adds up what a profiler measures; some profilers forget it after each stage."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[int, float]] = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add what training took."""
        self._add(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add what the test took."""
        self._add(trainer)

    def _add(self, trainer: Trainer) -> None:
        profiler = settings_of(trainer).profiler
        if isinstance(profiler, SimpleProfiler):
            self.kept = {}  # it forgets nothing
            for action, each in profiler.recorded_durations.items():
                self._count(_without_arguments(action), len(each), sum(each))
        elif isinstance(profiler, AdvancedProfiler):
            for name, calls, seconds in _functions(profiler):
                self._count(name, calls, seconds)

    def _count(self, name: str, calls: int, seconds: float) -> None:
        before = self.kept.get(name, (0, 0.0))
        self.kept[name] = before[0] + calls, before[1] + seconds


def _without_arguments(action: str) -> str:
    """The name of an action without its callback's arguments, which Lightning puts in braces."""
    return re.sub(r"\{.*\}", "", action)


def _functions(profiler: AdvancedProfiler) -> Iterator[tuple[str, int, float]]:
    """Functions in each action with their calls and the seconds spent in themselves."""
    for profile in profiler.profiled_actions.values():
        measured: Any = profile
        measured.create_stats()
        for (file, line, function), (_, calls, seconds, *_rest) in measured.stats.items():
            if "_lsprof.Profiler" not in function:  # which measures
                yield f"{Path(file).name}:{line}({function})" if line else function, calls, seconds


def say_profile(trainer: Trainer) -> None:
    """Print the rows that took longest, and name the files that have all."""
    profiler, totals = settings_of(trainer).profiler, callback_of(trainer, ProfileTotals)
    if totals is not None and totals.kept:
        log.info("\n%s\n", _table(totals.kept, isinstance(profiler, AdvancedProfiler)))
    folder = getattr(profiler, "dirpath", None)
    for file in sorted(Path(folder).glob(f"*{FILE}*.txt")) if folder else ():
        log.info("Profile: %s", relative(file))


def _table(kept: dict[str, tuple[int, float]], of_functions: bool) -> str:
    head = ["function", "calls", "own seconds"] if of_functions else ["action", "calls", "seconds"]
    longest = sorted(kept.items(), key=lambda item: -item[1][1])[:ROWS]
    room = min(line_width(), MAX_WIDTH) - sum(max(len(name), 9) + 3 for name in head[1:])
    rows = [[_cut(name, room), f"{n:,}", f"{seconds:.3f}"] for name, (n, seconds) in longest]
    return table(head, rows)


def _cut(name: str, room: int) -> str:
    """A name without its middle where it is too long."""
    if len(name) <= room:
        return name
    end = (room - 1) // 2
    return f"{name[: room - 1 - end]}…{name[-end:]}"


def settings_of_profiler(name: str, folder: str) -> dict[str, Any]:
    """What builds a profiler that is chosen by its name."""
    return {"_target_": PROFILERS[name], "dirpath": folder, "filename": FILE}
