from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import run_files
from discern.commands import export as command
from discern.commands.evaluate import evaluate
from discern.commands.export import export
from discern.commands.predict import predict
from discern.data.published import onnxruntime_web
from discern.errors import DiscernError
from discern.exports import int8
from discern.exports.running import Floats, Pixels
from discern.models.torch_file import sha256_of
from discern.run import train
from photos import ORIENTATION, photo, photo_folder
from starter import invoke

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)


@pytest.fixture
def run(tiny_run) -> Path:
    return tiny_run().folder


@pytest.fixture
def exported(tiny_mnist, tmp_path):
    """Exports a checkpoint, with the proof on ``tiny_mnist``; returns the folder."""

    def run(checkpoint: Path, *overrides: str, name: str = "exported") -> Path:
        overrides = (f"ckpt_path='{checkpoint}'", f"data.dir='{tiny_mnist}'", *overrides)
        cfg = run_files.composed(*overrides, command="export")
        cfg.out = str(tmp_path / name)
        if not any(each.startswith("seconds=") for each in overrides):
            cfg.seconds = 0
        export(cfg)
        return tmp_path / name

    return run


def facts(folder: Path) -> dict:
    return json.loads((folder / "export.json").read_text())


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_the_proof_says_that_nothing_was_lost(run, exported):
    folder = exported(run)
    (file,) = facts(folder)["files"]
    assert file["file"] == "model.onnx"
    assert file["bytes"] == (folder / "model.onnx").stat().st_size
    proof = file["proof"]
    assert (proof["images"], proof["flipped"], proof["differences"]) == (100, 0, [])
    assert proof["difference"] <= 1e-5
    assert proof["accuracy_before"] == proof["accuracy_after"]
    assert proof["p"] == 1.0
    checkpoint = run / "checkpoints" / "best.safetensors"
    assert facts(folder)["about"]["checkpoint_sha256"] == sha256_of(checkpoint)
    page = (folder / "export.html").read_text()
    assert "Labels that differ" in page
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "export.json", "export.html"}


def test_evaluate_gives_the_checkpoints_numbers(run, exported, tiny_mnist, tmp_path, no_pictures):
    model = exported(run, "proof=false") / "model.onnx"
    for name, path in (("checkpoint", run), ("file", model)):
        cfg = run_files.composed(
            f"ckpt_path='{path}'", f"data.dir='{tiny_mnist}'", command="evaluate"
        )
        cfg.folder = str(tmp_path / name)
        evaluate(cfg)
    one, other = (
        json.loads((tmp_path / name / "metrics.json").read_text())
        for name in ("checkpoint", "file")
    )
    for metric, value in one["metrics"].items():
        assert other["metrics"][metric] == pytest.approx(value, abs=1e-5)
    assert other["data"]["as_in_training"]
    before, after = (rows(tmp_path / name / "predictions.csv") for name in ("checkpoint", "file"))
    assert [row[:4] for row in before] == [row[:4] for row in after]


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_several_models_and_views_are_one_file(tiny_run, tiny_mnist, tmp_path, no_pictures, tta):
    runs = [tiny_run(f"seed={seed}", "data.seed=0", name=f"run{seed}").folder for seed in (0, 1)]
    meant = f"[{runs[0]},{runs[1]}]"
    cfg = run_files.composed(f"ckpt_path={meant}", "proof=true", f"tta={tta}",
                             f"data.dir='{tiny_mnist}'", command="export")  # fmt: skip
    cfg.out, cfg.seconds = str(tmp_path / "exported"), 0
    export(cfg)
    (file,) = facts(tmp_path / "exported")["files"]
    assert (file["proof"]["flipped"], file["proof"]["images"]) == (0, 100)
    views = "" if tta == "none" else f" with tta={tta}"
    assert facts(tmp_path / "exported")["title"].startswith(f"mean of 2 × mlp{views} on ")
    for name, path in (("several", meant), ("file", tmp_path / "exported" / "model.onnx")):
        cfg = run_files.composed(
            f"ckpt_path={path}", f"data.dir='{tiny_mnist}'",
            f"tta={tta if name == 'several' else 'none'}", command="evaluate",
        )  # fmt: skip
        cfg.folder = str(tmp_path / name)
        evaluate(cfg)
    one, other = (
        json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]
        for name in ("several", "file")
    )
    for metric, value in one.items():
        assert other[metric] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("said", ["tta=flip", "several models"])
