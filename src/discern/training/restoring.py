"""Checks a checkpoint before any of it is loaded into a run that continues from it.

Lightning hands each part of a checkpoint to what it belongs to, which takes it over as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor

from discern.data.module import ImageDataModule
from discern.errors import DiscernError, about, first_line
from discern.models.card import CARD
from discern.models.classifier import Classifier
from discern.models.saved import Content, check_fits, part_of
from discern.schema import check_schema
from discern.training.checkpointing import state_beside
from discern.training.history import History, HistoryState
from discern.training.optimizer_state import checked_state
from discern.training.resume import RngState
from discern.training.seam import callbacks_of, settings_of
from discern.training.states import (
    check_averaging,
    check_like,
    check_metrics,
    check_place_in_data,
    check_progress,
    check_randomness,
)

NEEDED = ("loops", "callbacks", "optimizer_states", "lr_schedulers", "train_metrics")
"""Keys of a checkpoint from which training can continue."""


def check_before_restoring(trainer: Trainer) -> None:
    """Have a new ``trainer`` check all states of the checkpoint that a fit continues from.

    A state of another form than its target then raises a DiscernError before anything is loaded;
    so does a state that a library's or a user's own class refuses to load.
    """
    trainer._checkpoint_connector = _CheckedConnector(trainer)


class _CheckedConnector(_CheckpointConnector):
    """Lightning's own, which checks the content before each half of it is loaded.

    The optimizers are made after the model and the callbacks have been restored.
    """

    def resume_start(
        self, checkpoint_path: str | Path | None = None, weights_only: bool | None = None
    ) -> None:
        super().resume_start(checkpoint_path, weights_only)
        if self._loaded_checkpoint:
            assert checkpoint_path is not None
            self._loaded_checkpoint = _checked(
                self._loaded_checkpoint, self.trainer, Path(checkpoint_path)
            )

    def _restore_modules_and_callbacks(
        self, checkpoint_path: str | Path | None = None, weights_only: bool | None = None
    ) -> None:
        with _refusals(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        with _refusals(self._ckpt_path):
            if self._loaded_checkpoint:
                self._loaded_checkpoint = _with_checked_optimizers(
                    self._loaded_checkpoint, self.trainer
                )
            super().restore_training_state()


@contextmanager
def _refusals(path: str | Path | None) -> Iterator[None]:
    """Say in one sentence why training cannot continue from a checkpoint."""
    try:
        yield
    except DiscernError:
        raise
    except Exception as error:
        # Of the checks of this module, or of a callback of a user's own that was given a state
        # that it did not write.
        plain = type(error) is ValueError
        reason = first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"
        raise DiscernError(f"ckpt_path={path} cannot be continued: {reason}.") from error


def _checked(content: Content, trainer: Trainer, path: Path) -> Content:
    """The checked parts of a checkpoint that are loaded before the optimizers exist.

    Raises:
        ValueError: a part has another form than what it is loaded into.
    """
    module = trainer.lightning_module
    if missing := [key for key in NEEDED if key not in content]:
        raise ValueError(f"it has no {missing[0]}")
    loops = content["loops"]
    progress = loops.get("fit_loop") if isinstance(loops, Mapping) else None
    check_progress(progress, trainer.fit_loop.state_dict(), "loops.fit_loop")
    assert progress is not None
    if isinstance(settings_of(trainer).datamodule, ImageDataModule):
        check_place_in_data(progress, "loops.fit_loop")
    if isinstance(module, Classifier):
        check_metrics(content["train_metrics"], module.train_metrics.snapshot(), "train_metrics")
        if "current_model_state" in content:
            with about("ckpt_path"):
                check_fits(module.network, _tensors(content["current_model_state"]), path)
    plugin = trainer.precision_plugin
    if type(plugin).__qualname__ in content:
        check_like(content[type(plugin).__qualname__], plugin.state_dict(), "precision")
    others = {key: part for key, part in content.items() if key != "native_amp_scaling_state"}
    return {
        **others,
        "loops": {"fit_loop": progress},
        "callbacks": _callbacks(content, trainer, path),
    }


def _tensors(state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(p, Tensor) for p in state.values()):
        raise ValueError("current_model_state holds more than tensors")
    return state


def _callbacks(content: Content, trainer: Trainer, path: Path) -> Content:
    """The states of the callbacks that this run has."""
    saved = content["callbacks"]
    if not isinstance(saved, dict):
        raise ValueError("callbacks is not a mapping")
    checked: Content = {}
    for callback in callbacks_of(trainer):
        key = callback.state_key
        if isinstance(callback, WeightAveraging) and "averaging_state" in content:
            model = callback._average_model
            now = {} if model is None else {"n_averaged": model.n_averaged}
            check_like(content["averaging_state"], now, "averaging_state")
        if key in saved:
            if not isinstance(saved[key], dict):
                raise ValueError(f"callbacks.{type(callback).__name__} is not a mapping")
            checked[key] = _state_of(callback, saved[key], path)
    return checked


def _state_of(callback: Callback, state: Content, path: Path) -> Content:
    """A callback's checked state; that of a user's own class may be anything."""
    place = f"callbacks.{type(callback).__name__}"
    if isinstance(callback, ModelCheckpoint):
        return state_beside(state, callback, path.parent, place)
    if isinstance(callback, History):
        check_schema(HistoryState, state, place)
    elif isinstance(callback, RngState):
        check_randomness(state, place)
    elif isinstance(callback, StochasticWeightAveraging):
        check_averaging(state, callback.state_dict(), place)
    elif type(callback).__module__.startswith(("discern.", "lightning.")):
        check_like(state, callback.state_dict(), place)
    return state


def _with_checked_optimizers(content: Content, trainer: Trainer) -> Content:
    """A checkpoint's content with checked states of optimizers and schedules.

    Raises:
        ValueError: a state is of another form.
    """
    module = trainer.lightning_module
    assert isinstance(module, Classifier)
    states, schedules = content["optimizer_states"], content["lr_schedulers"]
    if not isinstance(states, list) or len(states) != len(trainer.optimizers):
        raise ValueError(f"optimizer_states is not of {len(trainer.optimizers)} optimizers")
    if not isinstance(schedules, list):
        raise ValueError("lr_schedulers is not a list")
    optimizers = []
    for state, optimizer in zip(states, trainer.optimizers, strict=True):
        try:
            optimizers.append(checked_state(state, optimizer, module.another_optimizer))
        except ValueError as error:
            name = type(optimizer).__name__
            before = _optimizer_of(content)
            if before in ("", name):
                raise ValueError(f"the state of {name} is not its own: {error}") from error
            raise ValueError(
                f"the optimizer is {before} there and {name} now, which cannot go on from its "
                "state; give the same, or start anew with model.init_from=FILE"
            ) from error
    # Another number of them means another schedule, which was reported before.
    for state, config in zip(schedules, trainer.lr_scheduler_configs, strict=False):
        schedule = config.scheduler
        own = not type(schedule).__module__.startswith("torch.")
        if not isinstance(state, dict):
            raise ValueError("lr_schedulers is of no states")
        check_like(state, schedule.state_dict(), f"the state of {type(schedule).__name__}", own)
    return {**content, "optimizer_states": optimizers}


def _optimizer_of(content: Content) -> str:
    """The class of the optimizer that a checkpoint is of; empty if it does not say."""
    target = part_of(content, CARD, "config", "optimizer", "_target_")
    return target.rpartition(".")[2] if isinstance(target, str) else ""
