"""Ends a job of a search whose validation curve is hopeless."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from discern.errors import DiscernError, refusals_of
from discern.runs.state import Ended, State
from discern.runs.sweep_job import Trial
from discern.training.study import PRUNER, open_storage

if TYPE_CHECKING:  # start-up time: a search alone has Optuna
    import optuna


class Pruning(Callback):
    """Reports the objective to Optuna after each validation, and stops if its pruner says so.

    Args:
        trial: the job's trial of the study.
        metric: the objective.

    Attributes:
        ended: how training was ended, or None.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self.metric = metric
        self.ended: Ended | None = None
        self._place = trial
        self._trial: optuna.Trial | None = None
        self._reported: set[int] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the trial."""
        if self._trial is None and trainer.is_global_zero:
            self._trial, self._reported = _find(self._place)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch's value."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        stop = False
        value = trainer.callback_metrics.get(self.metric)
        if self._trial is not None and value is not None and math.isfinite(float(value)):
            epoch = trainer.current_epoch + 1
            if epoch not in self._reported:  # a continued job has values of its first part
                self._trial.report(float(value), epoch)
                self._reported.add(epoch)
            stop = self._trial.should_prune()
        if trainer.strategy.broadcast(stop):
            self.ended = Ended(
                State.PRUNED,
                f"in epoch {trainer.current_epoch + 1}: {self.metric} is worse than that of other "
                "jobs was there",
            )
            trainer.should_stop = True


def _find(trial: Trial) -> tuple[optuna.Trial, set[int]]:
    """A trial of a study, and the epochs reported already."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=trial.study, storage=open_storage(trial.storage))
    study.pruner = _pruner(study.user_attrs.get(PRUNER))
    frozen = study.get_trials(deepcopy=False)[trial.number]
    return optuna.Trial(study, frozen._trial_id), set(frozen.intermediate_values)


def _pruner(node: Mapping[str, object] | None) -> optuna.pruners.BasePruner:
    """The study's pruner and any that it holds, which must be Optuna's own."""
    import optuna

    if node is None:
        return optuna.pruners.NopPruner()
    settings = dict(node)
    module, _, kind = str(settings.pop("_target_", "")).rpartition(".")
    found = getattr(optuna.pruners, kind, None) if module == "optuna.pruners" else None
    if not (isinstance(found, type) and issubclass(found, optuna.pruners.BasePruner)):
        raise DiscernError(
            f"hydra.sweeper.pruner names {module}.{kind}, which is not a pruner of optuna.pruners."
        )
    for name, value in settings.items():
        if isinstance(value, Mapping):
            settings[name] = _pruner(value)
    with refusals_of("hydra.sweeper.pruner"):
        return found(**settings)