def test_weights_alone_are_of_one_model_that_sees_a_picture_once(run, exported, said):
    asked = ["tta=flip"] if said == "tta=flip" else [f"ckpt_path=[{run},{run}]"]
    with pytest.raises(DiscernError, match=f"format=torch is not possible together with {said}"):
        exported(run, "format=torch", *asked)


@pytest.mark.parametrize("split", ["val", "train"])
def test_evaluate_gives_the_checkpoints_numbers_on_what_its_run_held_out_and_trained_on(
    run, exported, tiny_mnist, tmp_path, no_pictures, split
):
    model = exported(run, "proof=false") / "model.onnx"
    found = []
    for name, path in (("checkpoint", run), ("file", model)):
        cfg = run_files.composed(
            f"ckpt_path='{path}'", f"data.dir='{tiny_mnist}'", f"split={split}", command="evaluate"
        )
        cfg.folder = str(tmp_path / name)
        evaluate(cfg)
        found.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    one, other = found
    for key in ("images", "trained_on", "data", "split"):
        assert one[key] == other[key]
    assert one["trained_on"] == (one["images"] if split == "train" else 0)
    for metric, value in one["metrics"].items():
        assert other["metrics"][metric] == pytest.approx(value, abs=1e-5)


def test_a_file_that_does_not_say_what_its_run_trained_on_measures_the_part_for_the_test_alone(
    run, exported, tiny_mnist, tmp_path, no_pictures, caplog
):
    model = exported(run, "proof=false") / "model.onnx"
    content = onnx.load(model)
    said = {each.key: each.value for each in content.metadata_props}
    del said["known_images"]
    onnx.helper.set_model_props(content, said)
    onnx.save(content, model)
    cfg = run_files.composed(f"ckpt_path='{model}'", f"data.dir='{tiny_mnist}'", command="evaluate")
    cfg.folder = str(tmp_path / "evaluation")
    evaluate(cfg)
    assert "does not record which images its model was trained on" in caplog.text
    cfg.split = "val"
    with pytest.raises(DiscernError, match="split=val is not"):
        evaluate(cfg)


def test_predict_gives_the_checkpoints_numbers(run, exported, tmp_path, monkeypatch):
    monkeypatch.setattr("discern.reports.sheet.Sheet.save", lambda _, path: path.touch())
    model = exported(run, "proof=false") / "model.onnx"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate([(28, 28), (100, 40), (9, 60), (1, 1)]):
        pixels = generator.integers(0, 256, (height, width), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    for name, path in (("checkpoint", run), ("file", model)):
        overrides = (f"ckpt_path='{path}'", f"input='{pictures}'")
        cfg = run_files.composed(*overrides, command="predict")
        cfg.out = str(tmp_path / name)
        predict(cfg)
    before, after = (rows(tmp_path / name / "predictions.csv") for name in ("checkpoint", "file"))
    for one, other in zip(before, after, strict=True):
        assert one[:2] == other[:2]
        if one[2].startswith("0."):
            assert float(one[2]) == pytest.approx(float(other[2]), abs=1e-5)


@pytest.fixture
def photographs(tmp_path) -> tuple[Path, Path]:
    """A folder of photographs of several sizes, and the run of an MLP on them."""
    folder = photo_folder(tmp_path / "photos", per_class=20)
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))[::3]):
        image = photo(number / 14, path.name, (30 + 11 * number, 90 - 5 * number))
        exif = image.getexif()
        exif[ORIENTATION] = 1 + number % 8
        image.save(path, exif=exif)
    cfg = run_files.composed(
        "data=image_folder", f"data.dir={folder}", "data.image_size=24", "data.resize=27",
        "data.test_size=0.3", "data.val_size=0.2", "data.batch_size=10", "data.num_workers=0",
        "data.interpolation=bicubic", "model.hidden=[8]", "trainer.max_epochs=1",
        "trainer.accelerator=cpu", "logger=csv", run_files.NOT_DRAWN,
    )  # fmt: skip
    cfg.folder = str(tmp_path / "run")
    return folder, train(cfg).folder


