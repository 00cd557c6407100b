from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from discern.errors import DiscernError
from discern.runs.folder import (
    FORMAT,
    find_checkpoint,
    glance,
    read_run,
    run_meant,
)
from discern.runs.state import ENDINGS, State
from made_runs import made_run, made_sweep


def loss(value: float) -> dict[str, Any]:
    return {"metrics": {"val": {"loss": value}}}


def saved(folder: Path, *names: str) -> None:
    """Checkpoints, as far as it is only asked whether they are there."""
    (folder / "checkpoints").mkdir()
    for name in names:
        (folder / "checkpoints" / f"{name}.safetensors").touch()


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of five runs ``best`` has the lowest loss of those with a checkpoint, ``last`` is newest."""
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs")
    for minute, (name, value) in enumerate([("best", 0.2), ("middle", 0.3), ("last", 0.4)]):
        saved(made_run(folder / f"run {name}", minute=minute, **loss(value)), "best", "last")
    made_run(folder / "lowest without a checkpoint", minute=3, **loss(0.1))
    made_run(folder / "newest without a checkpoint", minute=4, state="failed", metrics={})
    return folder


# How a run stands


@pytest.mark.parametrize("state", ENDINGS)
def test_the_state_says_how_a_run_stands_and_no_sentence_does(tmp_path, state):
    for number, reason in enumerate(["failed: x", "interrupted", "pruned", "diverged", ""]):
        run = read_run(made_run(tmp_path / str(number), state=state, reason=reason))
        assert (run.state, run.reason) == (state, reason)


@pytest.mark.parametrize("state", [None, 3, {}, ["done"], "finished", "not run", "unknown"])
def test_what_no_run_says_of_itself_is_no_ending(tmp_path, state):
    folder = made_run(tmp_path / "run")
    facts = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**facts, "state": state}))
    assert read_run(folder).state is State.UNFINISHED


@pytest.mark.parametrize("other", [FORMAT + 1, 0, -1, 1.0, True, "1", None, [1]])
def test_a_summary_of_another_version_is_one_sentence(tmp_path, other):
    folder = made_run(tmp_path / "run")
    facts = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**facts, "format": other}))
    with pytest.raises(
        DiscernError, match=r"summary\.json is of (another|a newer) version of discern: "
    ) as e:
        read_run(folder)
    assert f"this version reads format {FORMAT}; " in str(e.value)
    listed = glance(folder)
    assert (listed.state, listed.metrics()) == (State.UNKNOWN, {})
    assert listed.reason == str(e.value)


# Which run is meant


def test_last_is_the_newest_run_and_best_that_of_the_lowest_loss(outputs):
    assert run_meant("last", outputs).name == "newest without a checkpoint"
    assert run_meant("best", outputs).name == "lowest without a checkpoint"


@pytest.mark.parametrize(
    "limit", ["limit_val_batches: 1", "limit_val_batches: 0.5", "overfit_batches: 2"]
)
def test_a_run_that_was_validated_on_a_part_is_the_best_only_where_there_is_no_other(
    tmp_path, limit
):
    part = made_run(tmp_path / "outputs" / "part", **loss(0.01))
    with (part / "config.yaml").open("a") as file:
        file.write(f"\ntrainer: {{{limit}}}\n")
    assert run_meant("best", tmp_path / "outputs") == part
    whole = made_run(tmp_path / "outputs" / "whole", **loss(0.2))
    assert run_meant("best", tmp_path / "outputs") == whole


def test_the_best_of_several_data_sets_is_said_to_be_so(tmp_path, caplog):
    for name, data in (("one", "MNIST"), ("two", "photos")):
        made_run(tmp_path / name, **loss(0.1 if name == "one" else 0.2), data={"title": data})
    assert run_meant("best", tmp_path).name == "one"
    assert "best is the run on MNIST, by its val/loss, which says nothing of runs on photos" in (
        caplog.text
    )


def test_jobs_of_sweeps_are_among_them_and_runs_of_other_versions_are_none(outputs):
    made_sweep(outputs / "sweep", [0.5, 0.01], minute=9)
    assert run_meant("best", outputs) == outputs / "sweep" / "lr=1"
    assert run_meant("last", outputs) == outputs / "sweep" / "lr=1"
    (outputs / "sweep" / "lr=1" / "summary.json").write_text('{"stopped": "of before"}')
    assert run_meant("best", outputs).name == "lowest without a checkpoint"


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("word", ["last", "best"])
def test_the_word_says_which_run_and_the_use_which_of_its_checkpoints(outputs, word, goes_on):
    kept = "last" if goes_on else "best"
    expected = outputs / f"run {word}" / "checkpoints" / f"{kept}.safetensors"
    assert find_checkpoint(word, goes_on=goes_on) == expected
    assert find_checkpoint(str(outputs / f"run {word}"), goes_on=goes_on) == expected
    assert find_checkpoint(str(expected), goes_on=not goes_on) == expected


def test_the_last_checkpoint_is_taken_where_none_was_kept_as_the_best(tmp_path):
    saved(tmp_path, "last")
    assert find_checkpoint(str(tmp_path)).name == "last.safetensors"


def test_training_does_not_go_on_with_the_best_checkpoint_in_place_of_the_last(tmp_path):
    saved(tmp_path, "best")
    with pytest.raises(DiscernError, match=r"is a folder without checkpoints/last\.safetensors"):
        find_checkpoint(str(tmp_path), goes_on=True)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("last", "x=last needs a run with a checkpoint in outputs, and there is none."),
        ("best", "x=best needs a run with a checkpoint in outputs, and there is none."),
        ("nothing", "x=nothing does not exist; it must be a checkpoint's path, a run's folder, "
                    "last for the newest run, or best for the best one."),
    ],
)  # fmt: skip
def test_where_there_is_none_a_sentence_says_so(tmp_path, monkeypatch, wanted, sentence):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "outputs" / "run")
    with pytest.raises(DiscernError) as error:
        find_checkpoint(wanted, "x")
    assert str(error.value) == sentence


def test_the_best_needs_a_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(made_run(tmp_path / "outputs" / "run", metrics={}), "last")
    with pytest.raises(DiscernError, match="best needs a run with a val/loss and a checkpoint in"):
        find_checkpoint("best")
