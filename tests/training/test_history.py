from __future__ import annotations

import logging
import time
from typing import ClassVar

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.utilities import grad_norm

from discern.training.history import ROWS_AT_ONCE, MetricsCSV, Row, epoch_line
from disk import full_after
from run_files import checkpoint, metrics_csv, summary


def test_an_epoch_is_one_line_as_soon_as_it_is_over(tiny_run, caplog, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with caplog.at_level(logging.INFO, "discern"):
        result = tiny_run("trainer.max_epochs=3")
    said = [line for line in caplog.messages if line.startswith("epoch ")]
    for number, (line, row) in enumerate(zip(said, metrics_csv(result.folder), strict=True), 1):
        assert line.startswith(f"epoch {number} ")
        assert f"train loss {row['train/loss']:.4f} accuracy {row['train/accuracy']:.4f}" in line
        assert f"val loss {row['val/loss']:.4f} accuracy {row['val/accuracy']:.4f}" in line
        assert line.endswith("images/s")


def test_a_line_without_validation():
    row = {
        "epoch": 5,
        "train/loss": 0.12345,
        "train/accuracy": 0.5,
        "train/images_per_second": 12345.6,
    }
    assert epoch_line(row) == "epoch 5   train loss 0.1235 accuracy 0.5000   12,346 images/s"


def test_the_rows_travel_in_checkpoints(tiny_run):
    result = tiny_run("trainer.max_epochs=3")
    (state,) = (
        state for name, state in checkpoint(result.folder)["callbacks"].items() if "History" in name
    )
    rows = metrics_csv(result.folder)
    assert [row["epoch"] for row in state["rows"]] == [1, 2, 3]
    for kept, written in zip(state["rows"], rows, strict=True):
        assert kept == pytest.approx(written, rel=1e-6)


def test_the_speed_is_images_by_seconds(tiny_run):
    result = tiny_run()
    rows = metrics_csv(result.folder)
    for row in rows:
        assert row["train/images_per_second"] * row["train/seconds"] == pytest.approx(240, rel=1e-5)
    seconds = sum(row["train/seconds"] for row in rows)
    assert summary(result.folder)["images_per_second"] == pytest.approx(480 / seconds, rel=1e-3)


def test_a_short_epoch_counts_its_own_images(tiny_run):
    folder = tiny_run("data.val_size=60", "trainer.max_steps=7", "trainer.max_epochs=9").folder
    (row,) = metrics_csv(folder, complete=False)[1:]
    assert row["train/images_per_second"] * row["train/seconds"] == pytest.approx(40, rel=1e-5)


def test_the_learning_rate_of_a_row_is_the_epochs_last(tiny_run):
    rows = metrics_csv(
        tiny_run("scheduler=step", "scheduler.step_size=1", "trainer.max_epochs=3").folder
    )
    rates = [row["train/lr"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 3


def test_an_epoch_without_validation_does_not_repeat_the_one_before(tiny_run, caplog):
    with caplog.at_level(logging.INFO, "discern"):
        result = tiny_run("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")
    said = [line for line in caplog.messages if line.startswith("epoch ")]
    assert ["val loss" in line for line in said] == [False, True, False, True]
    lines = (result.folder / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/loss")
    cells = [line.split(",")[column] for line in lines[1:]]
    assert [bool(cell) for cell in cells] == [False, True, False, True]


def test_the_line_of_an_epoch_fits_into_the_terminal():
    row = {
        "epoch": 5.0, "train/loss": 0.12, "train/accuracy": 0.5, "val/loss": 0.3,
        "val/accuracy": 0.75, "train/images_per_second": 900.0,
    }  # fmt: skip
    train, val = "train loss 0.1200 accuracy 0.5000", "val loss 0.3000 accuracy 0.7500"
    for width, line in (
        (200, f"epoch 5   {train}   {val}   900 images/s (features read)"),
        (80, f"epoch 5  {train}  {val}"),
        (50, f"epoch 5  {train}\n         {val}"),
    ):
        assert epoch_line(row, "features read", width) == line


def test_the_gradient_norm_of_a_row_is_that_of_every_fiftieth_step(tiny_run):
    """Lightning's own norm of each step's gradients is what ours is compared with."""
    Norms.seen = []
    run = tiny_run("trainer.max_epochs=2", "trainer.gradient_clip_val=0.1", NORMS)
    epochs = [Norms.seen[:6], Norms.seen[6:]]  # of six steps, of which the first is measured
    assert min(Norms.seen) > 0.1
    for row, norms in zip(metrics_csv(run.folder), epochs, strict=True):
        assert row["train/grad_norm"] == pytest.approx(norms[0], rel=1e-5)
    Norms.seen = []
    run = tiny_run("data.batch_size=4", "trainer.max_epochs=1", NORMS, name="long")
    assert len(Norms.seen) == 60
    (row,) = metrics_csv(run.folder)
    assert row["train/grad_norm"] == pytest.approx((Norms.seen[0] + Norms.seen[50]) / 2, rel=1e-5)


class Norms(Callback):
    """Notes the norm of the gradient in each step."""

    seen: ClassVar[list[float]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.seen.append(grad_norm(pl_module, 2)["grad_2.0_norm_total"].item())


NORMS = "trainer.callbacks=[{_target_: test_history.Norms}]"


def test_few_classes_have_their_validation_accuracy_in_each_row(tiny_run):
    run = tiny_run("trainer.max_epochs=2")
    for row in metrics_csv(run.folder):
        of_class = [row[f"val/accuracy/{number}"] for number in range(10)]
        assert row["val/recall"] == pytest.approx(sum(of_class) / 10, abs=1e-6)


def test_metrics_that_cannot_be_written_are_one_warning(tmp_path, caplog):
    path = tmp_path / "metrics.csv"
    MetricsCSV(path).write([{"epoch": 1, "step": 1, "train/loss": 0.5}])
    before = path.read_text()
    rows = [{"epoch": number, "step": number, "train/loss": 0.5} for number in range(1, 50)]
    with full_after(100):
        for _ in range(3):
            MetricsCSV(path).write(rows)
    assert path.read_text() == before
    assert [text for text in caplog.messages if "metrics.csv" in text] == [
        f"{path} cannot be written (File too large): the run goes on without it."
    ]


def test_a_long_table_is_written_in_a_hundredth_of_the_time_and_whole_at_the_end(
    tmp_path, monkeypatch
):
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    written = []
    logger = MetricsCSV(tmp_path / "metrics.csv")
    write = logger._write

    def counted(rows: list[Row]) -> None:
        nonlocal clock
        clock += 0.1  # of which a hundred times are to pass
        written.append(len(rows))
        write(rows)

    monkeypatch.setattr(logger, "_write", counted)
    rows: list[Row] = []
    for number in range(400):
        clock += 1.0
        rows.append({"epoch": number + 1, "step": number, "train/loss": 0.5})
        logger.write(rows)
    logger.finalize("success")
    assert written[:ROWS_AT_ONCE] == list(range(1, ROWS_AT_ONCE + 1))
    assert 25 < len(written) - ROWS_AT_ONCE < 35
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 401