@pytest.mark.parametrize("split", ["test", "val"])
def test_photographs_that_were_divided_by_chance(
    photographs, tmp_path, no_pictures, monkeypatch, split
):
    monkeypatch.setattr("discern.reports.sheet.Sheet.save", lambda _, path: path.touch())
    folder, run = photographs
    cfg = run_files.composed(
        f"ckpt_path='{run}'", f"data.dir='{folder}'", f"split={split}", command="export"
    )
    cfg.out, cfg.seconds = str(tmp_path / "exported"), 0
    proof = export(cfg).files[0].proof
    assert proof is not None
    assert (proof.flipped, proof.difference) == (0, pytest.approx(0, abs=1e-5))
    model = tmp_path / "exported" / "model.onnx"
    for name, path in (("checkpoint", run), ("file", model)):
        cfg = run_files.composed(
            f"ckpt_path='{path}'", f"data.dir='{folder}'", f"split={split}", command="evaluate"
        )
        cfg.folder = str(tmp_path / name)
        evaluate(cfg)
        cfg = run_files.composed(f"ckpt_path='{path}'", f"input='{folder}'", command="predict")
        cfg.out = str(tmp_path / f"{name} predicts")
        predict(cfg)
    one, other = (rows(tmp_path / name / "predictions.csv") for name in ("checkpoint", "file"))
    assert len(one) == proof.images + 1
    assert [row[:4] for row in one] == [row[:4] for row in other]
    one, other = (
        rows(tmp_path / f"{name} predicts" / "predictions.csv") for name in ("checkpoint", "file")
    )
    assert len(one) == 41
    for before, after in zip(one[1:], other[1:], strict=True):
        assert before[:2] == after[:2]
        assert float(before[2]) == pytest.approx(float(after[2]), abs=1e-5)


def test_crops_are_proven_on_the_larger_pictures_that_they_are_cut_from(photographs, tmp_path):
    folder, run = photographs
    cfg = run_files.composed(
        f"ckpt_path='{run}'", f"data.dir='{folder}'", "tta=five_crop", command="export"
    )
    cfg.out, cfg.seconds = str(tmp_path / "exported"), 0
    proof = export(cfg).files[0].proof
    assert proof is not None
    assert (proof.flipped, proof.difference) == (0, pytest.approx(0, abs=1e-5))


def test_probabilities_are_exported_as_the_network_gives_them(run, exported, tmp_path):
    Image.new("L", (28, 28), 99).save(tmp_path / "a.png")
    found = {}
    for name, path, *more in (
        ("off", exported(run, "temperature=off", name="off") / "model.onnx"),
        ("on", exported(run, name="on") / "model.onnx"),
        ("checkpoint", run, "temperature=off"),
    ):
        overrides = (f"ckpt_path='{path}'", f"input='{tmp_path}/a.png'", *more)
        cfg = run_files.composed(*overrides, command="predict")
        cfg.out = str(tmp_path / f"{name} predicts")
        predict(cfg)
        found[name] = float(rows(tmp_path / f"{name} predicts" / "predictions.csv")[1][2])
    assert found["off"] == pytest.approx(found["checkpoint"], abs=1e-6)
    assert abs(found["on"] - found["off"]) > 1e-4
    assert facts(tmp_path / "off")["about"]["temperature"] == "1.0"


