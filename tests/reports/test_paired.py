from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.reports.paired import compare_pairs, holm, mcnemar


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    n, tail, ways = first + second, 0, 1
    for k in range(min(first, second) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)
    # In whole numbers: SciPy's binomtest says 0 of what is below 1e-299.
    expected = min(1.0, float(Fraction(2 * tail, 2**n)))
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9, abs=1e-305)


def test_mcnemar_by_hand():
    # 2 (C(10,0) + C(10,1)) / 2^10
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1


def test_holm_by_hand():
    # Holm's own example: 3 × 0.01, then 2 × 0.02 and 1 × 0.03, none less than the one before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_keeps_the_order_and_stays_between_p_and_bonferroni(chances):
    adjusted = holm(chances)
    assert all(
        p <= one <= min(1, len(chances) * p) + 1e-12
        for p, one in zip(chances, adjusted, strict=True)
    )
    pairs = sorted(zip(chances, adjusted, strict=True))
    assert [one for _, one in pairs] == sorted(adjusted)


def models(images: int, seed: int = 0) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Labels, and three models that are right of 70, 80 and 80 % of the images."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, images)
    said = {
        number: np.where(generator.random(images) < right, labels, (labels + 1) % 5)
        for number, right in enumerate((0.7, 0.8, 0.8))
    }
    return labels, said


def test_a_pair_has_what_was_counted():
    labels, said = models(500)
    (pair,) = compare_pairs(said, labels, [(0, 1)])
    one, other = said[0] == labels, said[1] == labels
    assert pair.only_first == int((one & ~other).sum())
    assert pair.only_second == int((other & ~one).sum())
    assert pair.differ == int((said[0] != said[1]).sum())
    assert pair.difference.value == pytest.approx(other.mean() - one.mean())
    assert pair.p == mcnemar(pair.only_first, pair.only_second)
    assert pair.adjusted == pair.p


def test_the_interval_is_that_of_a_paired_bootstrap():
    labels, said = models(2000)
    (pair,) = compare_pairs(said, labels, [(0, 1)])
    gain = (said[1] == labels).astype(float) - (said[0] == labels)
    generator = np.random.default_rng(1)
    drawn = [gain[generator.integers(0, 2000, 2000)].mean() for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert pair.difference.low == pytest.approx(low, abs=0.004)
    assert pair.difference.high == pytest.approx(high, abs=0.004)
    # Of two unpaired samples it would be wider.
    assert pair.difference.high - pair.difference.low == pytest.approx(
        2 * 1.96 * gain.std() / 2000**0.5, rel=0.1
    )


def test_all_pairs_are_resampled_on_the_same_images():
    labels, said = models(300)
    direct, back, step, rest = compare_pairs(said, labels, [(0, 2), (2, 0), (0, 1), (1, 1)])
    assert (back.difference.low, back.difference.high) == pytest.approx(
        (-direct.difference.high, -direct.difference.low)
    )
    assert (rest.difference.low, rest.difference.high, rest.p) == (0, 0, 1)
    assert step.adjusted >= step.p


def test_no_pairs_or_no_images():
    labels, said = models(10)
    assert compare_pairs(said, labels, []) == []
    assert compare_pairs({0: labels[:0], 1: labels[:0]}, labels[:0], [(0, 1)]) == []


def test_a_single_image():
    labels = np.array([1])
    (pair,) = compare_pairs({0: np.array([0]), 1: labels}, labels, [(0, 1)])
    assert (pair.difference.value, pair.difference.low, pair.difference.high) == (1, 1, 1)
