"""A user's own callback by which one job of a sweep dies, once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback

FIRED = "fired"
"""The file beside the jobs' folders that says that the fault has fired."""


class Dies(Callback):
    """Ends the job of a name in a way, at a moment, the first time that it gets there."""

    def __init__(self, job: str, how: str, moment: str) -> None:
        self.job, self.how, self.moment = job, how, moment

    def on_fit_start(self, trainer, pl_module) -> None:
        self._perhaps(trainer, pl_module, "start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 1:
            self._perhaps(trainer, pl_module, "batch")

    def on_validation_end(self, trainer, pl_module) -> None:
        self._perhaps(trainer, pl_module, "validation")

    def _perhaps(self, trainer, pl_module, moment: str) -> None:
        folder = Path(trainer.default_root_dir)
        fired = folder.parent / FIRED
        if (folder.name, moment) == (self.job, self.moment) and not fired.exists():
            fired.write_text(self.how)
            WAYS[self.how](pl_module)


def _raise(module) -> None:
    raise RuntimeError("a mistake\nin two lines")


def _allocate(module) -> None:
    bytearray(1 << 62)


def _spoil(module) -> None:
    with torch.no_grad():
        next(module.parameters()).fill_(torch.nan)


def _hang(module) -> None:
    while True:
        time.sleep(3600)


WAYS = {
    "raise": _raise,
    "exit": lambda module: os._exit(0),
    "kill": lambda module: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda module: os.kill(os.getpid(), signal.SIGTERM),
    "memory": _allocate,
    "diverge": _spoil,
    "hang": _hang,
}
