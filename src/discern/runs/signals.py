"""The signals that end a run or a sweep."""

from __future__ import annotations

import signal

from discern.runs.state import Ended, State

NAMES = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGUSR1: "SIGUSR1",
    signal.SIGHUP: "SIGHUP",
}
"""Signals that stop a run -> what its end is said to be by. SLURM sends SIGUSR1 before the time is
over, where it is asked to, and a terminal that is closed SIGHUP."""

BY_SIGNAL = {
    int(number): Ended(State.INTERRUPTED, f"by {shown}", status=128 + number)  # as shells count
    for number, shown in NAMES.items()
}
"""Signal -> how a run ends that it has stopped."""

BY_CTRL_C = BY_SIGNAL[signal.SIGINT]


def heeded() -> list[int]:
    """The signals of :data:`BY_SIGNAL`, without a SIGHUP that is ignored, as ``nohup`` asks for."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in BY_SIGNAL if number != signal.SIGHUP or not ignored]
