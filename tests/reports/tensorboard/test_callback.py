"""What a run writes for TensorBoard, read as TensorBoard reads it."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from discern.errors import DiscernError
from discern.models.saved import read
from discern.run import train
from discern.runs.sweep_job import DRAWS
from photos import photo_folder
from run_files import SHOWN, composed, same_bits, weights


@pytest.fixture
def tiny_run(tiny_run):
    """With all that a run of a user shows."""
    return partial(tiny_run, *SHOWN)


class Shown:
    """All event files of a run's folder."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("events.out.tfevents*"))
        self.parts = [EventAccumulator(str(file)).Reload() for file in files]

    def tags(self, kind: str) -> list[str]:
        found = [part.Tags()[kind] for part in self.parts]
        return [tag for tags in found if isinstance(tags, list) for tag in tags]

    def tensors(self, tag: str) -> list[Any]:
        return [e for p in self.parts if tag in p.Tags()["tensors"] for e in p.Tensors(tag)]

    def images(self, tag: str) -> list[Any]:
        return [e for p in self.parts if tag in p.Tags()["images"] for e in p.Images(tag)]

    def steps(self, tag: str) -> list[int]:
        scalars = [e for p in self.parts if tag in p.Tags()["scalars"] for e in p.Scalars(tag)]
        return [event.step for event in scalars]

    @property
    def graph(self) -> GraphDef | None:
        return next((p.Graph() for p in self.parts if p.Tags()["graph"]), None)

    @property
    def layout(self) -> Layout:
        (event,) = self.tensors("custom_scalars__config__")
        return Layout.FromString(event.tensor_proto.string_val[0])


def test_a_run_shows_its_layout_graph_settings_pictures_and_curves(tiny_run):
    shown = Shown(tiny_run("callbacks.dashboard.images_every=1").folder)
    charts = {c.title: list(c.multiline.tag) for c in shown.layout.category[0].chart}
    assert charts["loss"] == ["^train/loss$", "^val/loss$"]
    assert charts["accuracy"] == ["^train/accuracy$", "^val/accuracy$"]
    assert "hidden.0/linear" in [node.name for node in shown.graph.node]
    (settings,) = shown.tensors("settings/text_summary")
    assert b"model.hidden | &#91;128,64&#93; | &#91;8&#93;" in settings.tensor_proto.string_val[0]
    for tag in ("val/confusion_matrix", "val/worst_predictions"):
        images = shown.images(tag)
        assert [image.step for image in images] == shown.steps("val/loss")
        pixels = np.asarray(Image.open(io.BytesIO(images[0].encoded_image_string)))
        assert pixels.std() > 10
    curves = [tag for tag in shown.tags("tensors") if tag.startswith("val/pr_curve/")]
    assert sorted(curves) == [f"val/pr_curve/{digit}" for digit in range(10)]
    assert [event.step for event in shown.tensors("val/pr_curve/0")] == shown.steps("val/loss")
    assert not shown.tags("histograms")


def test_the_pictures_are_of_what_validation_measured(tiny_run, monkeypatch):
    seen = []

    def keep(matrix, *args):
        seen.append(matrix)
        return draw(matrix, *args)

    from discern.reports.tensorboard import callback as dashboard

    draw = dashboard.confusion_figure
    monkeypatch.setattr(dashboard, "confusion_figure", keep)
    folder = tiny_run("callbacks.dashboard.images_every=1", "test=false").folder
    parts = Shown(folder).parts
    accuracies = [e.value for p in parts if "val/accuracy" in p.Tags()["scalars"]
                  for e in p.Scalars("val/accuracy")]  # fmt: skip
    assert [m.sum() for m in seen] == [60, 60]
    assert [m.trace() / m.sum() for m in seen] == pytest.approx(accuracies[:2])


@pytest.mark.parametrize(
    ("every", "epochs", "drawn"),
    [(10, 1, [1]), (10, 2, [2]), (2, 3, [2, 3]), (3, 3, [3])],
)
def test_pictures_come_every_so_often_and_in_the_end(tiny_run, every, epochs, drawn):
    overrides = f"trainer.max_epochs={epochs}", f"callbacks.dashboard.images_every={every}"
    shown = Shown(tiny_run(*overrides, "test=false").folder)
    steps = [shown.steps("val/loss")[epoch - 1] for epoch in drawn]
    assert [image.step for image in shown.images("val/confusion_matrix")] == steps


