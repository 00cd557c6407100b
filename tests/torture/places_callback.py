"""What happens to a run's surroundings while it runs; a callback of the cases in places.py."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class After(Callback):
    """Does something after the first epoch, whose checkpoints have been written.

    Args:
        what: ``rename``, ``remove``, ``chmod PART``, ``clock VALUE`` …
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch != 1 or batch_idx != 1:
            return
        run = Path(trainer.default_root_dir).absolute()
        around = run.parents[1] if run.parent.name == "place" else run.parent
        verb, _, rest = self.what.partition(" ")
        if self.what == "rename":
            run.rename(run.parent / "moved")
        elif self.what == "rename and mkdir":
            run.rename(run.parent / "moved")
            run.mkdir()
        elif self.what == "move away":
            (around / "elsewhere").mkdir()
            run.rename(around / "elsewhere" / "run")
        elif self.what == "rename parent":
            run.parent.rename(around / "elsewhere")
        elif self.what == "remove":
            shutil.rmtree(run)
        elif self.what == "remove checkpoints":
            shutil.rmtree(run / "checkpoints")
        elif self.what == "rename checkpoints":
            (run / "checkpoints").rename(run / "saved")
        elif self.what == "remove cwd":
            shutil.rmtree(Path.cwd())
        elif verb == "chmod":
            (run / rest).chmod(0o555)
        elif verb == "clock":
            sys.clock[0] = float(rest)  # type: ignore[attr-defined]
        else:
            raise ValueError(self.what)
        (around / "fired").touch()
