"""on_nan=skip: a step that is not finite is as if it had not been."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

from discern.runs.state import State
from run_files import Events, checkpoint, metrics_csv, same_bits, summary, weights


class BadBatch(Callback):
    """Makes the images of some batches of an epoch NaN."""

    def __init__(self, epoch: int, batches: list[int]) -> None:
        self.epoch, self.batches = epoch, batches

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch + 1 == self.epoch and batch_idx in self.batches:
            batch[0].fill_(math.nan)


class BadGradient(Callback):
    """Makes the gradient of one step infinite, and not its loss."""

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == 2 and not getattr(self, "over", False):
            self.over = True
            next(p for p in pl_module.parameters() if p.requires_grad).grad[0] = math.inf


def bad(epoch: int, *batches: int) -> str:
    target = "training.test_skipping.BadBatch"
    return f"{{_target_: {target}, epoch: {epoch}, batches: {list(batches)}}}"


def callbacks(*each: str) -> str:
    return f"trainer.callbacks=[{','.join(each)}]"


EVENTS = "{_target_: run_files.Events}"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


@pytest.mark.parametrize(
    "settings",
    [(), ("optimizer=sgd", "optimizer.momentum=0.9", "scheduler=onecycle"),
     ("callbacks.ema.decay=0.5", "optimizer=adamw"),
     ("model=dropout", "model.hidden=[8]", "model.norm=batch", "scheduler=cosine",
      "trainer.profiler=simple")],
)  # fmt: skip
def test_the_step_is_as_if_it_had_not_been(tiny_run, settings):
    """The next step begins with the weights, state, rate and counts that this one began with."""
    result = tiny_run(*settings, "on_nan=skip", callbacks(bad(2, 0), EVENTS))
    assert result.reason == "2 of 2 epochs"
    # The batch is seen, the step not counted.
    assert len(Events.of("batch")) == 12
    assert Events.of("step")[5:8] == [5, 6, 6]
    assert [row["step"] for row in metrics_csv(result.folder)] == [6, 11]
    rates = Events.of("lr")
    assert rates[6] == rates[7] or "scheduler=cosine" in settings
    facts = summary(result.folder)
    assert facts["steps"] == 11
    assert facts["warnings"] == [
        "1 of 12 steps was left out (on_nan=skip): the loss or the gradient was not finite."
    ]
    assert all(w.isfinite().all() for w in weights(result.folder).values())
    # Neither the loss nor the gradient of the batch is in the epoch's.
    row = metrics_csv(result.folder)[1]
    assert math.isfinite(row["train/loss"])
    assert math.isfinite(row["train/grad_norm"])


def test_a_step_at_the_end_leaves_the_weights_of_the_step_before(tiny_run):
    ema = ("callbacks.ema.decay=0.5", "model=dropout", "model.hidden=[8]", "model.norm=batch")
    settings = (*ema, "trainer.max_epochs=1", "scheduler=onecycle", "test=false")
    skipped = tiny_run(*settings, "on_nan=skip", callbacks(bad(1, 5)))
    content = checkpoint(skipped.folder)
    assert content["global_step"] == 5
    assert content["lr_schedulers"][0]["last_epoch"] == 5
    steps = [float(s["step"]) for s in content["optimizer_states"][0]["state"].values()]
    assert set(steps) == {5.0}


def test_it_equals_a_run_without_the_batch(tiny_run):
    """SGD without a schedule: a batch that is left out at the end of the epoch, or not there."""
    one = tiny_run("optimizer=sgd", "trainer.max_epochs=1", "on_nan=skip", callbacks(bad(1, 5)),
                   "model=dropout", "model.hidden=[8]", "model.norm=batch", "model.dropout=0",
                   name="one")  # fmt: skip
    other = tiny_run("optimizer=sgd", "trainer.max_epochs=1", "trainer.limit_train_batches=5",
                     "model=dropout", "model.hidden=[8]", "model.norm=batch", "model.dropout=0",
                     name="other")  # fmt: skip
    assert same_bits(weights(one.folder), weights(other.folder))
    (row,), (row_of_other,) = metrics_csv(one.folder), metrics_csv(other.folder)
    for name in ("train/loss", "train/accuracy", "val/loss"):
        assert row[name] == row_of_other[name]


def test_a_gradient_that_is_not_finite_is_left_out_too(tiny_run):
    own = "{_target_: training.test_skipping.BadGradient}"
    result = tiny_run("on_nan=skip", callbacks(own), "trainer.gradient_clip_val=1")
    assert summary(result.folder)["steps"] == 11
    assert all(w.isfinite().all() for w in weights(result.folder).values())


def test_accumulated_gradients_are_left_out_together(tiny_run):
    result = tiny_run("on_nan=skip", callbacks(bad(1, 2)), "trainer.accumulate_grad_batches=2")
    assert summary(result.folder)["steps"] == 5
    assert all(w.isfinite().all() for w in weights(result.folder).values())


def test_too_many_in_a_row_end_the_run(tiny_run):
    result = tiny_run("on_nan=skip", callbacks(bad(2, 0, 1, 2, 3, 4, 5)))
    assert result.state is State.DIVERGED
    assert "loss in step 7 is nan, as in 6 steps in a row" in result.reason
    assert checkpoint(result.folder)["epoch"] == 0


def test_weights_that_are_bad_are_found_by_the_validation(tiny_run):
    result = tiny_run("on_nan=skip", "optimizer.lr=1e30", "optimizer=sgd")
    assert result.state is State.DIVERGED
    assert not (result.folder / "checkpoints" / "best.safetensors").exists()


def test_the_count_goes_on_in_a_continued_run(tiny_run):
    first = tiny_run("on_nan=skip", callbacks(bad(1, 1, 3)), "trainer.max_epochs=1", name="first")
    after = tiny_run("on_nan=skip", callbacks(bad(2, 4)), f"ckpt_path='{first.folder}'")
    assert summary(after.folder)["steps"] == 9
    assert summary(after.folder)["warnings"][0].startswith("3 of 12 steps were left out")


@pytest.mark.parametrize(("accumulate", "every"), [(1, 1), (2, 1), (1, 2)])
def test_a_continued_run_has_each_point_of_the_undisturbed_one(tiny_run, accumulate, every):
    spoilt = f"{bad(1, 2)},{bad(2, 1)}"
    settings = ("on_nan=skip", "logger=default", "callbacks.dashboard.sparing=true", "test=false")
    settings += (
        f"trainer.accumulate_grad_batches={accumulate}",
        f"trainer.log_every_n_steps={every}",
    )
    whole = tiny_run(*settings, callbacks(spoilt), name="whole").folder
    start = "null"
    for step in (2, 4, 99):
        stop = f"{{_target_: run_files.Signal, step: {step}, number: 15}}"
        part = tiny_run(*settings, callbacks(spoilt, stop), f"ckpt_path={start}").folder
        start = part / "checkpoints" / "last.safetensors"
    assert same_bits(weights(part), weights(whole))
    for tag in ("train/step_loss", "train/loss", "val/loss"):
        assert points(part, tag) == points(whole, tag)
    assert len(points(whole, "train/step_loss")) == 12 / accumulate / every


def points(folder: Path, tag: str) -> list[tuple[int, str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return [(each.step, f"{each.value:.6g}") for each in events.Scalars(tag)]


def test_healthy_training_is_the_same(tiny_run):
    one, other = tiny_run("on_nan=skip", name="one"), tiny_run(name="other")
    assert same_bits(weights(one.folder), weights(other.folder))
    assert one.metrics == other.metrics
    assert summary(one.folder)["warnings"] == []


def half_precision() -> MixedPrecision:
    """Float16 with a scale that is too large for the first gradients."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**24))


def test_half_precision_counts_what_its_scaler_leaves_out(tiny_run):
    result = tiny_run(
        "on_nan=skip", "trainer.plugins=[{_target_: training.test_skipping.half_precision}]",
        "optimizer=sgd", "trainer.max_epochs=5", "callbacks.early_stopping=null",
    )  # fmt: skip
    facts = summary(result.folder)
    assert 1 < facts["steps"] < 30
    assert f"{30 - facts['steps']} of 30 steps were left out" in facts["warnings"][0]
    assert all(w.isfinite().all() for w in weights(result.folder).values())
