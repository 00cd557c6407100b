"""Schema of ``sweep.json``, which may come from a stranger."""

from __future__ import annotations

from pydantic import Field, model_validator

from discern.runs.folder import BEST
from discern.schema import Strict
from discern.sweeps.rows import Job, Objective, Text

MOST_BYTES, MAX_LISTED = 1 << 25, 100_000
"""Maximum size of the file, and maximum number of its jobs; a grid has at most 10,000."""

MAX_NAME_LENGTH = 255
"""Maximum length of the name of a job's folder, in bytes."""


def check_name(name: str) -> str:
    """The name of a job's folder, checked to be a plain name in the sweep's folder.

    Raises:
        ValueError: it leads elsewhere, or is reserved for the sweep.
    """
    plain = (
        name.isprintable()
        and 0 < len(name.encode()) <= MAX_NAME_LENGTH
        and not {"/", "\\"} & set(name)
        and not name.startswith(".")
        and name != BEST
    )
    if not plain:
        raise ValueError("a job's folder has a plain name")
    return name


class SweepFile(Strict):
    """The content of ``sweep.json``."""

    format: int
    arguments: list[Text] = Field(max_length=1000)
    objectives: list[Objective] = Field(min_length=1, max_length=100)
    search: list[Text] | None = Field(max_length=1000)
    jobs: list[Job] = Field(max_length=MAX_LISTED)
    reasons: dict[int, Text] = Field({}, max_length=MAX_LISTED)

    @model_validator(mode="after")
    def _each_job_once(self) -> SweepFile:
        if [job.number for job in self.jobs] != list(range(len(self.jobs))):
            raise ValueError("jobs are numbered from 0")
        if len({check_name(job.name) for job in self.jobs}) < len(self.jobs):
            raise ValueError("each job has its own folder")
        return self
