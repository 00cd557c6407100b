"""Going on from a checkpoint with other settings than it was made with."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.checkpoints import Card
from discern.errors import DiscernError

log = logging.getLogger(__name__)

Changes = dict[str, tuple[Any, Any]]


def differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Changes:
    """Setting -> (value in the checkpoint, value now), for each that differs."""
    changes: Changes = {}
    for key in sorted(saved.keys() | now.keys()):
        one, other = saved.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            changes |= differences(one, other, f"{prefix}{key}.")
        elif one != other:
            changes[f"{prefix}{key}"] = one, other
    return changes


class Continuation(Callback):
    """Says which settings differ from those of the checkpoint, and makes the optimizer's count.

    Lightning restores the optimizer with the settings it had; a learning rate that the user has
    changed since would be accepted and ignored.

    Args:
        card: what the checkpoint says of itself.
        config: the settings now, in the form of ``card.config``.
    """

    def __init__(self, card: Card, config: dict[str, Any]) -> None:
        self.changes = differences(card.config, config)
        for setting, (saved, now) in self.changes.items():
            log.info("  changed    %s=%s, was %s in the checkpoint", setting, now, saved)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the loader to its place; apply the changed settings to the restored optimizer.

        Raises:
            DiscernError: the learning-rate schedule was planned for a run of another length.
        """
        # A schedule that asks for the run's length makes Lightning set up the loader before the
        # checkpoint is read, and Lightning then forgets to tell the loader its place in the epoch.
        trainer.fit_loop._load_combined_loader_states()
        self._check_schedule(trainer, pl_module)
        optimizer = {k: v for k, v in self.changes.items() if k.startswith("optimizer.")}
        if "optimizer._target_" in optimizer:
            return
        for setting, (saved, now) in optimizer.items():
            name = setting.removeprefix("optimizer.")
            if name == "lr" and trainer.lr_scheduler_configs:
                self._rescale(trainer, now / saved)
            else:
                for group in trainer.optimizers[0].param_groups:
                    group[name] = tuple(now) if isinstance(now, list) else now

    def _check_schedule(self, trainer: Trainer, pl_module: Any) -> None:
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

    def _rescale(self, trainer: Trainer, factor: float) -> None:
        for group in trainer.optimizers[0].param_groups:
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                if name in group:
                    group[name] *= factor
        for config in trainer.lr_scheduler_configs:
            scheduler: Any = config.scheduler
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]
