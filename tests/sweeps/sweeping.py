"""Sweeps for tests."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

import starter


class Dies(Callback):
    """A user's own callback by which a job ends as it should not."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_validation_end(self, trainer, pl_module) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(3)
        if self.how == "sysexit":
            raise SystemExit(4)
        if self.how == "raise":
            raise RuntimeError("a mistake\nin two lines")


class EndsTest(Callback):
    """A user's own callback by which the test of a model fails, or waits to be stopped."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_test_start(self, trainer, pl_module) -> None:
        if self.how == "raise":
            raise RuntimeError("a mistake\nin two lines")
        Path("testing").touch()
        time.sleep(60)


def ends_test(how: str) -> str:
    """An override: the test of a job ends in this way."""
    return f"trainer.callbacks=[{{_target_: sweeping.EndsTest, how: {how}}}]"


def dies(*how: str) -> str:
    """An override: one job for each way to end."""
    entries = ",".join(f"[{{_target_: sweeping.Dies, how: {each}}}]" for each in how)
    return f"trainer.callbacks={entries}"


def begin(cwd: Path, *arguments: str, draws: bool = False, **more: Any) -> int:
    """Start ``train.py -m …`` in a process group of its own; its number."""
    return starter.begin(cwd, "train", "-m", *arguments, draws=draws, **more)


def sweep(cwd: Path, *arguments: str, draws: bool = False) -> int:
    """A whole sweep; its exit status."""
    return starter.end(begin(cwd, *arguments, draws=draws))


def results(folder: Path) -> dict[str, Any]:
    """A sweep's results.json."""
    return json.loads((folder / "results.json").read_text())
