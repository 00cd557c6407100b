"""Which way a metric is better. Imports nothing heavy: configs are checked by it."""

from __future__ import annotations

from typing import Literal

from discern.errors import DiscernError

SMALL_IS_GOOD = ("loss", "error", "seconds")
"""Endings of the names of metrics of which less is better."""


def direction_of(metric: str) -> str:
    """``minimize`` for a loss, an error or a time, ``maximize`` for any other name."""
    return "minimize" if metric.endswith(SMALL_IS_GOOD) else "maximize"


def mode_of(metric: str) -> Literal["min", "max"]:
    """The same in Lightning's and torch's words."""
    return "min" if direction_of(metric) == "minimize" else "max"


def check_mode(setting: str, mode: str | None, monitor: str) -> None:
    """Refuse to watch a metric in the direction in which it is worse.

    Args:
        setting: the name of the setting that holds the mode.
        mode: ``min`` or ``max``; None stands for the metric's own.
        monitor: the metric that is watched.

    Raises:
        DiscernError: the mode is not the metric's.
    """
    if mode is not None and mode != mode_of(monitor):
        better = "less" if mode_of(monitor) == "min" else "more"
        raise DiscernError(
            f"{setting}={mode} is not allowed with monitor={monitor}, of which {better} is better; "
            f"it must be {mode_of(monitor)}, or null for the metric's own direction."
        )
