from __future__ import annotations

import copy
import itertools
import json
import logging
import math
import os
import re
import signal
import struct
from collections.abc import Iterator

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

import discern
from discern.config.check import check
from discern.data.published.mnist import MNIST
from discern.errors import DiscernError
from discern.models.mlp import MLP
from discern.reports.run_page import write_run_page
from discern.run import train
from discern.training import outputs
from discern.training.terminal import metrics_table
from run_files import (
    SHOWN,
    STEPS_PER_EPOCH,
    TRAIN,
    Events,
    checkpoint,
    command,
    composed,
    metrics_csv,
    own_model,
    same_bits,
    sample_test_split,
    summary,
    weights,
)
from starter import begin, end, invoke

EVENTS = "trainer.callbacks=[{_target_: run_files.Events}]"
NO_VALIDATION = "data.val_size=0"
METRICS = ["loss", "accuracy", "precision", "recall", "f1", "top5_error"]


# The folder of a run, made by the command


COMMAND = (
    "data.source=sample",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=20",
    "trainer.accelerator=cpu",
    "seed=5",
    "tags=[first,of two]",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """``python train.py`` in an empty folder, and the folder of its run."""
    cwd = tmp_path_factory.mktemp("cwd")
    done = command(TRAIN, *COMMAND, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (cwd / "outputs").glob("*/*")
    return done, folder


def test_the_folder_is_named_for_the_run_and_holds_what_it_was(finished):
    _, folder = finished
    date, name = folder.parts[-2:]
    assert [len(part) for part in date.split("-")] == [4, 2, 2]
    assert name.endswith("_mlp_mnist")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert events
    assert files - events == {
        "samples.png",
        "checkpoints/best.safetensors",
        "checkpoints/last.safetensors",
        "checkpoints/previous.safetensors",
        "config.yaml",
        "curves.png",
        "hydra.yaml",
        "metrics.csv",
        "overrides.yaml",
        "report.html",
        "summary.json",
        "test_predictions.safetensors",
        "train.log",
    }


def test_hydras_settings_are_kept_with_the_choices(finished):
    _, folder = finished
    kept = OmegaConf.load(folder / "hydra.yaml")
    assert kept.runtime.choices.model == "mlp"
    assert kept.runtime.output_dir == str(folder)
    assert list(kept.overrides.task) == list(COMMAND)


def test_the_terminal_shows_choices_epochs_metrics_and_the_folder(finished):
    done, folder = finished
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "mlp on MNIST sample, seed 5"
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1", "2", "3"]
    (test_row,) = (line.split() for line in lines if line.startswith("test "))
    test = summary(folder)["metrics"]["test"]
    assert test_row[1:3] == [f"{test['loss']:.4f}", f"{test['accuracy']:.4f}"]
    below = folder.relative_to(folder.parents[2])
    assert lines[-2:] == [f"Results: {below}", f"Report: {below}/report.html"]
    logged = (folder / "train.log").read_text()
    assert all(line in logged for line in lines)


@pytest.mark.parametrize("columns", [20, 42, 80, 200])
def test_no_number_is_cut_off_in_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    metrics = {split: {"loss": 0.1234, "accuracy": 0.9876, "top5_error": 0.0} for split in "ab"}
    text = metrics_table("an [odd] title of a run", metrics)
    assert text.count("0.1234") == text.count("0.9876") == text.count("0.0000") == 2
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
    assert "an [odd] title" in " ".join(text.split())


def test_the_metrics_of_the_default_command_are_a_table_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = metrics_table("mlp on MNIST sample", {"test": dict.fromkeys(METRICS, 0.5)})
    assert len(text.splitlines()) == 3


def test_a_run_outlives_who_reads_its_lines(tmp_path):
    quick = ("data.source=sample", "data.fraction=0.1", "trainer.max_epochs=2")
    ours, theirs = os.pipe()
    with os.fdopen(ours) as reader, (tmp_path / "complaints").open("w+") as complaints:
        streams = theirs, theirs, complaints.fileno()
        number = begin(tmp_path, "train", *quick, "hydra.run.dir=run", streams=streams)
        os.close(theirs)
        reader.readline()
        reader.close()  # as `head -1` does
        assert end(number) == 0
        assert complaints.seek(0, os.SEEK_END) == 0
    assert summary(tmp_path / "run")["reason"] == "2 of 2 epochs"
    assert "Results: run" in (tmp_path / "run" / "train.log").read_text()


def test_config_yaml_is_resolved_and_composes_the_same_run(finished):
    _, folder = finished
    text = (folder / "config.yaml").read_text()
    assert "${" not in text
    cfg = OmegaConf.load(folder / "config.yaml")
    again = composed(*COMMAND)
    again.folder = str(folder)
    assert OmegaConf.to_container(cfg) == OmegaConf.to_container(again, resolve=True)
    assert OmegaConf.load(folder / "overrides.yaml") == list(COMMAND)


def test_metrics_csv_has_a_full_row_an_epoch(finished):
    _, folder = finished
    rows = metrics_csv(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [20, 40, 60]
    columns = {"train/loss", "train/accuracy", "train/lr"} | {f"val/{m}" for m in METRICS}
    for row in rows:
        assert columns <= row.keys()
        assert all(math.isfinite(value) for value in row.values())


def test_summary_says_what_came_out_and_what_it_came_from(finished):
    _, folder = finished
    facts, rows = summary(folder), metrics_csv(folder)
    assert facts["reason"] == "3 of 3 epochs"
    assert facts["title"] == "mlp on MNIST sample"
    assert facts["tags"] == ["first", "of two"]
    assert facts["overrides"] == list(COMMAND)
    assert facts["seed"] == 5
    assert (facts["epochs"], facts["steps"]) == (3, 60)
    assert facts["parameters"] == {
        "trainable": 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10,
        "frozen": 0,
    }
    assert facts["data"]["images"] == {"train": 7200, "val": 800, "test": 1500}
    assert facts["data"]["source"] == "sample"
    assert len(facts["data"]["fingerprint"]) == 64
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "git" in facts

    best = min(rows, key=lambda row: row["val/loss"])
    assert facts["best_epoch"] == best["epoch"]
    assert list(facts["metrics"]["val"]) == list(facts["metrics"]["test"]) == METRICS
    for split in ("train", "val"):
        for metric, value in facts["metrics"][split].items():
            assert value == pytest.approx(best[f"{split}/{metric}"], abs=1e-6)


def test_summary_says_where_the_time_went(finished):
    _, folder = finished
    facts, rows = summary(folder), metrics_csv(folder)
    seconds = facts["seconds"]
    assert seconds.keys() == {
        "import", "data", "figures", "fit", "validation", "calibration", "test", "total",
    }  # fmt: skip
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) - seconds["total"] <= seconds["total"]
    trained = sum(row["train/seconds"] for row in rows)
    assert facts["images_per_second"] == pytest.approx(60 * 64 / trained, rel=1e-3)


def test_curves_png_is_a_picture_to_look_at(finished):
    _, folder = finished
    content = (folder / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">2I", content[16:24])
    assert 800 <= width <= 2400
    assert 300 <= height <= 1600


def test_the_test_metrics_are_those_of_the_best_checkpoint(finished):
    _, folder = finished
    network = MLP((1, 28, 28), 10)
    network.load_state_dict(weights(folder, "best"))
    images, labels = sample_test_split()
    with torch.no_grad():
        logits = network.eval()(images)
    right = (logits.argmax(dim=1) == labels).float().mean().item()
    top5 = (logits.topk(5).indices == labels[:, None]).any(dim=1).float().mean().item()
    test = summary(folder)["metrics"]["test"]
    assert test["loss"] == pytest.approx(cross_entropy(logits, labels).item(), abs=1e-5)
    assert test["accuracy"] == pytest.approx(right, abs=1e-6)
    assert test["top5_error"] == pytest.approx(1 - top5, abs=1e-6)


def test_the_last_checkpoint_is_where_training_ended(finished):
    _, folder = finished
    assert checkpoint(folder, "last")["global_step"] == 60
    assert checkpoint(folder, "best")["epoch"] + 1 == summary(folder)["best_epoch"]


def test_another_process_computes_the_same_bits(finished, tmp_path):
    _, folder = finished
    cfg = composed(*COMMAND)
    cfg.folder = str(tmp_path)
    train(cfg)
    assert same_bits(weights(folder), weights(tmp_path))
    assert same_bits(weights(folder, "best"), weights(tmp_path, "best"))
    assert summary(folder)["metrics"] == summary(tmp_path)["metrics"]


# What a run is a function of


def test_the_same_settings_give_the_same_run_and_another_seed_another(tiny_run):
    one, again = tiny_run(name="one"), tiny_run(name="again")
    other = tiny_run("seed=1", name="other")
    assert same_bits(weights(one.folder), weights(again.folder))
    assert one.metrics == again.metrics
    assert not same_bits(weights(one.folder), weights(other.folder))
    assert one.metrics["test"]["loss"] != other.metrics["test"]["loss"]


def test_dropout_is_a_function_of_the_seed_too(tiny_run):
    one = tiny_run("model.dropout=0.5", name="one")
    again = tiny_run("model.dropout=0.5", name="again")
    without = tiny_run(name="without")
    assert same_bits(weights(one.folder), weights(again.folder))
    assert not same_bits(weights(one.folder), weights(without.folder))


def test_how_often_validation_runs_does_not_change_what_is_learned(tiny_run):
    often = tiny_run("trainer.val_check_interval=2", "model.dropout=0.2", name="often")
    seldom = tiny_run("trainer.limit_val_batches=0", "model.dropout=0.2", name="seldom")
    assert same_bits(weights(often.folder), weights(seldom.folder))


def test_the_result_is_the_best_checkpoint_ready_for_use(tiny_run):
    result = tiny_run("optimizer=sgd", "optimizer.lr=3", "trainer.max_epochs=4")
    assert not result.model.training
    assert same_bits(result.model.state_dict(), weights(result.folder, "best"))
    assert result.reason == "4 of 4 epochs"
    facts = summary(result.folder)["metrics"]
    for split, metrics in result.metrics.items():
        assert metrics == pytest.approx(facts[split], abs=1e-6)


# How far: epochs, steps, batches, time


def test_max_epochs(tiny_run):
    result = tiny_run("trainer.max_epochs=3")
    assert len(metrics_csv(result.folder)) == 3
    assert checkpoint(result.folder)["global_step"] == 3 * STEPS_PER_EPOCH


def test_max_steps_may_end_in_the_middle_of_an_epoch(tiny_run):
    result = tiny_run("trainer.max_steps=8", "trainer.max_epochs=100", EVENTS)
    assert Events.of("step") == list(range(8))
    assert result.reason == "trainer.max_steps=8 reached"
    saved = checkpoint(result.folder)
    assert saved["global_step"] == 8
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {8}
    assert same_bits(saved["state_dict"], by_hand("adam", steps=8).state_dict())


def test_max_steps_may_end_in_the_middle_of_the_first_epoch(tiny_run):
    result = tiny_run("trainer.max_steps=3")
    assert result.reason == "trainer.max_steps=3 reached"
    assert checkpoint(result.folder)["global_step"] == 3
    assert result.metrics["test"]["loss"] > 0


@pytest.mark.parametrize(("limit", "batches"), [("4", 4), ("0.5", 3), ("1.0", 6), ("1", 1)])
def test_limit_train_batches_is_a_count_or_a_fraction(tiny_run, limit, batches):
    tiny_run(f"trainer.limit_train_batches={limit}", "trainer.max_epochs=1", EVENTS)
    assert Events.of("batch") == [(0, i) for i in range(batches)]


def test_limits_of_validation_and_test_batches(tiny_run):
    result = tiny_run(
        "data.eval_batch_size=10", "trainer.limit_val_batches=1", "trainer.limit_test_batches=2"
    )
    # So few images: their accuracy is a multiple of one in ten, or one in twenty.
    assert (result.metrics["val"]["accuracy"] * 10) % 1 == pytest.approx(0, abs=1e-5)
    assert (result.metrics["test"]["accuracy"] * 20) % 1 == pytest.approx(0, abs=1e-5)


def test_max_time_ends_a_run_without_end(tiny_run):
    result = tiny_run("trainer.max_time=00:00:00:01", "trainer.max_epochs=-1", "logger=none")
    assert result.reason == "trainer.max_time reached"
    assert summary(result.folder)["epochs"] >= 1
    assert "test" in result.metrics


def test_max_time_is_the_time_of_a_run_also_where_it_goes_on(tiny_run):
    """The same command again makes progress, and ends for the same reason."""
    limited = ("trainer.max_time={milliseconds:300}", "trainer.max_epochs=-1", "logger=none")
    first = tiny_run(*limited, name="first")
    steps = summary(first.folder)["steps"]
    again = tiny_run(*limited, f"ckpt_path={first.folder}", name="again")
    assert again.reason == first.reason == "trainer.max_time reached"
    assert summary(again.folder)["steps"] > steps + 1
    ended = tiny_run("trainer.max_time=00:00:00:00", "trainer.max_epochs=-1", name="no time")
    assert ended.reason == "trainer.max_time reached"


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(tiny_mnist, tmp_path):
    folder = tmp_path / "run"
    ended = invoke(
        *("-c", FULL_DISK, "data.source=sample", "data.fraction=0.05", "trainer.max_epochs=3"),
        *("trainer.accelerator=cpu", "logger=csv", "report=false", f"hydra.run.dir={folder}"),
        cwd=tmp_path,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr + (folder / "train.log").read_text()
    sentence = r"\S+\.safetensors cannot be written, also when tried again: File too large; what "
    sentence += "was saved before is kept"
    assert re.search(rf"\nError: {sentence}\.$", ended.stderr.strip())
    assert re.fullmatch(sentence, summary(folder)["reason"])
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"best.safetensors", "last.safetensors"}
    assert checkpoint(folder)["epoch"] == checkpoint(folder, "best")["epoch"] == 0
    discern.load(folder / "checkpoints" / "last.safetensors")


FULL_DISK = """
import resource, signal, sys
from lightning.pytorch import Callback
from discern.training import parts
from discern.commands.cli import train

class FillsUp(Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

build_trainer = parts.build_trainer
parts.build_trainer = lambda cfg, always: build_trainer(cfg, [*always, FillsUp()])
train(sys.argv[1:])
"""
"""A disk on which a checkpoint has no room once the first epoch is over."""


def test_fast_dev_run_is_one_batch_of_everything(tiny_run):
    result = tiny_run("trainer.fast_dev_run=true", EVENTS)
    assert Events.of("batch") == [(0, 0)]
    assert len(Events.of("validation")) == 1
    assert result.metrics["test"]["accuracy"] > 0
    assert not list(result.folder.rglob("checkpoints/*.safetensors"))


def test_overfitting_one_batch_drives_its_loss_down(tiny_run):
    result = tiny_run(
        *("debug=overfit", "trainer.max_epochs=50", "model.hidden=[32]", "optimizer.lr=0.01"),
        EVENTS,
    )
    assert {batch for _, batch in Events.of("batch")} == {0}
    losses = [row["train/loss"] for row in metrics_csv(result.folder)]
    assert len(losses) == 50
    assert losses[-1] < 0.1 < 2 < losses[0]


# When validation runs


def test_val_check_interval_of_a_half_validates_twice_an_epoch(tiny_run):
    result = tiny_run("trainer.val_check_interval=0.5", EVENTS)
    assert Events.of("validation") == [(0, 3), (0, 6), (1, 9), (1, 12)]
    assert len(metrics_csv(result.folder)) == 2


def test_the_best_of_several_validations_an_epoch_is_the_one_reported(tiny_run):
    result = tiny_run(
        *("trainer.val_check_interval=2", "optimizer=sgd", "optimizer.lr=3"), "trainer.max_epochs=3"
    )
    validation = MNIST(dir=MNIST_DIR[0], source="full", val_size=60, seed=0)
    validation.setup()
    ((images, labels),) = validation.val_dataloader()
    with torch.no_grad():
        loss = cross_entropy(result.model(images), labels).item()
    assert result.metrics["val"]["loss"] == pytest.approx(loss, rel=1e-5)


def test_check_val_every_n_epoch(tiny_run):
    result = tiny_run("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", EVENTS)
    assert Events.of("validation") == [(1, 12), (3, 24)]
    assert checkpoint(result.folder, "best")["epoch"] in (1, 3)


def test_without_validation_images_the_training_loss_is_watched_and_it_is_said(tiny_run, caplog):
    with caplog.at_level(logging.INFO):
        result = tiny_run(NO_VALIDATION, "callbacks.early_stopping.patience=0", EVENTS)
    assert Events.of("validation") == []
    assert any(
        "No validation" in message and "train/loss" in message for message in caplog.messages
    )
    rows = metrics_csv(result.folder)
    assert not any(name.startswith("val/") for name in rows[0])
    best = min(rows, key=lambda row: row["train/loss"])
    assert checkpoint(result.folder, "best")["epoch"] + 1 == best["epoch"]
    assert set(result.metrics) == {"train", "test"}


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_waits_for_its_patience_and_is_the_reason(tiny_run, patience):
    result = tiny_run(
        "optimizer=sgd",
        "optimizer.lr=1e-30",  # nothing changes, so nothing improves
        f"callbacks.early_stopping.patience={patience}",
        "trainer.max_epochs=9",
    )
    assert len(metrics_csv(result.folder)) == 1 + patience
    reason = summary(result.folder)["reason"]
    assert reason.startswith(f"early stopping in epoch {1 + patience}: val/loss")
    assert checkpoint(result.folder, "best")["epoch"] == 0


def test_early_stopping_watches_the_training_loss_without_validation(tiny_run):
    result = tiny_run(
        NO_VALIDATION,
        "optimizer=sgd",
        "optimizer.lr=1e-30",
        "callbacks.early_stopping.patience=2",
        "callbacks.early_stopping.min_delta=1e-3",  # an epoch's order changes the sum's last bits
        "trainer.max_epochs=9",
    )
    assert "early stopping in epoch 3: train/loss" in result.reason


# How a step is made, against loops written by hand


def batches_by_hand(epochs: int, val_size: int = 60) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    data = MNIST(dir=MNIST_DIR[0], source="full", val_size=val_size, batch_size=40, seed=0)
    data.setup()
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        yield from loader


MNIST_DIR = []


@pytest.fixture(autouse=True)
def _dir(tiny_mnist):
    MNIST_DIR[:] = [tiny_mnist]


def by_hand(
    optimizer: str, steps: int, *, clip=None, by_value=False, accumulate: int = 1
) -> nn.Module:
    """The tiny run's network after so many steps of a loop like any tutorial's."""
    torch.manual_seed(0)
    network = MLP((1, 28, 28), 10, hidden=[8])
    build = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    rate = 0.5 if optimizer == "sgd" else 1e-3
    rule = build(network.parameters(), lr=rate, fused=True)  # as a run has it on a CPU
    batches = batches_by_hand(epochs=10)
    for _ in range(steps):
        rule.zero_grad()
        for _ in range(accumulate):
            images, labels = next(batches)
            (cross_entropy(network(images), labels) / accumulate).backward()
        if clip is not None:
            cut = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
            cut(network.parameters(), clip)
        rule.step()
    return network


SGD = ("optimizer=sgd", "optimizer.lr=0.5", "callbacks.early_stopping=null")


def trained(tiny_run, *overrides: str) -> dict[str, torch.Tensor]:
    return weights(tiny_run(*SGD, "trainer.max_epochs=10", *overrides).folder)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(dict(one), dict(other), rtol=1e-5, atol=1e-7)


def test_a_plain_run_is_the_loop_of_the_tutorials(tiny_run):
    assert_close(trained(tiny_run, "trainer.max_steps=9"), by_hand("sgd", 9).state_dict())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradient_clipping(tiny_run, algorithm):
    clip = {"norm": 0.1, "value": 0.002}[algorithm]
    clipped = trained(
        tiny_run,
        "trainer.max_steps=3",
        f"trainer.gradient_clip_val={clip}",
        f"trainer.gradient_clip_algorithm={algorithm}",
    )
    expected = by_hand("sgd", 3, clip=clip, by_value=algorithm == "value").state_dict()
    assert_close(clipped, expected)
    assert not same_bits(expected, by_hand("sgd", 3).state_dict())


def test_gradients_are_clipped_by_norm_unless_told_otherwise(tiny_run):
    clipped = trained(tiny_run, "trainer.max_steps=3", "trainer.gradient_clip_val=0.1")
    assert_close(clipped, by_hand("sgd", 3, clip=0.1).state_dict())


def test_accumulate_grad_batches(tiny_run):
    accumulated = trained(
        tiny_run, "trainer.max_steps=3", "trainer.accumulate_grad_batches=2", EVENTS
    )
    assert len(Events.of("batch")) == 6
    assert_close(accumulated, by_hand("sgd", 3, accumulate=2).state_dict())


def test_the_mean_of_accumulated_batches_is_one_big_batch(tiny_run):
    accumulated = trained(tiny_run, "trainer.max_steps=1", "trainer.accumulate_grad_batches=6")
    images, labels = (torch.cat(parts) for parts in zip(*batches_by_hand(epochs=1), strict=True))
    network = by_hand("sgd", 0)
    cross_entropy(network(images), labels).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.5 * parameter.grad
    assert_close(accumulated, network.state_dict())


def test_bf16_mixed_keeps_weights_in_float32_and_rounds_the_products(tiny_run):
    mixed = trained(tiny_run, "trainer.max_steps=3", "trainer.precision=bf16-mixed")
    plain = by_hand("sgd", 3).state_dict()
    assert {tensor.dtype for tensor in mixed.values()} == {torch.float32}
    assert not same_bits(mixed, plain)
    torch.testing.assert_close(mixed, dict(plain), rtol=0, atol=0.02)


# The learning rate, against torch's own schedulers stepped by hand


def rates(scheduler: str, *overrides: str, tiny_run) -> list[float]:
    """The rate at every step of two epochs of SGD from 0.5."""
    tiny_run(*SGD, f"scheduler={scheduler}", EVENTS, *overrides)
    return Events.of("lr")


def rates_by_hand(build, every: int, steps: int = 2 * STEPS_PER_EPOCH) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = build(optimizer)
    found = []
    for step in range(1, steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("choice", "build", "every"),
    [
        (("none",), lambda o: StepLR(o, 1, gamma=1), 1),
        (("cosine",), lambda o: CosineAnnealingLR(o, T_max=12), 1),
        (
            ("cosine", "scheduler.interval=epoch", "scheduler.eta_min=0.1"),
            lambda o: CosineAnnealingLR(o, T_max=2, eta_min=0.1),
            6,
        ),
        (
            ("step", "scheduler.step_size=1", "scheduler.gamma=0.3"),
            lambda o: StepLR(o, step_size=1, gamma=0.3),
            6,
        ),
        (("onecycle",), lambda o: OneCycleLR(o, max_lr=0.5, total_steps=12), 1),
    ],
    ids=["none", "cosine", "cosine by epoch", "step", "onecycle"],
)
def test_schedulers_step_as_torch_does(tiny_run, choice, build, every):
    assert rates(*choice, tiny_run=tiny_run) == pytest.approx(rates_by_hand(build, every), rel=1e-9)


def test_the_cosine_fits_the_steps_that_are_limited_or_accumulated(tiny_run):
    expected = rates_by_hand(lambda o: CosineAnnealingLR(o, T_max=5), every=1, steps=5)
    assert rates("cosine", "trainer.max_steps=5", tiny_run=tiny_run) == pytest.approx(expected)
    accumulated = rates("cosine", "trainer.accumulate_grad_batches=3", tiny_run=tiny_run)
    expected = rates_by_hand(lambda o: CosineAnnealingLR(o, T_max=4), every=1, steps=4)
    assert accumulated[::3] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("watched", "mode", "lr", "settings"),
    [
        ("val/loss", "min", 4, ()),
        ("train/loss", "min", 4, (NO_VALIDATION,)),
        ("val/accuracy", "max", 0.5, ("scheduler.monitor=val/accuracy",)),
    ],
)
def test_plateau_watches_validation_or_else_training(tiny_run, watched, mode, lr, settings):
    result = tiny_run(
        "optimizer=sgd",
        f"optimizer.lr={lr}",  # too fast: the metric goes up and down
        "scheduler=plateau",
        "scheduler.patience=0",
        "trainer.max_epochs=8",
        EVENTS,
        *settings,
    )
    rows = metrics_csv(result.folder)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, factor=0.1, patience=0)
    expected = []
    for row in rows:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(row[watched])
    per_epoch = len(Events.of("lr")) // len(rows)
    assert Events.of("lr")[::per_epoch] == pytest.approx(expected)
    assert len(set(expected)) > 1


