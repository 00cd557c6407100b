from __future__ import annotations

import csv
import importlib.util
import os
import re
import shlex
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import run_files
from discern.commands.evaluate import evaluate
from discern.commands.predict import classify_files, predict
from discern.config.check import check
from discern.data.published.mnist import read_sample
from discern.errors import DiscernError
from discern.models.card import CARD, Card
from discern.models.checkpoint import write
from discern.models.combined import Model
from discern.models.mlp import MLP
from discern.models.saved import load
from discern.models.transfer import TransferClassifier
from discern.reports.classified import classified_sheet
from discern.reports.explain import GradCam
from run_files import command
from starter import invoke

DIGITS = read_sample()["t10k-images-idx3-ubyte"]


def composed(name: str, *overrides: str):
    return run_files.composed(*overrides, command=name)


def save_model(path: Path, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10) -> Path:
    """A checkpoint of an untrained network."""
    torch.manual_seed(0)
    settings = {"hidden": [8], "activation": "relu", "dropout": 0.5, "norm": "none"}
    network = MLP(shape, classes, **settings)
    card = Card.model_validate(
        {
            "model": {"name": "mlp", "settings": settings},
            "class_names": [f"class {number}" for number in range(classes)],
            "input_shape": shape,
            "preprocessing": {"mean": 0.5, "std": 0.5},
            "data": {"title": "Something"},
        }
    )
    write({"state_dict": network.state_dict(), CARD: card.model_dump()}, path)
    return path


def save_transfer_model(path: Path) -> Path:
    """A checkpoint of an untrained network with a backbone, for photographs of 64 pixels."""
    torch.manual_seed(0)
    settings = {"backbone": "mobilenet_v3_small", "weights": None, "head": [8]}
    network = TransferClassifier((3, 64, 64), 3, **settings)
    card = Card.model_validate(
        {
            "model": {"name": "transfer", "settings": settings},
            "class_names": ["cat", "dog", "owl"],
            "input_shape": (3, 64, 64),
            "preprocessing": {
                "mean": [0.5, 0.4, 0.3],
                "std": [0.2, 0.3, 0.4],
                "resize": 72,
                "interpolation": "bilinear",
            },
            "data": {"title": "Something"},
        }
    )
    write({"state_dict": network.state_dict(), CARD: card.model_dump()}, path)
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    return save_model(tmp_path / "model.safetensors")


@pytest.fixture
def predicted(tmp_path):
    """Predicts; returns how it went and the rows of the table."""

    def run(model: Path, wanted: Path | str, *overrides: str):
        out = tmp_path / "out"
        overrides = (f"ckpt_path='{model}'", f"input='{wanted}'", f"out='{out}'", *overrides)
        try:
            return predict(composed("predict", *overrides)), table(out)
        finally:
            run.out = out

    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def save_digits(folder: Path, count: int, negative: bool = False) -> Path:
    folder.mkdir()
    for number, digit in enumerate(DIGITS[:count]):
        Image.fromarray(255 - digit if negative else digit).save(folder / f"{number:04}.png")
    return folder


def expected_probabilities(model: Path, digits: np.ndarray) -> np.ndarray:
    images = (torch.from_numpy(digits).float().unsqueeze(1) / 255 - 0.5) / 0.5
    with torch.no_grad():
        return load(model)(images).softmax(1).numpy()


# The numbers


def test_the_table_holds_what_the_module_says(predicted, model, tmp_path):
    outcome, rows = predicted(model, save_digits(tmp_path / "digits", 300))
    expected = expected_probabilities(model, DIGITS[:300])
    assert (outcome.read, outcome.unreadable, outcome.inverted) == (300, 0, 0)
    for number, (row, probabilities) in enumerate(zip(rows, expected, strict=True)):
        order = np.argsort(-probabilities)[:5]
        assert row["file"] == str(tmp_path / "digits" / f"{number:04}.png")
        assert row["label"] == row["top1"]
        assert row["probability"] == row["top1_probability"]
        assert [row[f"top{place}"] for place in range(1, 6)] == [f"class {n}" for n in order]
        found = [float(row[f"top{place}_probability"]) for place in range(1, 6)]
        assert found == pytest.approx(probabilities[order], abs=1e-6)
        assert row["error"] == ""


