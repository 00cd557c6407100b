"""Why training ended."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason as Why

from discern.runs.state import Ended, State
from discern.training.divergence import divergence
from discern.training.pruning import Pruning
from discern.training.seam import callback_of, callbacks_of, settings_of

ONE_EPOCH = 1.0


class Ending(Callback):
    """Notes what asked for the end of training, as soon as it is asked for.

    Later this is ambiguous: by then several callbacks may have a reason, and early stopping keeps
    the reason of the run that is continued.
    """

    def __init__(self) -> None:
        self._asked: Ended | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear early stopping's reason from the continued run."""
        for callback in trainer.early_stopping_callbacks:
            callback.stopping_reason = Why.NOT_STOPPED

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget a request that ``trainer.min_epochs`` has overruled."""
        if not trainer.should_stop:
            self._asked = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether a batch asked for the end."""
        self._notice(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether the validation or a batch asked for the end."""
        self._notice(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether the epoch asked for the end."""
        self._notice(trainer)

    def ended(self, trainer: Trainer) -> Ended:
        """How a fit that was not interrupted ended."""
        settings = settings_of(trainer)
        if settings.fast_dev_run:
            return _done("trainer.fast_dev_run batches seen")
        if settings.limit_train_batches == 0:
            return _done("trainer.limit_train_batches=0 leaves none to train on")
        self._notice(trainer)  # before the first batch, where the time had run out before
        if self._asked is not None:
            return self._asked
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            return _done(f"trainer.max_steps={trainer.max_steps} reached")
        if trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs >= 0:
            return _done(f"{trainer.max_epochs} of {trainer.max_epochs} epochs")
        return _done("all batches seen")

    def _notice(self, trainer: Trainer) -> None:
        if self._asked is None and trainer.should_stop:
            self._asked = _who_asked(trainer)


def _done(reason: str) -> Ended:
    return Ended(State.DONE, reason)


def _who_asked(trainer: Trainer) -> Ended:
    if (found := divergence(trainer)) is not None:
        return found.ended
    pruning = callback_of(trainer, Pruning)
    if pruning is not None and pruning.ended is not None:
        return pruning.ended
    callbacks = callbacks_of(trainer)
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != Why.NOT_STOPPED:
            return _early(callback, trainer)
    for callback in callbacks:
        left = callback.time_remaining() if isinstance(callback, Timer) else None
        if left is not None and left <= 0:
            return _done("trainer.max_time reached")
    own = [
        type(callback).__name__
        for callback in callbacks
        if not type(callback).__module__.startswith(("lightning.", "discern."))
    ]
    may = f", as {' or '.join(own)} may" if own else ""
    return _done(f"trainer.should_stop was set in epoch {trainer.current_epoch + 1}{may}")


def _early(callback: EarlyStopping, trainer: Trainer) -> Ended:
    epoch, monitor = callback.stopped_epoch + 1, callback.monitor
    value = float(trainer.callback_metrics[monitor])
    if callback.stopping_reason == Why.NON_FINITE_METRIC:
        return Ended(State.DIVERGED, f"in epoch {epoch}: {monitor} is {value}", status=1)
    begin = f"early stopping in epoch {epoch}: {monitor}"
    if callback.stopping_reason == Why.STOPPING_THRESHOLD:
        threshold = f"stopping_threshold={callback.stopping_threshold:g}"
        return _done(f"{begin} {value:.4g} has met {threshold}")
    if callback.stopping_reason == Why.DIVERGENCE_THRESHOLD:
        threshold = f"divergence_threshold={callback.divergence_threshold:g}"
        return _done(f"{begin} {value:.4g} is beyond {threshold}")
    counted = f"{max(1, callback.patience)} {_checks(callback, trainer)}"  # of 0 the first ends it
    least = abs(callback.min_delta)
    return _done(f"{begin} has not improved{f' by {least:g}' if least else ''} for {counted}")


def _checks(callback: EarlyStopping, trainer: Trainer) -> str:
    """The unit of ``patience``: epochs or validations."""
    settings = settings_of(trainer)
    each_epoch = settings.check_val_every_n_epoch == 1 and settings.val_check_interval == ONE_EPOCH
    name = "epoch" if each_epoch or callback._check_on_train_epoch_end else "validation"
    return name if callback.patience <= 1 else f"{name}s"
