from __future__ import annotations

import importlib.util
import inspect

import lightning
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from discern.config.check import check
from discern.config.schema import TrainerSettings
from discern.config.user_config import conf_dir
from discern.errors import DiscernError, as_override
from run_files import REPOSITORY, composed


def complaint(*overrides: str) -> str:
    with pytest.raises(DiscernError) as caught:
        check(composed(*overrides))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence


def test_the_trainer_takes_exactly_what_lightning_takes():
    parameters = list(inspect.signature(lightning.Trainer.__init__).parameters)
    assert sorted(TrainerSettings.model_fields) == sorted(parameters[1:])


def test_the_config_is_that_of_the_repository():
    assert conf_dir() == REPOSITORY / "conf"


# What is allowed


@pytest.mark.parametrize(
    "override",
    [
        "model.hidden=[]",
        "model.hidden=[1]",
        "model.hidden=[300,200,100]",
        "model.activation=gelu",
        "model.dropout=0",
        "model.dropout=0.999",
        "data.val_size=0",
        "data.val_size=0.0",
        "data.val_size=59999",
        "data.val_size=0.5",
        "data.num_workers=2",
        "optimizer.lr=1",
        "optimizer.lr=1e-9",
        "+optimizer.amsgrad=true",
        "seed=0",
        "seed=4294967295",
        "threads=2",
        "tags=[a,1,2.5]",
        "trainer.max_epochs=-1",
        "trainer.max_epochs=null",
        "trainer.max_time=00:00:05:00",
        "trainer.max_time={minutes: 5}",
        "trainer.limit_train_batches=10",
        "trainer.limit_train_batches=0.1",
        "trainer.precision=16-mixed",
        "trainer.precision=32",
        "trainer.devices=auto",
        "trainer.devices=[0,1]",
        "trainer.accelerator=gpu",
        "accelerator=gpu",
        "trainer.overfit_batches=1",
        "trainer.overfit_batches=0.1",
        "trainer.val_check_interval=0.25",
        "trainer.val_check_interval=100",
        "trainer.fast_dev_run=3",
        "trainer.fast_dev_run=true",
        "trainer.profiler=simple",
        "trainer.logger=false",
        "trainer.gradient_clip_val=0.5",
        "trainer.callbacks=[{_target_: lightning.pytorch.callbacks.LearningRateMonitor}]",
        "trainer.deterministic=warn",
        "trainer.strategy=ddp",
        "callbacks.early_stopping.patience=0",
        "callbacks.early_stopping=null",
        "callbacks.early_stopping.min_delta=0.01",
        "logger=none",
        "callbacks=none",
    ],
)
def test_allowed(override):
    check(composed(override))


def test_a_class_of_ones_own_is_not_checked():
    check(composed("model._target_=my.Network", "model.hidden=-5", "+model.depth=x"))


@given(st.lists(st.integers(1, 10_000), max_size=6), st.floats(0, 0.999), st.integers(0, 2**32 - 1))
def test_any_sensible_network_and_seed_is_allowed(hidden, dropout, seed):
    cfg = BASE.copy()
    cfg.model.hidden, cfg.model.dropout, cfg.seed = hidden, dropout, seed
    check(cfg)


BASE = composed()


# What is not


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("model.hidden=[0]", "whole numbers above 0"),
        ("model.hidden=[1.5]", "whole numbers above 0"),
        ("model.hidden=[a]", "whole numbers above 0"),
        ("model.hidden=3", "a list"),
        ("model.hidden=null", "a list"),
        ("model.dropout=1", "below 1"),
        ("model.dropout=-0.1", "below 1"),
        ("model.dropout=nan", "below 1"),
        ("model.activation=null", "relu"),
        ("data.val_size=1.0", "fraction"),
        ("data.val_size=-1", "fraction"),
        ("data.val_size=60000", "59999"),
        ("data.batch_size=2.5", "a whole number"),
        ("data.batch_size=null", "a whole number"),
        ("data.batch_size=true", "a whole number"),
        ("data.eval_batch_size=0", "above 0"),
        ("data.source=ful", "did you mean full?"),
        ("data.std=0", "above 0"),
        ("data.mean=inf", "a number"),
        ("optimizer.lr=0", "above 0"),
        ("optimizer.lr=inf", "above 0"),
        ("optimizer.lr=nan", "above 0"),
        ("optimizer.betas=[0.9]", "a list of 2 numbers"),
        ("optimizer.betas=[0.9,1]", "below 1"),
        ("optimizer.weight_decay=-1", "0 or above"),
        ("seed=-1", "4294967295"),
        ("seed=4294967296", "4294967295"),
        ("seed=1.5", "whole number"),
        ("threads=0", "auto"),
        ("threads=many", "auto"),
        ("train=1", "true or false"),
        ("test=maybe", "true or false"),
        ("tags=word", "a list"),
        ("trainer.max_epochs=-2", "-1"),
        ("trainer.max_epochs=1.5", "whole number"),
        ("trainer.max_steps=-2", "-1"),
        ("trainer.limit_train_batches=1.5", "fraction"),
        ("trainer.limit_val_batches=-1", "fraction"),
        ("trainer.accelerator=gpus", "did you mean gpu"),
        ("trainer.precision=17", "bf16-mixed"),
        ("trainer.precision=bf16_mixed", "did you mean bf16-mixed"),
        ("trainer.gradient_clip_val=-1", "0 or above"),
        ("trainer.gradient_clip_algorithm=l2", "norm, value or null"),
        ("trainer.accumulate_grad_batches=0", "above 0"),
        ("trainer.check_val_every_n_epoch=0", "above 0"),
        ("trainer.val_check_interval=1.5", "fraction"),
        ("trainer.detect_anomaly=2", "true or false"),
        ("trainer.profiler=simpel", "simple"),
        ("trainer.max_time=999999999:99:99:99", "a time DD:HH:MM:SS"),
        ("cache.shard=17/16", "from 1/16 to 16/16"),
        ("cache.shard=1/", "from 1/16 to 16/16"),
        ("cache.mode=of", "did you mean off?"),
        ("callbacks.early_stopping.patience=-1", "0 or above"),
        ("callbacks.early_stopping.mode=least", "min, max or null"),
        ("callbacks.early_stopping.mode=max", "of which less is better; it must be min"),
        ("callbacks.best_checkpoint.mode=max", "of which less is better; it must be min"),
    ],
)
def test_not_allowed(override, allowed):
    sentence = complaint(override)
    setting, _, value = override.partition("=")
    assert sentence.startswith(f"{setting}=")
    assert value.rstrip("0") in sentence
    assert allowed in sentence.removeprefix(override)


