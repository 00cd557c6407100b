"""A run's row in TensorBoard's HParams tab, the table of all runs in its ``--logdir``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from discern.config.values import plain
from discern.errors import as_override
from discern.redaction import redacted
from discern.reports.tensorboard.logger import RESULT, TensorBoard, step_of
from discern.text import printable

CHOICES = ("model", "data", "optimizer", "scheduler")
"""Groups whose choice is a column."""

WHOLE = ("model", "optimizer", "scheduler")
"""Groups whose settings are all columns."""

SINGLE = (
    "data.batch_size",
    "data.augment",
    "data.image_size",
    "data.val_size",
    "data.fraction",
    "data.fold",
    "data.sampler",
    "callbacks.ema.decay",
    "callbacks.early_stopping.patience",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.precision",
    "trainer.gradient_clip_val",
    "engine",
    "seed",
)
"""Settings of other groups that are columns."""

PATHS = ("model.init_from", "model.weights")
"""Settings that may be a path, which is not shown."""

MAX_LENGTH = 60
"""Characters of a list or text; a longer one is not shown."""


def log_row(
    trainer: Trainer,
    cfg: DictConfig,
    choices: Mapping[str, object],
    metrics: Mapping[str, Mapping[str, float]],
    ended: bool,
) -> None:
    """Write the run's settings and metrics to its TensorBoard logger, if it has one.

    Args:
        trainer: of the run.
        cfg: its config.
        choices: group -> choice, as far as they are known.
        metrics: split -> metric -> value, of the best checkpoint; the test logs its own.
        ended: whether training ended; it may have been interrupted.
    """
    best = {
        f"{RESULT}/{split}/{name}": value
        for split, part in metrics.items()
        for name, value in part.items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            settings = settings_of(cfg, choices)
            logger.log_row(trial_id(Path(cfg.folder)), settings, best, step_of(trainer), ended)


def trial_id(folder: Path) -> str:
    """The run's name in the table: what tells it from others first, since columns are narrow."""
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    number = f"{hydra.job.num}: " if hydra and hydra.mode == RunMode.MULTIRUN else ""
    place = folder.resolve()
    # Runs of one name would be one row.
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()[:4]
    return f"{number}{printable(Path(place.name))} ({printable(Path(place.parent.name))}, {digest})"


def settings_of(cfg: DictConfig, choices: Mapping[str, object]) -> dict[str, float | str]:
    """The run's settings by flat names: numbers as they are, the rest as it is typed."""
    settings: dict[str, object] = {
        group: choices.get(group) or _class_name(cfg[group]) for group in CHOICES
    }
    for group in WHOLE:
        settings |= _flat(plain(cfg[group]), f"{group}.")
    settings |= {name: plain(OmegaConf.select(cfg, name)) for name in SINGLE}
    shown = {
        name: _shown(value)
        for name, value in redacted(settings).items()
        if name not in PATHS or value == "default"
    }
    return {name: value for name, value in shown.items() if value is not None}


def _class_name(node: DictConfig) -> str:
    return str(node._target_).rpartition(".")[2].lower()


def _flat(settings: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", value


def _shown(value: object) -> float | str | None:
    """A number, or a short text; None for null and long texts, whose cell stays empty."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = as_override(value)
    return text if len(text) <= MAX_LENGTH else None
