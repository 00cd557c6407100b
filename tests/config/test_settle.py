"""What a config becomes before it is used: texts read, paths placed, settings left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from discern.config.check import check
from discern.config.settle import LEFT_OUT, settle_sweep
from discern.errors import DiscernError
from discern.files.places import expanded, placed, started_in
from run_files import composed, composed_by_hydra


def checked(*overrides: str):
    cfg = composed(*overrides)
    check(cfg)
    return cfg


# Interpolations


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optimizer.lr", "0.003", 0.003),
        ("optimizer.lr", " 1e-3 ", 0.001),
        ("optimizer.lr", "1", 1),
        ("optimizer.betas", "[0.5,0.9]", [0.5, 0.9]),
        ("trainer.max_epochs", "3", 3),
        ("trainer.gradient_clip_val", "null", None),
        ("trainer.limit_train_batches", "0.5", 0.5),
        ("trainer.precision", "32", 32),
        ("test", "false", False),
        ("find_lr", "use", "use"),
        ("model.hidden", "[16,8]", [16, 8]),
        ("model.activation", "gelu", "gelu"),
        ("callbacks.early_stopping.patience", "7", 7),
        ("tags", "[a,1]", ["a", 1]),
        ("data.dir", "2024", "2024"),
        ("data.dir", "a=b, [c]", "a=b, [c]"),
        ("data.dir", "a${b", "a${b"),
        ("model.init_from", "null", None),
        ("cache.max_gb", "2.5", 2.5),
    ],
)
def test_a_text_of_the_environment_is_read_as_if_typed(monkeypatch, name, text, value):
    monkeypatch.setenv("TEXT", text)
    found = OmegaConf.select(checked(f"{name}=${{oc.env:TEXT}}"), name)
    assert repr(OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == repr(
        value
    )


def test_items_of_a_list_and_what_refers_to_another_setting(monkeypatch):
    monkeypatch.setenv("N", "16")
    monkeypatch.setenv("LR", "0.5")
    cfg = checked("model.hidden=[${oc.env:N},8]", "scheduler=onecycle", "optimizer.lr=${oc.env:LR}")
    assert cfg.model.hidden == [16, 8]
    assert repr(cfg.scheduler.max_lr) == "0.5"
    assert OmegaConf.is_interpolation(cfg.scheduler, "max_lr")  # it follows what a search finds


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("optimizer.lr", "fast"), ("optimizer.lr", "3)"), ("optimizer.lr", ""),
        ("optimizer.lr", "1,2"), ("optimizer.lr", "nan"), ("trainer.max_epochs", "2.5"),
        ("test", "perhaps"), ("seed", "-1"), ("model.hidden", "16"), ("optimizer.lr", "true"),
    ],
)  # fmt: skip
def test_a_text_that_is_none_of_the_kind_is_refused_in_a_sentence(monkeypatch, name, text):
    monkeypatch.setenv("TEXT", text)
    with pytest.raises(DiscernError) as caught:
        check(composed(f"{name}=${{oc.env:TEXT}}"))
    assert str(caught.value).startswith(f"{name}={text} is not allowed; it must be ")


@settings(max_examples=30)  # a config is composed for each
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_every_number_survives(number):
    assert checked(f"optimizer.lr=${{oc.env:NO_SUCH,'{number!r}'}}").optimizer.lr == number
    assert checked(f"optimizer.lr={number!r}").optimizer.lr == number


def test_further_arguments_of_libraries_are_numbers_too(monkeypatch):
    monkeypatch.setenv("N", "5")
    cfg = checked("+optimizer.dampening=${oc.env:N}", "scheduler=onecycle",
                  "scheduler.div_factor=${oc.env:N}")  # fmt: skip
    assert repr(cfg.optimizer.dampening) == repr(cfg.scheduler.div_factor) == "5"


def test_settings_of_a_sweep_are_numbers_too(monkeypatch):
    monkeypatch.setenv("N", "5")
    cfg = OmegaConf.create({"hydra": {"launcher": {"n_jobs": "${oc.env:N}"}, "sweeper": {}}})
    settle_sweep(cfg)
    assert cfg.hydra.launcher.n_jobs == 5


# Paths


def test_home_is_home_wherever_the_path_is_said(monkeypatch):
    home = os.environ["HOME"]
    monkeypatch.setenv("TEXT", "~/a=b")
    assert checked("data.dir=${oc.env:TEXT}").data.dir == f"{home}/a=b"
    monkeypatch.setenv("DISCERN_DATA_DIR", "~/data")
    assert checked().data.dir == f"{home}/data"
    assert checked("cache.dir='~'").cache.dir == home
    assert checked("data.dir='a/~/b'").data.dir == "a/~/b"
    assert checked("data.dir='~nobody-of-that-name/x'").data.dir == "~nobody-of-that-name/x"


def test_nobody_has_no_home():
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("~/x") == Path.home() / "x"


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """Hydra has gone to the folder of a job."""
    (tmp_path / "start" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "start")
    cfg = composed_by_hydra()
    runtime = {"cwd": str(Path.cwd()), "output_dir": str(Path("run").absolute())}
    hydra = {"job": {"chdir": True}, "runtime": runtime}
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": hydra})
    monkeypatch.chdir("run")
    yield cfg
    HydraConfig.instance().cfg = None


def test_relative_paths_are_those_of_where_it_was_started(moved, tmp_path, monkeypatch):
    start = tmp_path / "start"
    (start / "a.ckpt").touch()
    assert started_in() == start
    moved.data.dir, moved.ckpt_path, moved.cache.dir = "photos", "a.ckpt", "/x"
    check(moved)
    assert moved.data.dir == str(start / "photos")
    assert moved.ckpt_path == str(start / "a.ckpt")
    assert moved.cache.dir == "/x"
    assert placed("~/x") == Path.home() / "x"
    monkeypatch.chdir(tmp_path)  # somebody has gone on: a notebook, the next test
    assert started_in() == tmp_path


# What is left out


def test_a_setting_that_a_file_leaves_out_is_not_there():
    cfg = checked(f"optimizer.eps='{LEFT_OUT}'", f"callbacks.ema='{LEFT_OUT}'")
    assert "eps" not in cfg.optimizer
    assert "ema" not in cfg.callbacks
    assert "lr" in cfg.optimizer