def test_evaluate_predict_and_the_module_say_the_same(tiny_run, tiny_mnist, predicted, tmp_path):
    folder = tiny_run("data.mean=0.1307", "data.std=0.3081").folder
    cfg = composed("evaluate", f"ckpt_path='{folder}'", f"data.dir='{tiny_mnist}'")
    cfg.folder = str(tmp_path / "evaluation")
    evaluate(cfg)
    _, rows = predicted(folder, save_digits(tmp_path / "digits", 100))
    measured = table(tmp_path / "evaluation")
    images = (torch.from_numpy(DIGITS[:100]).float().unsqueeze(1) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        network = load(folder / "checkpoints" / "best.safetensors")
        module = (network(images) / network.card.temperature).softmax(1).numpy()
    for of_file, of_set, row in zip(rows, measured, module, strict=True):
        assert of_file["label"] == of_set["predicted"] == str(row.argmax())
        of_label = of_set[f"probability_{of_set['predicted']}"]
        assert float(of_file["probability"]) == pytest.approx(float(of_label), rel=1e-5)
        assert float(of_file["probability"]) == pytest.approx(row.max(), rel=1e-5)


def test_fewer_than_five_classes_have_fewer_columns(predicted, tmp_path):
    model = save_model(tmp_path / "two.safetensors", classes=2)
    _, rows = predicted(model, save_digits(tmp_path / "digits", 1))
    assert list(rows[0]) == [
        *("file", "label", "probability", "top1", "top1_probability", "top2", "top2_probability"),
        *("inverted", "error"),
    ]


def test_a_model_in_colour_takes_grey_and_colour(predicted, tmp_path, caplog):
    caplog.set_level("INFO")
    model = save_model(tmp_path / "colour.safetensors", shape=(3, 10, 20))
    save_digits(tmp_path / "pictures", 2, negative=True)
    Image.new("RGB", (300, 200), "red").save(tmp_path / "pictures" / "red.jpg")
    outcome, rows = predicted(model, tmp_path / "pictures")
    assert (outcome.read, outcome.inverted) == (3, 0)
    assert "invert" not in caplog.text  # light on dark means nothing in colour
    assert rows[0]["label"]


# Dark on light


@pytest.mark.parametrize(
    ("invert", "negative", "inverted", "says"),
    [
        ("auto", False, 0, "invert=auto: 0 of 20"),
        ("auto", True, 20, "invert=auto: 20 of 20"),
        ("true", False, 20, "invert=true: all 20"),
        ("true", True, 20, "invert=true: all 20"),
        ("false", True, 0, "invert=false: none"),
    ],
)
def test_invert_does_what_it_says_and_says_what_it_did(
    predicted, model, tmp_path, caplog, invert, negative, inverted, says
):
    caplog.set_level("INFO")
    folder = save_digits(tmp_path / "digits", 20, negative)
    outcome, rows = predicted(model, folder, f"invert={invert}")
    assert outcome.inverted == inverted
    assert {row["inverted"] for row in rows} == {"true" if inverted else "false"}
    assert says in caplog.text
    seen = 255 - DIGITS[:20] if negative != bool(inverted) else DIGITS[:20]
    found = [float(row["probability"]) for row in rows]
    assert found == pytest.approx(expected_probabilities(model, seen).max(axis=1), abs=1e-6)


def test_auto_decides_for_each_picture(predicted, model, tmp_path):
    folder = save_digits(tmp_path / "mixed", 4)
    save_digits(folder / "negative", 3, negative=True)
    outcome, rows = predicted(model, folder)
    assert outcome.inverted == 3
    assert {row["file"] for row in rows if row["inverted"] == "true"} == {
        str(folder / "negative" / f"{number:04}.png") for number in range(3)
    }


# What cannot be read


def test_what_cannot_be_read_is_listed_and_does_not_stop_the_rest(
    predicted, model, tmp_path, caplog
):
    folder = save_digits(tmp_path / "digits", 3)
    (folder / "0001.txt").write_text("no picture")
    (folder / "0002.png").write_bytes((folder / "0002.png").read_bytes()[:60])
    (folder / "zz.png").symlink_to("nowhere")
    outcome, rows = predicted(model, folder)
    assert (outcome.read, outcome.unreadable) == (2, 3)
    assert [bool(row["label"]) for row in rows] == [True, True, False, False, False]
    assert [Path(row["file"]).name for row in rows if row["error"]] == [
        "0001.txt",
        "0002.png",
        "zz.png",
    ]
    assert all(len(row) == len(rows[0]) and None not in row.values() for row in rows)
    assert "3 of 5 files could not be read" in caplog.text


def test_nothing_that_can_be_read_is_an_error_with_the_reasons_in_the_table(
    predicted, model, tmp_path
):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("no picture")
    with pytest.raises(DiscernError, match=r"has no readable picture: .*predictions\.csv"):
        predicted(model, folder)
    assert [row["error"] for row in table(predicted.out)] == [
        "not a picture in a format that Pillow reads"
    ]


def test_a_name_that_is_no_unicode_is_written_readably(predicted, model, tmp_path):
    folder = save_digits(tmp_path / "digits", 1)
    odd = os.fsdecode(b"caf\xe9, $x$.png")
    (folder / "0000.png").rename(folder / odd)
    _, rows = predicted(model, folder)
    assert rows[0]["file"].endswith(r"caf\xe9, $x$.png")


# The picture of the pictures


@pytest.mark.parametrize(("wanted", "shown"), [(12, 12), (3, 3), (100, 40), (0, 0)])
def test_the_first_pictures_are_drawn(predicted, model, tmp_path, monkeypatch, wanted, shown):
    drawn = []
    monkeypatch.setattr("discern.commands.predict.BATCH", 16)
    monkeypatch.setattr(
        "discern.commands.predict.classified_sheet",
        lambda pictures, *others: drawn.extend(pictures) or classified_sheet(pictures, *others),
    )
    predicted(model, save_digits(tmp_path / "digits", 40), f"pictures={wanted}")
    assert [Path(picture.name).name for picture in drawn] == [f"{n:04}.png" for n in range(shown)]
    for picture, digit in zip(drawn, DIGITS, strict=False):
        assert np.array_equal(picture.pixels[0], digit)
        assert picture.probabilities.base is None  # keeps no batch alive


def test_the_files_are_written(predicted, model, tmp_path):
    predicted(model, save_digits(tmp_path / "digits", 2))
    assert {path.name for path in predicted.out.iterdir()} == {"predictions.csv", "predictions.png"}
    assert min(Image.open(predicted.out / "predictions.png").size) > 200
    predicted(model, tmp_path / "digits", "pictures=0")
    assert {path.name for path in predicted.out.iterdir()} == {"predictions.csv"}


def test_memory_does_not_grow_with_the_files(predicted, model, tmp_path, monkeypatch):
    """Pictures of a megabyte each, of which only one at a time is held."""
    monkeypatch.setattr("discern.commands.predict.BATCH", 8)
    folder = tmp_path / "large"
    folder.mkdir()
    large = Image.new("L", (1000, 1000))
    for number in range(40):
        large.save(folder / f"{number}.png", compress_level=1)
    predicted(model, folder / "0.png")  # what is loaded once is loaded
    tracemalloc.start()
    predicted(model, folder, "pictures=1")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


# What speaks for a class


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 12, 3), np.uint8)
    for number, small in enumerate(pixels):
        Image.fromarray(small).resize((120, 90)).save(folder / f"{number}.png")
    return folder


