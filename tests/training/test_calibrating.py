"""The temperature of a run's model."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from discern.models.card import CARD
from discern.models.saved import load
from run_files import checkpoint, same_bits, summary, weights


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO)


def temperature(folder, name="best"):
    return checkpoint(folder, name)[CARD]["temperature"]


def test_the_best_checkpoint_has_it_and_nothing_else_changes(tiny_run, caplog):
    run = tiny_run("trainer.max_epochs=3")
    facts = summary(run.folder)["calibration"]
    found = temperature(run.folder)
    assert found == pytest.approx(facts["temperature"], rel=1e-5)
    assert facts["images"] == 60
    assert load(run.folder).card.temperature == found == run.model.card["temperature"]
    assert temperature(run.folder, "last") is None
    assert f"temperature {found:.4g}" in caplog.text

    # It is fitted to the validation images, and the metrics that training logs are without it.
    before, after = facts["val"]["loss"]
    assert after < before == pytest.approx(run.metrics["val"]["loss"], abs=1e-5)
    assert facts["test"]["loss"][0] == pytest.approx(run.metrics["test"]["loss"], abs=1e-5)
    assert json.loads((run.folder / "summary.json").read_text())["metrics"]["test"].keys() == (
        run.metrics["test"].keys()
    )


def test_the_weights_are_those_that_were_kept(tiny_run, monkeypatch):
    with_it = tiny_run(name="with")
    monkeypatch.setattr("discern.run.calibrate", lambda *_: {"temperature": None})
    without = tiny_run(name="without")
    for name in ("best", "last"):
        assert same_bits(weights(with_it.folder, name), weights(without.folder, name))
    one, other = (checkpoint(each.folder, "best") for each in (with_it, without))
    assert one.keys() == other.keys()
    assert one[CARD].pop("temperature")
    assert other[CARD].pop("temperature") is None
    for name in ("optimizer_states", "loops", "images", "epoch"):
        assert repr(one[name]) == repr(other[name])


def test_a_continued_run_is_that_of_one_piece(tiny_run):
    whole = tiny_run("trainer.max_epochs=4", name="whole")
    first = tiny_run("trainer.max_epochs=2", name="first")
    for start in ("best", "last"):
        path = first.folder / "checkpoints" / f"{start}.safetensors"
        rest = tiny_run("trainer.max_epochs=4", f"ckpt_path={path}", name=f"rest-{start}")
        if start == "last":
            assert same_bits(weights(rest.folder), weights(whole.folder))
            assert temperature(rest.folder) == temperature(whole.folder)
        assert temperature(rest.folder, "last") is None


def test_a_run_that_goes_on_in_its_folder_fits_it_anew(tiny_run):
    first = tiny_run("trainer.max_epochs=1")
    before = temperature(first.folder)
    again = tiny_run("trainer.max_epochs=3", f"ckpt_path={first.folder}")
    assert temperature(again.folder) not in (None, before)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("data.val_size=0", "there are no validation images"),
        ("trainer.limit_val_batches=0", "there are no validation images"),
        ("trainer.overfit_batches=2", "trainer.overfit_batches trains on a few batches only"),
    ],
)
def test_without_validation_there_is_none_and_it_is_said(tiny_run, caplog, override, why):
    run = tiny_run(override, "trainer.max_epochs=1")
    assert temperature(run.folder) is None
    assert summary(run.folder)["calibration"] == {"temperature": None, "reason": why}
    assert f"probabilities stay as they are: {why}." in caplog.text


def test_a_limit_of_batches_is_one_of_its_images_too(tiny_run):
    run = tiny_run("trainer.limit_val_batches=1", "data.eval_batch_size=20")
    assert summary(run.folder)["calibration"]["images"] == 20


def test_a_full_disk_leaves_the_checkpoint_as_it_was(tiny_run, monkeypatch, caplog):
    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("discern.training.calibration.write", full)
    run = tiny_run()
    assert temperature(run.folder) is None
    assert run.model.card["temperature"] is None
    assert "the checkpoint cannot be written: No space left on device" in caplog.text
    assert summary(run.folder)["state"] == "done"


def test_a_run_that_was_interrupted_has_none(tiny_run):
    run = tiny_run("trainer.callbacks=[{_target_: run_files.Signal, step: 8, number: 15}]")
    assert run.state == "interrupted"
    assert temperature(run.folder) is None
    assert "calibration" not in summary(run.folder)


def test_half_precision_is_fitted_as_it_is_used(tiny_run):
    run = tiny_run("trainer.precision=bf16-mixed")
    assert torch.isfinite(torch.tensor(temperature(run.folder)))
