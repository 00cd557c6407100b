"""Ways of running a model are measured in turns."""

from __future__ import annotations

import time
from itertools import groupby

import numpy as np

from discern.exports import speed
from discern.exports.running import Floats, Pixels


def test_each_way_has_its_turn_with_each_batch_and_the_first_of_several_runs_is_not_counted(
    monkeypatch,
):
    monkeypatch.setattr(speed, "TURN", 0.01)
    seen: list[tuple[str, int]] = []

    def way(name: str, seconds: float):
        def run(pixels: Pixels) -> Floats:
            seen.append((name, len(pixels)))
            time.sleep(seconds)
            return np.zeros((len(pixels), 2), np.float32)

        return run

    ways = {"fast": way("fast", 0.001), "slow": way("slow", 0.02)}
    found = speed.measure(ways, np.zeros((4, 4, 1), np.uint8), seconds=0)
    for batch in speed.BATCHES:
        of_batch = [name for name, size in seen if size == batch]
        turns = [(name, len(list(runs))) for name, runs in groupby(of_batch)]
        # One run of each before the first round.
        assert [name for name, _ in turns] == ["fast", "slow"] * (1 + speed.MIN_ROUNDS)
        for name in ways:
            counted = [max(1, runs - 1) for each, runs in turns[2:] if each == name]
            assert found[name][batch].rounds == sum(counted)
            assert found[name][batch].batch == batch
