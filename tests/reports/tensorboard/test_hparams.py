"""The table of runs in TensorBoard's HParams tab."""

from __future__ import annotations

import signal
from functools import partial

import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from discern.reports.tensorboard.hparams import settings_of, trial_id
from discern.runs.state import State
from run_files import composed


def read(folder):
    """The settings, whether the end is told, and the last value of each scalar."""
    events = EventAccumulator(str(folder)).Reload()
    found = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in hparams_tags(events)}
    begin = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
    settings = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in begin.hparams.items()
    }
    scalars = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    return settings, metadata.SESSION_END_INFO_TAG in found, scalars


def hparams_tags(events) -> list[str]:
    return list(events.PluginTagToContent(metadata.PLUGIN_NAME))


@pytest.fixture
def tiny_run(tiny_run):
    """With TensorBoard."""
    return partial(tiny_run, "logger=default")


def test_a_run_has_a_row_of_settings_and_metrics(tiny_run):
    result = tiny_run("optimizer=sgd", "optimizer.lr=0.25", "seed=3", "scheduler=cosine")
    settings, ended, scalars = read(result.folder)
    assert ended
    told = {
        "model": "mlp",
        "data": "mnist",
        "optimizer": "sgd",
        "model.hidden": "[8]",
        "optimizer.lr": 0.25,
        "optimizer.nesterov": "false",
        "data.batch_size": 40,
        "data.augment": "none",
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "seed": 3,
        "engine": "auto",
    }
    assert told.items() <= settings.items()
    assert "scheduler.eta_min" in settings
    assert not [name for name in settings if "_target_" in name or name.endswith("dir")]
    for split, metrics in result.metrics.items():
        for name, value in metrics.items():
            tag = f"train-result/{split}/{name}"
            assert scalars[tag] == pytest.approx(value, rel=1e-5), tag
    assert not [path for path in result.folder.rglob("events*") if path.parent != result.folder]


def test_no_run_says_what_columns_the_table_has(tiny_run):
    """TensorBoard would believe the first, and show nothing that only others have."""
    events = EventAccumulator(str(tiny_run().folder)).Reload()
    assert metadata.EXPERIMENT_TAG not in hparams_tags(events)


def test_an_untested_run_has_a_row(tiny_run):
    _, ended, scalars = read(tiny_run("test=false").folder)
    assert ended
    assert "train-result/val/loss" in scalars


def test_a_run_that_only_tests_has_a_row(tiny_run):
    trained = tiny_run()
    path = trained.folder / "checkpoints" / "best.safetensors"
    settings, _, scalars = read(tiny_run("train=false", f"ckpt_path={path}", name="test").folder)
    assert settings["model"] == "mlp"
    loss = scalars["train-result/test/loss"]
    assert loss == pytest.approx(trained.metrics["test"]["loss"], rel=1e-4)
    assert not [tag for tag in scalars if tag.startswith("train-result/val")]


def test_an_interrupted_run_has_what_is_known(tiny_run):
    callback = f"{{_target_: run_files.Signal, step: 9, number: {int(signal.SIGINT)}}}"
    result = tiny_run(f"trainer.callbacks=[{callback.replace(': ', ':')}]")
    assert result.state is State.INTERRUPTED
    settings, ended, scalars = read(result.folder)
    assert settings["model"] == "mlp"
    assert not ended
    assert "train-result/val/loss" in scalars


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_without_the_logger_there_are_no_events(tiny_run, logger):
    assert not list(tiny_run(f"logger={logger}").folder.glob("events*"))


def test_the_choices_have_their_names():
    cfg = composed("model=dropout", "optimizer=adamw")
    chosen = {"model": "dropout", "data": "mnist", "optimizer": "adamw", "scheduler": "none"}
    assert chosen.items() <= settings_of(cfg, chosen).items()


def test_paths_nulls_and_long_lists_are_no_columns():
    cfg = composed("model=efficientnet_lite_transfer")
    settings = settings_of(cfg, {})
    assert settings["model.weights"] == "default"
    assert settings["model.head"] == "[256]"
    assert settings["scheduler"] == "none"
    assert "model.class_weights" not in settings
    OmegaConf.update(cfg, "model.weights", "/home/me/weights.pt")
    OmegaConf.update(cfg, "model.init_from", "/home/me/best.safetensors")
    OmegaConf.update(cfg, "model.class_weights", [1.5] * 100)
    settings = settings_of(cfg, {})
    assert not {"model.weights", "model.init_from", "model.class_weights"} & settings.keys()


def test_the_name_of_a_row_begins_with_the_run_s_and_is_no_other_run_s(tmp_path):
    places = [tmp_path / place / "mon" / "03-04-05_mlp" for place in ("a", "b")]
    one, other = map(trial_id, places)
    assert one.startswith("03-04-05_mlp (mon, ")
    assert one != other
