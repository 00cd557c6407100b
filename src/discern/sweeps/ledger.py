"""A sweep on disk: its jobs and their outcomes.

``sweep.json`` in the sweep's folder lists the jobs; the outcome of a job is read from its own
folder. So any process on any machine may run it, and a killed sweep can be resumed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from discern.config.typed import quoted
from discern.errors import DiscernError, refusals_of_files
from discern.files.locks import InUseError, acquire
from discern.files.places import is_folder, is_there
from discern.files.reading import check_format, inside, is_regular, read_json
from discern.files.removing import remove_tree
from discern.files.writing import write_whole
from discern.redaction import missing, redacted
from discern.runs.folder import (
    CONFIG,
    FOLD,
    OVERRIDES,
    SUMMARY,
    SWEEP,
    Run,
    finite,
    glance,
    mapping,
    read_facts,
)
from discern.runs.holding import held
from discern.runs.state import State
from discern.sweeps.names import differing, job_name
from discern.sweeps.rows import Job, Objective, Row, shown
from discern.text import printable

FORMAT = 1
"""Version of sweep.json."""

LOCK = ".sweep.lock"
"""Lock file in the folder of a sweep, held by the process that works in it."""

PATIENCE = 20.0
"""Seconds to wait for the last job of a killed sweep before the folder counts as in use."""


@dataclass
class Ledger:
    """The jobs of a sweep.

    Attributes:
        folder: of the sweep.
        arguments: typed after ``-m``, without Hydra's own.
        objectives: what jobs are to be ranked by.
        search: the arguments that ask for a search; None for a grid.
        jobs: planned so far.
        reasons: number of a job -> why it failed, where its folder does not say.
    """

    folder: Path
    arguments: list[str]
    objectives: list[Objective]
    search: list[str] | None = None
    jobs: list[Job] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    _validated: bool | None = field(default=None, init=False, compare=False)

    @property
    def ranked_by(self) -> list[Objective]:
        """The objectives, of the training split if no job that was looked at has a validation.

        The first job to end does not decide it: as soon as one has a validation, all are ranked by
        that.
        """
        if self._validated is not False:
            return self.objectives
        return [replace(o, metric=re.sub("^val/", "train/", o.metric)) for o in self.objectives]

    @property
    def settings(self) -> list[str]:
        """The settings that differ between jobs."""
        return differing([job.overrides for job in self.jobs])

    def plan(self, overrides: Sequence[Mapping[str, str]], settings: Sequence[str]) -> list[Job]:
        """Add jobs, named by ``settings``, and save the ledger."""
        first = len(self.jobs)
        for each in overrides:
            name = self._free(job_name(shown(each), settings))
            self.jobs.append(Job(len(self.jobs), name, dict(each)))
        self.save()
        return self.jobs[first:]

    def _free(self, name: str) -> str:
        """The name, numbered where an earlier job has it."""
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
            "reasons": self.reasons,
        }
        with write_whole(self.folder / SWEEP) as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """The sweep in a folder.

        Raises:
            DiscernError: there is no sweep, or none that this version can read.
        """
        from discern.sweeps.sweep_file import MOST_BYTES, SweepFile  # pydantic

        path = folder / SWEEP
        try:
            read = read_json(path, folder, MOST_BYTES)
            if isinstance(read, dict) and "format" in read:
                check_format(path, read["format"], FORMAT)
            # As JSON, of which a strict schema takes mappings for dataclasses.
            content = SweepFile.model_validate_json(json.dumps(read))
        except FileNotFoundError as error:
            raise DiscernError(
                f"{folder} is not the folder of a sweep: it has no {SWEEP}."
            ) from error
        except OSError as error:
            raise DiscernError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise DiscernError(f"{path} cannot be read: it is not what discern writes.") from error
        found = {name: value for name, value in content if name != "format"}
        return cls(folder, **found)

    def complete(self, given: Mapping[tuple[str, str], str]) -> list[str]:
        """Fill in the secrets of the jobs, which are not written to disk.

        Args:
            given: (setting, value as written) -> value as typed again.

        Returns:
            Settings whose secrets were not typed again.
        """
        for number, job in enumerate(self.jobs):
            overrides = {k: given.get((k, v), v) for k, v in job.overrides.items()}
            self.jobs[number] = replace(job, overrides=overrides)
        return sorted({name for job in self.jobs for name in missing(job.overrides)})

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder against other sweeps.

        Raises:
            DiscernError: another sweep holds the lock.
        """
        try:
            lock = acquire(self.folder / LOCK)
        except InUseError as holder:
            raise DiscernError(
                f"{self.folder} is in use: another sweep, {holder}, is at work in it."
            ) from holder
        try:
            yield
        finally:
            lock.release()

    def rows(self) -> list[Row]:
        """The outcome of each job."""
        settings = self.settings
        runs = [self._run(job) for job in self.jobs]
        return [self._row(job, run, settings) for job, run in zip(self.jobs, runs, strict=True)]

    def row(self, job: Job, settings: Sequence[str] | None = None) -> Row:
        """The outcome of a job, read from its folder."""
        return self._row(job, self._run(job), settings or ())

    def _run(self, job: Job) -> Run:
        """A job's run, of which it is noted whether it has a validation."""
        folder = self.folder / job.name
        run = Run(folder, read_facts(folder) or {})
        validated = run.facts.get("validated")
        if isinstance(validated, bool):
            self._validated = validated or bool(self._validated)
        return run

    def _row(self, job: Job, run: Run, settings: Sequence[str]) -> Row:
        overrides = {key: job.shown.get(key, "") for key in settings}
        folder = run.folder
        objectives = self.ranked_by if run.facts else []
        values = {each.metric: run.metric(*each.metric.split("/", 1)) for each in objectives}
        absent = [metric for metric, value in values.items() if value is None]
        state, reason = run.state, run.reason
        if job.number in self.reasons and not state.is_settled:
            state, reason = State.FAILED, self.reasons[job.number]
        elif state is State.UNFINISHED and not is_there(folder / CONFIG):
            state = State.WAITING
        elif state is State.DONE and absent:
            state, reason = State.FAILED, f"{absent[0]} is not a number, or was not logged"
            if absent[0].startswith("val/") and run.facts.get("validated") is False:
                reason = f"it has no validation, and other jobs are ranked by {absent[0]}"
        is_fold = FOLD in (key.lstrip("+") for key in overrides)
        folds = mapping(run.config.get("data")).get("folds") if is_fold else None
        images = mapping(run.facts.get("data")).get("images")
        return Row(
            *(job.number, folder, overrides, state, values),
            *(_whole(run.facts.get("epochs")), run.seconds, reason),
            folds=_whole(folds),
            validation_images=_whole(mapping(images).get("val")),
        )

    def resumption(self, job: Job) -> list[str]:
        """Prepare the folder of a job; the overrides that resume it from its checkpoint."""
        from discern.models.saved import undamaged_checkpoint  # start-up time: torch

        folder = self.folder / job.name
        if is_folder(folder):
            with held(folder, PATIENCE):  # a job may outlive a killed sweep by one batch
                pass
        if self.reasons.pop(job.number, None) is not None:
            self.save()
        if self.row(job).state in (State.INTERRUPTED, State.UNFINISHED):
            with suppress(DiscernError):  # none, or all are damaged
                last = undamaged_checkpoint(str(folder.absolute()), goes_on=True)
                return [f"ckpt_path={quoted(str(last))}"]
        if os.path.lexists(folder):
            self._remove(folder)
        return []

    def _remove(self, folder: Path) -> None:
        """Remove the folder of a job that starts over.

        Raises:
            DiscernError: it is not the folder of a job, or cannot be removed.
        """
        with refusals_of_files():
            if not is_folder(folder) or folder.is_symlink() or not _is_a_jobs(folder):
                raise DiscernError(
                    f"{printable(folder)} is not removed: it does not hold what a job of a sweep "
                    "writes. Move it away to go on with the sweep."
                )
            remove_tree(folder)

    def check_links(self) -> None:
        """Check that the folder holds no link to outside, into which a resumed sweep would write.

        Raises:
            DiscernError: names a link to outside, or what is neither file nor folder.
        """
        left = [self.folder]
        while left:
            with refusals_of_files(), os.scandir(left.pop()) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if entry.is_symlink():
                        inside(path, self.folder)
                    elif entry.is_dir():
                        left.append(path)
                    elif not entry.is_file():
                        raise DiscernError(f"{printable(path)} is not a regular file.")

    def logged(self) -> list[str]:
        """The metrics logged by any job, except those of the test."""
        names = {
            f"{split}/{name}"
            for job in self.jobs
            for split, metrics in glance(self.folder / job.name).part("metrics").items()
            if split != "test"
            for name in mapping(metrics)
        }
        return sorted(names)


def _whole(value: object) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _is_a_jobs(folder: Path) -> bool:
    """Whether a folder is a run's, or holds no more than the log of a job that began."""
    if any(is_regular(folder / name, folder) for name in (CONFIG, OVERRIDES, SUMMARY)):
        return True
    # Hidden files are those that a killed process was about to write.
    begun = [path for path in folder.iterdir() if path.suffix == ".log" or path.name[0] == "."]
    return len(begun) == len(list(folder.iterdir())) and not any(map(Path.is_dir, begun))
