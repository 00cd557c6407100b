"""``auto_resume=true``: the same command, typed each time that a job starts."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from disk import visible
from run_files import checkpoint, metrics_csv, same_bits, summary, weights
from starter import invoke

WORDS = (
    "data.source=sample", "data.fraction=0.1", "data.val_size=30", "model.hidden=[8]", "test=false",
    "model.dropout=0.2", "trainer.accelerator=cpu", "trainer.max_epochs=2", "logger=csv",
    "report=false", "auto_resume=true",
)  # fmt: skip


def train(folder: Path, *words: str) -> Any:
    return invoke("train", *WORDS, *words, cwd=folder, draws=False)


def sends(step: int, number: int) -> str:
    settings = f"step: {step}, number: {int(number)}"
    return f"trainer.callbacks=[{{_target_: run_files.Signal, {settings}}}]"


def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(tmp_path):
    whole = train(tmp_path, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    every = "callbacks.checkpoints.every_n_steps=2"
    for step, number in ((4, signal.SIGKILL), (7, signal.SIGUSR1)):
        part = train(tmp_path, "hydra.run.dir=run", every, sends(step, number))
        status = -number if number == signal.SIGKILL else 128 + number
        assert part.returncode == status, part.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == 7
    rest = train(tmp_path, "hydra.run.dir=run")
    assert rest.returncode == 0, rest.stderr
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert [row["train/loss"] for row in metrics_csv(tmp_path / "run")] == [
        row["train/loss"] for row in metrics_csv(tmp_path / "whole")
    ]

    other = train(tmp_path, "hydra.run.dir=run", "optimizer.lr=0.1", "trainer.max_epochs=9")
    assert other.returncode == 0
    assert "2 of 2 epochs. It ran without optimizer.lr=0.1 trainer.max_epochs=9;" in other.stdout
    assert "ckpt_path=run goes on with other settings" in other.stdout

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = train(tmp_path, "hydra.run.dir=run")
    assert again.returncode == 0
    assert again.stdout.endswith("auto_resume=true has nothing to do: 2 of 2 epochs.\n")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_where_there_is_no_checkpoint_it_starts_anew(tmp_path):
    killed = train(tmp_path, "hydra.run.dir=run", sends(2, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "checkpoints").exists()
    done = train(tmp_path, "hydra.run.dir=run", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["epochs"] == 1


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path):
    stopped = train(tmp_path, "hydra.run.dir=run", sends(3, signal.SIGTERM))
    assert stopped.returncode == 143, stopped.stderr
    (tmp_path / "run" / "hydra.yaml").unlink()
    (tmp_path / "run" / "hydra.yaml").mkdir()
    again = train(tmp_path, "hydra.run.dir=run")
    assert again.returncode == 1
    (sentence,) = again.stderr.splitlines()
    assert sentence.startswith(f"Error: {tmp_path}/run/hydra.yaml cannot be used: Is a directory")


def test_both_it_and_ckpt_path_begin_with_the_checkpoint_of_the_folder(tmp_path):
    assert train(tmp_path, "hydra.run.dir=first", "trainer.max_epochs=1").returncode == 0
    both = ("ckpt_path=first", "hydra.run.dir=run", "callbacks.checkpoints.every_n_steps=1")
    steps = checkpoint(tmp_path / "first")["global_step"]
    part = train(tmp_path, *both, sends(steps + 1, signal.SIGTERM))
    assert part.returncode == 143, part.stderr
    rest = train(tmp_path, *both)
    assert rest.returncode == 0, rest.stderr
    assert "run/checkpoints/last.safetensors" in rest.stdout
    assert [row["epoch"] for row in metrics_csv(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize(
    "schedule",
    [
        (),
        ("scheduler=cosine", "scheduler.eta_min=1e-5"),
        ("scheduler=onecycle", "scheduler.max_lr=0.01"),
    ],
)
def test_found_learning_rates_are_kept(tmp_path, schedule):
    words = ("hydra.run.dir=run", "find_lr=use", *schedule)
    part = train(tmp_path, *words, sends(3, signal.SIGTERM))
    assert part.returncode == 143, part.stderr
    rest = train(tmp_path, *words)
    assert rest.returncode == 0, rest.stderr
    assert "in the checkpoint" not in rest.stdout  # no setting differs
    assert summary(tmp_path / "run")["epochs"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "auto_resume=true needs hydra.run.dir=FOLDER"),
        (("-m", "seed=1,2"), "auto_resume=true needs hydra.sweep.dir=FOLDER"),
        (("hydra.run.dir=other",), "other is not empty"),
    ],
)
def test_it_needs_a_folder_of_its_own(tmp_path, words, said):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    refused = train(tmp_path, *words)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert visible(tmp_path) == {"other"}


def test_a_sweep_goes_on_too(tmp_path):
    words = (
        "-m",
        "seed=1,2",
        "hydra.sweep.dir=sweep",
        "trainer.max_epochs=1",
        "hydra/launcher=basic",
    )
    for _ in range(2):
        done = train(tmp_path, *words)
        assert done.returncode == 0, done.stderr
    assert visible(tmp_path / "sweep") >= {"seed=1", "seed=2", "results.json"}
    assert visible(tmp_path) == {"sweep"}
