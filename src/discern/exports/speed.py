"""How fast the ways of running a model are, measured in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from discern.exports.running import Pixels, Run

BATCHES = (1, 32)
"""Batch sizes that are measured."""

MIN_ROUNDS = 5
"""Of each batch size, whatever time they take."""

PAUSE, TURN = 0.01, 0.02
"""Seconds before a way of running has its turn, for the threads of the one before it wait at full
speed for a while; and seconds that a turn takes at least."""


@dataclass(frozen=True)
class Speed:
    """The speed of one way of running a model with one batch size.

    Attributes:
        batch: images at once.
        images_per_second: by the median time.
        p50, p99: time of a batch in milliseconds.
        rounds: the number of runs that were counted.
    """

    batch: int
    images_per_second: float
    p50: float
    p99: float
    rounds: int


Speeds = dict[str, dict[int, Speed]]
"""Way of running -> batch size -> its speed."""


def measure(ways: Mapping[str, Run], picture: Pixels, seconds: float) -> Speeds:
    """Measure ways of running a model, in turns, so that all meet the same machine.

    Args:
        ways: name -> what runs the model.
        picture: uint8 (H, W, C), of which the batches are made.
        seconds: that each batch size takes, at least :data:`MIN_ROUNDS` rounds.
    """
    found: Speeds = {name: {} for name in ways}
    for batch in BATCHES:
        pixels = np.repeat(picture[None], batch, axis=0)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for run in ways.values():
            run(pixels)
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < MIN_ROUNDS or time.perf_counter() < end:
            rounds += 1
            for name, run in ways.items():
                times[name] += _turn(run, pixels)
        for name, each in times.items():
            p50, p99 = np.percentile(each, [50, 99])
            found[name][batch] = Speed(
                batch, batch / float(p50), 1000 * float(p50), 1000 * float(p99), len(each)
            )
    return found


def _turn(run: Run, pixels: Pixels) -> list[float]:
    """Seconds of each run of a turn, without the first, after the pause, if there are more."""
    times: list[float] = []
    time.sleep(PAUSE)
    end = time.perf_counter() + TURN
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        run(pixels)
        times.append(time.perf_counter() - begun)
    return times[1:] or times


def faster(speeds: Speeds, name: str, than: str) -> bool:
    """Whether one way is faster than another with each batch size."""
    return all(
        speeds[name][batch].images_per_second > speeds[than][batch].images_per_second
        for batch in BATCHES
    )
