"""A callback that notes what a process takes, epoch by epoch."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Callback

LOG = "taken.log"
"""Where it is noted, in the folder that is given."""


class Taken(NamedTuple):
    """What a process has taken so far.

    Attributes:
        cpu: seconds of its processor time.
        resident: bytes of memory.
        files: that are open.
        threads: that run.
        events: bytes of TensorBoard's files in the run's folder.
    """

    cpu: float
    resident: int
    files: int
    threads: int
    events: int


class Watches(Callback):
    """Notes it at the end of each epoch."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / LOG

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        events = Path(trainer.default_root_dir).glob("events.out.tfevents*")
        with self.path.open("a") as file:
            now = taken(sum(path.stat().st_size for path in events))
            file.write(" ".join(map(str, now)) + "\n")


def taken(events: int = 0) -> Taken:
    """What this process has taken."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return Taken(time.process_time(), resident, files, threading.active_count(), events)


def noted(folder: Path) -> list[Taken]:
    """All that was noted in a folder."""
    rows = [line.split() for line in (folder / LOG).read_text().splitlines()]
    return [Taken(float(cpu), *map(int, others)) for cpu, *others in rows]
