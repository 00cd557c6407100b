"""The settings of a run as a page in TensorBoard's tab Text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from discern.errors import as_override
from discern.reports.tensorboard.logger import TensorBoard

Changed = Mapping[str, Mapping[str, object]]
"""Setting -> its ``default`` and ``value``."""


@rank_zero_only
def log_settings(trainer: Trainer, config: Path, overrides: list[str], changed: Changed) -> None:
    """Write :func:`settings_page` to the run's TensorBoard logger, if it has one.

    Args:
        trainer: the run's.
        config: its config.yaml.
        overrides: as they were typed.
        changed: the settings that differ from the defaults.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            text = settings_page(config.read_text(encoding="utf-8"), overrides, changed)
            logger.experiment.add_text("settings", text)


def settings_page(config: str, overrides: list[str], changed: Changed) -> str:
    """Markdown: the command, the settings that differ from the defaults, and the whole config.

    Args:
        config: of the run, as YAML.
        overrides: as they were typed.
        changed: the settings that differ from the defaults.
    """
    return "\n\n".join(
        (
            "## Command",
            _block("\n".join(["discern train", *overrides])),
            "## Settings that differ from the defaults",
            _table(changed) if changed else "None.",
            "## All settings",
            _block(config),
        )
    )


def _table(changed: Changed) -> str:
    rows = [
        " | ".join(map(_cell, (name, as_override(both["default"]), as_override(both["value"]))))
        for name, both in changed.items()
    ]
    return "\n".join(("setting | default | value", "--- | --- | ---", *rows))


def _cell(text: str) -> str:
    """A text for a table's cell, with Markdown's special characters escaped."""
    return "".join(f"&#{ord(letter)};" if letter in _MARKS else letter for letter in text) or " "


_MARKS = set("\\`*_{}[]()<>#+!|&~\r\n\t")


def _block(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