def test_an_export_that_failed_is_tried_again_in_the_same_folder(run, tmp_path):
    words = ("export", f"ckpt_path={run}", "out=exported", "proof=false")
    failed = invoke(*words, "tta=five_crop", cwd=tmp_path)
    assert "tta=five_crop is not possible" in failed.stderr
    assert invoke(*words, cwd=tmp_path).returncode == 0
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert names == {"model.onnx", "export.json", "export.html", "export.log"}
    assert "out=exported is not empty" in invoke(*words, cwd=tmp_path).stderr


def test_an_exported_model_is_not_explained_or_exported_again(run, exported, tmp_path):
    model = exported(run, "proof=false") / "model.onnx"
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    overrides = (f"ckpt_path='{model}'", f"input='{tmp_path}/a.png'", "explain=true")
    cfg = run_files.composed(*overrides, command="predict")
    cfg.out = str(tmp_path / "prediction")
    with pytest.raises(DiscernError, match="explain=true is not possible"):
        predict(cfg)
    with pytest.raises(DiscernError, match="is an exported model"):
        exported(model, name="again")


@pytest.mark.parametrize(
    "setting",
    [
        "quantize=int8", "format=web", "format=safetensors",
        pytest.param("format=openvino", marks=needs_openvino),
    ],
)  # fmt: skip
def test_an_export_that_changes_labels_fails_with_the_images_and_leaves_nothing_else(
    run, exported, tmp_path, monkeypatch, web_runtime, setting
):
    """The negative control: a file that gives other labels is found, named and removed."""
    original = command.export_model

    def turned(*arguments, **settings):
        made = original(*arguments, **settings)

        def other(pixels: Pixels) -> Floats:
            return made.run(pixels)[:, ::-1].copy()

        return type(made)(made.path, made.format, made.about, made.bundle, other)

    monkeypatch.setattr(command, "export_model", turned)
    with pytest.raises(DiscernError, match=r"of 100 labels differ .*export\.html shows"):
        exported(run, setting)
    folder = tmp_path / "exported"
    assert sorted(path.name for path in folder.iterdir()) == ["export.html", "export.json"]
    assert facts(folder)["files"][0]["proof"]["differences"]


def test_an_export_that_breaks_off_leaves_nothing(run, exported, tmp_path, monkeypatch):
    def fails(*_):
        raise DiscernError("quantize=int8 is not possible for this model: no reason.")

    monkeypatch.setattr(int8, "write", fails)
    with pytest.raises(DiscernError, match="not possible for this model"):
        exported(run, "quantize=int8")
    assert not list((tmp_path / "exported").iterdir())


def test_eight_bits_are_written_when_asked_for_and_say_what_they_cost(run, exported):
    folder = exported(run, "quantize=int8", "images=50")
    float32, small = facts(folder)["files"]
    assert small["file"] == "model.int8.onnx"
    assert small["proof"]["images"] == 50
    assert "8 bits as asked for" in small["verdict"]
    assert "McNemar" in small["verdict"]
    assert float32["proof"]["flipped"] == 0


@pytest.mark.parametrize(
    ("is_faster", "loses", "kept"),
    [(True, False, True), (False, False, False), (True, True, False)],
)
def test_eight_bits_are_kept_only_where_they_are_faster_and_as_accurate(
    run, exported, monkeypatch, is_faster, loses, kept
):
    monkeypatch.setattr(command, "faster", lambda *_: is_faster)
    monkeypatch.setattr("discern.exports.proof.Proof.loses", loses)
    folder = exported(run, "quantize=auto")
    small = facts(folder)["files"][1]
    assert (folder / "model.int8.onnx").exists() == kept
    assert ("is kept" in small["verdict"]) == kept
    assert "as fast with a batch of 32" in small["verdict"]
    assert re.search(r"preprocessing being \d+ % and \d+ % of float32's time", small["verdict"])
    speeds = facts(folder)["speeds"]
    ways = {"PyTorch", "ONNX Runtime float32", "ONNX Runtime int8", "preprocessing alone, of both"}
    assert ways <= speeds.keys()
    assert all({"1", "32"} == set(each) for each in speeds.values())