# The direction in which a metric is better


BETTER = {
    "accuracy": "max", "precision": "max", "recall": "max", "f1": "max",
    "loss": "min", "top5_error": "min",
}  # fmt: skip
WATCHERS = {
    "callbacks.early_stopping": (),
    "callbacks.best_checkpoint": (),
    "scheduler": ("scheduler=plateau",),
}
OF_LIGHTNING = "_target_: lightning.pytorch.callbacks"


def test_the_best_checkpoint_is_best_in_what_is_watched(tiny_run):
    restless = ("model.hidden=[32]", "optimizer.lr=0.03", "trainer.max_epochs=6")
    for metric, mode in BETTER.items():
        watched = f"callbacks.best_checkpoint.monitor=val/{metric}"
        folder = tiny_run(*restless, "callbacks.early_stopping=null", watched, name=metric).folder
        values = [row[f"val/{metric}"] for row in metrics_csv(folder)]
        assert len(set(values)) > 1
        best = (max if mode == "max" else min)(values)
        assert values[checkpoint(folder, "best")["epoch"]] == best


@pytest.mark.parametrize("whose", ["discern's", "one's own"])
def test_early_stopping_waits_for_more_accuracy_not_for_less(tiny_run, whose):
    own = f"{{{OF_LIGHTNING}.EarlyStopping, monitor: val/accuracy, patience: 1}}"
    settings = {
        "discern's": ("callbacks.early_stopping.monitor=val/accuracy",
                      "callbacks.early_stopping.patience=1"),
        "one's own": ("callbacks.early_stopping=null", f"trainer.callbacks=[{own}]"),
    }  # fmt: skip
    many = ("model.hidden=[32]", "trainer.max_epochs=30")
    folder = tiny_run(*settings[whose], *many).folder
    *values, last = (row["val/accuracy"] for row in metrics_csv(folder))
    assert len(values) > 2
    assert all(now > before for before, now in itertools.pairwise(values))
    assert last <= values[-1]


