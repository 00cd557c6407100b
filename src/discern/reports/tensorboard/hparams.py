"""A run's row in TensorBoard's HParams tab, the table of all runs below its ``--logdir``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from discern.config.values import plain
from discern.errors import as_override
from discern.redaction import redacted
from discern.reports.tensorboard.logger import TensorBoard

CHOICES = ("model", "data", "optimizer", "scheduler")
"""Groups whose choice has a column of its own."""

WHOLE = ("model", "optimizer", "scheduler")
"""Groups of which all settings are shown."""

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
"""Settings that are shown of the other groups."""

PATHS = ("model.init_from", "model.weights")
"""Settings that may be a file's path, which is not shown."""

LONGEST = 60
"""Characters of a list or text; a longer one is no column to read or filter by."""


def log_row(
    trainer: Trainer,
    cfg: DictConfig,
    choices: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    ended: bool,
) -> None:
    """Tell the run's TensorBoard logger, if it has one, what the run was and what it gave.

    Args:
        trainer: of the run.
        cfg: its config.
        choices: group -> choice, where they are known.
        metrics: split -> metric -> value, of the best checkpoint. Those of the test need not be
            there: the test logs them itself.
        ended: whether training came to its end; it may have been interrupted.
    """
    best = {
        f"best/{split}/{name}": value
        for split, part in metrics.items()
        for name, value in part.items()
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.log_row(settings_of(cfg, choices), best, trainer.global_step, ended)


def settings_of(cfg: DictConfig, choices: Mapping[str, Any]) -> dict[str, float | str]:
    """What distinguishes a run, by flat names: numbers as they are, the rest as it is typed."""
    settings: dict[str, Any] = {
        group: choices.get(group) or _class_name(cfg[group]) for group in CHOICES
    }
    for group in WHOLE:
        settings |= _flat(plain(cfg[group]), f"{group}.")
    settings |= {name: plain(OmegaConf.select(cfg, name)) for name in SINGLE}
    settings = redacted(settings)
    shown = {name: _shown(value) for name, value in settings.items() if not _is_path(name, value)}
    return {name: value for name, value in shown.items() if value is not None}


def _class_name(node: DictConfig) -> str:
    return str(node._target_).rpartition(".")[2].lower()


def _flat(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return dict(_items(settings, prefix))


def _items(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _items(value, f"{prefix}{key}.")
        elif key != "_target_":
            yield f"{prefix}{key}", value


def _is_path(name: str, value: Any) -> bool:
    return name in PATHS and value != "default"


def _shown(value: Any) -> float | str | None:
    """A number, or a text that is not too long; none for null, whose cell stays empty."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = as_override(value)
    return text if len(text) <= LONGEST else None
