"""Runs named on the command line."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from discern.console import for_terminal
from discern.errors import DiscernError
from discern.files.places import expanded, is_file, is_there
from discern.files.walk import matching
from discern.runs.folder import (
    OVERRIDES,
    SUMMARY,
    WORDS,
    Run,
    glance,
    is_run,
    is_sweep,
    read_run,
    run_meant,
    runs_below,
)
from discern.text import decoded


def selected(words: Iterable[str], outputs: Path) -> list[Run]:
    """The runs that are named, each once, in the order of the words.

    Args:
        words: folders of runs; of sweeps, whose jobs come best first by val/loss, or by the mean
            objective of their setting where they are folds; a sweep's folder and the number of a
            job; other folders, for all runs below;
            glob patterns of folders; ``last`` and ``best``, the newest run in ``outputs`` and the
            one with the lowest val/loss.
        outputs: folder to look for ``last`` and ``best`` in.

    Raises:
        DiscernError: a word names no run.
    """
    found: dict[Path, Run] = {}
    for word in words:
        for folder in _meant(word, outputs):
            found.setdefault(folder.resolve(), read_run(folder))
    return list(found.values())


def _meant(word: str, outputs: Path) -> list[Path]:
    path = expanded(word)
    if not is_there(path):
        if word in WORDS:
            return [run_meant(word, outputs)]
        if glob.has_magic(word):
            return _matching(word)
        if path.name.isdecimal() and is_sweep(path.parent):
            return [_job(path.parent, int(path.name))]
        raise DiscernError(
            f"{for_terminal(decoded(path))} does not exist; it must be the folder of a run or of a "
            "sweep, SWEEP/3 for job 3 of a sweep, a pattern, last or best."
        )
    folders = _inside(path)
    if not folders:
        raise DiscernError(
            f"{for_terminal(decoded(path))} is not the folder of a run: it has neither {SUMMARY} "
            f"nor {OVERRIDES}, nor a run in it."
        )
    return folders


def _job(sweep: Path, number: int) -> Path:
    """The folder of a sweep's job.

    Raises:
        DiscernError: there is no such job, or it has not begun.
    """
    from discern.sweeps.ledger import Ledger  # numpy: start-up time

    jobs = Ledger.load(sweep).jobs
    where = for_terminal(decoded(sweep))
    if number >= len(jobs):
        raise DiscernError(f"{where} has no job {number}; its jobs are 0 to {len(jobs) - 1}.")
    folder = sweep / jobs[number].name
    if not is_run(folder):
        raise DiscernError(f"Job {number} of {where} has not begun.")
    return folder


def _matching(pattern: str) -> list[Path]:
    """The runs in what a pattern matches; other files and folders are ignored."""
    paths = matching(expanded(pattern))
    folders = [folder for path in paths for folder in _inside(path)]
    if not folders:
        raise DiscernError(
            f"{for_terminal(pattern)} matches no folder of a run"
            + (f" among {len(paths):,}." if paths else ".")
        )
    return folders


def _inside(path: Path) -> list[Path]:
    if is_run(path):
        # The folder ``best`` of a sweep holds links to a job's files.
        marker = next(name for name in (SUMMARY, OVERRIDES) if is_file(path / name))
        linked = (path / marker).is_symlink()
        return [(path / marker).resolve().parent if linked else path]
    folders = list(runs_below(path))
    if not is_sweep(path):
        return folders
    parts = _parts(path)
    # Jobs that sweep.json does not list come last.
    key = (lambda each: parts.get(each.name, len(parts))) if parts else _loss
    return sorted(folders, key=key)


def _parts(sweep: Path) -> dict[str, int]:
    """Folder of a job -> its place in a sweep over folds or splits; empty for other sweeps."""
    from discern.sweeps.ledger import Ledger  # numpy: start-up time
    from discern.sweeps.ranking import has_parts, listed_rows

    try:
        ledger = Ledger.load(sweep)
    except DiscernError:  # of another version
        return {}
    rows = ledger.rows()
    if not has_parts(rows):
        return {}
    listed = listed_rows(rows, ledger.ranked_by)
    return {row.folder.name: place for place, (_, row) in enumerate(listed)}


def _loss(folder: Path) -> float:
    loss = glance(folder).metric("val", "loss")
    return float("inf") if loss is None else loss
