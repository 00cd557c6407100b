"""95 % confidence intervals of metrics measured on a sample of images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from discern.reports.page import Tile, percent, tile
from discern.runs.metric_table import metric_of

CONFIDENCE = 0.95
REPLICATES = 1000
"""Number of bootstrap samples; the interval ends at the 25th and the 975th."""

WEIGHTS_AT_ONCE = 10_000_000
"""Image weights in one block: 40 MB of float32."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its confidence interval.

    Attributes:
        value: the measured value.
        low, high: the ends of the interval.
        method: how the interval was computed.
    """

    value: float
    low: float
    high: float
    method: Literal["wilson", "bootstrap"]

    def tile(self, name: str) -> Tile:
        """A page's tile with a proportion and its interval."""
        interval = f"95 % interval {percent(self.low)} to {percent(self.high)}"
        return tile(name, percent(self.value), interval)

    def ends(self, metric: str) -> str:
        """The interval as text, with the digits of this metric."""
        low, high = map(metric_of(metric).text, (self.low, self.high))
        return f"{low} to {high}"


def wilson(count: int, total: int) -> Estimate:
    """The proportion ``count / total`` with Wilson's score interval.

    With p = count / total, n = total and z = 1.96 its ends are
    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n); unlike p ± z √(p(1 - p)/n) they stay
    between 0 and 1 and do not collapse for p = 0 or 1 (Wilson, 1927).
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    p = count / total
    centre = p + z**2 / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    scale = 1 + z**2 / total
    # Rounding may move an end past a proportion of 0 or 1.
    low, high = min((centre - half) / scale, p), max((centre + half) / scale, p)
    return Estimate(p, max(low, 0.0), min(high, 1.0), "wilson")


def percentile(value: float, replicates: NDArray[np.floating]) -> Estimate:
    """``value`` with the percentile interval of its bootstrap replicates (R,) (Efron, 1979)."""
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high), "bootstrap")


def reflected(
    value: float, replicates: NDArray[np.floating], by_chance: NDArray[np.floating]
) -> Estimate:
    """A value of 0 or above with the basic bootstrap interval, 2 value - the percentile interval.

    For a calibration error: noise increases its absolute values, so a sample's error is above the
    true one and a resample's is above the sample's. Reflection undoes the shift (Davison & Hinkley,
    1997, chapter 5.2), but near 0 not enough. The interval begins at 0 where chance alone explains
    the value: where it is among the lower 97.5 % of ``by_chance``.

    Args:
        value: as measured.
        replicates: of its bootstrap, (R,).
        by_chance: values of such samples if the true one were 0, (R',).
    """
    up = percentile(value, replicates)
    if math.isnan(value):
        return up
    low, high = max(0.0, 2 * value - up.high), max(value, 2 * value - up.low)
    if value <= percentile(value, by_chance).high:
        low = 0.0
    return Estimate(value, min(low, value), high, "bootstrap")


def bootstrap_weights(
    images: int, seed: int, replicates: int = REPLICATES
) -> Iterator[NDArray[np.float32]]:
    """Weights of images in bootstrap samples: blocks (R', images), R rows in total.

    Each weight is drawn from Poisson(1) independently, which for many images equals drawing and
    counting indices (Hanley & MacGibbon, 2006). A statistic is a ratio of weighted sums; samples
    without any image, which occur for few images, are left out.
    """
    generator = np.random.default_rng(seed)
    for size in _blocks(images, replicates):
        weights = _POISSON[generator.integers(0, len(_POISSON), size, dtype=np.uint16)]
        yield weights[weights.any(axis=1)] if images < 50 else weights


def correct_by_chance(
    confidences: NDArray[np.float32], seed: int, replicates: int = REPLICATES
) -> Iterator[NDArray[np.float32]]:
    """Which images are correct, 1 or 0, if each is so with its confidence (N,).

    Blocks (R', N), R rows in total: the consistency resampling of Bröcker & Smith (2007).
    """
    generator = np.random.default_rng([seed, 1])  # independent of the weights
    for size in _blocks(len(confidences), replicates):
        yield (generator.random(size, np.float32) < confidences).astype(np.float32)


def _blocks(images: int, replicates: int) -> Iterator[tuple[int, int]]:
    """The sizes (R', images) of blocks that memory has room for, R rows in total."""
    rows = max(1, WEIGHTS_AT_ONCE // images)
    for start in range(0, replicates, rows):
        yield min(rows, replicates - start), images


def _poisson_table() -> NDArray[np.float32]:
    """Poisson(1) at 65,536 evenly spaced quantiles: a 16-bit random number picks a draw."""
    mass = np.array([math.exp(-1) / math.factorial(count) for count in range(12)])
    quantiles = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(mass.cumsum(), quantiles).astype(np.float32)


_POISSON = _poisson_table()
