"""Going on from a checkpoint: changed settings, loggers, random numbers."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from discern.errors import DiscernError
from discern.models.card import Card
from discern.models.classifier import Classifier
from discern.models.metrics import STEP_LOSS
from discern.models.saved import Content, card_and_state, part_of, read
from discern.reports.tensorboard.logger import TensorBoard, logged_steps
from discern.training.seam import callback_of

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

Changes = dict[str, tuple[Any, Any]]
"""Setting -> its value in the checkpoint, and now."""


def differences(saved: Settings, now: Settings, prefix: str = "") -> Changes:
    """The settings that differ."""
    changes: Changes = {}
    for key in sorted(saved.keys() | now.keys(), key=str):
        one, other = saved.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            changes |= differences(one, other, f"{prefix}{key}.")
        elif one != other:
            changes[f"{prefix}{key}"] = one, other
    return changes


class Continuation(Callback):
    """Logs which settings differ from those of the checkpoint, and applies them.

    Lightning restores the optimizer, its schedule and early stopping with their old settings; a
    learning rate changed since would be accepted and ignored.

    Args:
        card: what the checkpoint says of itself.
        config: the settings now, in the form of ``card.config``.
    """

    def __init__(self, card: Card, config: Settings) -> None:
        self.changes = differences(card.config, config)
        for setting, (saved, now) in self.changes.items():
            log.info("  changed    %s=%s, was %s in the checkpoint", setting, now, saved)
        self._metrics = card.metrics
        self._place: list[dict[str, int]] = []
        self._epoch_is_open = False
        self._patience: dict[EarlyStopping, int] = {}
        self._schedule: dict[str, object] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the settings of early stopping, before its state is restored."""
        stoppers = [c for c in trainer.early_stopping_callbacks if isinstance(c, EarlyStopping)]
        self._patience = {callback: callback.patience for callback in stoppers}
        # With max_steps Lightning would end once more an epoch that is over.
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the settings of the schedule, before its state is restored.

        Raises:
            DiscernError: it cannot go on from where that of the checkpoint was.
        """
        changes = {
            name.removeprefix("scheduler."): change
            for name, change in self.changes.items()
            if name.startswith("scheduler.")
        }
        kinds = changes.pop("_target_", None)
        if kinds is not None:
            if None not in kinds:
                saved, now = (kind.rpartition(".")[2] for kind in kinds)
                raise _refusal(f"scheduler is {saved} there and {now} now")
            return
        if "optimizer.lr" in self.changes:
            changes.pop("max_lr", None)  # which follows it
        for config in trainer.lr_scheduler_configs:
            for name, (saved, now) in changes.items():
                kept = ATTRIBUTES.get(name, name)
                if not hasattr(config.scheduler, kept):
                    raise _refusal(f"scheduler.{name} is {saved} there and {now} now")
                self._schedule[kept] = getattr(config.scheduler, kept)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take what Lightning does not restore, from a checkpoint that has been checked."""
        progress = checkpoint["loops"]["fit_loop"]
        self._place = progress.get("state_dict", {}).get("combined_loader", [])
        self._epoch_is_open = is_in_epoch_end(checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the loader's position, metrics and random numbers; apply the changed settings.

        Raises:
            DiscernError: the learning-rate schedule was planned for a run of another length.
        """
        # A schedule that asks for the run's length makes Lightning set up the loader before the
        # checkpoint is read, a stage of fine-tuning sets up another one, and Lightning then forgets
        # to tell the loader its place in the epoch.
        loader = trainer.fit_loop._combined_loader
        if loader is not None and trainer.fit_loop.restarting:
            loader._load_state_dicts(self._place)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self._metrics.items()})
        self._check_schedule(trainer, pl_module)
        if self._epoch_is_open:
            _close_epoch(trainer)
        self._apply_changes(trainer, pl_module)
        self._stop_if_patience_is_over(trainer)
        # At last, since the callbacks before this one may draw random numbers.
        state = callback_of(trainer, RngState)
        if state is not None:
            state.restore()

    def _stop_if_patience_is_over(self, trainer: Trainer) -> None:
        """End a run that early stopping had ended, unless its patience is longer now."""
        for callback in self._patience:
            if callback.wait_count >= max(1, callback.patience):
                callback.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
                trainer.should_stop = True

    def _apply_changes(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback, patience in self._patience.items():
            callback.patience = patience
        for config in trainer.lr_scheduler_configs:
            for attribute, value in self._schedule.items():
                setattr(config.scheduler, attribute, value)
        optimizer = {k: v for k, v in self.changes.items() if k.startswith("optimizer.")}
        if "optimizer._target_" in optimizer:
            return
        for setting, (saved, now) in optimizer.items():
            name = setting.removeprefix("optimizer.")
            if name == "lr" and isinstance(saved, int | float) and saved > 0:
                scale_learning_rate(trainer, now, saved)
            elif name == "lr" and trainer.lr_scheduler_configs:
                raise _refusal(f"optimizer.lr is {saved} there and {now} now")
            else:
                for group in trainer.optimizers[0].param_groups:
                    group[name] = tuple(now) if isinstance(now, list) else now
        if "model.lr_factor" in self.changes and isinstance(pl_module, Classifier):
            _apply_lr_factor(trainer, pl_module)

    def _check_schedule(self, trainer: Trainer, pl_module: LightningModule) -> None:
        planned: dict[str, int] = getattr(pl_module, "schedule_total", {})
        for config in trainer.lr_scheduler_configs:
            for name, total in planned.items():
                saved = getattr(config.scheduler, name, total)
                if saved != total:
                    raise DiscernError(
                        f"ckpt_path: the learning-rate schedule was planned for {saved} "
                        f"{config.interval}s and the run now has {total}; give the same "
                        "trainer.max_epochs, or start anew with model.init_from=FILE."
                    )


def scale_learning_rate(trainer: Trainer, now: float, before: float = 1.0) -> None:
    """Multiply the learning rate of all parameter groups by ``now / before``."""
    for number in range(len(trainer.optimizers[0].param_groups)):
        _scale_group(trainer, number, now, before)


def _scale_group(trainer: Trainer, number: int, now: float, before: float) -> None:
    """Multiply the learning rate of a parameter group, and those that its schedule goes by."""
    group = trainer.optimizers[0].param_groups[number]
    for name in ("lr", "initial_lr", "max_lr", "min_lr"):
        if name in group:
            group[name] = group[name] / before * now  # in this order 1e-3 becomes 5e-4 exactly
    for config in trainer.lr_scheduler_configs:
        if hasattr(scheduler := config.scheduler, "base_lrs"):
            scheduler.base_lrs[number] = scheduler.base_lrs[number] / before * now


def _apply_lr_factor(trainer: Trainer, model: Classifier) -> None:
    """Give the parameter groups the proportion of learning rates that ``model.lr_factor`` says."""
    groups = trainer.optimizers[0].param_groups
    for number, (group, fresh) in enumerate(zip(groups, model.parameter_groups(), strict=True)):
        saved, now = (float(each.get("factor", 1.0)) for each in (group, fresh))
        if saved != now:
            if not saved > 0:
                raise _refusal(f"model.lr_factor gives {saved} there and {now} now")
            _scale_group(trainer, number, now, saved)
            group["factor"] = now


def _close_epoch(trainer: Trainer) -> None:
    """Take the step of a plateau's schedule at the end of the epoch that is over.

    Lightning takes it after ``on_train_epoch_end``, in which checkpoints are made, and a continued
    run goes on with the next epoch.
    """
    epoch = trainer.fit_loop.epoch_progress.current
    known = all(
        config.monitor in trainer.callback_metrics
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau
    )
    epoch.completed -= 1  # whose number decides whether a step is due
    if known and trainer.fit_loop.epoch_loop._num_ready_batches_reached():
        trainer.fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    epoch.completed += 1


ATTRIBUTES = {"min_lr": "min_lrs"}
"""Arguments of a schedule -> what it keeps them as, where that has another name."""


def _refusal(change: str) -> DiscernError:
    return DiscernError(
        f"ckpt_path: {change}, which cannot change during a schedule; "
        "give the same, or start anew with model.init_from=FILE."
    )


def resume_loggers(trainer: Trainer, folder: Path, start: Path | None) -> None:
    """Have the loggers of a run in the folder of an earlier one go on where it goes on.

    Args:
        trainer: has the loggers; none of them has written anything.
        folder: the run's.
        start: the checkpoint that it continues from, which may be another run's; None for none.
    """
    folder = folder.resolve()
    content = read(start) if start is not None and folder in start.resolve().parents else {}
    for logger in trainer.loggers:
        # Elsewhere there may be the events of other runs.
        if not isinstance(logger, TensorBoard) or folder not in (
            place := Path(logger.log_dir).resolve(),
            *place.parents,
        ):
            continue
        logger.go_on_from(steps_of(content))
        if start is not None and is_in_epoch_end(content):
            # Lightning logs them after the checkpoint, where the earlier part may have died.
            metrics = card_and_state(start, content)[0].metrics
            missed = {name: x for name, x in metrics.items() if name.startswith("train/")}
            missed.pop(STEP_LOSS, None)
            logger.log_metrics(missed, steps_of(content) - 1)
            logger.save()


def steps_of(content: Content) -> int:
    """The optimizer steps that a checkpoint was made after, as loggers count them."""
    loop = ("loops", "fit_loop")
    optimizer = "epoch_loop.automatic_optimization.optim_progress", "optimizer"
    taken = _count(content, "global_step")
    begun = _count(content, *loop, *optimizer, "zero_grad", "total", "completed")
    counted = _count(content, *loop, "epoch_loop.state_dict", "_batches_that_stepped")
    return logged_steps(counted, taken, begun) if taken else 0


def _count(content: Content, *keys: str) -> int:
    found = part_of(content, *keys)
    return found if isinstance(found, int) else 0


def is_in_epoch_end(content: Content) -> bool:
    """Whether a checkpoint was made by ``on_train_epoch_end``, before the epoch was closed."""
    epochs = part_of(content, "loops", "fit_loop", "epoch_progress", "current")
    return isinstance(epochs, Mapping) and epochs.get("completed") != epochs.get("processed")


class RngState(Callback):
    """Saves the state of torch's generators in checkpoints and restores it when training continues.

    Lightning does not, so that a continued run would draw other dropout masks than the same run
    left undisturbed. Split, order and augmentation need nothing: they are functions of the seed.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The generators' states: of the CPU, a uint8 tensor, and of each CUDA device."""
        cuda: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until :meth:`restore`; setting up draws random numbers too."""
        self._state = state_dict

    def restore(self) -> None:
        """Restore the states."""
        if self._state is None:
            return
        torch.set_rng_state(self._state["cpu"].cpu())
        if len(self._state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._state["cuda"]])
        self._state = None
