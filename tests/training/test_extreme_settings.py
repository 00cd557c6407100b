"""A run of a few batches ends in success or in one sentence, whatever its settings."""

from __future__ import annotations

import logging
import re
import shutil
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from discern.config.check import check
from discern.errors import DiscernError
from discern.run import train
from discern.training.job import restore_torch_state
from run_files import TINY, composed, summary

OPTIMIZERS = {
    "adam": {"betas": ["[0,0]", "[0.9,0]", "[0.5,0.5]"], "eps": ["1e-300", "1"]},
    "adamw": {
        "betas": ["[0,0.9]"],
        "fused": ["true", "null", "5"],
        "weight_decay": ["0", "1e300"],
        "amsgrad": ["true", "maybe"],
    },
    "sgd": {"momentum": ["0", "0.9"], "nesterov": ["true", "false"], "dampening": ["0", "5"]},
}
SCHEDULERS = {
    "none": {},
    "cosine": {"interval": ["step", "epoch"], "eta_min": ["0", "1e9"]},
    "step": {"interval": ["step", "epoch"], "step_size": ["1", "1000"], "gamma": ["1", "1e-300"]},
    "plateau": {"interval": ["step", "epoch"], "monitor": ["val/loss", "train/accuracy"]},
    "onecycle": {"pct_start": ["0", "1", "0.1", "0.999", "1e-9"], "max_lr": ["1e-9", "1e9"]},
}
SETTINGS = {
    "trainer.max_epochs": ["-1", "0", "1", "3"],
    "trainer.max_steps": ["-1", "0", "1", "10"],
    "trainer.min_epochs": ["null", "0", "4"],
    "trainer.min_steps": ["null", "4"],
    "trainer.limit_train_batches": ["0", "1", "0.001", "0.5", "1.0", "1000"],
    "trainer.limit_val_batches": ["0", "1", "0.001", "1.0"],
    "trainer.limit_test_batches": ["0", "1", "0.001", "1.0"],
    "trainer.overfit_batches": ["0", "1", "0.001", "0.5"],
    "trainer.val_check_interval": ["1", "0.001", "0.5", "1.0", "1000", "00:00:00:01"],
    "trainer.check_val_every_n_epoch": ["null", "1", "3"],
    "trainer.accumulate_grad_batches": ["1", "1000"],
    "trainer.gradient_clip_val": ["null", "0", "1e-300", "1e300"],
    "trainer.gradient_clip_algorithm": ["null", "norm", "value"],
    "trainer.log_every_n_steps": ["0", "1", "1000"],
    "trainer.num_sanity_val_steps": ["0", "-1", "5"],
    "trainer.precision": ["32", "64", "bf16-true", "bf16-mixed"],
    "trainer.deterministic": ["true", "warn"],
    "trainer.detect_anomaly": ["true"],
    "trainer.inference_mode": ["false"],
    "trainer.fast_dev_run": ["false", "true", "1000"],
    "trainer.reload_dataloaders_every_n_epochs": ["0", "1"],
    "trainer.profiler": ["null", "simple", "advanced"],
    "trainer.sync_batchnorm": ["true"],
    "trainer.barebones": ["true"],
    "trainer.strategy": ["auto", "ddp_spawn", "fsdp"],
    "trainer.use_distributed_sampler": ["false"],
    "optimizer.lr": ["1e-300", "1", "1e300"],
    "model.hidden": ["[]", "[1]", "[8]"],
    "model.dropout": ["0", "0.999"],
    "model.norm": ["none", "batch"],
    "model.mixup": ["0", "1"],
    "model.cutmix": ["0", "1"],
    "model.label_smoothing": ["0", "0.5"],
    "model.class_weights": ["null", "auto"],
    "data.batch_size": ["1", "40", "239", "100000"],
    "data.val_size": ["0", "1", "0.5", "60"],
    "data.fraction": ["0.01", "1", "0.5"],
    "data.sampler": ["none", "balanced"],
    "callbacks.early_stopping.patience": ["0", "1"],
    "callbacks.ema.decay": ["null", "0.5"],
}


def chosen(group: str, choices: dict[str, dict[str, list[str]]]) -> st.SearchStrategy[list[str]]:
    """Overrides that choose of a group, and some of the choice's settings."""

    def of(name: str) -> st.SearchStrategy[list[str]]:
        some = {
            f"++{group}.{key}": st.sampled_from(values) for key, values in choices[name].items()
        }
        typed = st.fixed_dictionaries({}, optional=some)
        return typed.map(lambda more: [f"{group}={name}", *(f"{k}={v}" for k, v in more.items())])

    return st.sampled_from(sorted(choices)).flatmap(of)


