"""What a run measured, epoch by epoch, and the time that training and validation took."""

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

Row = dict[str, float]


class History(Callback):
    """Keeps a row of metrics for each epoch, and says a line about it.

    Attributes:
        rows: one an epoch: ``epoch``, ``step`` and every metric logged in it. They travel in
            checkpoints, so that a continued run has the rows of its first part too.
        seconds: of training (``fit``) and of ``validation``, summed over the epochs.
        images: the training images seen, repeats counted.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.seconds = {"fit": 0.0, "validation": 0.0}
        self.images = 0
        self._trainer: Trainer | None = None
        self._open_epoch: int | None = None
        self._epoch_images = 0
        self._began = 0.0
        self._validation_before = 0.0
        self._validation_began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the trainer, whose metrics are read when a checkpoint is made."""
        self._trainer = trainer

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the epoch before and open this one."""
        self._close_epoch(say=True)
        self._open_epoch = trainer.current_epoch
        self._epoch_images = 0
        self._validation_before = self.seconds["validation"]
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._epoch_images += len(batch[1])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start validation's clock."""
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop validation's clock."""
        self.seconds["validation"] += time.perf_counter() - self._validation_began

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's speed and learning rate, as the module logs its metrics after this."""
        if self._open_epoch is None:  # continued from a checkpoint made at the end of this epoch
            return
        validation = self.seconds["validation"] - self._validation_before
        seconds = time.perf_counter() - self._began - validation
        self.seconds["fit"] += seconds
        self.images += self._epoch_images
        pl_module.log("train/seconds", seconds)
        pl_module.log("train/images_per_second", self._epoch_images / seconds)
        pl_module.log("train/lr", trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        self._close_epoch(say=True)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far; at the end of an epoch that includes this epoch's."""
        rows = list(self.rows)
        if (row := self._current_row()) is not None:
            rows.append(row)
        return {"rows": rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of the run that is continued."""
        self.rows = list(state_dict["rows"])

    def _current_row(self) -> Row | None:
        if self._trainer is None or self._open_epoch is None:
            return None
        metrics = self._trainer.callback_metrics
        # Before the module has logged its training metrics the epoch is not over.
        if "train/loss" not in metrics:
            return None
        step = self._trainer.global_step
        row: Row = {"epoch": self._open_epoch, "step": step}
        row |= {name: float(value) for name, value in sorted(metrics.items())}
        return row

    def _close_epoch(self, say: bool) -> None:
        row = self._current_row()
        self._open_epoch = None
        if row is not None:
            self.rows.append(row)
            if say:
                log.info(epoch_line(row))


def epoch_line(row: Row) -> str:
    """What a terminal shows of an epoch."""
    parts = [f"epoch {row['epoch'] + 1:.0f}"]
    for split in ("train", "val"):
        if f"{split}/loss" in row:
            parts.append(
                f"{split} loss {row[f'{split}/loss']:.4f} accuracy {row[f'{split}/accuracy']:.4f}"
            )
    parts.append(f"{row['train/images_per_second']:,.0f} images/s")
    return "   ".join(parts)
