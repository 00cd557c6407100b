"""One job of a sweep of twelve dies, in each way: the others finish, and a rerun does the rest."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import starter
from torture.case import Case
from torture.dying import FIRED, WAYS

JOBS = [f"seed={number}" for number in range(12)]

MOMENTS = ("start", "batch", "validation")

SAYS = {
    "raise": "failed: a mistake",
    "exit": "failed: its process ended with status 0 during the job",
    "kill": "failed: its process was ended by SIGKILL",
    "term": "interrupted by SIGTERM",
    "memory": "failed: MemoryError",
    "diverge": "diverged",
    "hang": "failed: it was ended after sweep.job_timeout=",
}
"""Way -> what the line on the job says of it."""

SWEEP = (
    "train", "-m", "data.source=sample", "data.fraction=0.05", "model.hidden=[4]",
    "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu",
    "data.batch_size=32", "data.num_workers=0", "logger=none", "report=false", "test=false",
    "callbacks.early_stopping=null", f"seed={','.join(job[5:] for job in JOBS)}",
    "hydra.sweep.dir=sweep",
)  # fmt: skip

ALLOWED = "allow_targets=[torture.dying.Dies]"

AT_ONCE = {"discern.sweeps.launcher": {"GRACE_SECONDS": 0.2}}
"""A job that does not end by itself is killed soon."""


def cases() -> Iterator[Case]:
    """Each way to die in each job, with one process and two."""
    for way in WAYS:
        for number, job in enumerate(JOBS):
            # A network that is spoilt after its last step is noticed by nobody.
            moment = "start" if way == "diverge" else MOMENTS[number % 3]
            check = functools.partial(
                _check, way=way, job=job, moment=moment, n_jobs=1 + number % 2
            )
            yield Case(f"{way} in {job} at its {moment}, {1 + number % 2} at a time", check)


def _check(cwd: Path, way: str, job: str, moment: str, n_jobs: int) -> None:
    limit = ("sweep.job_timeout=20",) if way == "hang" else ()
    status = _sweep(cwd, *SWEEP, _dies(job, way, moment), f"hydra.launcher.n_jobs={n_jobs}", *limit)
    folder = cwd / "sweep"
    assert (folder / FIRED).read_text() == way
    told = starter.said(cwd)
    assert status == 1, told
    assert "Traceback" not in told, told
    rows = _rows(folder)
    for name, row in rows.items():
        if name != job:  # its rank is another one without that job
            assert row | {"rank": 0} == _undisturbed()[name] | {"rank": 0}
    assert rows[job]["state"] == SAYS[way].partition(":")[0].partition(" ")[0]
    lines = [line for line in told.splitlines() if line.startswith(f"  {job}  ")]
    assert len(lines) == 1, told
    assert SAYS[way] in lines[0], told
    before = _stamps(folder)
    status = _sweep(cwd, "train", "-m", "sweep.resume=sweep", ALLOWED, *limit)
    after, again = _stamps(folder), starter.said(cwd).removeprefix(told)
    assert {name for name in JOBS if before[name] != after[name]} == {job} - _settled(way), again
    if way == "diverge":  # which running it again would not change
        assert (status, _rows(folder)) == (1, rows), again
    else:
        assert (status, _rows(folder)) == (0, _undisturbed()), again
    assert not _left(folder), _left(folder)


def _settled(way: str) -> set[str]:
    return {*JOBS} if way == "diverge" else set()


def _sweep(cwd: Path, *arguments: str) -> int:
    return starter.end(starter.begin(cwd, *arguments, draws=False, changes=AT_ONCE))


def _dies(job: str, way: str, moment: str) -> str:
    entry = f"_target_: torture.dying.Dies, job: '{job}', how: {way}, moment: {moment}"
    return f"trainer.callbacks={{{entry}}}"


@functools.cache
def _undisturbed() -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        assert _sweep(cwd, *SWEEP, _dies("none", "raise", "start")) == 0, starter.said(cwd)
        return _rows(cwd / "sweep")


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What the final table says of each job, but for the time."""
    names = ("rank", "values", "epochs", "state")
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert sorted(row["folder"] for row in rows) == sorted(JOBS)
    return {row["folder"]: {name: row[name] for name in names} for row in rows}


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Job -> the file of its summary."""
    found = {}
    for job in JOBS:
        path = folder / job / "summary.json"
        found[job] = (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else ()
    return found


def _left(folder: Path) -> list[str]:
    """Files that nobody will read."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if path.name not in (".sweep.lock",)
    ]
