from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from discern.models.checkpoint import write
from discern.runs.folder import read_run
from discern.runs.state import State
from discern.training import divergence
from discern.training.divergence import finite_weights
from run_files import SHOWN, TINY, checkpoint, metrics_csv, summary
from starter import invoke


class Spoils(Callback):
    """Makes a weight NaN after the step that makes the count."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[0] = math.nan


def spoils(step: int) -> str:
    return f"trainer.callbacks=[{{_target_: training.test_divergence.Spoils, step: {step}}}]"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def told(folder: Path) -> dict[str, object]:
    text = (folder / "summary.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    "settings",
    [("optimizer.lr=1e30",), ("optimizer=sgd", "optimizer.lr=1e30"),
     ("optimizer.lr=1e30", "optimizer=sgd", "trainer.precision=bf16-mixed")],
)  # fmt: skip
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tiny_run, settings):
    result = tiny_run(*settings, "trainer.max_epochs=3")
    run, facts = read_run(result.folder), told(result.folder)["diverged"]
    assert run.state is State.DIVERGED
    assert (result.state, result.reason) == (run.state, run.reason)
    assert f"in epoch 1: the training loss in step {facts['step']} is nan" in run.reason
    assert "learning rate 1e+30" in run.reason
    assert facts["epoch"] == 1
    assert 2 <= facts["step"] <= 4
    assert facts["learning_rate"] == 1e30
    # Of each step before.
    assert len(facts["last_finite_losses"]) == facts["step"] - 1
    assert facts["last_finite_losses"][0] == pytest.approx(math.log(10), abs=0.3)
    assert "a lower optimizer.lr" in facts["advice"]
    assert "test" not in result.metrics
    assert not (result.folder / "checkpoints" / "best.safetensors").exists()


@pytest.mark.parametrize(("after", "epoch", "step"), [(7, 2, 8), (16, 3, 17)])
@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_the_step_is_named_however_many_are_looked_at_together(
    tiny_run, monkeypatch, after, epoch, step, at_once
):
    monkeypatch.setattr(divergence, "STEPS_AT_ONCE", at_once)
    if at_once > 1:  # as where looking waits for a device

        def start(self, trainer, pl_module):
            self._at_once = False

        monkeypatch.setattr(divergence.StopOnDivergence, "on_train_start", start)
    result = tiny_run(spoils(after), "trainer.max_epochs=5", "scheduler=cosine")
    facts = summary(result.folder)["diverged"]
    assert (facts["epoch"], facts["step"], facts["loss"]) == (epoch, step, "nan")
    assert len(metrics_csv(result.folder)) == epoch - 1
    # Of that step, and not the one that the schedule goes on to.
    rate = 1e-3 * (1 + math.cos(math.pi * after / 30)) / 2
    assert facts["learning_rate"] == pytest.approx(rate, rel=1e-3)


def test_the_step_counts_as_the_optimizers_with_accumulated_gradients(tiny_run):
    result = tiny_run(spoils(2), "trainer.accumulate_grad_batches=2")
    facts = summary(result.folder)["diverged"]
    assert facts["step"] == 3
    # Of a batch, not of its share.
    assert facts["last_finite_losses"][0] > 2


def test_the_checkpoints_before_stay_and_training_goes_on_from_them(tiny_run):
    result = tiny_run(spoils(9), "trainer.max_epochs=5")
    assert summary(result.folder)["best_epoch"] == 1
    for name in ("best", "last"):
        assert checkpoint(result.folder, name)["epoch"] == 0
        assert all(
            w.isfinite().all() for w in checkpoint(result.folder, name)["state_dict"].values()
        )
    assert result.metrics["val"]["loss"] < 3
    after = tiny_run(f"ckpt_path='{result.folder}'", "trainer.max_epochs=3", name="after")
    assert after.reason == "3 of 3 epochs"
    whole = tiny_run("trainer.max_epochs=3", name="whole")
    assert after.metrics == whole.metrics


def test_weights_that_an_epochs_last_step_spoils_are_found_by_the_validation(tiny_run):
    result = tiny_run(spoils(12), "trainer.max_epochs=5")
    facts = summary(result.folder)["diverged"]
    assert (facts["metric"], facts["epoch"], facts["step"]) == ("val/loss", 2, 12)
    assert "the validation loss after step 12 is nan" in result.reason
    assert [math.isnan(row["val/loss"]) for row in metrics_csv(result.folder)] == [False, True]
    assert checkpoint(result.folder)["epoch"] == checkpoint(result.folder, "best")["epoch"] == 0


def test_not_even_min_epochs_makes_it_train_on(tiny_run):
    result = tiny_run(spoils(6), "trainer.min_epochs=4", "trainer.max_epochs=5")
    assert result.state is State.DIVERGED
    assert len(metrics_csv(result.folder)) == 1


def test_on_nan_continue_goes_on_says_nan_and_keeps_the_good_checkpoints(tiny_run):
    result = tiny_run(spoils(9), "on_nan=continue", "trainer.max_epochs=4")
    assert result.reason == "4 of 4 epochs"
    rows = metrics_csv(result.folder)
    # One NaN among the batches of an epoch makes its mean NaN.
    assert [math.isnan(row["train/loss"]) for row in rows] == [False, True, True, True]
    assert checkpoint(result.folder)["epoch"] == checkpoint(result.folder, "best")["epoch"] == 0
    assert result.metrics["test"]["loss"] > 0
    (warning,) = summary(result.folder)["warnings"]
    assert "weights that training ended with are not finite (on_nan=continue)" in warning


def test_on_nan_continue_without_any_good_checkpoint_has_diverged(tiny_run):
    result = tiny_run("optimizer.lr=1e30", "on_nan=continue")
    assert (result.state, result.ended.status) == (State.DIVERGED, 1)
    assert "2 of 2 epochs: the weights are not finite, and no checkpoint was kept" in result.reason
    assert len(metrics_csv(result.folder)) == 2
    assert "test" not in result.metrics  # of a model that predicts nothing


def test_a_first_loss_that_is_not_finite_has_other_advice(tiny_run, tmp_path):
    good = tiny_run(name="good")
    content = checkpoint(good.folder)
    for weight in content["state_dict"].values():
        weight.fill_(math.nan)
    write(content, tmp_path / "nan.safetensors")
    result = tiny_run(f"model.init_from='{tmp_path / 'nan.safetensors'}'", name="after")
    assert "in step 1 is nan (none before was finite" in result.reason
    assert "model.init_from" in summary(result.folder)["diverged"]["advice"]


def test_buffers_may_be_infinite_but_not_nan():
    module = torch.nn.BatchNorm1d(2)
    module.register_buffer("mask", torch.tensor([-math.inf, 0.0]))
    assert finite_weights(module)
    module.running_mean[0] = math.nan
    assert not finite_weights(module)
    assert finite_weights(torch.nn.Flatten())


# As a command

FEW = ("data.source=sample", "data.fraction=0.1", "report=false")


def test_a_process_of_its_own_ends_with_1_and_says_what_to_try(tmp_path):
    done = invoke(
        "train", "optimizer.lr=1e30", *TINY[2:], "data.source=sample", "hydra.run.dir=run",
        *SHOWN, cwd=tmp_path, draws=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Diverged in epoch 1: the training loss in step 2 is nan" in done.stdout
    assert "Try a lower optimizer.lr than 1e+30 (find_lr=true suggests one)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "diverged" in page
    assert "Try a lower optimizer.lr" in page
    listed = invoke("runs", "dir=.", "state=diverged", "--json", cwd=tmp_path)
    (one,) = json.loads(listed.stdout)
    assert one["state"] == "diverged"


def test_a_sweep_goes_on_ranks_the_others_and_leaves_the_job_alone_later(tmp_path):
    sweep = ("-m", "optimizer.lr=1e-2,1e30,1e-3", "trainer.max_epochs=1", *TINY[1:-1],
             *FEW, "hydra.sweep.dir=sweep")  # fmt: skip
    sweep = tuple(each for each in sweep if not each.startswith("trainer.max_epochs=2"))
    done = invoke("train", *sweep, cwd=tmp_path, draws=False)
    assert done.returncode == 1, done.stderr
    assert "1 of 3 jobs diverged: the loss was not finite." in done.stdout + done.stderr
    with (tmp_path / "sweep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done", "done", "diverged"]
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert "in epoch 1" in rows[2]["reason"]
    again = invoke("train", "-m", "sweep.resume=sweep", cwd=tmp_path, draws=False)
    assert again.returncode == 1
    assert "1/3" not in again.stdout  # nothing is run again


def test_a_sweep_of_which_all_diverge_fails(tmp_path):
    done = invoke(
        "train", "-m", "optimizer.lr=1e30,1e29", *TINY[1:-1], *FEW,
        "hydra.sweep.dir=sweep", cwd=tmp_path, draws=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "All 2 jobs diverged: the loss was not finite." in done.stdout + done.stderr


def test_a_search_is_told_and_goes_on(tmp_path):
    optuna = pytest.importorskip("optuna")
    done = invoke(
        "train", "-m", "hydra/sweeper=optuna", "hydra/sweeper/pruner=median",
        "hydra.sweeper.n_trials=3", "optimizer.lr=choice(1e30,1e29)", *TINY[1:-1],
        *FEW, "hydra.sweep.dir=sweep", cwd=tmp_path, draws=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    study = optuna.load_study(
        study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep' / 'study.db'}"
    )
    assert {trial.state.name for trial in study.trials} == {"FAIL"}