@pytest.mark.parametrize("metric", BETTER)
@pytest.mark.parametrize("part", WATCHERS)
def test_watching_a_metric_the_wrong_way_is_refused(part, metric):
    wrong = "min" if BETTER[metric] == "max" else "max"
    cfg = composed(*WATCHERS[part], f"{part}.monitor=val/{metric}", f"{part}.mode={wrong}")
    said = rf"^{part}\.mode={wrong} is not allowed with monitor=val/{metric}, of which .* is better"
    with pytest.raises(DiscernError, match=said):
        check(cfg)


def test_a_callback_of_ones_own_is_refused_too(tiny_run):
    own = f"{{{OF_LIGHTNING}.ModelCheckpoint, monitor: val/loss, mode: max}}"
    with pytest.raises(DiscernError, match=r"^ModelCheckpoint\.mode=max is not allowed"):
        tiny_run(f"trainer.callbacks=[{own}]")


# Leaving things out


def test_without_a_progress_bar_a_run_is_the_same(tiny_run, capsys):
    quiet = tiny_run("trainer.enable_progress_bar=false", name="quiet")
    usual = tiny_run(name="usual")
    assert quiet.metrics == usual.metrics
    assert "it/s" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "missing"),
    [
        ("trainer.enable_checkpointing=false", ("checkpoints/*.safetensors",)),
        ("logger=none", ("metrics.csv", "events*")),
        ("trainer.logger=false", ("metrics.csv", "events*")),
        ("callbacks=none", ("checkpoints/*.safetensors",)),
        ("logger=csv", ("events*",)),
        ("logger=tensorboard", ("metrics.csv",)),
        ("test=false", ()),
    ],
)
def test_what_is_switched_off_is_missing_and_nothing_else(tiny_run, override, missing):
    result = tiny_run(*SHOWN, override)
    for pattern in (
        "metrics.csv",
        "events*",
        "checkpoints/*.safetensors",
        "curves.png",
        "summary.json",
    ):
        assert bool(list(result.folder.rglob(pattern))) == (pattern not in missing), pattern
    assert set(result.metrics) == {"train", "val", "test"} - (
        {"test"} if override == "test=false" else set()
    )


