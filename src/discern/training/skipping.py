"""Leaves out optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT, LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from discern.models.classifier import Classifier
from discern.training.divergence import DivergedError, StopOnDivergence
from discern.training.history import gradient_norm
from discern.training.seam import callback_of

log = logging.getLogger(__name__)

MAX_IN_A_ROW, MIN_IN_A_ROW = 20, 3
"""Steps left out one after the other, after which training ends: as many as an epoch has, within
these bounds. The gradient scaler of half precision, which begins with 2^16 and halves it at each of
these steps, has found its scale within the upper one, which always holds for it."""


class SkipNonFinite(StopOnDivergence):
    """Leaves out each step whose loss or gradient is not finite, as if it had not been.

    The weights, the optimizer's state, the running statistics of batch normalisation, an average of
    weights and a schedule by steps stay what they were, and ``global_step`` does not count the
    step. The data go on with the next batch, and a schedule by epochs with the next epoch. Training
    ends as diverged after :data:`MAX_IN_A_ROW` such steps in a row, fewer in short epochs, and
    where the validation loss is not finite, for then the weights themselves are bad.

    Whether a step is finite is known before it is taken, which waits for the device. Several
    processes leave a step out together.

    Attributes:
        skipped: steps left out so far, those before the checkpoint that is continued included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0
        self._in_a_row = 0
        self._loss = math.nan
        self._losses: list[Tensor] = []
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._schedules: list[tuple[LRSchedulerConfig, dict[str, Any]]] | None = None
        self._settings: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """The number of steps left out so far."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from that of the continued run."""
        self.skipped = state_dict.get("skipped", 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the training metrics leave out what is not learnt from."""
        if isinstance(pl_module, Classifier):
            pl_module.train_metrics.omits_non_finite = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Keep the statistics that the forward pass changes, at the first batch of a step."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches == 0:
            trained = (module for module in pl_module.modules() if module.training)
            kept = [buffer for module in trained for buffer in module.buffers(recurse=False)]
            self._statistics = [(buffer, buffer.clone()) for buffer in kept]

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss; of a step there are several if gradients are accumulated."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the gradients away from a step that is not finite: optimizers then do nothing."""
        losses, self._losses = self._losses, []
        if not losses:  # Lightning says that the training step returned none
            return
        values = torch.stack([*losses, gradient_norm(pl_module, math.inf).to(losses[0])])
        bad = not bool(values.isfinite().all())
        if trainer.world_size > 1:
            bad = bool(trainer.strategy.reduce_boolean_decision(bad, all=False))
        if not bad:
            self._in_a_row = 0
            return
        pl_module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in self._statistics:
                buffer.copy_(before)
        # What a schedule by steps changes after this step.
        configs = [c for c in trainer.lr_scheduler_configs if c.interval == "step"]
        self._schedules = [(config, config.scheduler.state_dict()) for config in configs]
        self._settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Undo what Lightning has counted and scheduled of a step that was left out.

        Raises:
            DivergedError: too many were.
        """
        loss = outputs["loss"] if isinstance(outputs, dict) and outputs else math.nan
        self._loss = float(loss)
        if self._schedules is not None:
            self._undo(trainer)
            self._count(trainer)
        elif math.isfinite(self._loss):
            self._finite.append(self._loss)

    def _undo(self, trainer: Trainer) -> None:
        assert self._schedules is not None
        for config, state in self._schedules:
            config.scheduler.load_state_dict(state)
        if self._schedules:
            for group, settings in zip(
                trainer.optimizers[0].param_groups, self._settings, strict=True
            ):
                group.update(settings)
        self._schedules = None
        progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        for counts in (progress.total, progress.current):
            counts.ready -= 1
            counts.completed -= 1

    def _count(self, trainer: Trainer) -> None:
        self.skipped += 1
        self._in_a_row += 1
        is_finite = math.isfinite(self._loss)
        if self.skipped == 1:
            what = "the gradient is" if is_finite else f"the loss is {self._loss},"
            log.warning(
                "Step %d in epoch %d is left out (on_nan=skip): %s not finite.",
                *(trainer.global_step + 1, trainer.current_epoch + 1, what),
            )
        if self._in_a_row >= _limit(trainer):
            loss = "finite, its gradient not" if is_finite else f"{self._loss}"
            place = trainer.global_step + 1, "train/step_loss"
            self.found = self._divergence(
                trainer, *place, f"{loss}, as in {self._in_a_row} steps in a row", self._lr
            )
            raise DivergedError


def _limit(trainer: Trainer) -> int:
    """Steps in a row after which training ends."""
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return MAX_IN_A_ROW
    steps = trainer.num_training_batches / trainer.accumulate_grad_batches
    return int(min(MAX_IN_A_ROW, max(MIN_IN_A_ROW, steps)))


def sentences_on_skipped(trainer: Trainer) -> list[str]:
    """What a run that left steps out says at its end."""
    skipping = callback_of(trainer, SkipNonFinite)
    if skipping is None or not skipping.skipped:
        return []
    taken, left = trainer.global_step, skipping.skipped
    of = f"{left:,} of {taken + left:,} steps {'was' if left == 1 else 'were'} left out"
    return [f"{of} (on_nan=skip): the loss or the gradient was not finite."]
