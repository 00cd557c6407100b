"""Keeping what the model says of the test images."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class TestOutputs(Callback):
    """Collects the logits and labels of a test, in the order of its images.

    Attributes:
        logits: float32 (N, K), on the CPU; None before a test has ended.
        labels: int64 (N,).
    """

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.labels: Tensor | None = None
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._batches = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what the batch gave."""
        self._batches.append((outputs["logits"], outputs["labels"]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the batches, and those of other processes, together."""
        if not self._batches:
            return
        logits, labels = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        self._batches = []
        if trainer.world_size > 1:
            # Of W processes each had every W-th image, and the last ones one more to be as many.
            loader: Any = trainer.test_dataloaders
            images = len(loader.dataset)
            logits, labels = (
                pl_module.all_gather(part).transpose(0, 1).flatten(0, 1)[:images]  # type: ignore[union-attr]
                for part in (logits, labels)
            )
        self.logits, self.labels = logits.float().cpu(), labels.cpu()