def test_a_run_without_callbacks_is_tested_with_its_last_weights(tiny_run):
    bare = tiny_run("callbacks=none", name="bare")
    last = tiny_run("trainer.max_epochs=2", name="usual")
    assert same_bits(bare.model.state_dict(), weights(last.folder))
    assert summary(bare.folder)["best_epoch"] is None


def test_barebones_trains_and_measures_nothing_by_the_way(tiny_run):
    result = tiny_run("trainer.barebones=true")
    assert same_bits(result.model.state_dict(), by_hand("adam", 12).state_dict())
    assert not (result.folder / "metrics.csv").exists()
    assert summary(result.folder)["reason"] == "2 of 2 epochs"


# What users bring along


def test_a_callback_of_lightning(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = tiny_run(
        "trainer.callbacks=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
        "trainer.log_every_n_steps=1",
        "scheduler=cosine",
        "logger=default",
    )
    scalars = {}
    for path in result.folder.glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        scalars |= {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    values = [event.value for event in scalars["lr-Adam"]]
    expected = [1e-3 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)]
    assert values == pytest.approx(expected, rel=1e-5)
    assert len(metrics_csv(result.folder)) == 2


def test_a_network_of_ones_own(tiny_run):
    result = tiny_run(
        *own_model("run_files.Convolution", "+model.width=3"),
    )
    assert summary(result.folder)["title"] == "convolution on MNIST"
    assert set(weights(result.folder)) == {
        f"layers.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")
    }
    assert weights(result.folder)["layers.0.weight"].shape == (3, 1, 5, 5)