def test_an_epoch_without_validation_has_no_pictures(tiny_run):
    shown = Shown(
        tiny_run(
            "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2",
            "callbacks.dashboard.images_every=1", "test=false",
        ).folder
    )  # fmt: skip
    assert [image.step for image in shown.images("val/confusion_matrix")] == shown.steps("val/loss")


def test_a_run_without_validation_images_has_none(tiny_run):
    shown = Shown(tiny_run("data.val_size=0").folder)
    assert not shown.tags("images")
    assert shown.graph is not None
    assert [c.title for c in shown.layout.category[0].chart][:2] == ["loss", "accuracy"]


def test_the_settings_say_what_is_left_out(tiny_run):
    shown = Shown(
        tiny_run(
            "callbacks.dashboard.graph=false", "callbacks.dashboard.pr_curves=3",
            "callbacks.histograms.every_n_epochs=2", "test=false",
        ).folder
    )  # fmt: skip
    assert shown.graph is None
    assert len([tag for tag in shown.tags("tensors") if tag.startswith("val/pr_curve/")]) == 3
    tags = shown.tags("histograms")
    assert {"weights/hidden.0.weight", "weight_gradients/hidden.0.weight"} <= set(tags)
    (part,) = [part for part in shown.parts if part.Tags()["histograms"]]
    (event,) = part.Histograms("weight_gradients/hidden.0.weight")
    assert event.step == shown.steps("train/loss")[1]
    assert event.histogram_value.min < 0 < event.histogram_value.max


def test_the_jobs_of_a_sweep_write_little(tiny_run):
    shown = Shown(tiny_run(f"++hydra.job.env_set.{DRAWS}=1", "test=false").folder)
    assert not shown.tags("images")
    assert shown.graph is None
    assert shown.layout.category


@pytest.mark.parametrize("logger", ["none", "csv"])
def test_nothing_is_kept_without_tensorboard(tiny_run, logger, monkeypatch):
    from discern.reports.tensorboard import callback as dashboard

    monkeypatch.setattr(dashboard, "confusion_figure", lambda *_: 1 / 0)
    result = tiny_run(f"logger={logger}")
    assert not list(result.folder.rglob("events*"))
    assert result.model.validated is None


def test_training_is_the_same_to_the_bit_with_it_and_without(tiny_run):
    dropout = "model.dropout=0.5"
    every = "callbacks.dashboard.images_every=1", "callbacks.histograms.every_n_epochs=1"
    one = tiny_run(dropout, *every, name="with").folder
    other = tiny_run(dropout, "~callbacks.dashboard", "~callbacks.histograms", name="without")
    assert same_bits(weights(one), weights(other.folder))


def test_the_loop_stays_lean(tiny_run):
    result = tiny_run("test=false")
    assert result.model.trainer.fit_loop.epoch_loop.lean


def test_an_image_that_is_gone_is_no_end_of_the_run(photos, tmp_path, caplog):
    from discern.reports.tensorboard import callback as dashboard

    def gone(*_: Any) -> None:
        raise DiscernError("a.jpg can no longer be read.")

    cfg = transfer(photos, tmp_path, "cache.mode=off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashboard, "_pixels", gone)
        result = train(cfg)
    assert "no picture of the worst predictions" in caplog.text
    assert Shown(result.folder).images("val/confusion_matrix")


def test_a_network_that_cannot_be_drawn_is_trained_all_the_same(tiny_run, monkeypatch, caplog):
    monkeypatch.setattr("discern.reports.tensorboard.graph._shape", lambda _: 1 / 0)
    shown = Shown(tiny_run("test=false").folder)
    assert shown.graph is None
    assert "no graph of the network: division by zero" in caplog.text


# A frozen backbone, of which training sees features alone


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), per_class=12)


def transfer(photos: Path, folder: Path, *overrides: str) -> Any:
    (folder / "run").mkdir()
    return composed(
        "model=densenet_transfer", "model.backbone=squeezenet1_1", "model.weights=null",
        "model.head=[8]", "data=image_folder", "data.image_size=64", "data.num_workers=0",
        "data.batch_size=8", "data.val_size=4", "data.test_size=4", "cache.batch_size=8",
        "trainer.accelerator=cpu", "trainer.max_epochs=2", "engine=torch", "threads=1",
        f"data.dir={photos}", f"folder={folder / 'run'}", f"cache.dir={folder / 'cache'}",
        *overrides,
    )  # fmt: skip


