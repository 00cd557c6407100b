"""What a run is made of: how its parts are built, and built again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from torch import Tensor

from discern.data.module import ImageDataModule
from discern.models.classifier import Classifier
from discern.models.threads import use_threads
from discern.runs.state import Ended
from discern.runs.summary import Summary
from discern.training import find as finders
from discern.training import serving as features
from discern.training.build import build_data, build_model, build_trainer
from discern.training.diagnosis import Diagnosis
from discern.training.fit import (
    check_monitors,
    check_validation_interval,
    stopping_callbacks,
    take_some_batches,
)
from discern.training.history import History
from discern.training.interrupt import GracefulStop
from discern.training.record import save_config
from discern.training.resume import RngState
from discern.training.rollback import Rollbacks, check_rollback, keep_going
from discern.training.run_folder import FolderWatch
from discern.training.seam import callbacks_of
from discern.training.start import continue_from, known_of

if TYPE_CHECKING:  # start-up time: a frozen backbone alone has features
    from discern.features.source import FeatureSource


@dataclass
class Run:
    """What a run is made of.

    Attributes:
        summary: its facts, written when it ends.
        folder: where it writes.
        trainer: Lightning's, with its callbacks.
        data: the data module, set up.
        model: the classifier.
        validated: whether training measures itself on held-out images.
        history: the metrics of each epoch.
        stop: ends training after a batch when the user or the system asks.
        rng: torch's generator before the model was built, to build the same one again.
        rollbacks: of training that diverges, where ``on_nan=rollback``.
        source: serves a frozen backbone's features; None where there are none.
    """

    summary: Summary
    folder: Path
    trainer: Trainer
    data: ImageDataModule
    model: Classifier
    validated: bool
    history: History
    stop: GracefulStop
    rng: Tensor
    rollbacks: Rollbacks | None = None
    source: FeatureSource | None = None


def build_run(cfg: DictConfig, summary: Summary, start: Path | None) -> tuple[Run, Ended | None]:
    """The parts of the run; and its end, where it only looks for a learning rate."""
    folder, history = Path(cfg.folder), History()
    stop = GracefulStop(folder / "checkpoints" / "last.safetensors")
    callbacks = _callbacks(cfg, summary, history, stop)
    # Before the data: a missing device is reported before a file is read.
    trainer = build_trainer(cfg, callbacks)
    check_rollback(cfg, trainer)
    with summary.phase("data"):
        data = build_data(cfg, known_of(cfg, start), only_measured(cfg))
    suggested = None
    if finders.is_searched(cfg):
        with summary.phase("find"):
            suggested = finders.find(cfg, data, summary.facts)
        save_config(cfg, summary.facts["overrides"])
        # Its settings may refer to those that have been found.
        trainer = build_trainer(cfg, callbacks)
    validated = data.has_validation and trainer.limit_val_batches != 0
    rng = torch.get_rng_state()
    model = build_model(cfg, data, validated)
    run = Run(summary, folder, trainer, data, model, validated, history, stop, rng)
    if cfg.on_nan == "rollback":
        run.rollbacks = Rollbacks(cfg.rollback.factor, cfg.rollback.times)
    return run, suggested


def _callbacks(
    cfg: DictConfig, summary: Summary, history: History, stop: GracefulStop
) -> list[Callback]:
    watch = FolderWatch(summary.place)
    return [watch, *stopping_callbacks(cfg), history, RngState(), Diagnosis(), stop]


def only_measured(cfg: DictConfig) -> str | None:
    """The split that a run measures which does not train."""
    return "test" if cfg.test and not cfg.train else None


def settle(cfg: DictConfig, run: Run) -> None:
    """Adapt a new trainer's settings to the data, and refuse what does not suit them."""
    splits = {"train", "val"} if cfg.train else set()
    take_some_batches(run.trainer, run.data, splits | ({"test"} if cfg.test else set()))
    if cfg.train:
        check_validation_interval(run.trainer, run.data)
        check_monitors(run.trainer, run.model, run.validated)


def set_out(cfg: DictConfig, run: Run, start: Path | None) -> int:
    """Prepare the trainer to go on from a checkpoint, if there is one; the epoch, from 1."""
    epoch = 1 if start is None else continue_from(start, cfg, run.trainer, run.model)
    if run.rollbacks is not None:  # after what applies settings that have changed since
        callbacks_of(run.trainer).append(run.rollbacks)
    return epoch


def begin_anew(cfg: DictConfig, run: Run, start: Path | None) -> None:
    """Build again what a fit has changed, to go on from a checkpoint or from the beginning."""
    before, history = run.trainer, run.history
    run.history = History(history.validation_seconds)
    run.trainer = build_trainer(cfg, _callbacks(cfg, run.summary, run.history, run.stop))
    keep_going(before, run.trainer)
    run.data.features = None
    torch.set_rng_state(run.rng)
    run.model = build_model(cfg, run.data, run.validated)
    settle(cfg, run)
    epoch = set_out(cfg, run, start)
    use_threads(run.model.network, run.data.input_shape, cfg.threads)  # training used the head's
    run.source = features.serve(cfg, run.model, run.data, run.trainer, epoch)