SOME = st.lists(
    st.sampled_from(sorted(SETTINGS)).flatmap(
        lambda name: st.sampled_from(SETTINGS[name]).map(lambda value: f"{name}={value}")
    ),
    max_size=4,
    unique_by=lambda override: override.partition("=")[0],
)
ANY = st.tuples(chosen("optimizer", OPTIMIZERS), chosen("scheduler", SCHEDULERS), SOME).map(
    lambda parts: [override for part in parts for override in part]
)
FOLDERS = count()


def ends(data: Path, place: Path, overrides: list[str]) -> str:
    """The sentence that a run is refused with; empty if it is not. It ends in nothing else."""
    folder = place / str(next(FOLDERS))
    ending = ("trainer.max_steps=2", "trainer.max_epochs=2")
    cfg = composed(*TINY, *ending, *overrides)
    cfg.data.dir, cfg.folder = str(data), str(folder)
    if cfg.trainer.max_epochs == -1 and cfg.trainer.max_steps == -1:
        cfg.trainer.max_time = "00:00:00:01"
    refusal = ""
    try:
        check(cfg)
        with restore_torch_state():
            train(cfg)
        assert summary(folder)["state"]
    except DiscernError as error:
        refusal = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert all(line.endswith((".", "?")) for line in refusal.split("\n") if refusal)
    return refusal


ONCE_A_TRACEBACK = {
    "trainer.limit_val_batches=0.1": "",
    "trainer.limit_train_batches=0.001": "",
    "trainer.limit_test_batches=0.001": "",
    "trainer.overfit_batches=0.001": "",
    "trainer.val_check_interval=0.001": "",
    "trainer.limit_val_batches=0 trainer.val_check_interval=1000": "",
    "trainer.val_check_interval=00:00:10:00": "",
    "trainer.val_check_interval=1000": "an epoch has 6 batches, so it must be at most as many",
    "scheduler=cosine ++scheduler.interval=epoch trainer.max_epochs=-1 trainer.max_steps=9": "",
    "scheduler=cosine trainer.max_epochs=-1 trainer.max_steps=-1": "leaves open how long",
    "scheduler=onecycle ++scheduler.pct_start=0": "above 0 and below 1",
    "scheduler=onecycle ++scheduler.pct_start=0.1 trainer.max_steps=10": "phases has no step",
    "scheduler=plateau ++scheduler.interval=step": "it must be epoch, at whose end",
    "scheduler=plateau trainer.check_val_every_n_epoch=2": "",
    "scheduler=plateau trainer.check_val_every_n_epoch=null trainer.val_check_interval=100": "",
    "optimizer.betas=[0,0]": "",
    "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0": "^optimizer: Nesterov",
    "optimizer=sgd optimizer.lr=1e300 trainer.detect_anomaly=true": "^trainer.detect_anomaly=true:",
    "+optimizer.amsgrad=maybe": "it must be true or false",
    "model.mixup=1": "",
    "model.cutmix=1": "",
    "model.norm=batch data.batch_size=239": "",
    "model.norm=batch data.batch_size=239 trainer.limit_train_batches=0.5": "",
    "model.norm=batch data.batch_size=239 trainer.val_check_interval=2": "an epoch has 1 batch,",
    "trainer.limit_train_batches=0.001 trainer.val_check_interval=3": "an epoch has 1 batch,",
    "model.norm=batch data.batch_size=1": "leaves a batch of one image",
    f"trainer.accumulate_grad_batches={10**20}": "9223372036854775807 is the largest number",
    f"trainer.accumulate_grad_batches={2**63 - 1}": "",
    f"data.batch_size={10**20}": "is the largest number",
    f"data.eval_batch_size={2**63 - 1}": "",
    f"threads={2**63 - 1}": "a whole number from 1 to 1024",
    "data.num_workers=100000": "a whole number from 0 to 1024",
    "model.norm=batch data.batch_size=1 find_lr=use": "leaves a batch of one image",
    "model.norm=batch data.batch_size=239 find_lr=use": "",
    "model.norm=batch data.batch_size=auto data.val_size=0.2625": "",
    "trainer.strategy=null": "auto, a strategy's name such as ddp, or",
    "trainer.strategy=ddp_spawn": "must be one that starts the command",
    "trainer.profiler={a:1}": "^trainer.profiler=.*, a _target_ entry, or null",
    "trainer.profiler={_target_:lightning.pytorch.profilers.SimpleProfiler,dirpath:/dev/null/no,"
    "filename:p}": "^/dev/null/?.* cannot be used: Not a directory",
    "trainer.logger=[{a:1}]": "or a _target_ entry",
    "trainer.plugins=abc": "a list of _target_ entries",
    "trainer.plugins=[{_target_:lightning.pytorch.plugins.DoublePrecision}]": "",
    "trainer.overfit_batches=null": "a count of batches",
    "trainer.max_time={}": "a time DD:HH:MM:SS",
    "trainer.max_time={seconds:-5}": "a time DD:HH:MM:SS",
    "trainer.max_time=99999999999:00:00:00": "a time DD:HH:MM:SS",
    "logger.csv.path=/dev/null/no/metrics.csv": "^logger.csv: .*Not a directory",
    "logger=default +logger.tensorboard.flush_secs=abc": "^logger: ",
    "optimizer=sgd +optimizer.differentiable=true": "it must be false: training changes",
    "optimizer=sgd ++optimizer.dampening=abc optimizer.momentum=0.9": "it must be a number",
    "optimizer=sgd ++optimizer.dampening=[1] optimizer.momentum=0.9": "it must be a number",
    "optimizer._target_=torch.optim.SparseAdam ~optimizer.weight_decay": "^optimizer: SparseAdam",
    "scheduler._target_=torch.optim.lr_scheduler.MultiStepLR +scheduler.milestones=[1] "
    "+scheduler.gamma=abc": "^scheduler.gamma=abc .* a number",
    "callbacks.early_stopping.check_on_train_epoch_end=true": "^callbacks: Early stopping cond",
    "+callbacks.last_checkpoint.train_time_interval=5": "null or a _target_ entry",
}
"""Overrides -> what they are refused for; empty where they are allowed."""