def test_each_drawn_picture_is_explained_for_its_predicted_class(predicted, photos, tmp_path):
    model = save_transfer_model(tmp_path / "model.safetensors")
    outcome, _ = predicted(model, photos, "pictures=3", "explain=true")
    assert len(outcome.shown) == 3
    explainer = GradCam(load(model), (3, 64, 64), "mobilenet")
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    for picture in outcome.shown:
        pixels = torch.from_numpy(picture.pixels).float() / 255
        image = (pixels - mean[:, None, None]) / std[:, None, None]
        by_class = [explainer(image, label) for label in range(3)]
        expected = by_class[int(picture.probabilities.argmax())]
        assert picture.importance.shape == (64, 64)
        peak = expected.max()
        assert np.abs(picture.importance - expected).max() < 1e-3 * peak
        assert any(np.abs(expected - it).max() > 0.1 * peak for it in by_class), "proves nothing"


def test_a_backbone_is_given_no_batch_without_a_picture(predicted, tmp_path, monkeypatch):
    monkeypatch.setattr("discern.commands.predict.BATCH", 2)
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_text("no picture")
    model = save_transfer_model(tmp_path / "model.safetensors")
    with pytest.raises(DiscernError, match="has no readable picture"):
        predicted(model, folder)
    assert all(row["error"].startswith("not a picture") for row in table(predicted.out))
    Image.new("RGB", (80, 80)).save(folder / "9.png")
    outcome, rows = predicted(model, folder)
    assert (outcome.read, outcome.unreadable, len(rows)) == (1, 5, 6)


