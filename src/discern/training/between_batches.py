"""The moment between two batches, at which a run can be saved and go on to the bit."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer


class BetweenBatches(Callback):
    """A callback that is also called between two batches of an epoch.

    Lightning's hooks are called in the middle of things: at ``on_train_batch_end`` other callbacks,
    the validation that is due and the loggers' step are still to come, and a checkpoint made there
    leaves them out. Here a batch is over with all that follows it, no gradients are accumulated,
    and the epoch goes on. After an epoch's last batch its end comes instead.
    """

    def between_batches(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called by :class:`discern.training.loop.LeanEpochLoop`."""
