"""on_nan=rollback: back to the last good checkpoint, with a lower learning rate."""

from __future__ import annotations

import csv
import importlib
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from discern.errors import DiscernError
from discern.runs.state import State
from run_files import SHOWN, TINY, Events, checkpoint, metrics_csv, same_bits, summary, weights
from starter import invoke


class Spoils(Callback):
    """Makes a weight NaN after a step, the first times that training comes there."""

    left: int | None = None

    def __init__(self, step: int, times: int = 1) -> None:
        self.step = step
        if Spoils.left is None:
            Spoils.left = times

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step and Spoils.left:
            Spoils.left -= 1
            with torch.no_grad():
                next(pl_module.parameters()).view(-1)[0] = math.nan


def again() -> None:
    """Have the next run spoiled too."""
    importlib.import_module("training.test_rollback").Spoils.left = None


EVENTS = "{_target_: run_files.Events}"


def spoils(step: int, times: int = 1) -> str:
    own = f"{{_target_: training.test_rollback.Spoils, step: {step}, times: {times}}}"
    return f"trainer.callbacks=[{own},{EVENTS}]"


ROLLBACK = ("on_nan=rollback", "callbacks.early_stopping=null")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    again()


@pytest.mark.parametrize(
    "settings",
    [(), ("optimizer=sgd", "scheduler=onecycle"), ("scheduler=cosine", "callbacks.ema.decay=0.9"),
     ("model=dropout", "model.hidden=[8]", "scheduler=plateau")],
)  # fmt: skip
def test_training_goes_on_from_the_last_checkpoint_at_half_the_rate(tiny_run, settings):
    settings = (*settings, *ROLLBACK, "trainer.max_epochs=3")
    plain = tiny_run(*settings, f"trainer.callbacks=[{EVENTS}]", name="plain")
    rates = Events.of("lr")
    result = tiny_run(*settings, spoils(9))
    assert result.reason == "3 of 3 epochs"
    # Epochs, steps and the position in the data are those of the checkpoint.
    rows, undisturbed = metrics_csv(result.folder), metrics_csv(plain.folder)
    assert [row["step"] for row in rows] == [6, 12, 18]
    assert rows[0]["train/loss"] == undisturbed[0]["train/loss"]
    assert Events.of("lr") == pytest.approx([rate / 2 for rate in rates[6:]], rel=1e-6)
    facts = summary(result.folder)
    (one,) = facts["rollbacks"]
    assert (one["epoch"], one["step"], one["to_epoch"], one["to_step"]) == (2, 10, 1, 6)
    assert one["loss"] == "nan"
    (sentence,) = facts["warnings"]
    assert "rolled back (on_nan=rollback) in epoch 2 (step 10" in sentence
    assert "to the checkpoint of epoch 1; the learning rate is now 0.5 times" in sentence
    assert "diverged" not in facts
    assert result.metrics["test"]["loss"] > 0


def test_without_a_checkpoint_it_begins_anew(tiny_run):
    """To the bit the run of the lower rate."""
    result = tiny_run(*ROLLBACK, "model=dropout", "model.hidden=[8]", spoils(3))
    lower = tiny_run("optimizer.lr=5e-4", "model=dropout", "model.hidden=[8]", name="lower")
    assert same_bits(weights(result.folder), weights(lower.folder))
    assert result.metrics == lower.metrics
    (one,) = summary(result.folder)["rollbacks"]
    assert (one["to_epoch"], one["to_step"]) == (0, 0)
    assert "to the beginning" in summary(result.folder)["warnings"][0]


def test_it_goes_back_to_a_checkpoint_within_the_epoch(tiny_run):
    result = tiny_run(*ROLLBACK, "callbacks.checkpoints.every_n_steps=2", spoils(5))
    (one,) = summary(result.folder)["rollbacks"]
    assert (one["step"], one["to_epoch"], one["to_step"]) == (6, 1, 4)
    assert [row["step"] for row in metrics_csv(result.folder)] == [6, 12]


def test_a_rate_that_is_far_too_high_comes_down_until_training_works(tiny_run):
    result = tiny_run(*ROLLBACK, "optimizer=sgd", "optimizer.lr=1e30", "rollback.factor=1e-11",
                      "rollback.times=3")  # fmt: skip
    assert result.reason == "2 of 2 epochs"
    assert len(summary(result.folder)["rollbacks"]) == 2
    assert metrics_csv(result.folder)[1]["train/lr"] == pytest.approx(1e8, rel=1e-5)