def test_only_what_is_drawn_is_explained_and_nothing_else_changes(
    predicted, photos, tmp_path, monkeypatch
):
    asked = []
    explain = GradCam.__call__
    monkeypatch.setattr(
        GradCam, "__call__", lambda it, *args: asked.append(args) or explain(it, *args)
    )
    monkeypatch.setattr("discern.commands.predict.BATCH", 2)
    model = save_transfer_model(tmp_path / "model.safetensors")
    outcome, plain = predicted(model, photos, "pictures=3")
    assert asked == []
    assert all(picture.importance is None for picture in outcome.shown)
    narrow = Image.open(predicted.out / "predictions.png").size
    _, rows = predicted(model, photos, "pictures=3", "explain=true")
    assert len(asked) == 3
    assert rows == plain
    assert Image.open(predicted.out / "predictions.png").size > narrow


def test_a_model_without_convolutions_is_refused_before_anything_is_read(
    predicted, model, tmp_path
):
    with pytest.raises(DiscernError, match=r"^explain=true needs a convolutional model, .* of mlp"):
        predicted(model, save_digits(tmp_path / "digits", 1), "explain=true")
    assert not predicted.out.exists()


def test_a_missing_captum_is_named_with_the_command_that_installs_it(model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    settings = (f"ckpt_path='{model}'", f"input='{model}'")
    check(composed("predict", *settings), "predict")
    with pytest.raises(DiscernError) as refusal:
        check(composed("predict", *settings, "explain=true"), "predict")
    assert str(refusal.value) == (
        "explain=true needs the package captum, which is not installed; "
        "pip install 'discern[explain]' brings it."
    )


# What is refused


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ckpt_path=missing.safetensors", r"ckpt_path=missing\.safetensors does not exist"),
        ("ckpt_path=null", r"ckpt_path=null is not allowed"),
        ("input=null", r"input=null is not allowed; it must be a picture, a folder"),
        ("input='nowhere/*.png'", r"input=nowhere/\*\.png is not a file and matches none"),
        ("invert=maybe", r"invert=maybe is not allowed; it must be auto, true or false"),
        ("pictures=-1", r"pictures=-1 is not allowed"),
        ("explain=maybe", r"explain=maybe is not allowed; it must be true or false\.$"),
        ("+split=val", r"split is not a setting"),
    ],
)
def test_a_wrong_setting_is_one_sentence(model, override, sentence):
    with pytest.raises(DiscernError, match=sentence):
        check(composed("predict", f"ckpt_path='{model}'", f"input='{model}'", override), "predict")


def test_without_pictures_there_is_nothing_to_explain(model):
    settings = (f"ckpt_path='{model}'", f"input='{model}'", "pictures=0", "explain=true")
    with pytest.raises(DiscernError, match=r"^explain=true .*, and false with pictures=0"):
        check(composed("predict", *settings), "predict")


def test_a_folder_without_files(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DiscernError, match=r"^input=.*empty is a folder without files; it must"):
        check(
            composed("predict", f"ckpt_path='{model}'", f"input='{tmp_path / 'empty'}'"), "predict"
        )


def test_a_model_of_two_channels(predicted, tmp_path):
    model = save_model(tmp_path / "two.safetensors", shape=(2, 28, 28))
    with pytest.raises(DiscernError, match=r"takes images of 2 channels"):
        predicted(model, save_digits(tmp_path / "digits", 1))


# The command


def test_a_few_pictures_are_told_one_by_one(tmp_path, model):
    save_digits(tmp_path / "digits", 3)
    (tmp_path / "digits" / "broken.png").write_text("no picture")
    words = ("ckpt_path=model.safetensors", "input=digits", "out=mine", "pictures=0")
    done = invoke("predict", *words, cwd=tmp_path)
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("picture "))
    told = [re.split(r"  +", line) for line in lines[head + 2 : head + 5]]
    rows = [row for row in table(tmp_path / "mine") if not row["error"]]
    assert [(file, name) for file, name, *_ in told] == [
        (row["file"], row["label"]) for row in rows
    ]
    shares = [float(share.removesuffix(" %")) for *_, share in told]
    assert shares == pytest.approx([100 * float(row["probability"]) for row in rows], abs=0.06)