# A checkpoint given


def test_train_false_only_tests_the_checkpoint(tiny_run):
    before = tiny_run(name="before")
    after = tiny_run(
        "train=false",
        f"ckpt_path={before.folder / 'checkpoints' / 'best.safetensors'}",
        name="after",
    )
    assert after.metrics == {"test": before.metrics["test"]}
    assert after.reason == "not trained (train=false)"
    assert not (after.folder / "checkpoints").exists()
    assert not (after.folder / "metrics.csv").exists()
    assert summary(after.folder)["metrics"].keys() == {"test"}


@pytest.mark.parametrize("scheduler", ["none", "cosine", "plateau"])
def test_a_run_continued_between_epochs_is_the_undisturbed_run(tiny_run, scheduler):
    settings = (f"scheduler={scheduler}", "model.dropout=0.2")
    whole = tiny_run(*settings, "trainer.max_epochs=4", name="whole")
    # Interrupted after the second epoch, as otherwise a schedule would be that of a shorter run.
    stop = f"{{_target_: run_files.Signal, step: 12, number: {int(signal.SIGINT)}}}"
    half = tiny_run(*settings, "trainer.max_epochs=4", f"trainer.callbacks=[{stop}]", name="half")
    assert summary(half.folder)["state"] == "interrupted"
    last = half.folder / "checkpoints" / "last.safetensors"
    rest = tiny_run(*settings, "trainer.max_epochs=4", f"ckpt_path={last}", name="rest")
    assert same_bits(weights(rest.folder), weights(whole.folder))
    assert rest.metrics == whole.metrics
    timed = ("train/seconds", "train/images_per_second")
    assert [
        {name: value for name, value in row.items() if name not in timed}
        for row in metrics_csv(rest.folder)
    ] == [
        {name: value for name, value in row.items() if name not in timed}
        for row in metrics_csv(whole.folder)
    ]


