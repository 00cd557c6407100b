"""A model as a folder that a hub takes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import discern
from discern.commands.card import run
from discern.errors import DiscernError
from discern.models.card import CARD
from discern.models.checkpoint import write
from discern.models.saved import read
from discern.runs.tested import read_tested, write_tested
from made_runs import made_run
from run_files import summary, weights
from starter import invoke


@pytest.fixture
def tested(tiny_run) -> Path:
    return tiny_run("trainer.max_epochs=2", "data.dir=/home/somebody/photos").folder


def parts(folder: Path) -> tuple[dict, str]:
    text = (folder / "README.md").read_text()
    found = re.match(r"^---\n(.*?)\n---\n(.*)$", text, re.DOTALL)
    return yaml.safe_load(found[1]), found[2]


def test_the_header_is_what_hubs_read(tiny_run, tmp_path):
    folder = tiny_run().folder
    run([str(folder), f"out={tmp_path / 'card'}", "license=apache-2.0"])
    header, text = parts(tmp_path / "card")
    assert header["license"] == "apache-2.0"
    assert header["library_name"] == "discern"
    assert header["pipeline_tag"] == "image-classification"
    assert header["datasets"] == ["ylecun/mnist"]
    assert header["metrics"] == ["accuracy", "precision", "recall", "f1"]
    (index,) = header["model-index"]
    (result,) = index["results"]
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"type": "ylecun/mnist", "name": "MNIST", "split": "test"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    measured = summary(folder)["metrics"]["test"]
    assert values["accuracy"] == pytest.approx(measured["accuracy"])
    assert all(type(value) is float for value in values.values())
    for heading in ("How it was trained", "Results", "Calibration", "Confusion", "Intended use"):
        assert f"\n## {heading}\n" in text
    assert "To be filled in by whoever publishes the model" in text
    assert f"**{summary(folder)['calibration']['temperature']:.4g}**" in text
    assert "95 % interval" in text


@pytest.mark.parametrize(("after", "said"), [(0.05, False), (0.2, True)])
def test_a_temperature_that_does_not_help_is_said(tiny_run, tmp_path, after, said):
    folder = tiny_run().folder
    facts = summary(folder)
    facts["calibration"]["test"]["ece"] = [0.1, after]
    (folder / "summary.json").write_text(json.dumps(facts))
    run([str(folder), f"out={tmp_path / 'card'}"])
    _, text = parts(tmp_path / "card")
    assert "It was fitted on 60 validation images" in text
    assert ("does not lower the calibration error of the test images" in text) == said


def test_the_weights_are_a_model_and_readable_without_discern(tiny_run, tmp_path):
    folder = tiny_run("test=false").folder
    run([str(folder), f"out={tmp_path / 'card'}"])
    file = tmp_path / "card" / "model.safetensors"
    saved, expected = load_file(file), weights(folder, "best")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)
    assert discern.load(file).card.temperature == discern.load(folder).card.temperature
    assert {path.name for path in (tmp_path / "card").iterdir()} == {"README.md", file.name}
    header, text = parts(tmp_path / "card")
    assert "model-index" not in header
    assert header["license"] == "unknown"
    assert "has not been tested" in text


def test_no_path_and_no_secret_is_told(tiny_run, tmp_path):
    folder = tiny_run("tags=[mine]").folder
    typed = [
        "data.dir=/home/somebody/photos", "experiment=/home/somebody/mine.yaml",
        "model.init_from=outputs/2026/first", "logger.wandb.api_key=abcdef123456",
        "++some.paths=[/srv/one,/srv/two]", "optimizer.lr=0.001", "callbacks=none",
    ]  # fmt: skip
    (folder / "overrides.yaml").write_text(yaml.safe_dump(typed))
    run([str(folder), f"out={tmp_path / 'card'}"])
    _, text = parts(tmp_path / "card")
    for hidden in ("/home", "somebody", "/srv", "abcdef123456", str(tmp_path), "outputs/2026"):
        assert hidden not in text
    assert "optimizer.lr=0.001" in text
    assert "data.dir=PATH" in text


HOSTILE = ["a|b", "<img src=x onerror=alert(1)>", "c\n---\nd", "[x](javascript:1)", "`e`", "---",
           "$f$", "g: h", "\u202eevil", "#1"]  # fmt: skip


def test_names_from_files_are_text(tiny_run, tmp_path):
    folder = tiny_run().folder
    path = folder / "checkpoints" / "best.safetensors"
    content = read(path)
    content[CARD] |= {"class_names": HOSTILE, "data": {"title": "x\n---\nlicense: mit # <b>|"}}
    write(content, path)
    tested = read_tested(folder)
    tested.predictions.class_names[:] = HOSTILE
    write_tested(tested, folder)
    run([str(folder), f"out={tmp_path / 'card'}"])
    header, text = parts(tmp_path / "card")
    assert header["license"] == "unknown"
    assert header["model-index"][0]["results"][0]["dataset"]["name"].startswith("x\\n---")
    assert not re.search(r"<(?!!-- To be filled in)", text)
    assert "\n---\n" not in text.replace("| --- |", "")
    confusion = text.split("## Confusion")[1].split("##")[0]
    bare = confusion.replace("\\\\", "").replace("\\|", "")
    rows = [line for line in bare.split("\n") if line.startswith("|")]
    assert [row.count("|") for row in rows] == [12] * 12


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "discern card is of one run, and no word means 0"),
        (
            ["{run}", "licence=mit"],
            "not a setting of discern card; did you mean license",
        ),
        (["{run}", "license=MIT License"], "license=MIT License must be a licence's name"),
        (["{run}", "out={run}"], "is not empty; name a new folder"),
        (["{run}", "out={run}/summary.json"], "is a file; it must be a folder"),
        (["nowhere"], "nowhere does not exist"),
        (["x" * 300], "x+ does not exist"),
        (["x" * 300 + "=y"], "x+=y is not a setting of discern card"),
        (["{none}"], "has no checkpoint, and so no model to describe"),
        (["{run}", "{none}"], "is of one run, and .* means 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(tiny_run, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    folder = tiny_run("test=false", "trainer.max_epochs=1").folder if "{run}" in words else tmp_path
    none = made_run(tmp_path / "none")
    with pytest.raises(DiscernError, match=sentence):
        run([word.format(run=folder, none=none) for word in words])


def test_a_card_that_cannot_be_made_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    folder = tiny_run("test=false", "trainer.max_epochs=1").folder
    wanted = [str(folder), f"out={tmp_path / 'card'}"]
    with monkeypatch.context() as patch:
        patch.setattr("discern.reports.model_card.ModelCard.text", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(wanted)
    assert not list((tmp_path / "card").iterdir())
    run(wanted)
    assert {path.name for path in (tmp_path / "card").iterdir()} == {
        "README.md", "model.safetensors",
    }  # fmt: skip


def test_a_folder_that_cannot_be_made_names_the_setting_of_the_command(tiny_run, tmp_path):
    folder = tiny_run("test=false", "trainer.max_epochs=1").folder
    (tmp_path / time.strftime("%Y-%m-%d")).touch()
    with pytest.raises(DiscernError, match=r"choose another with out=FOLDER\.$"):
        run([str(folder), f"dir={tmp_path}"])


def test_the_command(tmp_path):
    done = invoke("card", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "hf upload" in done.stdout
    done = invoke("card", "last", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
