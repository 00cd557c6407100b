"""Attributes of Lightning's Trainer that its class does not declare."""

from __future__ import annotations

from typing import Protocol, TypeVar, cast

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import Profiler

from discern.data.module import ImageDataModule

OneCallback = TypeVar("OneCallback", bound=Callback)


class TrainerSettings(Protocol):
    """Settings that Lightning's connectors keep on the Trainer."""

    datamodule: ImageDataModule | None
    fast_dev_run: int | bool
    overfit_batches: int | float
    limit_train_batches: int | float
    limit_val_batches: int | float
    val_check_interval: int | float | None
    check_val_every_n_epoch: int | None
    profiler: Profiler


def settings_of(trainer: Trainer) -> TrainerSettings:
    """The trainer, as its settings."""
    return cast(TrainerSettings, trainer)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's own list of callbacks, in the order in which they are called."""
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]


def callback_of(trainer: Trainer, kind: type[OneCallback]) -> OneCallback | None:
    """The first of the trainer's callbacks of a class."""
    return next((each for each in callbacks_of(trainer) if isinstance(each, kind)), None)
