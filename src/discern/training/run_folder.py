"""Notices that a run's folder is no longer the one that it began in."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.runs.place import Place


class FolderWatch(Callback):
    """Ends a run whose folder is moved, removed or replaced while it is going on.

    Args:
        place: the run's folder.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before an epoch is spent."""
        self._place.check()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before checkpoints are written."""
        self._place.check()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before checkpoints are written, also without a validation."""
        self._place.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the results are written."""
        self._place.check()
