"""A sweep on disk: which jobs it has, and what each has come to.

``sweep.json`` in the sweep's folder lists the jobs; what became of a job stands in its own
folder. So it does not matter which process on which machine has run it, or whether the sweep was
killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from discern.config.typed import quoted
from discern.errors import DiscernError, refusals_of_files
from discern.files.reading import check_format, inside, is_regular, read_json
from discern.files.removing import remove_tree
from discern.files.writing import write_whole
from discern.redaction import missing, redacted, redacted_setting
from discern.runs.folder import (
    CONFIG,
    OVERRIDES,
    SUMMARY,
    SWEEP,
    Run,
    finite,
    mapping,
    numbers,
    read_facts,
)
from discern.runs.state import State
from discern.sweeps.names import differing, job_name
from discern.sweeps.rows import Objective, Row
from discern.text import printable

FORMAT = 1
"""Of sweep.json."""

LOCK = ".sweep.lock"
"""Held in the folder of a sweep by who is at work in it."""

PATIENCE = 20.0
"""Seconds to wait for the last job of a sweep that was killed, before calling the folder in use."""

_VAL, _TRAIN = "val/", "train/"


@dataclass(frozen=True)
class Job:
    """A job, as it was planned.

    Attributes:
        number: from 0.
        name: of its folder in the sweep's.
        overrides: setting -> value, as it was typed, without Hydra's own.
    """

    number: int
    name: str
    overrides: Mapping[str, str]

    @property
    def shown(self) -> dict[str, str]:
        """The overrides as they are written and shown, without what may be secret."""
        return shown(self.overrides)


@dataclass
class Ledger:
    """The jobs of a sweep.

    Attributes:
        folder: the sweep's.
        arguments: what was typed after ``-m``, without Hydra's own.
        objectives: what jobs are ranked by.
        search: what was typed to have a search; None for a grid.
        jobs: those planned so far.
        reasons: number -> why a job ended that could not say so itself.
    """

    folder: Path
    arguments: list[str]
    objectives: list[Objective]
    search: list[str] | None = None
    jobs: list[Job] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    @property
    def settings(self) -> list[str]:
        """What the jobs differ in."""
        return differing([job.overrides for job in self.jobs])

    def plan(self, overrides: Sequence[Mapping[str, str]], settings: Sequence[str]) -> list[Job]:
        """Add jobs, which are named by ``settings``, and write them down."""
        first = len(self.jobs)
        for each in overrides:
            name = self._free(job_name(shown(each), settings))
            self.jobs.append(Job(len(self.jobs), name, dict(each)))
        self.save()
        return self.jobs[first:]

    def _free(self, name: str) -> str:
        """The name, numbered where a job before tried the same values."""
        taken, candidate, number = {job.name for job in self.jobs}, name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def save(self) -> None:
        """Write ``sweep.json``."""
        content = {
            "format": FORMAT,
            "arguments": redacted(self.arguments),
            "objectives": [asdict(objective) for objective in self.objectives],
            "search": redacted(self.search),
            "jobs": [asdict(replace(job, overrides=job.shown)) for job in self.jobs],
        }
        with write_whole(self.folder / SWEEP) as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """The sweep in a folder.

        Raises:
            DiscernError: there is none that this version can read.
        """
        from discern.sweeps.sweep_file import MOST_BYTES, SweepFile  # pydantic

        path = folder / SWEEP
        try:
            content = read_json(path, folder, MOST_BYTES)
            if isinstance(content, dict) and "format" in content:
                check_format(path, content["format"], FORMAT)
            told = SweepFile.model_validate(content)
        except FileNotFoundError as error:
            raise DiscernError(
                f"{folder} is not the folder of a sweep: it has no {SWEEP}."
            ) from error
        except OSError as error:
            raise DiscernError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise DiscernError(f"{path} cannot be read: it is not what discern writes.") from error
        return cls(
            folder,
            told.arguments,
            [Objective(each.metric, each.direction) for each in told.objectives],
            told.search,
            [Job(each.number, each.name, each.overrides) for each in told.jobs],
        )

    def complete(self, given: Mapping[tuple[str, str], str]) -> list[str]:
        """Give the jobs the secrets that were not written.

        Args:
            given: setting, and its value as it was written -> its value as it is typed again.

        Returns:
            Settings that were not typed again.
        """
        for number, job in enumerate(self.jobs):
            overrides = {k: given.get((k, v), v) for k, v in job.overrides.items()}
            self.jobs[number] = replace(job, overrides=overrides)
        return sorted({name for job in self.jobs for name in missing(job.overrides)})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other sweeps out of the folder.

        Raises:
            DiscernError: one is at work in it.
        """
        lock = FileLock(self.folder / LOCK)
        try:
            # A job may outlive a sweep that was killed by as long as a batch takes.
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise DiscernError(
                f"{self.folder} is in use: another sweep is at work in it."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def rows(self) -> list[Row]:
        """What has become of each job."""
        settings = self.settings
        return [self.row(job, settings) for job in self.jobs]

    def row(self, job: Job, settings: Sequence[str] | None = None) -> Row:
        """What has become of a job, as its folder tells."""
        told = {key: job.shown.get(key, "") for key in settings or ()}
        folder = self.folder / job.name
        run = Run(folder, read_facts(folder) or {})
        objectives = self.objectives if run.facts else []
        values = {each.metric: _value(run.facts, each.metric) for each in objectives}
        absent = [metric for metric, value in values.items() if value is None]
        state, reason = run.state, run.reason
        if job.number in self.reasons:
            state, reason = State.FAILED, self.reasons[job.number]
        elif state is State.UNFINISHED and not (folder / CONFIG).exists():
            state = State.WAITING
        elif state is State.DONE and absent:
            state, reason = State.FAILED, f"{absent[0]} is not a number, or was not logged"
        epochs = finite(run.facts.get("epochs"))
        return Row(
            job.number, folder, told, state, values,
            None if epochs is None else int(epochs), run.seconds, reason,
        )  # fmt: skip

    def is_validated(self, job: Job) -> bool | None:
        """Whether a job has metrics of validation; None if it has not come so far as to tell."""
        validated = (read_facts(self.folder / job.name) or {}).get("validated")
        return validated if isinstance(validated, bool) else None

    def rank_by_training(self) -> bool:
        """Take the metrics of training in the place of those of validation.

        Returns:
            Whether that has changed the objectives.
        """
        before = self.objectives
        self.objectives = [
            Objective(_TRAIN + o.metric.removeprefix(_VAL), o.direction)
            if o.metric.startswith(_VAL)
            else o
            for o in before
        ]
        if self.objectives == before:
            return False
        self.save()
        return True

    def resumption(self, job: Job) -> list[str]:
        """Overrides by which a job goes on where it was interrupted; its folder is made ready."""
        folder = self.folder / job.name
        last = folder / "checkpoints" / "last.safetensors"
        if self.row(job).state in (State.INTERRUPTED, State.UNFINISHED) and last.is_file():
            return [f"ckpt_path={quoted(str(last))}"]
        if os.path.lexists(folder):
            self._remove(folder)
        return []

    def _remove(self, folder: Path) -> None:
        """Remove the folder of a job that begins anew.

        Raises:
            DiscernError: it is none that a job has written, or something in it stays.
        """
        with refusals_of_files():
            if not folder.is_dir() or folder.is_symlink() or not _is_a_jobs(folder):
                raise DiscernError(
                    f"{printable(folder)} is not removed: it does not hold what a job of a sweep "
                    "writes. Move it away to go on with the sweep."
                )
            remove_tree(folder)

    def check_links(self) -> None:
        """Check that what a sweep goes on to write into its folder stays there.

        Raises:
            DiscernError: names what leads to outside, or is no file.
        """
        left = [self.folder]
        while left:
            with refusals_of_files(), os.scandir(left.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if entry.is_symlink():
                        self._check_link(path)
                    elif entry.is_dir():
                        left.append(path)
                    elif not entry.is_file():
                        raise DiscernError(f"{printable(path)} is not a regular file.")

    def _check_link(self, path: Path) -> None:
        try:
            inside(path, self.folder)
        except OSError as error:
            raise DiscernError(
                f"{printable(path)} is a link with which a sweep cannot go on: {error.strerror}."
            ) from error

    def logged(self) -> list[str]:
        """The metrics that any job has, but those of the test."""
        names = {
            f"{split}/{name}"
            for job in self.jobs
            for split, metrics in _metrics(read_facts(self.folder / job.name) or {}).items()
            if split != "test"
            for name in mapping(metrics)
        }
        return sorted(names)


def shown(overrides: Mapping[str, str]) -> dict[str, str]:
    """Overrides without what may be secret."""
    return {
        key: redacted_setting(f"{key}={value}").removeprefix(f"{key}=")
        for key, value in overrides.items()
    }


def _is_a_jobs(folder: Path) -> bool:
    """Whether a folder is a run's, or one in which a job has only begun its log."""
    if any(is_regular(folder / name, folder) for name in (CONFIG, OVERRIDES, SUMMARY)):
        return True
    # Its own are files that a process which was killed was about to write, too.
    begun = [path for path in folder.iterdir() if path.suffix == ".log" or path.name[0] == "."]
    return len(begun) == len(list(folder.iterdir())) and not any(map(Path.is_dir, begun))


def _metrics(facts: Mapping[str, Any]) -> dict[str, Any]:
    return mapping(facts.get("metrics"))


def _value(facts: Mapping[str, Any], metric: str) -> float | None:
    split, _, name = metric.partition("/")
    return numbers(_metrics(facts).get(split)).get(name)
