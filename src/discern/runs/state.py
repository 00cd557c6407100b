"""How a run stands, and how it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a run stands, or a job of a sweep."""

    DONE = "done"
    PRUNED = "pruned"
    """Stopped early by the pruner of its search."""
    DIVERGED = "diverged"
    """Stopped because a loss was not finite. Running it again would change nothing."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Stopped by the user; it can go on from its checkpoint."""
    UNFINISHED = "unfinished"
    """It is still running, or its process died before it could say how it ended."""
    UNKNOWN = "unknown"
    """Its summary has the format of another version of discern."""
    WAITING = "not run"

    @property
    def is_settled(self) -> bool:
        """Whether it has come to its end, so that a sweep that goes on leaves the job alone."""
        return self in (State.DONE, State.PRUNED, State.DIVERGED)


ENDINGS = (State.DONE, State.PRUNED, State.DIVERGED, State.FAILED, State.INTERRUPTED)
"""What the summary of a run may say."""

STANDINGS = tuple(state for state in State if state is not State.WAITING)
"""How a run may stand that has a folder."""


@dataclass(frozen=True)
class Ended:
    """How a run has ended.

    Attributes:
        state: what the program decides by.
        reason: why, for people, in words that follow those of the state; never parsed.
        status: with which the process exits.
    """

    state: State
    reason: str
    status: int = 0

    @property
    def sentence(self) -> str:
        """The line for the terminal, without a full stop."""
        if self.state is State.DONE:
            return f"Finished: {self.reason}"
        told = str(self)
        return told[:1].upper() + told[1:]

    def __str__(self) -> str:
        """State and reason, without a full stop."""
        if self.state is State.DONE:
            return self.reason
        between = ": " if self.state is State.FAILED else " "
        return f"{self.state}{between}{self.reason}".removesuffix(between)
