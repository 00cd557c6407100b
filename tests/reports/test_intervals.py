from __future__ import annotations

import numpy as np
import pytest

from discern.reports.intervals import bootstrap_weights, percentile, reflected, wilson

# Newcombe (1998), table I, method 3, and the rows of 10.
WILSON = {
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611),
    (1, 29): (0.0061, 0.1718),
    (8, 10): (0.4902, 0.9433),
    (10, 10): (0.7225, 1.0),
}


@pytest.mark.parametrize("case", WILSON)
def test_wilson_as_published(case):
    estimate = wilson(*case)
    assert estimate.value == case[0] / case[1]
    assert (estimate.low, estimate.high) == pytest.approx(WILSON[case], abs=5e-5)


def test_wilson_is_an_interval_around_the_value_within_0_and_1():
    for total in (1, 2, 9, 10_000):
        for count in range(0, total + 1, max(1, total // 10)):
            estimate = wilson(count, total)
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
            assert estimate.low < estimate.high


def test_percentiles_are_those_of_the_replicates():
    estimate = percentile(3.0, np.arange(1001.0))
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((25, 3, 975))


def test_reflected_turns_the_percentiles_about_the_value_and_stays_above_0():
    none = np.zeros(100)
    estimate = reflected(600.0, np.arange(1001.0), none)
    assert (estimate.low, estimate.high) == pytest.approx((225, 1175))
    estimate = reflected(10.0, np.arange(1001.0), none)
    assert (estimate.low, estimate.high) == (0, 10)


def test_reflected_begins_at_0_where_chance_explains_the_value():
    by_chance = np.arange(1001.0)
    assert reflected(976.0, np.arange(900.0, 1000.0), by_chance).low > 0
    estimate = reflected(974.0, np.arange(900.0, 1000.0), by_chance)
    assert (estimate.low, estimate.value) == (0, 974)
    assert estimate.high > 974


def weights(images: int, seed: int, replicates: int = 1000) -> np.ndarray:
    return np.concatenate(list(bootstrap_weights(images, seed, replicates)))


def test_an_image_counts_a_poisson_number_of_times():
    drawn = weights(1000, 0)
    assert drawn.shape == (1000, 1000)
    assert drawn.mean() == pytest.approx(1, abs=0.005)
    assert drawn.var() == pytest.approx(1, abs=0.01)
    assert (drawn == 0).mean() == pytest.approx(np.exp(-1), abs=0.002)
    assert (drawn == 3).mean() == pytest.approx(np.exp(-1) / 6, abs=0.002)


def test_the_draws_are_a_function_of_the_seed():
    assert np.array_equal(weights(50, 1), weights(50, 1))
    assert not np.array_equal(weights(50, 1), weights(50, 2))


def test_a_sample_without_any_image_is_left_out():
    drawn = weights(1, 0)
    assert len(drawn) == pytest.approx(632, abs=50)
    assert drawn.min() == 1


def test_many_images_come_in_blocks(monkeypatch):
    monkeypatch.setattr("discern.reports.intervals.WEIGHTS_AT_ONCE", 700)
    blocks = list(bootstrap_weights(100, 0, 20))
    assert [len(block) for block in blocks] == [7, 7, 6]
    assert len({block.tobytes() for block in blocks}) == 3


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(5, 2, 2000).astype(np.float32)
    drawn = weights(2000, 0)
    estimate = percentile(float(values.mean()), drawn @ values / drawn.sum(axis=1))
    theory = 1.96 * values.std() / np.sqrt(2000)
    assert estimate.high - values.mean() == pytest.approx(theory, rel=0.1)
    assert values.mean() - estimate.low == pytest.approx(theory, rel=0.1)
