from __future__ import annotations

import pytest
from lightning.pytorch import Callback

from discern.runs.folder import read_run
from run_files import metrics_csv

STAYS = ("optimizer=sgd", "optimizer.lr=1e-30")
"""Nothing changes, so nothing improves."""


class Stops(Callback):
    """A user's own way to end training."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.after:
            trainer.should_stop = True


def stops(after: int) -> str:
    return f"trainer.callbacks=[{{_target_: training.test_ending.Stops, after: {after}}}]"


@pytest.mark.parametrize(
    ("settings", "epochs", "reason"),
    [
        (
            ["+callbacks.early_stopping.stopping_threshold=100.0"],
            1,
            "early stopping in epoch 1: val/loss {loss:.4g} has met stopping_threshold=100",
        ),
        (
            ["callbacks.early_stopping.monitor=val/accuracy",
             "+callbacks.early_stopping.stopping_threshold=-1.0"],
            1,
            "early stopping in epoch 1: val/accuracy {accuracy:.4g} has met stopping_threshold=-1",
        ),
        (
            ["+callbacks.early_stopping.divergence_threshold=0.5"],
            1,
            "early stopping in epoch 1: val/loss {loss:.4g} is beyond divergence_threshold=0.5",
        ),
        (
            [*STAYS, "callbacks.early_stopping.patience=1"],
            2,
            "early stopping in epoch 2: val/loss has not improved for 1 epoch",
        ),
        (
            [*STAYS, "callbacks.early_stopping.patience=0"],
            2,
            "early stopping in epoch 2: val/loss has not improved for 1 epoch",
        ),
        (
            [*STAYS, "callbacks.early_stopping.patience=2", "trainer.val_check_interval=0.5",
             "callbacks.early_stopping.min_delta=0.25"],
            2,
            "early stopping in epoch 2: val/loss has not improved by 0.25 for 2 validations",
        ),
        (["trainer.max_epochs=2"], 2, "2 of 2 epochs"),
        (["trainer.max_steps=8"], 2, "trainer.max_steps=8 reached"),
        (["trainer.max_time={seconds: 0}"], 0, "trainer.max_time reached"),
        (
            [stops(3), "trainer.max_time=00:01:00:00"],
            1,
            "trainer.should_stop was set in epoch 1, as Stops may",
        ),
        (["on_nan=continue", "optimizer.lr=1e30", "callbacks.early_stopping.check_finite=true"],
         1, "diverged in epoch 1: val/loss is nan"),
    ],
)  # fmt: skip
def test_a_run_says_what_ended_it(tiny_run, settings, epochs, reason):
    result = tiny_run("trainer.max_epochs=6", *settings)
    rows = metrics_csv(result.folder, complete=False) if epochs else []
    assert len(rows) == epochs
    last = rows[-1] if rows else {}
    told = reason.format(loss=last.get("val/loss", 0), accuracy=last.get("val/accuracy", 0))
    assert str(result.ended) == str(read_run(result.folder).ended) == told


def test_a_continued_run_does_not_repeat_why_the_first_part_ended(tiny_run):
    first = tiny_run("+callbacks.early_stopping.stopping_threshold=100.0")
    assert "stopping_threshold" in first.reason
    after = tiny_run(f"ckpt_path='{first.folder}'", "trainer.max_epochs=3", name="after")
    assert after.reason == "3 of 3 epochs"


def test_of_two_that_ask_the_first_is_the_reason(tiny_run):
    # The callback asks in the middle of the epoch at whose end early stopping would.
    result = tiny_run(
        *STAYS, stops(9), "callbacks.early_stopping.patience=1", "trainer.max_epochs=6"
    )
    assert result.reason == "trainer.should_stop was set in epoch 2, as Stops may"
