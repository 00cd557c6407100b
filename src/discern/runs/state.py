"""The state of a run, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a run, or of a job of a sweep."""

    DONE = "done"
    PRUNED = "pruned"
    """Stopped early by the pruner of its search."""
    DIVERGED = "diverged"
    """Stopped because a loss was not finite. Running it again would change nothing."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Stopped by the user; it can go on from its checkpoint."""
    UNFINISHED = "unfinished"
    """It is still running, or its process died before it could record its end."""
    UNKNOWN = "unknown"
    """Its summary has the format of another version of discern."""
    WAITING = "not run"

    @property
    def is_settled(self) -> bool:
        """Whether it has ended for good, so that a resumed sweep does not run the job again."""
        return self in (State.DONE, State.PRUNED, State.DIVERGED)


ENDINGS = (State.DONE, State.PRUNED, State.DIVERGED, State.FAILED, State.INTERRUPTED)
"""The states that a summary may hold."""

STANDINGS = tuple(state for state in State if state is not State.WAITING)
"""The states of a run that has a folder."""


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        state: its state, which programs decide by.
        reason: why, for people, as it reads after the state's name; never parsed.
        status: the process's exit status.
    """

    state: State
    reason: str
    status: int = 0

    @property
    def sentence(self) -> str:
        """The line for the terminal, without a full stop."""
        if self.state is State.DONE:
            return f"Finished: {self.reason}"
        return str(self)[:1].upper() + str(self)[1:]

    def __str__(self) -> str:
        """State and reason, without a full stop."""
        if self.state is State.DONE:
            return self.reason
        between = ": " if self.state is State.FAILED else " "
        return f"{self.state}{between}{self.reason}".removesuffix(between)
