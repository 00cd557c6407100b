"""Fitting and testing, and the checks before them."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig

from discern.data.module import ImageDataModule
from discern.errors import DiscernError, did_you_mean
from discern.models.classifier import Classifier
from discern.runs.metric_table import check_mode
from discern.runs.signals import BY_CTRL_C
from discern.runs.state import Ended, State
from discern.runs.sweep_job import current_trial
from discern.training.batches import batches_of, refusals_of_training
from discern.training.build import train_metric_for
from discern.training.divergence import DivergedError, StopOnDivergence, divergence, finite_weights
from discern.training.ending import Ending
from discern.training.interrupt import GracefulStop
from discern.training.outputs import TestOutputs
from discern.training.pruning import Pruning
from discern.training.restoring import check_before_restoring
from discern.training.seam import callback_of, callbacks_of, settings_of
from discern.training.skipping import SkipNonFinite

log = logging.getLogger(__name__)


def stopping_callbacks(cfg: DictConfig) -> list[Callback]:
    """Callbacks that end training: why it ended, divergence, and pruning of a search trial."""
    callbacks: list[Callback] = [Ending()]
    if cfg.on_nan in ("stop", "rollback"):
        callbacks.append(StopOnDivergence())
    elif cfg.on_nan == "skip":
        callbacks.append(SkipNonFinite())
    if (trial := current_trial()) is not None:
        # A search by several objectives prunes nothing.
        (metric,) = [cfg.objective] if isinstance(cfg.objective, str) else cfg.objective
        callbacks.append(Pruning(trial, metric))
    return callbacks


def take_some_batches(trainer: Trainer, data: ImageDataModule, splits: set[str]) -> None:
    """Round a fraction of a split's batches that would be none up to one batch, and log it."""
    limits = dict(LIMITS)
    if settings_of(trainer).overfit_batches:
        # Lightning has copied it to the limits of two splits.
        limits = {"overfit_batches": "train", "limit_test_batches": "test"}
    for setting, split in limits.items():
        limit, batches = getattr(trainer, setting), batches_of(data, split, trainer)
        if split not in splits or not isinstance(limit, float) or not batches or limit >= 1:
            continue
        if limit > 0 and int(limit * batches) == 0:
            copies = ("limit_train_batches", "limit_val_batches")
            for name in (setting, *(copies if setting == "overfit_batches" else ())):
                setattr(trainer, name, 1)
            log.info(
                "trainer.%s=%s of %d batch%s is none: one is taken.",
                *(setting, limit, batches, "" if batches == 1 else "es"),
            )


LIMITS = {"limit_train_batches": "train", "limit_val_batches": "val", "limit_test_batches": "test"}
"""Setting of the Trainer -> the split of whose batches it is a part."""


def check_validation_interval(trainer: Trainer, data: ImageDataModule) -> None:
    """Refuse validation after more batches than an epoch has.

    Raises:
        DiscernError: says how many there are.
    """
    settings = settings_of(trainer)
    # Lightning has none where it is an amount of time.
    every, limit = getattr(trainer, "val_check_interval", None), settings.limit_train_batches
    batches = batches_of(data, "train", trainer)
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    within_epoch = settings.check_val_every_n_epoch is not None and settings.limit_val_batches
    if isinstance(every, int) and batches and within_epoch and every > batches:
        counted = f"{batches} batch{'' if batches == 1 else 'es'}"
        raise DiscernError(
            f"trainer.val_check_interval={every} is not allowed; an epoch has {counted}, so it "
            "must be at most as many, or a fraction. With trainer.check_val_every_n_epoch=null it "
            "may go beyond an epoch."
        )


def check_monitors(trainer: Trainer, model: Classifier, validated: bool) -> None:
    """Point callbacks at training metrics when there is no validation split.

    Raises:
        DiscernError: a callback is to watch a metric that no epoch logs, or the wrong way.
    """
    replaced = set()
    if model.schedule is not None and model.schedule.monitor is not None:
        _check_logged("scheduler.monitor", model.schedule.monitor, model)
    for callback in (*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks):
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or not callback.monitor:
            continue
        _check_logged("monitor", callback.monitor, model)
        check_mode(f"{type(callback).__name__}.mode", callback.mode, callback.monitor)
        if not validated and callback.monitor.startswith("val/"):
            callback.monitor = train_metric_for(callback.monitor)
            replaced.add(callback.monitor)
            if isinstance(callback, EarlyStopping):
                callback._check_on_train_epoch_end = True
    if replaced:
        metrics = ", ".join(sorted(replaced))
        log.info("No validation images: checkpoints and early stopping watch %s.", metrics)


def _check_logged(setting: str, metric: str, model: Classifier) -> None:
    if metric not in model.metric_names:
        hint = did_you_mean(metric, model.metric_names)
        raise DiscernError(f"{setting}={metric} is not logged; {hint}")


def fit(
    trainer: Trainer,
    model: Classifier,
    data: ImageDataModule,
    start: Path | None,
    stop: GracefulStop,
) -> Ended:
    """Train; return how training ended."""
    check_before_restoring(trainer)
    with stop:
        try:
            with refusals_of_training(data):
                trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
        except DivergedError:
            pass
        except SystemExit:
            # Lightning's own end after a KeyboardInterrupt.
            if not trainer.interrupted:
                raise
            return stop.ended or BY_CTRL_C
        except KeyboardInterrupt as error:
            # A second signal, after Lightning has ended the fit.
            if stop.ended is None:
                raise
            raise SystemExit(stop.ended.status) from error
    if stop.ended is not None:
        return stop.ended
    if (found := divergence(trainer)) is not None:
        return found.ended
    ending = callback_of(trainer, Ending)
    assert ending is not None
    return ending.ended(trainer)


def ended_with(ended: Ended, trainer: Trainer, best: Path | None) -> Ended:
    """How a fit ended, given the weights that it ended with and the best checkpoint.

    With ``on_nan=continue`` training goes on with weights that are not finite. Where no checkpoint
    is from before that, there is no model, and the run has diverged.
    """
    spoilt = ended.state is State.DONE and not finite_weights(trainer.lightning_module)
    if not spoilt or best is not None:
        return ended
    return Ended(
        State.DIVERGED,
        f"and went on (on_nan=continue), {ended.reason}: the weights are not finite, and no "
        "checkpoint was kept before",
        status=1,
    )


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by its monitored metric."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return Path(callback.best_model_path)
    return None


def test(
    trainer: Trainer, model: Classifier, data: LightningDataModule, outputs: TestOutputs
) -> dict[str, float]:
    """The metrics on the test split; ``outputs`` collects the logits."""
    callbacks_of(trainer).append(outputs)
    trainer.test(model, datamodule=data, verbose=False)
    return {
        name.removeprefix("test/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