@pytest.mark.parametrize(
    ("overrides", "setting", "allowed"),
    [
        (["scheduler=step", "scheduler.step_size=0"], "scheduler.step_size=0", "above 0"),
        (["scheduler=step", "scheduler.gamma=0"], "scheduler.gamma=0", "at most 1"),
        (["scheduler=plateau", "scheduler.factor=1"], "scheduler.factor=1", "below 1"),
        (["scheduler=plateau", "scheduler.patience=-1"], "scheduler.patience=-1", "0 or above"),
        (["scheduler=cosine", "scheduler.interval=day"], "scheduler.interval=day", "step or epoch"),
        (["scheduler=cosine", "scheduler.eta_min=-1"], "scheduler.eta_min=-1", "0 or above"),
        (["scheduler=onecycle", "scheduler.pct_start=2"], "scheduler.pct_start=2", "below 1"),
        (["optimizer=sgd", "optimizer.momentum=1"], "optimizer.momentum=1", "below 1"),
        (["optimizer=sgd", "optimizer.nesterov=1"], "optimizer.nesterov=1", "true or false"),
    ],
)
def test_not_allowed_in_a_choice(overrides, setting, allowed):
    sentence = complaint(*overrides)
    assert sentence.startswith(f"{setting} is not allowed; ")
    assert allowed in sentence


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("+model.hiden=[3]", "did you mean hidden"),
        ("+data.batchsize=3", "did you mean batch_size"),
        ("+trainer.max_epoch=3", "did you mean max_epochs"),
        ("+model.xyz=3", "there are activation, class_weights, cutmix, dropout, "),
    ],
)
def test_a_setting_added_with_a_plus_is_not_taken_for_another(override, nearest):
    sentence = complaint(override)
    assert sentence.startswith(f"{override[1:].partition('=')[0]} is not a setting; ")
    assert nearest in sentence


def test_a_setting_taken_away_is_missed():
    assert complaint("~model.dropout") == (
        "model.dropout is missing; it must be a probability, 0 or above and below 1."
    )


def test_a_value_that_is_taken_from_another_setting_is_refused_once():
    assert complaint("data.val_size=-3", "seed=${data.val_size}").startswith("data.val_size=-3 is ")


def test_an_interpolation_that_leads_nowhere():
    assert "nowhere" in complaint("optimizer.lr=${nowhere}")


def test_a_checkpoint_must_be_there(tmp_path):
    assert complaint(f"ckpt_path={tmp_path}").startswith(f"ckpt_path={tmp_path} ")
    path = tmp_path / "some.safetensors"
    path.write_text("")
    check(composed(f"ckpt_path={path}"))
    check(composed(f"ckpt_path={path}", "train=false"))


def test_checking_changes_nothing():
    cfg = composed()
    before = OmegaConf.to_yaml(cfg)
    check(cfg)
    assert OmegaConf.to_yaml(cfg) == before


# A value as it is typed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-3, "0.001"),
        ("relu", "relu"),
        ([128, 64], "[128,64]"),
        ([], "[]"),
        ({"minutes": 5, "deep": [None]}, "{minutes:5,deep:[null]}"),
    ],
)
def test_a_value_is_shown_as_one_would_type_it(value, text):
    assert as_override(value) == text


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(plain, max_size=3))
def test_what_is_shown_can_be_typed(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"key={as_override(value)}"])
    assert override.value() == value


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert complaint(f"logger={name}") == (
        f"logger.{name} needs the package {name}, which is not installed; "
        f"pip install 'discern[{name}]' brings it."
    )


def test_classes_that_are_numbers_have_weights_by_name():
    check(composed("model.class_weights={0:1,1:2,10:3}"))
    with pytest.raises(DiscernError, match=r"\{0:1,10:-2\} is not allowed; it must be auto"):
        check(composed("model.class_weights={0:1,10:-2}"))