def test_colour_is_not_inverted_and_nothing_is_said_of_it(tmp_path):
    save_model(tmp_path / "model.safetensors", shape=(3, 28, 28))
    save_digits(tmp_path / "digits", 2)
    words = ("ckpt_path=model.safetensors", "input=digits", "out=mine", "pictures=0")
    done = invoke("predict", *words, cwd=tmp_path)
    assert done.returncode == 0, done
    assert "invert" not in done.stdout


def test_the_command(tmp_path, model):
    save_digits(tmp_path / "digits", 30, negative=True)
    arguments = ("predict", "ckpt_path=model.safetensors", "input=digits")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "predictions.csv").write_text("an earlier result, which is replaced")
    for extra in ((), ("out=mine", "invert=false")):
        done = invoke(*arguments, *extra, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
    first, second, *rest = done.stdout.splitlines()
    assert (first, second) == ("invert=false: none was inverted.", "30 pictures classified.")
    assert rest[1].split() == ["class", "pictures", "share"]
    counted = Counter(row["label"] for row in table(tmp_path / "mine"))
    lines = [re.split(r"  +", line) for line in rest[3:-2]]
    assert {name: int(count) for name, count, _share in lines} == counted
    assert rest[-1] == "Results: mine"
    (folder,) = (tmp_path / "outputs").glob("*/*_predict")
    for place in (folder, tmp_path / "mine"):
        assert {path.name for path in place.iterdir()} == {
            "predictions.csv",
            "predictions.png",
            "predict.log",
        }
    assert {row["inverted"] for row in table(folder)} == {"true"}
    assert {row["inverted"] for row in table(tmp_path / "mine")} == {"false"}


def test_the_help_page_and_what_it_says_to_try(tmp_path):
    done = invoke("predict", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    tried = re.findall(r"^  discern predict (.*)$", done.stdout.partition("Try:")[2], re.MULTILINE)
    assert len(tried) >= 3
    for line in tried:
        composed("predict", *shlex.split(line))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("out=file", "Error: out=file is a file; it must be a folder."),
        ("input=none", "Error: input=none is not a file and matches none"),
        ("ckpt_path=none", "Error: ckpt_path=none does not exist"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path, model, argument, sentence):
    (tmp_path / "file").write_text("")
    before = set(tmp_path.iterdir())
    arguments = ("ckpt_path=model.safetensors", "input=file", argument)
    done = invoke("predict", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "outputs"}


def test_none_that_could_be_read_ends_with_1_and_nothing_heavy_was_imported(tmp_path, model):
    (tmp_path / "file").write_text("no picture")
    program = (
        "import atexit, sys\n"
        "heavy = 'lightning', 'torchmetrics', 'torchvision', 'tensorboard'\n"
        "atexit.register(lambda: print('IMPORTED', [m for m in heavy if m in sys.modules]))\n"
        "from discern.commands.cli import main\nmain(sys.argv[1:])"
    )
    run = [sys.executable, "-c", program]
    done = command(run, "predict", "ckpt_path=model.safetensors", "input=file", cwd=tmp_path)
    assert done.returncode == 1
    assert "Error: input=file has no readable picture: outputs" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_a_backbone_is_not_asked_about_no_picture(tmp_path, engine):
    path = save_transfer_model(tmp_path / "x.safetensors")
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"no picture")
    cfg = composed("predict", f"ckpt_path={path}", f"input={folder}", f"engine={engine}")
    cfg.out = str(tmp_path / "out")
    with pytest.raises(DiscernError, match="has no readable picture"):
        predict(cfg)


def test_wide_layers_see_fewer_pictures_at_a_time(tmp_path):
    network = load(save_model(tmp_path / "x.safetensors", (1, 1, 1), classes=2**15))
    files = [tmp_path / f"{number}.png" for number in range(300)]
    for file in files:
        file.touch()
    model = Model(network, network.card)
    sizes = [len(batch.reasons) for batch in classify_files(files, model, False)]
    assert sizes == [256, 44]
    network.output = torch.nn.Linear(8, 2**20)
    sizes = [len(b.reasons) for b in classify_files(files[:16], model, False)]
    assert sizes == [8, 8]
