"""Weights and gradients as histograms in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from discern.models.classifier import Classifier
from discern.reports.tensorboard.logger import TensorBoard, step_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def histograms(every_n_epochs: int | None) -> Histograms | None:
    """The callback, or None to save its hook around each batch."""
    return None if every_n_epochs is None else Histograms(every_n_epochs)


class Histograms(Callback):
    """Writes a histogram of each trained weight, and of the gradient of an epoch's last step.

    Args:
        every_n_epochs: from one histogram to the next.
    """

    def __init__(self, every_n_epochs: int) -> None:
        self.every_n_epochs = every_n_epochs

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Write histograms that are due, before validation sets the gradients to zero."""
        epoch = trainer.current_epoch + 1
        if not trainer.is_last_batch or epoch % self.every_n_epochs or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                _write(logger.experiment, cast(Classifier, pl_module).network, step_of(trainer))


def _write(writer: SummaryWriter, network: nn.Module, step: int) -> None:
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            tensors = {"weights": parameter.detach(), "weight_gradients": parameter.grad}
            for kind, values in tensors.items():
                # TensorBoard raises for values that are not finite.
                if values is not None and bool(values.isfinite().all()):
                    writer.add_histogram(f"{kind}/{name}", values, step)