def test_eight_bits_without_training_images_are_one_sentence(run, exported, monkeypatch):
    monkeypatch.setattr(
        "discern.data.module.ImageDataModule.train_dataset",
        property(lambda self: self.test_dataset.subset(self.test_dataset.labels[:0])),
    )
    with pytest.raises(DiscernError, match=r"quantize=int8 needs training images"):
        exported(run, "quantize=int8")


def test_calibration_takes_training_images(run, exported, monkeypatch):
    seen: list[int] = []
    write = int8.write

    def counted(float32, pictures, about):
        seen.append(len(pictures))
        return write(float32, pictures, about)

    monkeypatch.setattr(int8, "write", counted)
    exported(run, "quantize=int8", "images=10")
    assert seen == [int8.IMAGES]


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "photo.jpg").touch()
    (tmp_path / "none.safetensors").write_bytes(b"none")
    cases = {
        ("ckpt_path=none.safetensors", "format=onx"): "did you mean onnx?",
        ("ckpt_path=none.safetensors", "out=there"): "out=there is not empty; name a new folder.",
        ("ckpt_path=none.safetensors",): "none.safetensors",
        ("ckpt_path=missing",): "ckpt_path=missing does not exist",
        ("ckpt_path=none.safetensors", "format=torch", "quantize=int8"): "ONNX alone has 8 bits",
    }
    for arguments, sentence in cases.items():
        done = invoke("export", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["photo.jpg"]


@pytest.fixture
def web_runtime(tmp_path, monkeypatch) -> None:
    """A cache with files in the place of onnxruntime-web's."""
    cache, files = tmp_path / "cache" / "onnxruntime-web" / onnxruntime_web.VERSION, {}
    cache.mkdir(parents=True)
    for name in onnxruntime_web.FILES:
        (cache / name).write_text(name)
        files[name] = hashlib.sha256(name.encode()).hexdigest()
    monkeypatch.setattr(onnxruntime_web, "FILES", files)
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("web_runtime")
def test_a_page_is_proven_as_the_file_that_it_runs(run, exported):
    folder = exported(run, "format=web", "images=50")
    (file,) = facts(folder)["files"]
    assert (file["file"], file["proof"]["flipped"]) == ("model.onnx", 0)
    assert (folder / "index.html").exists()


@needs_openvino
def test_openvino_is_proven_and_measured_and_its_size_is_of_both_files(run, exported):
    folder = exported(run, "format=openvino", "seconds=0.01")
    (file,) = facts(folder)["files"]
    assert (file["file"], file["proof"]["flipped"]) == ("model.xml", 0)
    assert file["proof"]["difference"] <= 1e-5
    both = sum((folder / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert file["bytes"] == both
    assert facts(folder)["speeds"].keys() == {"PyTorch", "OpenVINO"}


@needs_openvino
def test_an_onnx_model_is_measured_in_openvino_too(run, exported):
    speeds = facts(exported(run, "seconds=0.01"))["speeds"]
    assert speeds.keys() == {"PyTorch", "ONNX Runtime float32", "OpenVINO"}


def test_a_page_without_npm_and_in_eight_bits_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "none.safetensors").write_bytes(b"none")
    cases = {
        (): f"format=web needs onnxruntime-web {onnxruntime_web.VERSION}, which npm fetches once",
        ("quantize=int8",): "ONNX alone has 8 bits",
    }
    for arguments, sentence in cases.items():
        done = invoke(
            "export", "ckpt_path=none.safetensors", "format=web", *arguments, cwd=tmp_path,
            PATH="", DISCERN_CACHE_DIR=str(tmp_path / "cache"),
        )  # fmt: skip
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
