"""What a sweep hands to its jobs besides their settings: environment variables of the job."""

from __future__ import annotations

import json
import os
from dataclasses import astuple, dataclass

DRAWS = "DISCERN_SWEEP_DRAWS"
"""Set to 1 where the sweep draws curves.png and writes report.html, while the next job trains."""

TRIAL = "DISCERN_SWEEP_TRIAL"
"""Set to the trial of a search that a job reports to."""


def sweep_draws() -> bool:
    """Whether the sweep draws the figures of this process's run."""
    return os.environ.get(DRAWS) == "1"


@dataclass(frozen=True)
class Trial:
    """A trial of an Optuna study.

    Attributes:
        storage: URL or journal file of the study.
        study: name of the study.
        number: of the trial, from 0.
    """

    storage: str
    study: str
    number: int

    def __str__(self) -> str:
        """The value of the environment variable."""
        return json.dumps(astuple(self))


def current_trial() -> Trial | None:
    """The trial that this process's run reports to; None outside a search that prunes."""
    value = os.environ.get(TRIAL)
    return Trial(*json.loads(value)) if value else None
