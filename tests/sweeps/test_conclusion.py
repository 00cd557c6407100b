"""What a sweep says of its best job: the command and the file that train it again."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from discern.config.check import _restore_deleted_groups, as_typed_settings
from discern.config.foreign import to_be_allowed
from discern.config.settle import leave_out, place_paths
from discern.config.typed import for_hydra, parsed
from discern.sweeps.conclusion import as_experiment, command
from discern.sweeps.rows import Job
from run_files import composed

TYPED = [
    "optimizer=sgd", "optimizer=adamw", "optimizer.lr=0.2", "seed=3",
    "~optimizer.eps", "~optimizer.betas", "~optimizer.weight_decay=0.0", "~optimizer.momentum",
    "+optimizer.amsgrad=true", "++optimizer.eps=1e-7", "optimizer={lr: 0.3, eps: 1}",
    "optimizer.lr=${oc.env:LR,0.5}", "scheduler=cosine", "scheduler=onecycle", "~scheduler",
    "~scheduler.eta_min", "~logger", "logger=csv", "~logger.tensorboard",
    "~callbacks", "callbacks=none", "callbacks=finetune", "~callbacks.early_stopping",
    "callbacks.early_stopping=null", "callbacks.early_stopping.patience=2", "~callbacks.dashboard",
    "~callbacks.ema", "model=dropout", "model.hidden=[16,8]", "~model.label_smoothing",
    "~model.hidden", "model._target_=mine.Net", "+model.width=3", "+model.width=[1,{a: 2}]",
    "~model.width", "model.label_smoothing=0.1", "data=fashion_mnist", "data=cifar10",
    "data.dir=a=b, [c] 'd' #e", "data.dir=1e3", "data.dir=2024", "data.dir=null", "data.dir=true",
    "data.dir=a${b", "data.dir=~/x", "model.init_from=a.ckpt", "cache.dir=x y", "debug=limit",
    "debug=overfit", "trainer.max_epochs=7", "experiment=mnist_sgd", "accelerator=cpu",
    "experiment=fashion_best", "experiment=[mnist_sgd,fashion_adam]",
    "+optimizer.lr=9", "tags=[x]", "test=false", "report=false",
    "++trainer.callbacks=[{_target_: x, how: '1e3'}]",
    "~optimizer.lr", "~callbacks.progress", "trainer.precision='32'",
]  # fmt: skip


def job(typed: list[str]) -> Job:
    """A job of a sweep, with its overrides as the sweeper knows them."""
    told = for_hydra(typed, as_typed_settings(), multirun=False)
    overrides = [parsed(each) for each in told]
    assume(not any(override is None or override.is_sweep_override() for override in overrides))
    return Job(
        0, "job", {each.get_key_element(): each.get_value_element_as_str() for each in overrides}
    )


def config(*typed: str) -> dict:
    cfg = composed(*for_hydra(typed, as_typed_settings(), multirun=False))
    leave_out(cfg)
    _restore_deleted_groups(cfg)
    place_paths(cfg, as_typed_settings())
    return OmegaConf.to_container(cfg)


def same_config(typed: list[str]) -> None:
    again = job(typed)
    try:
        expected = config(*shlex.split(command(again))[2:])
    except Exception:  # of whatever kind Hydra's are: such a job was none
        assume(False)
    with tempfile.TemporaryDirectory() as folder:  # a name of its own: what is read is kept
        path = Path(folder) / "best.yaml"
        path.write_text(as_experiment(again))
        # What else would be a stranger's is allowed by what is printed with the file's name.
        entries = to_be_allowed(yaml.safe_load(path.read_text()))
        allowed = f"allow_targets=[{','.join(entries)}]"
        found = config(f"experiment={path}", *([allowed] if entries else []))
        found.pop("allow_targets"), expected.pop("allow_targets")
        assert found == expected, path.read_text()


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TYPED), max_size=6))
def test_the_file_trains_what_the_command_trains(typed):
    same_config(typed)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(st.sampled_from(TYPED), max_size=12))
def test_the_file_trains_what_the_command_trains_whatever_was_typed(typed):
    same_config(typed)


@pytest.mark.parametrize("typed", TYPED)
def test_the_file_has_each_override(typed):
    before = {
        "+optimizer.lr=9": "~optimizer.lr",
        "+model.width": "+model.width=1",
        "~model.width": "+model.width=1",
    }
    sgd = ["optimizer=sgd"] if typed == "~optimizer.momentum" else []
    cosine = ["scheduler=cosine"] if typed == "~scheduler.eta_min" else []
    kept = [before[typed]] if typed in before else []
    if not typed.endswith(","):
        same_config([*sgd, *cosine, *kept, typed])


def test_what_a_file_leaves_out_can_be_given_again(tmp_path, monkeypatch):
    path = tmp_path / "best.yaml"
    path.write_text(as_experiment(job(["~optimizer.eps"])))
    assert "eps" not in config(f"experiment={path}")["optimizer"]
    assert config(f"experiment={path}", "optimizer.eps=1")["optimizer"]["eps"] == 1