def test_a_finished_run_is_continued_with_more_epochs(tiny_run):
    whole = tiny_run("trainer.max_epochs=4", name="whole")
    half = tiny_run("trainer.max_epochs=2", name="half")
    last = half.folder / "checkpoints" / "last.safetensors"
    rest = tiny_run("trainer.max_epochs=4", f"ckpt_path={last}", name="rest")
    assert same_bits(weights(rest.folder), weights(whole.folder))


def test_a_checkpoint_of_another_network_is_told_apart(tiny_run):
    before = tiny_run(name="before")
    path = before.folder / "checkpoints" / "best.safetensors"
    with pytest.raises(DiscernError, match="ckpt_path"):
        tiny_run("train=false", "model.hidden=[9]", f"ckpt_path={path}", name="after")


# Failure


def test_a_failure_is_in_the_summary(tiny_run, tmp_path):
    with pytest.raises(RuntimeError, match="a mistake of mine"):
        tiny_run("trainer.callbacks=[{_target_: run_files.Raises}]")
    assert summary(tmp_path / "run")["reason"] == "a mistake of mine"


def test_an_unknown_class_is_named(tiny_run, tmp_path):
    with pytest.raises(DiscernError, match=r"run_files\.Nothing"):
        tiny_run("trainer.callbacks=[{_target_: run_files.Nothing}]")
    assert "run_files.Nothing" in summary(tmp_path / "run")["reason"]