def test_after_so_many_times_it_ends_as_diverged(tiny_run):
    result = tiny_run(*ROLLBACK, "optimizer.lr=1e30", "rollback.times=2")
    assert result.state is State.DIVERGED
    assert result.reason.endswith("after 2 rollbacks")
    facts = summary(result.folder)
    assert [each["learning_rate"] for each in facts["rollbacks"]] == [1e30, 5e29]
    assert facts["diverged"]["learning_rate"] == 2.5e29
    assert not (result.folder / "metrics.csv").exists() or metrics_csv(result.folder) == []


def test_a_validation_that_is_not_finite_takes_its_row_along(tiny_run):
    result = tiny_run(*ROLLBACK, "trainer.max_epochs=3", spoils(12))
    rows = metrics_csv(result.folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(row["val/loss"]) for row in rows)


def test_the_lower_rate_and_the_count_go_on_in_a_continued_run(tiny_run):
    first = tiny_run(*ROLLBACK, "trainer.max_epochs=2", spoils(9), "scheduler=step", name="first")
    again()
    after = tiny_run(*ROLLBACK, "trainer.max_epochs=3", "rollback.times=1", spoils(15),
                     "scheduler=step", f"ckpt_path='{first.folder}'", name="after")  # fmt: skip
    # Its one rollback was made before.
    rate = "the learning rate is now 0.5 times the set one"
    assert summary(after.folder)["warnings"][0] == (
        f"This run was continued after one rollback (on_nan=rollback); {rate}."
    )
    assert after.state is State.DIVERGED
    assert after.reason.endswith("after one rollback")
    assert Events.of("lr")[0] == pytest.approx(5e-4)


def test_a_later_divergence_lowers_the_rate_of_a_checkpoint_that_has_it_lowered(tiny_run):
    result = tiny_run(*ROLLBACK, "trainer.max_epochs=4", spoils(14, times=2))
    assert result.reason == "4 of 4 epochs"
    assert [row["train/lr"] for row in metrics_csv(result.folder)] == pytest.approx(
        [1e-3, 1e-3, 2.5e-4, 2.5e-4]
    )


def test_groups_of_parameters_keep_their_proportion(tiny_run, monkeypatch):
    result = tiny_run(*ROLLBACK, "trainer.max_epochs=2", spoils(9), "+optimizer.betas=[0.8,0.9]")
    groups = checkpoint(result.folder)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([5e-4])
    assert tuple(groups[0]["betas"]) == (0.8, 0.9)


def test_tensorboard_shows_each_step_once(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = (*ROLLBACK, "logger=default", "trainer.max_epochs=3", "callbacks.dashboard=null")
    result = tiny_run(*settings, "trainer.log_every_n_steps=1", spoils(12))
    (folder,) = {path.parent for path in result.folder.rglob("events.out.*")}
    events = EventAccumulator(str(folder)).Reload()
    for tag in ("val/loss", "train/loss"):
        points = events.Scalars(tag)
        assert len(points) == len({each.step for each in points}) == 3
        assert all(math.isfinite(each.value) for each in points)
    steps = [each.step for each in events.Scalars("train/step_loss")]
    assert steps == list(range(18))


def test_several_processes_are_refused(tiny_run):
    with pytest.raises(DiscernError, match="on_nan=rollback is not allowed with 2 processes"):
        tiny_run(*ROLLBACK, "trainer.devices=2", "trainer.strategy=ddp")


def test_a_command_says_it_and_the_report_too(tmp_path):
    done = invoke(
        "train", *TINY[2:], *SHOWN, "data.source=sample", *ROLLBACK, "optimizer=sgd",
        "optimizer.lr=1e30", "rollback.factor=1e-32", "hydra.run.dir=run",
        cwd=tmp_path, draws=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rollback 1 of 3: training goes on from the beginning with 1e-32 times" in done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rolled back (on_nan=rollback) in epoch 1" in page
    assert "Traceback" not in done.stdout + done.stderr
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


@pytest.mark.parametrize("wrong", ["rollback.factor=1", "rollback.times=0", "rollback.factor=0"])
def test_wrong_settings(tiny_run, wrong):
    with pytest.raises(DiscernError, match=wrong.partition("=")[0]):
        tiny_run(*ROLLBACK, wrong)
