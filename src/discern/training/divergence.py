"""Ends training at a loss that is not finite, before it spoils the checkpoints."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from discern.runs.state import Ended, State
from discern.training.seam import callback_of

STEPS_AT_ONCE = 50
"""Batches whose losses are looked at together where looking waits for the device."""

REMEMBERED = 3
"""How many of the last finite losses are reported."""


@dataclass(frozen=True)
class Divergence:
    """Where a loss was no longer finite.

    Attributes:
        epoch: from 1.
        step: the optimizer's, from 1; of a validation, how many were taken before.
        learning_rate: in that step, of the first parameter group.
        metric: ``train/step_loss`` or ``val/loss``.
        loss: as text, ``nan``, ``inf`` or ``-inf``; another process's is not known.
        last_finite_losses: the losses of the steps before, the last one last.
        advice: what to try, in one sentence.
    """

    epoch: int
    step: int
    learning_rate: float
    metric: str
    loss: str
    last_finite_losses: list[float]
    advice: str

    @property
    def ended(self) -> Ended:
        """How training ended, with exit status 1."""
        what = "validation loss after" if self.metric.startswith("val/") else "training loss in"
        shown = ", ".join(f"{loss:.4g}" for loss in self.last_finite_losses)
        before = f"the last finite ones {shown}" if shown else "none before was finite"
        return Ended(
            State.DIVERGED,
            f"in epoch {self.epoch}: the {what} step {self.step} is {self.loss} "
            f"({before}; learning rate {self.learning_rate:.6g})",
            status=1,
        )


def divergence(trainer: Trainer) -> Divergence | None:
    """Where the loss became non-finite and ended training, or None."""
    watching = callback_of(trainer, StopOnDivergence)
    return None if watching is None else watching.found


class DivergedError(Exception):
    """Leaves Lightning's loop in the middle of an epoch."""


class StopOnDivergence(Callback):
    """Ends training once a loss of training or of validation is not finite.

    On a CPU each loss is checked at the end of its step. Where that would wait for a device or
    other processes, losses are checked :data:`STEPS_AT_ONCE` at a time, and before a validation
    and the end of an epoch. The step is exact in any case.

    Attributes:
        found: where it was; None while all is well.
    """

    def __init__(self) -> None:
        self.found: Divergence | None = None
        self._finite: deque[float] = deque(maxlen=REMEMBERED)
        # The number in the epoch, the loss and the learning rate of batches not looked at.
        self._waiting: list[tuple[int, Tensor, float]] = []
        self._at_once = False
        self._lr = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out whether reading a loss is free of waiting."""
        alone = trainer.world_size == 1
        self._at_once = alone and trainer.strategy.root_device.type == "cpu"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop even if ``trainer.min_epochs`` asks for more epochs."""
        if self.found is not None:
            raise DivergedError

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remember the learning rate, which a schedule changes before the batch ends."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Check the loss, or queue it."""
        if not isinstance(outputs, dict) or not outputs:
            return
        loss: Tensor = outputs["loss"]
        if self._at_once:
            value = loss.item()
            if math.isfinite(value):
                self._finite.append(value)
                return
        self._waiting.append((batch_idx, loss, self._lr))
        if self._at_once or (batch_idx + 1) % STEPS_AT_ONCE == 0:
            self._look(trainer, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check queued losses before validating."""
        self._look_at_rest(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss; the epoch ends normally, so that its metrics are kept."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not bool(torch.isfinite(loss)) and self.found is None:
            self.found = self._divergence(
                trainer, trainer.global_step, "val/loss", f"{float(loss)}", self._lr
            )
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check queued losses before a checkpoint is written."""
        self._look_at_rest(trainer)

    def _look_at_rest(self, trainer: Trainer) -> None:
        if trainer.state.fn == TrainerFn.FITTING and (self._waiting or trainer.world_size > 1):
            self._look(trainer, self._waiting[-1][0] if self._waiting else 0)

    def _look(self, trainer: Trainer, batch_idx: int) -> None:
        """Raise DivergedError if any queued loss of any process is not finite."""
        waiting, self._waiting = self._waiting, []
        values = torch.stack([loss for _, loss, _ in waiting]).tolist() if waiting else []
        bad = next((place for place, v in enumerate(values) if not math.isfinite(v)), None)
        self._finite.extend(values[:bad])
        if not trainer.strategy.reduce_boolean_decision(bad is not None, all=False):
            return
        if bad is None:
            step, loss, lr = trainer.global_step, "not finite in another process", self._lr
        else:
            number, _, lr = waiting[bad]
            step, loss = _step_of(trainer, number, batch_idx), f"{values[bad]}"
        self.found = self._divergence(trainer, step, "train/step_loss", loss, lr)
        raise DivergedError

    def _divergence(
        self, trainer: Trainer, step: int, metric: str, loss: str, lr: float
    ) -> Divergence:
        share = trainer.accumulate_grad_batches
        finite = [value * share for value in self._finite]
        return Divergence(
            trainer.current_epoch + 1, step, lr, metric, loss, finite, _advice(trainer, lr, finite)
        )


def _step_of(trainer: Trainer, number: int, last: int) -> int:
    """The optimizer step, from 1, of batch ``number`` of the epoch; ``last`` is the latest."""
    share = trainer.accumulate_grad_batches
    taken = math.ceil((last + 1) / share) if trainer.is_last_batch else (last + 1) // share
    return trainer.global_step - taken + math.ceil((number + 1) / share)


def _advice(trainer: Trainer, lr: float, finite: list[float]) -> str:
    if not finite:
        return (
            "The first loss already is not finite: look at the data (discern inspect), at the "
            "weights that training began with (model.init_from, ckpt_path), or try a lower "
            f"optimizer.lr than {lr:.6g}."
        )
    ways = [f"a lower optimizer.lr than {lr:.6g} (find_lr=true suggests one)"]
    if trainer.gradient_clip_val is None:
        ways.append("trainer.gradient_clip_val=1")
    if str(trainer.precision).startswith("16"):
        ways.append("trainer.precision=bf16-mixed or 32-true")
    return f"Try {', or '.join(ways)}; on_nan=continue trains on all the same."


def finite_weights(module: nn.Module) -> bool:
    """Whether all trained weights and running statistics are finite.

    A buffer may be infinite by intention, as a mask is, but not NaN.
    """
    parts = [p.detach().isfinite().all() for p in module.parameters() if p.requires_grad]
    parts += [~b.isnan().any() for b in module.buffers() if b.is_floating_point()]
    return bool(torch.stack([part.cpu() for part in parts]).all()) if parts else True
