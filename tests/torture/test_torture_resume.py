"""The seeded short form, and that a run which forgets something is found out."""

from __future__ import annotations

import signal

import pytest

from discern.data.loader import ResumableDataLoader
from discern.training.resume import RngState
from torture.case import assert_holds
from torture.resume import Stop, cases, check


def test_a_run_that_goes_on_is_the_undisturbed_run():
    chosen = [
        case for case in cases() if "cached" not in case.name and "workers (0, 0)" in case.name
    ]
    assert_holds(chosen, 3)


FORGOTTEN = {
    "the place in the data": (ResumableDataLoader, "load_state_dict", "other batches"),
    "the random numbers": (RngState, "load_state_dict", "last.safetensors"),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_what_is_not_restored_is_found_out(tmp_path, monkeypatch, what):
    of, method, said = FORGOTTEN[what]
    monkeypatch.setattr(of, method, lambda self, state: None)
    with pytest.raises(AssertionError, match=said):
        check(tmp_path, Stop("dropout", "none", (20,), signal.SIGINT, (0, 0)))
