"""Several views of an image, several models, and what they gain over a single one."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import run_files
from discern.commands.evaluate import evaluate
from discern.errors import DiscernError
from discern.models.card import CARD
from discern.models.checkpoint import write
from discern.models.combined import Flip
from discern.models.saved import load, read
from discern.reports.paired import mcnemar
from discern.runs.tested import read_tested


@pytest.fixture
def evaluated(tiny_mnist, tmp_path, monkeypatch, caplog):
    """Evaluates checkpoints on ``tiny_mnist``; returns the result."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Figure, "savefig", run_files.one_pixel)

    def run(wanted: object, *overrides: str, name: str = "evaluation"):
        several = isinstance(wanted, list)
        path = f"[{','.join(map(repr, map(str, wanted)))}]" if several else f"'{wanted}'"
        overrides = (f"ckpt_path={path}", f"data.dir='{tiny_mnist}'", *overrides)
        cfg = run_files.composed(*overrides, command="evaluate")
        cfg.folder = str(tmp_path / name)
        return evaluate(cfg)

    return run


@pytest.fixture
def three(tiny_run) -> list[Path]:
    """Three runs on the same images."""
    return [
        tiny_run(
            f"seed={seed}", "data.seed=0", "model.norm=batch", "test=false", name=f"run{seed}"
        ).folder
        for seed in range(3)
    ]


def facts(evaluation) -> dict:
    return json.loads((evaluation.folder / "metrics.json").read_text())


def test_calibration_is_shown_before_and_after(tiny_run, evaluated, caplog):
    run = tiny_run("trainer.max_epochs=3")
    on, off = evaluated(run.folder), evaluated(run.folder, "temperature=off", name="off")
    temperature = load(run.folder).card.temperature
    assert facts(on)["temperature"] == pytest.approx(temperature)
    assert facts(off)["temperature"] is None
    assert facts(off)["before_temperature"] is None
    for name in ("loss", "ece"):
        assert facts(on)["before_temperature"][name] == facts(off)["metrics"][name]
        assert facts(on)["metrics"][name] != facts(off)["metrics"][name]
    for name in ("accuracy", "precision", "recall", "f1", "top5_error"):
        assert facts(on)["metrics"][name] == facts(off)["metrics"][name]
    assert (on.predictions.predicted == off.predictions.predicted).all()
    assert f"calibration error before temperature {temperature:.4g}" in caplog.text

    # Those of the run's own test, which has no temperature.
    tested = read_tested(run.folder)
    assert off.predictions.probabilities == pytest.approx(
        tested.predictions.probabilities, abs=1e-6
    )


def test_a_checkpoint_without_a_temperature_is_as_it_is(tiny_run, evaluated, tmp_path, caplog):
    content = read(tiny_run().folder / "checkpoints" / "best.safetensors")
    del content[CARD]["temperature"]
    write(content, tmp_path / "old.safetensors")
    found = facts(evaluated(tmp_path / "old.safetensors"))
    assert found["temperature"] is None
    assert "before temperature" not in caplog.text


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e9, "2", True])
def test_a_temperature_that_no_run_writes_is_refused(tiny_run, evaluated, tmp_path, value):
    content = read(tiny_run("test=false").folder / "checkpoints" / "best.safetensors")
    content[CARD]["temperature"] = value
    write(content, tmp_path / "forged.safetensors")
    with pytest.raises(DiscernError, match="does not describe a model: temperature"):
        evaluated(tmp_path / "forged.safetensors")


def test_flip_is_against_the_single_model(tiny_run, evaluated, caplog):
    run = tiny_run("trainer.max_epochs=3")
    single, flipped = evaluated(run.folder, name="one"), evaluated(run.folder, "tta=flip")
    (row,) = facts(flipped)["singles"]
    right, right_flipped = single.predictions.correct, flipped.predictions.correct
    assert row["only_single_right"] == int((right & ~right_flipped).sum())
    assert row["only_measured_right"] == int((~right & right_flipped).sum())
    assert row["p"] == pytest.approx(mcnemar(row["only_single_right"], row["only_measured_right"]))
    assert row["accuracy"] == pytest.approx(right.mean())
    assert facts(single)["singles"] == []
    assert "McNemar's p" in caplog.text
    with (flipped.folder / "singles.csv").open() as file:
        (cells,) = csv.DictReader(file)
    assert float(cells["p"]) == pytest.approx(row["p"])

    network = load(run.folder)
    images, _ = run_files.sample_test_split()
    with torch.inference_mode():
        expected = Flip(network)(images[:100])  # of logits: the classes alone are compared
    assert expected.shape == (100, 10)
    assert "mlp with tta=flip" in flipped.title


