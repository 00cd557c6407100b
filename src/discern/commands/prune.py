"""``discern runs prune``: delete all but the best runs, after showing which."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discern.commands.filters import (
    Pruning,
    better_first,
    check_filters,
    check_metric,
    matches,
    name_in,
    size_of,
)
from discern.console import for_terminal, say
from discern.errors import DiscernError
from discern.files.locks import is_held
from discern.files.reading import is_regular
from discern.files.removing import remove_tree
from discern.files.walk import everything
from discern.reports.page import size
from discern.runs.folder import (
    CONFIG,
    FOLD,
    OVERRIDES,
    Run,
    folders_below,
    glance,
    is_run,
    is_sweep,
    order_of_beginning,
    runs_below,
)
from discern.runs.holding import is_in_use
from discern.runs.metric_table import LISTED, metric_of
from discern.runs.state import State
from discern.sweeps.ledger import LOCK, Ledger
from discern.tables import line_width, table
from discern.text import decoded

RECENT = 86_400.0
"""Seconds since the last write within which an unfinished run may still be running."""

NEWEST = "began"
"""The value of ``by`` that ranks runs by time instead of a metric."""


@dataclass(frozen=True)
class Unit:
    """A run or a sweep, which is kept or deleted as a whole.

    Attributes:
        folder: its folder.
        runs: the run, or the sweep's jobs.
    """

    folder: Path
    runs: list[Run]

    def value(self, by: str) -> float | None:
        """The value it is ranked by: a sweep's best job, or the best mean of folds."""
        settings: dict[Hashable, list[float]] = {}
        for run in self.runs:
            if (value := run.metrics().get(by)) is not None:
                settings.setdefault(_setting(run), []).append(value)
        known = [statistics.fmean(values) for values in settings.values()]
        return min(known, key=lambda value: better_first(by, value), default=None)

    @property
    def began(self) -> float:
        """When its last run began."""
        return max(order_of_beginning(run)[0] for run in self.runs)

    @property
    def state(self) -> str:
        """The run's state, or the sweep's number of jobs."""
        if not is_sweep(self.folder):
            return self.runs[0].state.value
        return f"sweep of {len(self.runs)} {'job' if len(self.runs) == 1 else 'jobs'}"


def _setting(run: Run) -> Hashable:
    """A key that folds of the same cross-validation share."""
    if not run.is_fold:
        return run.folder
    return tuple(typed for typed in run.overrides if not typed.lstrip("+").startswith(f"{FOLD}="))


def prune(asked: Pruning) -> None:
    """Show the runs that are not among the best, ask, and delete them.

    Raises:
        DiscernError: a setting is missing or wrong, nobody can be asked, or a folder cannot be
            deleted.
    """
    if asked.keep is None:
        raise DiscernError(
            "discern runs prune needs keep=N, how many of the best stay; 0 for none."
        )
    _check_folder(asked.dir)
    units = _units(asked.dir)
    runs = [run for unit in units for run in unit.runs]
    check_filters(runs, asked.filters)
    by = asked.by or LISTED[0]
    if asked.by is not None or asked.keep:  # with keep=0 nothing is ranked
        _check_by(by, runs)
    meant = [unit for unit in units if all(matches(run, asked.filters) for run in unit.runs)]
    behind = _ranked(meant, by)[asked.keep :]
    stays = {unit.folder: _reason_to_keep(unit) for unit in behind}
    to_delete = [unit for unit in behind if stays[unit.folder] is None]
    _show(asked, by, to_delete, units)
    for unit in behind:
        if (why := stays[unit.folder]) is not None:
            say(f"{name_in(unit.folder, asked.dir)} stays: {why}.")
    if to_delete and _agreed(asked, len(to_delete)):
        _delete(to_delete, asked.dir)


def _check_folder(outputs: Path) -> None:
    inside = outputs.resolve()
    if is_run(inside) or any(map(is_sweep, (inside, *inside.parents))):
        raise DiscernError(
            f"dir={for_terminal(decoded(outputs))} is a run or a sweep itself; it must be a folder "
            "that has them in it."
        )


def _check_by(by: str, runs: Sequence[Run]) -> None:
    if by != NEWEST and by.partition("/")[0] not in ("val", "train"):
        raise DiscernError(
            f"by={for_terminal(by)} is not allowed; it must be a metric of val or train, such as "
            "val/loss, or began: the test split chooses nothing."
        )
    check_metric("by", by, runs, [NEWEST])


