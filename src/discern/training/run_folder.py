"""Notices that a run's folder is no longer the one that it began in."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.errors import DiscernError
from discern.files.places import identity


class FolderWatch(Callback):
    """Ends a run whose folder is moved, removed or replaced while it is going on.

    Writing would make the folder again, and half of the run would be in each.

    Args:
        folder: the run's, which is there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._identity = identity(self._folder)

    def check(self) -> None:
        """Raise a DiscernError unless the folder is still the one that the run began in."""
        if self._identity is not None and identity(self._folder) != self._identity:
            raise DiscernError(
                f"{self._folder}, the run's folder, was moved, removed or replaced while the run "
                "was going on; continue from the last checkpoint, where it is now (ckpt_path=FILE)."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before an epoch is spent."""
        self.check()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before checkpoints are written."""
        self.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before checkpoints are written, also without a validation."""
        self.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the results are written."""
        self.check()
