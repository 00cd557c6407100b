"""The signals that end a run or a sweep."""

from __future__ import annotations

import signal

from discern.runs.state import Ended, State

NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGUSR1": "SIGUSR1", "SIGHUP": "SIGHUP"}
"""Signals that stop a run -> what its end is said to be by. SLURM sends SIGUSR1 before the time is
over, where it is asked to, and a terminal that is closed SIGHUP; Windows has neither."""

BY_SIGNAL = {
    int(number): Ended(State.INTERRUPTED, f"by {shown}", status=128 + number)  # as shells count
    for name, shown in NAMES.items()
    if (number := getattr(signal, name, None)) is not None
}
"""Signal -> how a run ends that it has stopped."""

BY_CTRL_C = BY_SIGNAL[signal.SIGINT]


def heeded() -> list[int]:
    """The signals of :data:`BY_SIGNAL`, without a SIGHUP that is ignored, as ``nohup`` asks for."""
    hang_up = getattr(signal, "SIGHUP", None)
    ignored = hang_up is not None and signal.getsignal(hang_up) is signal.SIG_IGN
    return [number for number in BY_SIGNAL if number != hang_up or not ignored]
