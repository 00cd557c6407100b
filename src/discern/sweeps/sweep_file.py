"""What ``sweep.json`` may hold, whoever has written it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from discern.runs.folder import BEST
from discern.schema import Strict

MOST_BYTES, MAX_LISTED = 1 << 25, 100_000
"""Of a file; a grid has 10,000 jobs at most."""

MAX_NAME_LENGTH = 255
"""Bytes of the name of a job's folder."""


def check_name(name: str) -> str:
    """The name of a job's folder, which is a plain one in the sweep's folder.

    Raises:
        ValueError: it leads elsewhere, or is what the sweep itself has there.
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


_Text = Annotated[str, Field(max_length=100_000)]
_Setting = Annotated[str, Field(min_length=1, max_length=1000)]


class _Job(Strict):
    number: int = Field(ge=0, lt=MAX_LISTED)
    name: Annotated[str, AfterValidator(check_name)]
    overrides: dict[_Setting, _Text] = Field(max_length=1000)


class _Objective(Strict):
    metric: _Setting
    direction: Literal["minimize", "maximize"]


class SweepFile(Strict):
    """The content of ``sweep.json``."""

    format: int
    arguments: list[_Text] = Field(max_length=1000)
    objectives: list[_Objective] = Field(min_length=1, max_length=100)
    search: list[_Text] | None = Field(max_length=1000)
    jobs: list[_Job] = Field(max_length=MAX_LISTED)

    @model_validator(mode="after")
    def _each_job_once(self) -> SweepFile:
        if [job.number for job in self.jobs] != list(range(len(self.jobs))):
            raise ValueError("jobs are numbered from 0")
        if len({job.name for job in self.jobs}) < len(self.jobs):
            raise ValueError("each job has its own folder")
        return self