def _units(outputs: Path) -> list[Unit]:
    found: dict[Path, list[Run]] = {}
    for folder in runs_below(outputs):
        above = [each for each in folder.parents if each != outputs and outputs in each.parents]
        sweeps = [each for each in above if is_sweep(each)]
        found.setdefault(sweeps[-1] if sweeps else folder, []).append(glance(folder))
    return [Unit(folder, runs) for folder, runs in found.items()]


def _ranked(units: Sequence[Unit], by: str) -> list[Unit]:
    newest = sorted(units, key=lambda unit: unit.began, reverse=True)
    if by == NEWEST:
        return newest
    return sorted(newest, key=lambda unit: better_first(by, unit.value(by)))


def _reason_to_keep(unit: Unit) -> str | None:
    """Why it is kept although it is not among the best; None if it is deleted."""
    if any(run.state is State.UNFINISHED for run in unit.runs) or _lacks_jobs(unit):
        age = time.time() - _changed(unit.folder)
        if age < RECENT:
            return "it has not ended, and was written to in the last 24 hours"
    if is_held(unit.folder / LOCK):
        return "its sweep is running"
    if any(is_in_use(run.folder) for run in unit.runs):
        return "it is running"
    if not _is_discerns(unit):
        return f"it does not hold the {CONFIG} and {OVERRIDES} that a run writes"
    if any(run.state is State.UNKNOWN for run in unit.runs):
        return "another version of discern has written its summary"
    if _contains_other_runs(unit):
        return "there are other runs in its folder"
    return None


def _ledger(unit: Unit) -> Ledger | None:
    """The ledger of a sweep; None for a run, or if another version of discern wrote it."""
    with suppress(DiscernError):
        return Ledger.load(unit.folder) if is_sweep(unit.folder) else None
    return None


def _is_discerns(unit: Unit) -> bool:
    """Whether a folder has the files that a run, or a sweep, writes when it starts."""
    if is_sweep(unit.folder):
        return _ledger(unit) is not None
    return all(is_regular(unit.folder / name, unit.folder) for name in (CONFIG, OVERRIDES))


def _lacks_jobs(unit: Unit) -> bool:
    ledger = _ledger(unit)
    return ledger is not None and len(ledger.jobs) > len(unit.runs)


def _contains_other_runs(unit: Unit) -> bool:
    """Whether there is a run inside a run, other than the test of a sweep's best job."""
    return any(
        is_run(path) or is_sweep(path)
        for run in unit.runs
        for path in folders_below(run.folder)
        if path not in (run.folder, run.folder / "test")
    )


def _changed(folder: Path) -> float:
    """When anything in a folder was last written, in seconds since 1970."""
    latest = folder.lstat().st_mtime
    for entry in everything(folder):
        with suppress(OSError):
            latest = max(latest, entry.stat(follow_symlinks=False).st_mtime)
    return latest


# Showing, asking, deleting


def _show(asked: Pruning, by: str, to_delete: Sequence[Unit], units: Sequence[Unit]) -> None:
    where = for_terminal(decoded(asked.dir))
    if not to_delete:
        say(f"Nothing to delete in {where}.")
        return
    metrics = [] if by == NEWEST else [by]
    header = ["to be deleted", "began", "state", *metrics, "size"]
    rows = []
    total = 0
    for unit in to_delete:
        room = size_of(unit.folder)
        total += room
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(unit.began))
        values = [metric_of(name).text(unit.value(name)) for name in metrics]
        rows.append([name_in(unit.folder, asked.dir), began, unit.state, *values, size(room)])
    say(table(header, rows, width=line_width(), dispensable=["began"]))
    say(f"\n{len(to_delete):,} of {len(units):,} in {where}, {size(total)}")


def _agreed(asked: Pruning, count: int) -> bool:
    if asked.yes:
        return True
    sys.stdout.flush()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise DiscernError(
            "Nothing was deleted: nobody can be asked here, and yes=true is not set."
        )
    try:
        answer = input(f"Delete {'it' if count == 1 else f'these {count:,}'}? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        say()
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    say("Nothing was deleted.")
    return False


def _delete(to_delete: Sequence[Unit], outputs: Path) -> None:
    count = 0
    for unit in to_delete:
        # It may have been continued since.
        if (why := _reason_to_keep(unit)) is not None:
            say(f"{name_in(unit.folder, outputs)} stays: {why}.")
            continue
        remove_tree(unit.folder)
        count += 1
        for above in unit.folder.parents:
            if outputs not in above.parents or any(above.iterdir()):
                break
            above.rmdir()
    say(f"{count:,} deleted.")
