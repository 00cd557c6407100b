"""Keeping what the model says of the test images."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


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
        logits = logits.float()  # an empty share has no type of its own
        if trainer.world_size > 1:
            logits, labels = _of_all_processes(logits), _of_all_processes(labels)
        self.logits, self.labels = logits.cpu(), labels.cpu()


def _of_all_processes(part: Tensor) -> Tensor:
    """What W processes have, of which each has every W-th, in the order of the whole, (N, ...)."""
    shares = gather_all_tensors(part)
    whole = part.new_empty(sum(map(len, shares)), *part.shape[1:])
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
