from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from discern.sweeps.names import LONGEST, differing, job_name

KEYS = ["optimizer.lr", "model.dropout", "scheduler.lr", "model", "+tags", "data@x.y"]
JOBS = st.dictionaries(st.sampled_from(KEYS), st.text(), min_size=len(KEYS), max_size=len(KEYS))


def test_names_say_what_differs():
    jobs = [
        {"optimizer.lr": lr, "model.dropout": dropout, "seed": "3"}
        for lr in ("1e-3", "0.003")
        for dropout in ("0", "0.5")
    ]
    settings = differing(jobs)
    assert settings == ["optimizer.lr", "model.dropout"]
    assert [job_name(job, settings) for job in jobs] == [
        "lr=1e-3,dropout=0", "lr=1e-3,dropout=0.5", "lr=0.003,dropout=0", "lr=0.003,dropout=0.5",
    ]  # fmt: skip


def test_settings_of_one_name_are_written_in_full():
    job = {"optimizer.lr": "1", "scheduler.lr": "2"}
    assert job_name(job, list(job)) == "optimizer.lr=1,scheduler.lr=2"


def test_a_job_that_differs_in_nothing_has_a_name():
    assert job_name({"seed": "1"}, []) == "job"


@given(JOBS, JOBS)
def test_names_are_distinct_stable_and_safe(one, other):
    first, second = job_name(one, KEYS), job_name(other, KEYS)
    assert (first == second) == (one == other)
    assert job_name(dict(reversed(one.items())), KEYS) == first
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+,=-]*", first)
    assert len(first) <= LONGEST


@given(JOBS)
def test_a_name_can_be_handed_to_hydra(job):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    name = job_name(job, KEYS)
    (override,) = OverridesParser.create().parse_overrides([f"hydra.sweep.subdir='{name}'"])
    assert override.value() == name