@pytest.mark.parametrize(
    ("group", "setting"), [("model", "depth"), ("optimizer", "speed"), ("scheduler", "slope")]
)
def test_an_argument_that_a_class_does_not_take_is_a_mistake_of_the_setting(
    tiny_run, group, setting
):
    more = ["scheduler=step"] if group == "scheduler" else []
    with pytest.raises(DiscernError, match=f"{group}.*{setting}"):
        tiny_run(*more, f"+{group}.{setting}=1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_where_there_is_none(tmp_path, accelerator):
    cfg = composed(f"trainer.accelerator={accelerator}", f"data.dir={tmp_path / 'nothing'}")
    cfg.folder = str(tmp_path)
    with pytest.raises(DiscernError, match=rf"^trainer\.accelerator={accelerator} .*cpu or auto"):
        train(cfg)


def test_a_run_on_the_cpu_beside_a_gpu_says_nothing_of_it(tiny_run, monkeypatch, recwarn):
    monkeypatch.setattr(
        "lightning.pytorch.trainer.setup.CUDAAccelerator.is_available", lambda: True
    )
    tiny_run("trainer.accelerator=cpu")
    assert [str(one.message) for one in recwarn if "GPU" in str(one.message)] == []


def test_more_devices_than_there_are(tmp_path):
    cfg = composed(
        "trainer.accelerator=cpu", "trainer.devices=4096", f"data.dir={tmp_path / 'nothing'}"
    )
    cfg.folder = str(tmp_path)
    with pytest.raises(DiscernError, match=r"^trainer\.devices=4096 .* has \d+ CPU core"):
        train(cfg)


def corrupt(raw, how: str) -> str:
    """Do something to the four files; return the name of the file that must be blamed."""
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    content = images.read_bytes()
    if how == "truncated":
        images.write_bytes(content[: len(content) // 2])
    elif how == "swapped":
        images.write_bytes(labels.read_bytes())
        labels.write_bytes(content)
    elif how == "junk":
        images.write_bytes(bytes(range(256)) * 100)
    elif how == "empty":
        images.write_bytes(b"")
    else:
        images.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return images.name


@pytest.mark.parametrize("how", ["truncated", "swapped", "junk", "empty", "another digest"])
def test_a_corrupt_file_is_named_and_not_trained_on(tiny_mnist, tmp_path, how):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (tiny_mnist / "MNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    blamed = corrupt(raw, how)
    cfg = composed("trainer.accelerator=cpu", f"data.dir={tmp_path / 'data'}", "data.val_size=60")
    cfg.folder = str(tmp_path / "run")
    with pytest.raises(DiscernError, match=blamed):
        train(cfg)
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert blamed in facts["reason"]
    assert facts["metrics"] == {}


def test_more_validation_images_than_there_are(tiny_run):
    with pytest.raises(DiscernError, match=r"^data\.val_size=300 .*300 training images"):
        tiny_run("data.val_size=300")


def test_the_config_is_not_changed_by_the_run(tiny_mnist, tmp_path):
    cfg = composed("data.source=full", f"data.dir={tiny_mnist}", "debug=limit", "data.val_size=60")
    cfg.folder = str(tmp_path)
    before = copy.deepcopy(cfg)
    train(cfg)
    assert cfg == before


def test_pictures_of_the_same_data_are_copied_and_others_drawn(tiny_run, monkeypatch):
    augmented = ("data.augment=shift",)
    first = tiny_run(*augmented, name="first").folder
    drawn = []
    original = outputs.draw_grid
    monkeypatch.setattr(
        outputs, "draw_grid", lambda *args: drawn.append(args[3]) or original(*args)
    )
    pictures = ("samples.png", "augmented.png")
    second = tiny_run(*augmented, "optimizer.lr=0.1", name="second").folder
    assert not drawn
    for name in pictures:
        assert (second / name).read_bytes() == (first / name).read_bytes()
    third = tiny_run("data.augment=shift", "data.seed=5", name="third").folder
    assert drawn == [third / name for name in pictures]
    assert (third / "samples.png").read_bytes() != (first / "samples.png").read_bytes()
    for folder in (first, second):
        for name in pictures:
            (folder / name).unlink()
    fourth = tiny_run(*augmented, name="fourth").folder  # those to copy are gone
    assert drawn[2:] == [fourth / name for name in pictures]


# Which checkpoint the metrics are of


def said_of(caplog, run, *overrides: str) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "discern"):
        run(*overrides)
    (line,) = [each for each in caplog.messages if each.startswith("Metrics of ")]
    return line


def test_the_last_lines_say_which_checkpoint_the_metrics_are_of(tiny_run, caplog, tmp_path):
    line = said_of(caplog, tiny_run, "trainer.max_epochs=3")
    facts = summary(tmp_path / "run")
    assert facts["checkpoint"] == "checkpoints/best.safetensors"
    assert line == f"Metrics of checkpoints/best.safetensors, of epoch {facts['best_epoch']} of 3:"
    page = write_run_page(tmp_path / "run").read_text()
    assert f"Of checkpoints/best.safetensors, from epoch {facts['best_epoch']}" in page
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    tested = said_of(
        caplog, lambda *more: tiny_run(*more, name="tested"), "train=false", f"ckpt_path='{last}'"
    )
    assert tested.endswith("run/checkpoints/last.safetensors:")


def test_without_a_checkpoint_they_are_of_the_last_epoch(tiny_run, caplog, tmp_path):
    told = (
        "Metrics of the weights that training ended with, in epoch {}; none were kept as the best:"
    )
    line = said_of(caplog, tiny_run, "callbacks=none")
    assert line == told.format(2)
    assert summary(tmp_path / "run")["checkpoint"] is None


def test_an_epoch_that_ends_before_its_validation_has_no_best_checkpoint(
    tiny_run, caplog, tmp_path
):
    line = said_of(caplog, tiny_run, "trainer.max_steps=3")
    assert line.endswith("training ended with, in epoch 1; none were kept as the best:")
    assert (tmp_path / "run" / "checkpoints" / "last.safetensors").is_file()
    page = write_run_page(tmp_path / "run").read_text()
    assert "Of the weights that training ended with" in page


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("trainer.max_epochs=0", "0 of 0 epochs"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0 leaves none to train on"),
    ],
)
def test_without_an_epoch_they_are_of_a_network_that_was_not_trained(
    tiny_run, caplog, tmp_path, setting, reason
):
    line = said_of(caplog, tiny_run, setting)
    assert line == "Metrics of a network that was not trained:"
    assert summary(tmp_path / "run")["reason"] == reason
