"""Durations as settings give them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta


def seconds_of(time: float | str | Mapping[str, int]) -> float:
    """A duration in seconds.

    Args:
        time: seconds, days to seconds as ``DD:HH:MM:SS``, or parts such as ``{"minutes": 5}``.
    """
    if isinstance(time, str):
        days, hours, minutes, seconds = map(int, time.split(":"))
        time = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    return timedelta(**time).total_seconds() if isinstance(time, Mapping) else float(time)
