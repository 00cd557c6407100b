"""Weights and gradients as histograms in TensorBoard."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.reports.tensorboard.logger import TensorBoard


def histograms(every_n_epochs: int | None) -> Histograms | None:
    """The callback, or None where it is not asked for: it has a hook around each batch."""
    return None if every_n_epochs is None else Histograms(every_n_epochs)


class Histograms(Callback):
    """Writes a histogram of each trained weight, and of the gradient of an epoch's last step.

    Args:
        every_n_epochs: from one histogram to the next.
    """

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what is due; before the validation, which sets the gradients to zero."""
        epoch = trainer.current_epoch + 1
        if not trainer.is_last_batch or epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                _write(logger.experiment, pl_module, epoch)


def _write(writer: Any, pl_module: Any, epoch: int) -> None:
    for name, parameter in pl_module.network.named_parameters():
        if parameter.requires_grad:
            tensors = {"weights": parameter.detach(), "gradients": parameter.grad}
            for kind, values in tensors.items():
                # What is not finite has no histogram, and TensorBoard would raise.
                if values is not None and bool(values.isfinite().all()):
                    writer.add_histogram(f"{kind}/{name}", values, epoch)
