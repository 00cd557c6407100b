"""Which models a command is given: a list, or the jobs of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from discern.commands.members import members_of
from discern.config.check import as_typed_settings
from discern.config.typed import for_hydra
from discern.errors import DiscernError
from made_runs import made_sweep
from run_files import composed


@pytest.fixture
def checkpoint(tiny_run) -> Path:
    run = tiny_run("test=false", "trainer.max_epochs=1")
    return run.folder / "checkpoints" / "best.safetensors"


@pytest.fixture
def sweep(tmp_path, checkpoint) -> Path:
    """A sweep of four jobs, of which the second best has no checkpoint."""
    folder = made_sweep(tmp_path / "sweep", [0.4, 0.2, 0.3, 0.1])
    for number in (0, 1, 3):
        target = folder / f"lr={number}" / "checkpoints"
        target.mkdir()
        shutil.copy(checkpoint, target / "best.safetensors")
    return folder


def jobs(members) -> list[str]:
    return [member.path.parent.parent.name for member in members]


def test_the_best_jobs_of_a_sweep_come_best_first(sweep):
    assert jobs(members_of(str(sweep), "top2")) == ["lr=3", "lr=1"]
    assert jobs(members_of(str(sweep), "mean")) == ["lr=3", "lr=1", "lr=0"]
    assert jobs(members_of([f"{sweep}/lr=0", f"{sweep}/lr=3"], None)) == ["lr=0", "lr=3"]


@pytest.mark.parametrize(
    ("ensemble", "sentence"),
    [
        (None, "is the folder of a sweep; ensemble=top3 takes its three best jobs, and .*/best is"),
        (
            "top99",
            "ensemble=top99 is not allowed; .* has 3 jobs that are done, so it must be top1 to",
        ),
    ],
)
def test_a_sweep_is_not_a_model(sweep, ensemble, sentence):
    with pytest.raises(DiscernError, match=sentence):
        members_of(str(sweep), ensemble)


def test_a_sweep_without_a_checkpoint(tmp_path):
    with pytest.raises(DiscernError, match="a sweep without a job that is done"):
        members_of(str(made_sweep(tmp_path / "sweep", [0.1])), "top1")


def test_what_does_not_go_together_is_one_sentence(sweep, checkpoint):
    for wanted, ensemble, sentence in (
        ([str(sweep), str(checkpoint)], None, "has the folder of a sweep in it"),
        ([str(checkpoint), str(checkpoint.parent.parent)], None, "names the model in .* twice"),
        ([str(checkpoint)], "mean", "ensemble=mean is of several models"),
        (str(checkpoint), "top2", "ensemble=top2 takes the best jobs of a sweep, and"),
        ([str(checkpoint), "nowhere"], None, "ckpt_path=nowhere does not exist"),
    ):
        with pytest.raises(DiscernError, match=sentence):
            members_of(wanted, ensemble)


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        ("[a,b]", ["a", "b"]),
        ("[runs/lr=0.1,model.hidden=[8]/x, 'c,d']", ["runs/lr=0.1", "model.hidden=[8]/x", "c,d"]),
        ("[last,best]", ["last", "best"]),
        ("[a]", ["a"]),
    ],
)
def test_a_list_is_typed_as_paths_are(typed, paths):
    (override,) = for_hydra([f"ckpt_path={typed}"], as_typed_settings(), multirun=False)
    assert for_hydra([override], as_typed_settings(), multirun=False) == [override]
    assert list(composed(override, command="evaluate").ckpt_path) == paths


def test_a_folder_that_looks_like_a_list_is_one(tmp_path, monkeypatch):
    (tmp_path / "[a,b]").mkdir()
    monkeypatch.chdir(tmp_path)
    (override,) = for_hydra(["ckpt_path=[a,b]"], as_typed_settings(), multirun=False)
    assert composed(override, command="evaluate").ckpt_path == "[a,b]"
