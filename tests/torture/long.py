"""What a run of thousands of epochs, or a sweep of hundreds of jobs, takes is flat."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import starter
from torture.case import Case
from torture.watching import Taken, noted

SETTINGS = (
    "data.source=sample", "data.fraction=0.02", "model.hidden=[4]", "trainer.limit_val_batches=1",
    "trainer.accelerator=cpu", "data.batch_size=16", "data.num_workers=0", "report=false",
    "callbacks.early_stopping=null",
)  # fmt: skip

EPOCHS, JOBS = 5_000, 500

RESIDENT_BYTES = 4 << 10
"""The most that the memory of a run grows in an epoch, and 16 times as much in a job: its row."""

NOISE_BYTES = 48 << 20
"""By so much an allocator may hold more or less of what is free."""

EVENTS_BYTES = 16 << 10
"""The most that TensorBoard's files grow in an epoch."""

SLOWER = 2.0
"""How many times the processor time of the second fifth the last one may take."""

MANY = 400
"""Of fewer the processor time says nothing."""

HOURS = 6 * 3600.0
"""Patience with the long form."""


def cases(epochs: int = EPOCHS, jobs: int = JOBS) -> Iterator[Case]:
    """A run of so many epochs, and a sweep of so many jobs."""
    yield Case(f"a run of {epochs:,} epochs", functools.partial(_check_run, epochs=epochs))
    yield Case(f"a sweep of {jobs:,} jobs", functools.partial(_check_sweep, jobs=jobs))


def _check_run(cwd: Path, epochs: int) -> None:
    status = _end(cwd, "train", *SETTINGS, f"trainer.max_epochs={epochs}", "hydra.run.dir=run")
    assert status == 0, starter.said(cwd)
    taken = noted(cwd)
    assert len(taken) == epochs
    assert_flat(taken, RESIDENT_BYTES)
    assert (taken[-1].events - taken[0].events) / (epochs - 1) < EVENTS_BYTES
    rows = (cwd / "run" / "metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(1, epochs + 1))


def _check_sweep(cwd: Path, jobs: int) -> None:
    seeds = f"seed=range({jobs})"
    words = ("trainer.max_epochs=1", "logger=none", "hydra.launcher.n_jobs=1", "test=false")
    status = _end(cwd, "train", "-m", *SETTINGS, *words, seeds, "hydra.sweep.dir=sweep")
    assert status == 0, starter.said(cwd)
    taken = noted(cwd)
    assert len(taken) == jobs
    assert_flat(taken, 16 * RESIDENT_BYTES)
    rows = json.loads((cwd / "sweep" / "results.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["done"] * jobs


def _end(cwd: Path, *arguments: str) -> int:
    watches = f"trainer.callbacks={{_target_: torture.watching.Watches, folder: '{cwd}'}}"
    number = starter.begin(cwd, *arguments, watches, "trainer.limit_train_batches=2", draws=False)
    return starter.end(number, HOURS)


def assert_flat(taken: list[Taken], growth: int) -> None:
    """From the second fifth to the end memory, open files, threads and time do not grow.

    ``growth`` is the most that memory grows from one to the next.
    """
    fifth = len(taken) // 5
    second, last = taken[fifth : 2 * fifth], taken[-fifth:]
    grown = last[-1].resident - second[0].resident
    assert grown < growth * (len(taken) - fifth) + NOISE_BYTES, f"{grown:,} bytes more"
    assert max(each.files for each in last) <= max(each.files for each in second)
    assert max(each.threads for each in last) <= max(each.threads for each in second)
    before, after = (part[-1].cpu - part[0].cpu for part in (second, last))
    slower = f"{after:.1f} s of processor time after {before:.1f} s"
    assert len(taken) < MANY or after < SLOWER * before, slower
