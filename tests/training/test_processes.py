"""Several processes that share a run see what one sees."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Callback

from discern.runs.tested import Tested, read_tested
from photos import photos_in_turn
from run_files import DISCERN, command, metrics_csv, summary, weights
from starter import begin, end, invoke, kill, said, until


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set of 37 images to train on, 11 for validation and 17 for the test."""
    folder = tmp_path / "pictures"
    for part, count in {"train": 37, "val": 11, "test": 17}.items():
        photos_in_turn(folder / part, count)
    return folder


OF_ALL = (
    "data=image_folder", "data.image_size=8", "data.num_workers=0", "data.batch_size=4",
    "data.eval_batch_size=4", "trainer.accelerator=cpu", "trainer.max_epochs=2",
    "logger=csv", "callbacks.early_stopping=null",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(place: Path, processes: int, *overrides: str, name: str, **env: str) -> Path:
    """The folder of a run that so many processes share; Lightning starts them likewise."""
    small = () if any(o.startswith("model=") for o in overrides) else ("model.hidden=[4]",)
    shared = (
        *OF_ALL,
        *small,
        f"data.dir={place / 'pictures'}",
        *overrides,
        f"hydra.run.dir={name}",
    )
    if processes > 1:
        shared += (f"trainer.devices={processes}", "trainer.strategy=ddp")
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
        env |= {"WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        its_own = {"LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(begin(place, "train", *shared, draws=False, **env, **its_own))
        until((place / name / "config.yaml").exists, started[0])  # the first one has the folder
    for process in reversed(started):
        if end(process) != 0:
            if process != started[0]:  # which would wait for this one
                kill(started[0])
            pytest.fail(said(place))
    return place / name


def tested(folder: Path) -> Tested:
    result = read_tested(folder)
    assert result is not None
    return result


def assert_same_test(one: Path, other: Path, count: int) -> None:
    """Both runs have seen the same test images, and said the same of them."""
    first, second = tested(one), tested(other)
    assert len(first.predictions.labels) == count
    assert first.images == second.images
    assert first.predictions.files == second.predictions.files
    np.testing.assert_array_equal(first.predictions.labels, second.predictions.labels)
    np.testing.assert_array_equal(first.predictions.indices, second.predictions.indices)
    np.testing.assert_allclose(
        first.predictions.probabilities, second.predictions.probabilities, atol=1e-6
    )
    np.testing.assert_array_equal(first.thumbnails.rows, second.thumbnails.rows)
    assert first.thumbnails.picture == second.thumbnails.picture
    assert summary(one)["metrics"]["test"] == pytest.approx(summary(other)["metrics"]["test"])


MEASURED = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/precision")


def assert_same_metrics(one: Path, other: Path) -> None:
    rows, others = metrics_csv(one, complete=False), metrics_csv(other, complete=False)
    assert len(rows) == len(others) == 2
    for row, same in zip(rows, others, strict=True):
        assert {name: row[name] for name in MEASURED if name in row} == pytest.approx(
            {name: same[name] for name in MEASURED if name in same}
        )
    for split in ("train", "val"):
        first, second = (summary(folder)["metrics"].get(split) for folder in (one, other))
        assert first == (None if second is None else pytest.approx(second))


STILL = ("optimizer.lr=1e-30",)
"""So that one process and two, whose batches differ, train the same network."""


def test_each_image_counts_once_in_every_metric(pictures, tmp_path):
    one = run(tmp_path, 1, *STILL, name="one")
    two = run(tmp_path, 2, *STILL, name="two")
    assert_same_metrics(two, one)
    assert_same_test(two, one, 17)


def test_under_a_limit_two_processes_measure_what_one_measures(pictures, tmp_path):
    limits = ("trainer.limit_val_batches={0}", "trainer.limit_test_batches={0}")
    one = run(tmp_path, 1, *STILL, *(limit.format(2) for limit in limits), name="one")
    two = run(tmp_path, 2, *STILL, *(limit.format(1) for limit in limits), name="two")
    assert_same_metrics(two, one)
    assert_same_test(two, one, 8)
    assert set(tested(two).predictions.labels) == {0, 1, 2}
    for each in (one, two):
        assert summary(each)["calibration"]["images"] == 8


def test_a_process_without_any_image_takes_part(tmp_path):
    for part, count in {"train": 7, "val": 1, "test": 1}.items():
        photos_in_turn(tmp_path / "pictures" / part, count)
    one = run(tmp_path, 1, *STILL, name="one")
    two = run(tmp_path, 2, *STILL, name="two")
    assert_same_metrics(two, one)
    assert_same_test(two, one, 1)


def test_features_from_the_cache_count_once_too(tmp_path):
    for part, count in {"train": 13, "val": 5, "test": 7}.items():
        photos_in_turn(tmp_path / "pictures" / part, count)
    transfer = (
        *("model=resnet_transfer", "model.backbone=resnet18", "model.weights=null"),
        *("model.dropout=0", "data.image_size=32", "engine=torch", *STILL),
    )
    one = run(tmp_path, 1, *transfer, "cache.mode=off", name="one")
    two = run(tmp_path, 2, *transfer, name="two", DISCERN_CACHE_DIR=str(tmp_path / "cache"))
    features = summary(two)["features"]  # which one of the two has computed for both
    assert features["computed"] + features["reused"] == 13 + 5 + 7
    assert_same_metrics(two, one)
    assert_same_test(two, one, 7)
    again = run(tmp_path, 2, *transfer, name="again", DISCERN_CACHE_DIR=str(tmp_path / "cache"))
    assert summary(again)["features"]["reused"] == 13 + 5 + 7
    assert_same_test(again, one, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["data.num_workers=1"],
        ["model.norm=batch"],
        ["callbacks.ema.decay=0.5"],
        ["trainer.use_distributed_sampler=false"],
        ["trainer.reload_dataloaders_every_n_epochs=1"],
        ["trainer.overfit_batches=1"],
        ["trainer.limit_val_batches=0.5", "trainer.limit_test_batches=0.4"],
        ["trainer.num_sanity_val_steps=-1"],
        ["data.sampler=balanced", "data.augment=light", "model.mixup=0.5"],
        ["scheduler=plateau", "callbacks=default"],
    ],
)
def test_two_processes_end_whatever_the_settings(pictures, tmp_path, overrides):
    two = run(tmp_path, 2, *overrides, name="two")
    count = 17 if "trainer.limit_test_batches=0.4" not in overrides else 8
    assert len(tested(two).predictions.labels) == count
    assert summary(two)["reason"] == "2 of 2 epochs"


class BadBatchOfOneProcess(Callback):
    """Makes a batch of the second process NaN, and checks that all weights agree."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_rank == 1 and (trainer.current_epoch, batch_idx) == (0, 2):
            batch[0].fill_(math.nan)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        total = sum(weight.detach().sum() for weight in pl_module.parameters())
        assert (trainer.strategy.reduce(total, reduce_op="mean") - total).abs() < 1e-6


def test_two_processes_leave_a_step_out_together(pictures, tmp_path):
    """One alone has met the batch that is not finite, and the weights of both stay the same."""
    poison = "{_target_: training.test_processes.BadBatchOfOneProcess}"
    clean = run(tmp_path, 2, "on_nan=skip", name="clean")
    two = run(tmp_path, 2, "on_nan=skip", f"trainer.callbacks=[{poison}]", name="two")
    facts = summary(two)
    assert facts["reason"] == "2 of 2 epochs"
    assert facts["steps"] == summary(clean)["steps"] - 1
    assert facts["warnings"][-1].startswith("1 of ")
    assert all(weight.isfinite().all() for weight in weights(two).values())


def test_the_other_processes_are_started_with_the_command_that_was_typed(tmp_path):
    """Lightning starts them with the arguments that the program has while it trains."""
    program = """
import sys
from discern.commands import cli
cli._run_job = lambda name, cfg: print(sys.argv[1:])
cli.main()
"""
    typed = ["train", "data.source=sample", "data.dir=my digits", "trainer.devices=2"]
    assert invoke("-c", program, *typed, cwd=tmp_path).stdout.strip() == str(typed)


@pytest.mark.slow
def test_one_command_starts_two_processes(pictures, tmp_path):
    settings = (*OF_ALL, f"data.dir={pictures}", "model.hidden=[4]", "hydra.run.dir=run")
    done = command(
        DISCERN, "train", *settings, "trainer.devices=2", "trainer.strategy=ddp", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "run")["machine"]["devices"] == "2 × cpu"
    assert len(tested(tmp_path / "run").predictions.labels) == 17
