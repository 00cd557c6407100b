"""The settings of a run as a page in TensorBoard's tab Text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from discern.errors import as_override
from discern.reports.tensorboard.logger import TensorBoard


@rank_zero_only
def log_settings(
    trainer: Trainer, config: Path, overrides: list[str], changed: dict[str, dict[str, Any]]
) -> None:
    """Tell the run's TensorBoard logger, if it has one, what :func:`settings_page` says.

    Args:
        trainer: the run's.
        config: its config.yaml.
        overrides: as they were typed.
        changed: setting -> its ``default`` and ``value``.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            text = settings_page(config.read_text(encoding="utf-8"), overrides, changed)
            logger.experiment.add_text("settings", text)


def settings_page(config: str, overrides: list[str], changed: dict[str, dict[str, Any]]) -> str:
    """Markdown: what was typed, what differs from the defaults, and the whole config.

    Args:
        config: of the run, as YAML.
        overrides: as they were typed.
        changed: setting -> its ``default`` and ``value``.
    """
    return "\n\n".join(
        (
            "## What was typed",
            _block("\n".join(["discern train", *overrides])),
            "## What differs from the defaults",
            _table(changed) if changed else "Nothing.",
            "## The whole config",
            _block(config),
        )
    )


def _table(changed: dict[str, dict[str, Any]]) -> str:
    rows = [
        " | ".join(map(_cell, (name, as_override(both["default"]), as_override(both["value"]))))
        for name, both in changed.items()
    ]
    return "\n".join(("setting | default | value", "--- | --- | ---", *rows))


def _cell(text: str) -> str:
    """A text as it is, in a cell of a table: a character with a meaning in Markdown has none."""
    return "".join(f"&#{ord(letter)};" if letter in _MARKS else letter for letter in text) or " "


_MARKS = set("\\`*_{}[]()<>#+!|&~\r\n\t")


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
