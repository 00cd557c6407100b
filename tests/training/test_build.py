from __future__ import annotations

import sys

import pytest
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from discern.errors import DiscernError
from discern.training.build import build_trainer
from run_files import composed, metrics_csv, same_bits, weights


def test_what_is_trained_later_is_not_shared_between_processes():
    cfg = composed(
        "model=densenet_transfer", "callbacks=finetune", "trainer.devices=2",
        "trainer.strategy=ddp", "trainer.accelerator=cpu", "logger=none",
    )  # fmt: skip
    cfg.folder = "unused"
    with pytest.raises(DiscernError, match=r"^callbacks=finetune is not allowed with trainer\.dev"):
        build_trainer(cfg, [])


@pytest.mark.parametrize("version", ["2.7.0", "3.0.0"])
def test_another_release_of_lightning_trains_by_its_own_loop_to_the_same_weights(
    tiny_run, monkeypatch, caplog, version
):
    """Its private classes, which discern.training.loop extends, may have gone."""
    ours = tiny_run(name="ours")
    monkeypatch.setattr("discern.training.build.release", lambda name: version)
    monkeypatch.setitem(sys.modules, "discern.training.loop", None)
    trainer = build_trainer(composed("logger=none"), [])
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    assert f"Lightning {version} is not 2.6.x: its own epoch loop trains" in caplog.text
    stock = tiny_run(name="stock")
    assert stock.metrics == ours.metrics
    assert same_bits(weights(stock.folder), weights(ours.folder))


def test_many_loggers_are_those_that_are_installed(tiny_run, capsys, caplog, monkeypatch):
    monkeypatch.setattr("discern.training.build.find_spec", lambda _: None)
    caplog.set_level("INFO", "discern")
    chosen = ("logger=many", "callbacks=model_summary", "print_config=true")
    result = tiny_run(*chosen, "trainer.max_epochs=1")
    assert metrics_csv(result.folder)
    assert list(result.folder.glob("events.out.tfevents.*"))
    assert any(
        "mlflow and wandb; pip install 'discern[mlflow,wandb]'" in m for m in caplog.messages
    )
    shown = capsys.readouterr().out
    assert "├── seed: 0" in shown
    assert "hidden: [8]" in shown
    assert "Total params: " in shown