def test_photographs_are_shown_though_training_sees_features(photos, tmp_path, monkeypatch):
    from discern.reports.tensorboard import callback as dashboard

    seen = []

    def keep(predictions, rows, pixels, title):
        seen.append(pixels)
        return draw(predictions, rows, pixels, title)

    draw = dashboard.top_losses
    monkeypatch.setattr(dashboard, "top_losses", keep)
    result = train(transfer(photos, tmp_path))
    assert seen[0].shape == (4, 3, 64, 64)
    shown = Shown(result.folder)
    assert any(node.name.startswith("backbone/") for node in shown.graph.node)
    assert shown.images("val/worst_predictions")


def test_the_worst_predictions_of_a_limited_validation_keep_their_pictures(
    photos, tmp_path, monkeypatch
):
    from discern.reports.tensorboard import callback as dashboard

    seen = []

    def keep(predictions, rows, pixels, title):
        seen.append((predictions.labels[rows], pixels))
        return draw(predictions, rows, pixels, title)

    draw = dashboard.top_losses
    monkeypatch.setattr(dashboard, "top_losses", keep)
    train(transfer(photos, tmp_path, "trainer.limit_val_batches=2", "data.eval_batch_size=1"))
    labels, pixels = seen[0]
    assert sorted(labels) == [0, 1]
    red, green, _ = pixels.mean(axis=(2, 3)).T  # cats are red and dogs are not
    assert ((red > green) == (labels == 0)).all()


@pytest.mark.parametrize(
    ("overrides", "points"),
    [
        ([], 4),
        (["callbacks.dashboard.projector=3"], 3),
        (["data.val_size=0"], 20),
        (["trainer.precision=64"], 4),
        (["trainer.precision=bf16-true"], 4),
    ],
)
def test_the_projector_has_the_features(photos, tmp_path, overrides, points):
    result = train(transfer(photos, tmp_path, *overrides))
    assert Shown(result.folder).graph.node
    features = np.loadtxt(result.folder / "projector" / "features.tsv")
    assert features.shape == (points, 512)
    rows = [row.split("\t") for row in
            (result.folder / "projector" / "labels.tsv").read_text().splitlines()]  # fmt: skip
    assert rows[0] == ["label", "predicted", "file"]
    assert {row[0] for row in rows[1:]} == {"cat", "dog"}
    assert len(rows) == 1 + points
    # What the head says of the features is what is written beside them.
    head = read(result.folder / "checkpoints" / "last.safetensors")["state_dict"]
    head = {name: weight.double() for name, weight in head.items()}
    hidden = np.maximum(features @ head["head.hidden.0.weight"].numpy().T
                        + head["head.hidden.0.bias"].numpy(), 0)  # fmt: skip
    logits = hidden @ head["head.output.weight"].numpy().T + head["head.output.bias"].numpy()
    sure = np.abs(logits[:, 0] - logits[:, 1]) > 1e-2
    said = np.array([row[1] for row in rows[1:]])
    assert (said[sure] == np.array(["cat", "dog"])[logits.argmax(axis=1)][sure]).all()


@pytest.mark.parametrize("off", ["callbacks.dashboard.projector=0", "cache.mode=off"])
def test_without_points_or_features_there_is_no_projector(photos, tmp_path, off):
    result = train(transfer(photos, tmp_path, off))
    assert not list(result.folder.glob("projector*"))


def test_training_a_head_is_the_same_to_the_bit(photos, tmp_path):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    one = train(transfer(photos, tmp_path / "with"))
    other = train(transfer(photos, tmp_path / "without", "~callbacks.dashboard"))
    assert same_bits(weights(one.folder), weights(other.folder))


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("callbacks.dashboard.images_every=0", "a whole number above 0"),
        ("callbacks.dashboard.projector=20000", "from 0 to 10000"),
        ("callbacks.dashboard.grph=true", "did you mean graph"),
        ("callbacks.histograms.every_n_epochs=0", "or null for no histograms"),
    ],
)
def test_a_wrong_setting_is_told(tiny_run, setting, allowed):
    override = f"+{setting}" if "grph" in setting else setting
    with pytest.raises(DiscernError, match=allowed):
        tiny_run(override)
