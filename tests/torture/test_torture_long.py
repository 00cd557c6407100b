from __future__ import annotations

import pytest

from torture.case import assert_holds
from torture.long import RESIDENT_BYTES, assert_flat, cases
from torture.watching import Taken


def test_what_a_long_run_takes_is_flat():
    run, _ = cases(epochs=50)
    assert_holds([run], 1)


@pytest.mark.parametrize(
    "leak", [Taken(0, 64 << 10, 0, 0, 0), Taken(0, 0, 1, 0, 0), Taken(0, 0, 0, 1, 0)]
)
def test_what_grows_with_every_epoch_is_found(leak):
    flat = [Taken(0.1 * number, 500 << 20, 10, 2, 0) for number in range(2000)]
    assert_flat(flat, RESIDENT_BYTES)
    leaking = [
        Taken(*(value + number * more for value, more in zip(taken, leak, strict=True)))
        for number, taken in enumerate(flat)
    ]
    with pytest.raises(AssertionError):
        assert_flat(leaking, RESIDENT_BYTES)


def test_time_that_grows_with_every_epoch_is_found():
    quadratic = [Taken(1e-4 * number**2, 500 << 20, 10, 2, 0) for number in range(2000)]
    with pytest.raises(AssertionError, match="processor time"):
        assert_flat(quadratic, RESIDENT_BYTES)
