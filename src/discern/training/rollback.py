"""Going back to the last good checkpoint, with a lower learning rate, after a divergence."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from omegaconf import DictConfig

from discern.errors import DiscernError
from discern.models.saved import epoch_of, read
from discern.reports.tensorboard.logger import TensorBoard
from discern.runs.state import Ended, State
from discern.training.checkpointing import CheckpointsWithinEpochs
from discern.training.divergence import divergence
from discern.training.resume import scale_learning_rate, steps_of
from discern.training.seam import callback_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolledBack:
    """One rollback of a run.

    Attributes:
        epoch, step: where a loss was not finite, from 1.
        loss: as text.
        learning_rate: in that step.
        to_epoch: of the checkpoint that training went on from; 0 for the beginning.
        to_step: optimizer steps that it had taken.
    """

    epoch: int
    step: int
    loss: str
    learning_rate: float
    to_epoch: int
    to_step: int


def check_rollback(cfg: DictConfig, trainer: Trainer) -> None:
    """Refuse ``on_nan=rollback`` for a run of several processes.

    Raises:
        DiscernError: names the setting.
    """
    if cfg.on_nan == "rollback" and trainer.world_size > 1:
        raise DiscernError(
            f"on_nan=rollback is not allowed with {trainer.world_size} processes "
            "(trainer.devices, trainer.num_nodes), which would have to begin anew together; "
            "on_nan=skip and stop are."
        )


class Rollbacks(Callback):
    """Lowers the learning rate of training that goes on after a divergence.

    Its state is part of checkpoints: a run that continues one made after a rollback keeps the lower
    rate, which the optimizer's own state holds, and has that many rollbacks fewer left.

    Args:
        factor: what each rollback multiplies the learning rate by.
        times: the most rollbacks of a run, its earlier parts included.

    Attributes:
        made: those of this process.
        count: all of the run.
    """

    def __init__(self, factor: float, times: int) -> None:
        self.factor, self.times = factor, times
        self.made: list[RolledBack] = []
        self.count = 0
        self._in_rate = 0
        """Rollbacks that the optimizer's learning rate allows for."""

    def state_dict(self) -> dict[str, Any]:
        """The number of rollbacks in the learning rate."""
        return {"rollbacks": self._in_rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the number of the checkpoint that is continued, in this process or a later."""
        self._in_rate = max(0, state_dict.get("rollbacks", 0))
        self.count = max(self.count, self._in_rate)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lower the learning rate for each rollback since the checkpoint, or the beginning."""
        if self.count > self._in_rate:
            scale_learning_rate(trainer, self.factor ** (self.count - self._in_rate))
            self._in_rate = self.count

    def is_due(self, trainer: Trainer, ended: Ended) -> bool:
        """Whether a fit that has ended is to go on from an earlier checkpoint."""
        diverged = ended.state is State.DIVERGED and divergence(trainer) is not None
        return diverged and self.count < self.times

    def begin(self, trainer: Trainer, start: Path | None) -> Path | None:
        """Note and log a rollback.

        Args:
            trainer: whose loss was not finite.
            start: the checkpoint that the run began with.

        Returns:
            The checkpoint to go on from, or None for the beginning.
        """
        found = divergence(trainer)
        assert found is not None
        back, to_epoch, to_step = _last_good(trainer, start)
        self.made.append(
            RolledBack(found.epoch, found.step, found.loss, found.learning_rate, to_epoch, to_step)
        )
        self.count, self._in_rate = self.count + 1, 0
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard):
                logger.take_back(0 if back is None else steps_of(read(back)))
        log.warning(
            "Diverged %s; rollback %d of %d: training goes on from %s with %g times the learning "
            "rate.",
            *(found.ended.reason, self.count, self.times, _place(to_epoch), self.factor),
        )
        return back

    def ended(self, ended: Ended) -> Ended:
        """How a run ended, with the rollbacks that did not help."""
        if ended.state is not State.DIVERGED or not self.count:
            return ended
        return Ended(ended.state, f"{ended.reason}, after {_times(self.count)}", ended.status)

    @property
    def sentences(self) -> list[str]:
        """What the run says of its rollbacks at its end."""
        rate = f"the learning rate is now {self.factor**self.count:.3g} times the set one"
        if not self.made:
            before = f"This run was continued after {_times(self.count)} (on_nan=rollback); {rate}."
            return [before] if self.count else []
        parts = [
            f"in epoch {each.epoch} (step {each.step}, learning rate {each.learning_rate:.3g}) to "
            f"{_place(each.to_epoch)}"
            for each in self.made
        ]
        return [
            f"Training diverged and was rolled back (on_nan=rollback) {', '.join(parts)}; {rate}."
        ]


def keep_going(old: Trainer, new: Trainer) -> None:
    """Give a trainer that goes on after another its loggers and what is left of its time."""
    new.loggers = old.loggers
    before, now = callback_of(old, Timer), callback_of(new, Timer)
    if before is not None and now is not None:
        Timer.load_state_dict(now, Timer.state_dict(before))


def _last_good(trainer: Trainer, start: Path | None) -> tuple[Path | None, int, int]:
    """The newest readable checkpoint of the run with its epoch and step, or its beginning."""
    written = {
        path
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        for path in (callback.last_model_path, callback.best_model_path)
        if path
    }
    paths = {*map(Path, written), *([start] if start else [])}
    within = callback_of(trainer, CheckpointsWithinEpochs)
    if within is not None and within.has_saved:
        paths.add(within.path)
    found: list[tuple[int, int, Path]] = []
    for path in paths:
        try:
            content = read(path)
        except (DiscernError, OSError) as error:
            log.warning("%s cannot be gone back to: %s", path, error)
            continue
        step = content.get("global_step")
        found.append((step if isinstance(step, int) else 0, epoch_of(content) or 0, path))
    if not found:
        return None, 0, 0
    step, epoch, path = max(found)
    return path, epoch, step


def _place(epoch: int) -> str:
    return f"the checkpoint of epoch {epoch}" if epoch else "the beginning"


def _times(count: int) -> str:
    return "one rollback" if count == 1 else f"{count} rollbacks"