@pytest.mark.parametrize("line", ONCE_A_TRACEBACK)
def test_what_ended_in_a_traceback(tiny_mnist, tmp_path, line):
    refusal = ends(tiny_mnist, tmp_path, line.split())
    assert re.search(ONCE_A_TRACEBACK[line] or "^$", refusal), refusal


ONCE_ACCEPTED = {
    "+optimizer.fused=maybe": "^optimizer.fused=maybe .* true, false or null",
    "+optimizer.capturable=abc": "true or false",
    "scheduler=plateau scheduler.monitor=nonsense": "^scheduler.monitor=nonsense is not logged",
    "scheduler=plateau +scheduler.cooldown=abc": "^scheduler.cooldown=abc .* a whole number",
    "scheduler=plateau +scheduler.min_lr=abc": "a list of numbers, or a number",
    "scheduler=onecycle +scheduler.three_phase=abc": "true or false",
    "scheduler._target_=torch.optim.lr_scheduler.MultiStepLR +scheduler.milestones=abc": "a list",
    "callbacks.early_stopping.check_finite=abc": "true or false",
    "+callbacks.early_stopping.stopping_threshold=abc": "a number, or null",
    "callbacks.early_stopping.min_delta=nan": "a number",
    "callbacks.best_checkpoint.filename=last": "two checkpoints have the filename=last",
    "+callbacks.best_checkpoint.save_weights_only=abc": "true or false",
    "logger=default logger.tensorboard.default_hp_metric=abc": "true or false",
}
"""Overrides that were taken, and did nothing or something else -> what they are refused for."""


@pytest.mark.parametrize("line", ONCE_ACCEPTED)
def test_what_was_accepted_and_ignored(tiny_mnist, tmp_path, line):
    refusal = ends(tiny_mnist, tmp_path, line.split())
    assert re.search(ONCE_ACCEPTED[line], refusal), refusal


# The same files for all examples, in a folder of each example's own.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=8, suppress_health_check=SHARED)
@given(overrides=ANY)
@example(overrides=[])
def test_a_run_ends_in_success_or_in_a_sentence(tiny_mnist, tmp_path, overrides):
    ends(tiny_mnist, tmp_path, overrides)


@pytest.mark.slow
@settings(max_examples=250, suppress_health_check=SHARED)
@given(overrides=ANY)
def test_many_runs_end_in_success_or_in_a_sentence(tiny_mnist, tmp_path, overrides):
    ends(tiny_mnist, tmp_path, overrides)


def test_one_batch_at_least_is_taken_and_said(tiny_run, caplog):
    caplog.set_level(logging.INFO)
    result = tiny_run("trainer.limit_val_batches=0.1", "trainer.max_epochs=1")
    assert "trainer.limit_val_batches=0.1 of 1 batch is none: one is taken." in caplog.messages
    assert "val" in result.metrics


def test_an_image_alone_in_the_last_batch_is_left_out_and_said(tiny_run, caplog):
    caplog.set_level(logging.INFO)
    result = tiny_run("model.norm=batch", "data.batch_size=239", "trainer.max_epochs=3")
    assert summary(result.folder)["steps"] == 3
    assert any("each epoch leaves one image out" in message for message in caplog.messages)
    other = tiny_run("data.batch_size=239", "trainer.max_epochs=3", name="other")
    assert summary(other.folder)["steps"] == 6, "without batch normalisation all are used"


@pytest.mark.parametrize("group", ["logger", "callbacks", "scheduler"])
def test_a_group_that_is_deleted_is_none(tiny_run, group):
    without = tiny_run(f"~{group}", name="without")
    none = tiny_run(f"{group}=none", name="none")
    assert without.metrics == none.metrics
    names = [{path.name for path in run.folder.rglob("*")} for run in (without, none)]
    assert names[0] == names[1]
