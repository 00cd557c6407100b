from __future__ import annotations

import logging

import pytest

from discern.training.history import epoch_line
from run_files import checkpoint, metrics_csv, summary


def test_an_epoch_is_one_line_as_soon_as_it_is_over(tiny_run, caplog):
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
