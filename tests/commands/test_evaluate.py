from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

import run_files
from discern.commands.evaluate import data_settings, evaluate
from discern.config.check import check
from discern.data.published.mnist import read_sample
from discern.errors import DiscernError
from discern.models.card import CARD, parsed
from discern.models.checkpoint import write
from discern.models.saved import load, read
from discern.run import train
from discern.training.build import build_data
from run_files import summary
from starter import invoke

FILES = {
    "metrics.json",
    "per_class.csv",
    "predictions.csv",
    "confusion_matrix.png",
    "top_losses.png",
    "reliability.png",
    "config.yaml",
}


def composed(*overrides: str):
    return run_files.composed(*overrides, command="evaluate")


@pytest.fixture
def evaluated(tiny_mnist, tmp_path):
    """Evaluates a checkpoint on ``tiny_mnist``; returns the folder that was written."""

    def run(
        checkpoint: Path, *overrides: str, name: str = "evaluation", draws: bool = False
    ) -> Path:
        cfg = composed(f"ckpt_path='{checkpoint}'", f"data.dir='{tiny_mnist}'", *overrides)
        cfg.folder = str(tmp_path / name)
        with pytest.MonkeyPatch.context() as patched:
            if not draws:
                patched.setattr(Figure, "savefig", run_files.one_pixel)
            evaluate(cfg)
        return tmp_path / name

    return run


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def values(folder: Path) -> dict[str, float]:
    return {name: part["value"] for name, part in metrics(folder)["metrics"].items()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def probabilities(folder: Path) -> np.ndarray:
    rows = table(folder / "predictions.csv")
    names = [name for name in rows[0] if name.startswith("probability_")]
    return np.array([[float(row[name]) for name in names] for row in rows])


def tiny_test_split() -> tuple[torch.Tensor, np.ndarray]:
    """The 100 test digits of ``tiny_mnist`` as a network sees them, made by hand, and labels."""
    arrays = read_sample()
    images = torch.from_numpy(arrays["t10k-images-idx3-ubyte"][:100]).float().unsqueeze(1)
    return (images / 255 - 0.5) / 0.5, arrays["t10k-labels-idx1-ubyte"][:100].astype(int)


def changed(checkpoint: Path, path: Path, **card: Any) -> Path:
    """A copy of a checkpoint whose card says something else."""
    content = read(checkpoint)
    content[CARD] = {**content[CARD], **card}
    write(content, path)
    return path


# The numbers


def test_the_metrics_are_those_of_the_runs_own_test(tiny_run, evaluated):
    run = tiny_run()
    best = run.folder / "checkpoints" / "best.safetensors"
    for split in ("test", "val"):
        found = values(evaluated(best, f"split={split}", "temperature=off", name=split))
        del found["ece"]
        expected = summary(run.folder)["metrics"][split]
        assert found.keys() == expected.keys()
        assert found == pytest.approx(expected, abs=2e-6)


def test_the_predictions_are_the_modules(tiny_run, evaluated):
    checkpoint = tiny_run("model.dropout=0.5").folder / "checkpoints" / "best.safetensors"
    folder = evaluated(checkpoint)
    images, labels = tiny_test_split()
    with torch.no_grad():
        network = load(checkpoint)
        expected = (network(images) / network.card.temperature).softmax(1).numpy()
    assert probabilities(folder) == pytest.approx(expected, abs=1e-6)
    rows = table(folder / "predictions.csv")
    assert [row["label"] for row in rows] == [str(label) for label in labels]
    assert [row["predicted"] for row in rows] == [str(p) for p in expected.argmax(axis=1)]
    assert [row["index"] for row in rows] == [str(n) for n in range(100)]
    accuracy = metrics(folder)["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx((expected.argmax(axis=1) == labels).mean())
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]


def test_per_class_scores_are_those_of_the_predictions(tiny_run, evaluated):
    folder = evaluated(tiny_run().folder)
    rows = table(folder / "predictions.csv")
    for scores in table(folder / "per_class.csv"):
        name = scores["class"]
        of_class = [row for row in rows if row["label"] == name]
        said = [row for row in rows if row["predicted"] == name]
        found = sum(row["predicted"] == name for row in of_class)
        assert int(scores["support"]) == len(of_class)
        assert float(scores["recall"]) == pytest.approx(found / len(of_class), abs=1e-6)
        assert float(scores["precision"]) == pytest.approx(found / max(1, len(said)), abs=1e-6)


def test_the_interval_is_a_function_of_the_seed(tiny_run, evaluated):
    folder = tiny_run().folder
    one, again, other = (
        metrics(evaluated(folder, f"seed={seed}", name=name))["metrics"]
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    assert one == again
    assert one["loss"] != other["loss"]
    assert one["accuracy"] == other["accuracy"]


# The folder


def test_everything_is_in_the_folder(tiny_run, evaluated):
    run = tiny_run()
    folder = evaluated(run.folder, draws=True)
    assert {path.name for path in folder.iterdir()} == FILES
    facts = metrics(folder)
    checkpoint = run.folder / "checkpoints" / "best.safetensors"
    assert facts["checkpoint"] == {
        "path": str(checkpoint),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }
    assert facts["data"] == {
        "title": "MNIST",
        "fingerprint": summary(run.folder)["data"]["fingerprint"],
        "as_in_training": True,
        "changes": None,
    }
    assert facts["trained_on"] == 0
    assert (facts["split"], facts["images"], facts["classes"]) == ("test", 100, 10)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["val_size"] == 60
    for path in folder.glob("*.png"):
        assert min(Image.open(path).size) > 500


def test_the_terminal_shows_metrics_and_classes(tiny_run, evaluated, caplog):
    caplog.set_level("INFO")
    accuracy = values(evaluated(tiny_run().folder))["accuracy"]
    assert f"{accuracy:.4f}" in caplog.text
    for word in ("95 % from", "top-5 error", "F1", "calibration error", "support", "evaluation"):
        assert word in caplog.text


# The data


def places(folder: Path) -> list[int]:
    return [int(row["index"]) for row in table(folder / "predictions.csv")]


def labels_of_tiny() -> torch.Tensor:
    return torch.from_numpy(read_sample()["train-labels-idx1-ubyte"][:300].astype(np.int64))


def split_of_run(folder: Path) -> dict[str, list[int]]:
    """The training images of tiny that the run of a folder divided, by split."""
    cfg = OmegaConf.load(folder / "config.yaml")
    data: Any = build_data(cfg)
    return {"train": data.train_dataset.indices.tolist(), "val": data.val_dataset.indices.tolist()}


def test_val_is_the_very_split_of_the_run_and_train_is_the_rest(tiny_run, evaluated):
    folder = tiny_run("seed=3", "data.val_size=50").folder
    split = split_of_run(folder)
    assert [len(split["train"]), len(split["val"])] == [250, 50]
    assert places(evaluated(folder, "split=val", name="val")) == split["val"]
    assert places(evaluated(folder, "split=train", name="train")) == split["train"]


def test_a_choice_of_data_is_split_as_in_the_run_whatever_is_typed(tiny_run, evaluated, caplog):
    folder = tiny_run("seed=3").folder
    asked = ("data=mnist", "data.val_size=30", "split=val")
    val = split_of_run(folder)["val"]
    assert places(evaluated(folder, *asked, name="a")) == val
    assert "made with data.val_size=60: data.val_size=30 does not change it." in caplog.text
    assert places(evaluated(folder, *asked, "data.seed=5", name="b")) == val
    assert "data.seed=5 does not change it." in caplog.text


def test_pixels_become_what_the_model_was_trained_on(tiny_run, evaluated):
    folder = tiny_run("data.mean=0.1307", "data.std=0.3081").folder
    own, asked = evaluated(folder, name="own"), evaluated(folder, "data=mnist", name="asked")
    assert (own / "predictions.csv").read_bytes() == (asked / "predictions.csv").read_bytes()
    images, _ = tiny_test_split()
    images = ((images * 0.5 + 0.5) - 0.1307) / 0.3081
    with torch.no_grad():
        network = load(folder / "checkpoints" / "best.safetensors")
        expected = (network(images) / network.card.temperature).softmax(1).numpy()
    assert probabilities(own) == pytest.approx(expected, abs=1e-5)


def test_training_images_are_seen_without_augmentation(tiny_run, evaluated):
    folder = tiny_run("data.augment=flip_shift").folder
    one = evaluated(folder, "split=train", name="one")
    other = evaluated(folder, "data=mnist", "data.val_size=60", "split=train", name="other")
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()


def test_other_data_than_in_training_are_pointed_out(tiny_run, evaluated, caplog):
    folder = tiny_run().folder
    found = metrics(evaluated(folder, "data=mnist", "data.source=sample", "split=val"))
    assert found["data"]["as_in_training"] is False
    assert found["data"]["changes"] == {"new": 9100, "gone": 0, "changed": 0}
    assert "best.safetensors knows it: 9,100 new, 0 gone, 0 changed." in caplog.text


def notes(path: Path) -> Path:
    """A model saved as the notes do: without class names or data."""
    layers = torch.nn.ModuleDict(
        {
            "hidden_layers": torch.nn.ModuleList([torch.nn.Linear(784, 8)]),
            "output": torch.nn.Linear(8, 10),
        }
    )
    content = {"input_size": 784, "output_size": 10, "hidden_layers": [8]}
    torch.save({**content, "state_dict": layers.state_dict()}, path)
    return path


def test_the_notes_checkpoint_is_evaluated_once_it_is_said_on_what(evaluated, tmp_path):
    path = notes(tmp_path / "notes.pth")
    with pytest.raises(DiscernError, match=r"does not name a data set .* data=fashion_mnist"):
        evaluated(path)
    assert 0 <= values(evaluated(path, "data=mnist"))["accuracy"] <= 1


# A checkpoint from a stranger


class Trap:
    sprung = False

    def __init__(self, **_: Any) -> None:
        Trap.sprung = True


@pytest.mark.parametrize(
    "data",
    [
        {"_target_": "test_evaluate.Trap"},
        {"_target_": ["discern.data.published.mnist.MNIST"]},
        {"_target_": {"a": 1}},
        "discern.data.published.mnist.MNIST",
        None,
    ],
)
def test_a_class_that_a_file_names_is_not_imported(tiny_run, evaluated, tmp_path, data):
    checkpoint = tiny_run().folder / "checkpoints" / "best.safetensors"
    path = changed(checkpoint, tmp_path / "x.safetensors", config={"data": data})
    with pytest.raises(
        DiscernError,
        match=r"x\.safetensors does not (name a data set .* data=mnist|describe .* config\.data)",
    ):
        evaluated(path)
    assert not Trap.sprung


@pytest.mark.parametrize(
    "value", [{"_target_": "test_evaluate.Trap"}, "${oc.env:PATH}", [{"_target_": "x"}]]
)
def test_a_value_that_a_file_holds_is_not_resolved(tiny_run, evaluated, tmp_path, value):
    checkpoint = tiny_run().folder / "checkpoints" / "best.safetensors"
    data = {"_target_": "discern.data.published.mnist.MNIST", "val_size": value}
    path = changed(checkpoint, tmp_path / "x.safetensors", config={"data": data})
    with pytest.raises(DiscernError, match=r"data\.val_size that is not a plain value"):
        evaluated(path)
    assert not Trap.sprung


def test_a_setting_in_a_file_is_checked_and_an_unknown_one_left_out(tiny_run, evaluated, tmp_path):
    checkpoint = tiny_run().folder / "checkpoints" / "best.safetensors"
    data = read(checkpoint)[CARD]["config"]["data"]
    wrong = changed(
        checkpoint, tmp_path / "w.safetensors", config={"data": {**data, "batch_size": -1}}
    )
    with pytest.raises(DiscernError, match=r"^data\.batch_size=-1 is not allowed"):
        evaluated(wrong)
    extra = {**data, "_partial_": True, "dir": "/elsewhere"}
    evaluated(changed(checkpoint, tmp_path / "e.safetensors", config={"data": extra}))


def test_what_loads_and_checks_the_images_is_not_for_a_file_to_say(tiny_run, evaluated, tmp_path):
    checkpoint = tiny_run().folder / "checkpoints" / "best.safetensors"
    data = read(checkpoint)[CARD]["config"]["data"]
    told = {**data, "eval_batch_size": 2**31, "batch_size": 2**31, "num_workers": 1024}
    path = changed(checkpoint, tmp_path / "x.safetensors", config={"data": told})
    used = yaml.safe_load((evaluated(path) / "config.yaml").read_text())["data"]
    assert (used["num_workers"], used["eval_batch_size"]) == (0, data["eval_batch_size"])
    catdog = {
        "_target_": "discern.data.published.catdog.CatDog",
        "url": "https://localhost:1/x.zip",
    }
    card = read(checkpoint)[CARD]
    card["config"]["data"] = {**catdog, "sha256": "0" * 64, "csv": "../../x.csv"}
    with pytest.raises(DiscernError, match=r"has a data\.csv that is not a plain value"):
        data_settings(composed("ckpt_path=x"), parsed(card, path), path, None)
    card["config"]["data"]["csv"] = "tables/x.csv"
    settings = data_settings(
        composed("ckpt_path=x", "data.dir=pictures"), parsed(card, path), path, None
    )
    assert settings["url"].startswith("https://s3.amazonaws.com/")
    assert (settings["sha256"], settings["csv"]) == (None, "tables/x.csv")


# What is refused


def test_a_foreign_checkpoint(evaluated, tmp_path):
    write({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "x.safetensors")
    with pytest.raises(DiscernError, match=r"x\.safetensors does not say what model it is"):
        evaluated(tmp_path / "x.safetensors")
    assert not (tmp_path / "evaluation").exists()


def test_data_that_do_not_fit_the_model(tiny_run, evaluated, tmp_path):
    checkpoint = tiny_run().folder / "checkpoints" / "best.safetensors"
    names = [f"class {number}" for number in range(10)]
    other = changed(checkpoint, tmp_path / "names.safetensors", class_names=names)
    with pytest.raises(
        DiscernError, match=r"classes 0, 1, .* knows class 0, class 1, .*class 9\.$"
    ):
        evaluated(other)
    flat = changed(checkpoint, tmp_path / "shape.safetensors", input_shape=[1, 14, 56])
    with pytest.raises(DiscernError, match=r"shape 1 × 28 × 28, .* takes 1 × 14 × 56\.$"):
        evaluated(flat)


def test_a_split_without_images(tiny_run, evaluated):
    run = tiny_run("data.val_size=0")
    with pytest.raises(DiscernError, match=r"split=val has no images"):
        evaluated(run.folder, "split=val")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("split=tset", r"split=tset is not allowed; .* \(did you mean test\?\)"),
        ("ckpt_path=null", r"ckpt_path=null is not allowed; it must be a checkpoint's path"),
        ("ckpt_path=missing.safetensors", r"ckpt_path=missing\.safetensors does not exist"),
        ("seed=-1", r"seed=-1 is not allowed"),
        ("data.dir=''", r"data\.dir= is not allowed"),
        ("data=mnist data.batch_size=0", r"data\.batch_size=0 is not allowed"),
        ("+colour=red", r"colour is not a setting"),
    ],
)
def test_a_wrong_setting_is_one_sentence(tmp_path, override, sentence):
    checkpoint = notes(tmp_path / "notes.pth")
    with pytest.raises(DiscernError, match=sentence):
        check(composed(f"ckpt_path='{checkpoint}'", *override.split()), "evaluate")


# The command


def test_the_command(tmp_path):
    run = run_files.composed(
        "data.source=sample", "debug=limit", "trainer.accelerator=cpu", "test=false"
    )
    run.folder = str(tmp_path / "run")
    train(run)
    done = invoke("evaluate", "ckpt_path=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "outputs").glob("*/*_evaluate")
    assert {path.name for path in folder.iterdir()} == FILES | {"evaluate.log"}
    assert "mlp on MNIST sample, test: 1,500 images" in done.stdout
    assert done.stdout.splitlines()[-1] == f"Results: {folder.relative_to(tmp_path)}"
    # The run's own folder is not for an evaluation.
    again = invoke("evaluate", "ckpt_path=run", "hydra.run.dir=run", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr.startswith("Error: hydra.run.dir=run is not empty")


def test_the_help_page_and_what_it_says_to_try(tmp_path):
    done = invoke("evaluate", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    tried = re.findall(r"^  discern evaluate (.*)$", done.stdout.partition("Try:")[2], re.MULTILINE)
    assert len(tried) >= 4
    for line in tried:
        composed(*(word for word in line.split() if not word.startswith("hydra.")))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ckpt_path=x.safetensors", "split=tset"), "split=tset "),
        (("ckpt_path=" + "x" * 300,), "ckpt_path=xxx"),
        (("ckpt_path=x.safetensors", "data=mnist", "data.dir=" + "x" * 300), "ckpt_path=x.safet"),
    ],
)
def test_a_refusal_leaves_nothing(tmp_path, words, sentence):
    done = invoke("evaluate", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {sentence}")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# The numbers again, from predictions.csv alone


@pytest.mark.parametrize("split", ["test", "val"])
def test_scikit_learn_computes_the_same_from_the_predictions(tiny_run, evaluated, split):
    sklearn = pytest.importorskip("sklearn.metrics")
    # One epoch: some classes are never said.
    checkpoint = tiny_run("trainer.max_epochs=1").folder / "checkpoints" / "best.safetensors"
    folder = evaluated(checkpoint, f"split={split}")
    rows, said, found = table(folder / "predictions.csv"), probabilities(folder), values(folder)
    names = [name.removeprefix("probability_") for name in list(rows[0])[4:]]
    labels = [row["label"] for row in rows]
    predicted = [row["predicted"] for row in rows]
    # To seven digits in the file; scikit-learn wants sums of 1.
    sure = said / said.sum(axis=1, keepdims=True)
    scores = sklearn.precision_recall_fscore_support(
        labels, predicted, labels=names, average=None, zero_division=0
    )
    there = [name in labels or name in predicted for name in names]
    assert found == pytest.approx(
        {
            "loss": sklearn.log_loss(labels, sure, labels=names),
            "accuracy": sklearn.accuracy_score(labels, predicted),
            "precision": scores[0][there].mean(),
            "recall": scores[1][there].mean(),
            "f1": scores[2][there].mean(),
            "top5_error": 1 - sklearn.top_k_accuracy_score(labels, sure, k=5, labels=names),
            "ece": calibration_error_by_hand(said, np.array(labels) == np.array(predicted)),
        },
        rel=1e-4,
    )
    for number, row in enumerate(table(folder / "per_class.csv")):
        assert row["class"] == names[number]
        told = [float(row[name]) for name in ("precision", "recall", "f1", "support")]
        assert told == pytest.approx([part[number] for part in scores], abs=1e-6)
        # What the field calls the accuracy of a class.
        assert row["accuracy"] == row["recall"]


def calibration_error_by_hand(said: np.ndarray, correct: np.ndarray) -> float:
    sure, error = said.max(axis=1), 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - correct[inside].mean())
    return error


# What was measured


def test_the_file_that_was_measured_is_named(tiny_run, evaluated, caplog):
    run = tiny_run("trainer.max_epochs=3")
    with caplog.at_level("INFO", "discern"):
        folder = evaluated(run.folder)
    (line,) = [each for each in caplog.messages if each.startswith("Measured: ")]
    assert line.endswith("checkpoints/best.safetensors, of epoch 3")
    told = metrics(folder)
    assert (Path(told["checkpoint"]["path"]).name, told["epoch"]) == ("best.safetensors", 3)


@pytest.mark.parametrize("epoch", ["far", True, -4, 1.5, None, 2**70])
def test_an_epoch_that_a_file_only_claims_is_none(tiny_run, evaluated, tmp_path, epoch):
    content = read(tiny_run().folder / "checkpoints" / "last.safetensors")
    write({**content, "epoch": epoch}, tmp_path / "made.safetensors")
    assert metrics(evaluated(tmp_path / "made.safetensors"))["epoch"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_says_nan_is_measured_as_such(tiny_run, evaluated, tmp_path, caplog, value):
    content = read(tiny_run().folder / "checkpoints" / "last.safetensors")
    for weight in content["state_dict"].values():
        weight.fill_(value)
    write(content, tmp_path / "made.safetensors")
    folder = evaluated(tmp_path / "made.safetensors")
    assert "not finite for 100 of 100 images" in caplog.text
    text = (folder / "metrics.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for name in ("loss", "ece"):
        assert found["metrics"][name] == {
            "value": None, "low": None, "high": None, "method": "bootstrap"
        }  # fmt: skip
    assert {path.name for path in folder.iterdir()} >= FILES