def test_random_views_are_those_of_the_training_and_seeded(tiny_run, evaluated):
    run = tiny_run("data.augment=shift", "trainer.max_epochs=3")
    one, again, other = (
        evaluated(run.folder, "tta=3", f"seed={seed}", name=f"views{number}")
        for number, seed in enumerate((1, 1, 2))
    )
    assert (one.predictions.probabilities == again.predictions.probabilities).all()
    assert (one.predictions.probabilities != other.predictions.probabilities).any()
    assert (one.predictions.labels == evaluated(run.folder, name="one").predictions.labels).all()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "tta=3",
            r"tta=3 shows views of the training .*\+data\.augment=CHOICE says which: flip, shift",
        ),
        ("tta=five_crop", r"tta=five_crop is not possible: the model sees 28 × 28 pixels"),
    ],
)
def test_views_that_would_show_nothing_new(tiny_run, evaluated, override, sentence):
    run = tiny_run("test=false", "trainer.max_epochs=1")
    with pytest.raises(DiscernError, match=sentence):
        evaluated(run.folder, override)
    if override == "tta=3":  # an augmentation may be named
        evaluated(run.folder, override, "+data.augment=shift", name="named")


def test_several_models_are_the_mean_of_their_probabilities(three, evaluated):
    together = evaluated(three)
    each = [evaluated(path, name=f"of{n}").predictions for n, path in enumerate(three)]
    mean = np.mean([one.probabilities for one in each], axis=0)
    assert together.predictions.probabilities == pytest.approx(mean, abs=1e-6)
    found = facts(together)
    assert [row["accuracy"] for row in found["singles"]] == [
        pytest.approx(one.correct.mean()) for one in each
    ]
    assert found["ensemble"] == "mean"
    assert len(found["checkpoints"]) == 3
    raw = evaluated(three, "temperature=off", "tta=flip", name="raw")
    assert len(facts(raw)["singles"]) == 3


def test_a_soup_is_one_model_with_the_mean_of_the_weights(three, evaluated, tmp_path, caplog):
    out = tmp_path / "mine.safetensors"
    result = evaluated(three, "ensemble=soup", f"out='{out}'")
    states = [run_files.weights(path, "best") for path in three]
    soup = read(out)["state_dict"]
    for name, part in soup.items():
        mean = torch.stack([state[name].double() for state in states]).mean(0)
        if "running" in name:  # measured anew
            assert not torch.allclose(part.double(), mean)
        elif part.is_floating_point():
            assert torch.allclose(part.double(), mean)
    assert "batch normalisation are measured anew on 240 training images" in caplog.text
    alone = evaluated(out, name="alone")
    assert (alone.predictions.predicted == result.predictions.predicted).all()
    assert alone.predictions.probabilities == pytest.approx(result.predictions.probabilities)
    assert facts(alone)["trained_on"] == 0
    assert len(facts(result)["singles"]) == 3
    evaluated(three, "ensemble=soup", name="default")
    assert (tmp_path / "default" / "soup.safetensors").is_file()


def test_images_that_any_member_is_trained_on_are_not_for_its_validation(tiny_run, evaluated):
    runs = [
        tiny_run(f"seed={n}", f"data.seed={n}", "test=false", name=f"run{n}").folder for n in (0, 1)
    ]
    alone = [evaluated(path, "split=val", name=f"of{n}") for n, path in enumerate(runs)]
    both = evaluated(runs, "split=val")
    shared = set(alone[0].predictions.indices) & set(alone[1].predictions.indices)
    assert set(both.predictions.indices) == shared
    assert facts(both)["trained_on"] == 0


def test_models_that_are_no_ensemble(tiny_run, evaluated, tmp_path):
    one = tiny_run("test=false", "trainer.max_epochs=1", name="one").folder
    other = tiny_run("test=false", "trainer.max_epochs=1", "model.hidden=[9]", name="other").folder
    scaled = tiny_run("test=false", "trainer.max_epochs=1", "data.mean=0.1", name="scaled").folder
    changed = {}
    for name, card in (
        ("data", {"data": {"fingerprint": "f" * 64}}),
        ("classes", {"class_names": [*"abcdefghij"]}),
    ):
        content = read(one / "checkpoints" / "best.safetensors")
        content[CARD] |= card
        changed[name] = tmp_path / f"{name}.safetensors"
        write(content, changed[name])
    for second, overrides, sentence in (
        (
            other,
            ["ensemble=soup"],
            r"ensemble=soup is the mean of the weights of one .*model\.hidden",
        ),
        (scaled, [], "were trained on different preprocessing"),
        (changed["data"], [], "were trained on different data"),
        (changed["classes"], [], "were trained on different classes"),
    ):
        with pytest.raises(DiscernError, match=sentence):
            evaluated([one, second], *overrides)
    assert not (tmp_path / "evaluation" / "soup.safetensors").exists()
    evaluated([one, other])
