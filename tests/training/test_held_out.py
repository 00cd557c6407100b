"""What is held out stays held out, whatever becomes of a folder of pictures."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import run_files
from discern.commands.evaluate import evaluate
from discern.data.image_folder import ImageFolder
from discern.data.known import KnownImages
from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.saved import read
from discern.run import train

CLASSES = ("ant", "bee", "cat")


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def noise(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def noise_folder(folder: Path, per_class: int = 12, first: int = 0) -> Path:
    """Pictures of noise, each another one, in three classes."""
    for label, name in enumerate(CLASSES):
        for number in range(per_class):
            noise(folder / name / f"{number:03}.png", first + label * 1000 + number)
    return folder


# What people do to a folder


@dataclass
class Folder:
    """A folder that changes.

    Attributes:
        path: where it is now.
        made: pictures made so far.
    """

    path: Path
    made: int = 10_000
    copies: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def files(self) -> list[Path]:
        return sorted(self.path.rglob("*.png"))

    def _some(self, count: int = 3) -> list[Path]:
        return [Path(file) for file in self.random.choice(self.files(), count, replace=False)]

    def _new_name(self) -> str:
        self.made += 1
        return f"{self.random.integers(10**6):06}_{self.made}.png"

    def add(self) -> None:
        for name in CLASSES:
            file = self.path / name / self._new_name()
            noise(file, self.made)

    def remove(self) -> None:
        for file in self._some(2):
            if len(list(file.parent.iterdir())) > 4:
                file.unlink()

    def rename(self) -> None:
        for file in self._some(6):
            file.rename(file.with_name(self._new_name()))

    def duplicate(self) -> None:
        for file in self._some():
            shutil.copy(file, file.with_name(self._new_name()))

    def relabel(self) -> None:
        for file in self._some():
            if len(list(file.parent.iterdir())) > 4:
                other = self.path / str(self.random.choice(CLASSES))
                file.rename(other / self._new_name())

    def duplicate_in_another_class(self) -> None:
        for file in self._some():
            shutil.copy(file, self.path / str(self.random.choice(CLASSES)) / self._new_name())

    def copy(self) -> None:
        self.copies += 1
        to = self.path.with_name(f"copy {self.copies}")
        shutil.copytree(self.path, to)
        self.path = to

    def change_in_place(self) -> None:
        for file in self._some(2):
            self.made += 1
            noise(file, self.made)


CHANGES = (
    "add", "remove", "rename", "duplicate", "relabel", "duplicate_in_another_class", "copy",
    "change_in_place",
)  # fmt: skip
SPLITS = st.fixed_dictionaries(
    {
        "val_size": st.sampled_from([0, 0.2, 5]),
        "test_size": st.sampled_from([0.2, 0.4, 6]),
        "fraction": st.sampled_from([1.0, 0.6]),
        "folds": st.sampled_from([None, 3]),
        "fold": st.sampled_from([0, 2]),
        "seed": st.integers(0, 2),
    }
)


def module(folder: Path, known: KnownImages | None, measured: str | None, **split: Any) -> Any:
    fold = split["fold"] if split["folds"] else 0
    data = ImageFolder(dir=folder, image_size=8, num_workers=0, **{**split, "fold": fold})
    data.known, data.measured = known, measured
    data.setup()
    return data


def keys(images: Any) -> set[int]:
    return set(images.content_keys().tolist())


@settings(max_examples=15)
@given(
    SPLITS,
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(CHANGES), max_size=3),
            st.sampled_from(["evaluate", "evaluate val", "continue", "init_from"]),
            SPLITS,
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_nothing_that_was_trained_on_is_ever_measured(split, steps, seed):
    with TemporaryDirectory() as place:
        folder = Folder(noise_folder(Path(place) / "photos"), random=np.random.default_rng(seed))
        data = module(folder.path, None, None, **split)
        known, trained = data.seen, keys(data.train_dataset)
        held_out = keys(data.test_dataset)
        for changes, command, other in steps:
            for change in changes:
                getattr(folder, change)()
            if command.startswith("evaluate"):
                measured = "val" if command.endswith("val") else "test"
                data = module(folder.path, known, measured, **split)
                assert data.trained_on(measured, trains=False) == 0
            else:
                data = module(folder.path, known, None, **other)
                known = data.seen
                trained |= keys(data.train_dataset)
                assert data.trained_on("test") == data.trained_on("val") == 0
            for images in (data.val_dataset, data.test_dataset):
                assert not keys(images) & trained
            assert held_out & keys(data.train_dataset) == set()
            held_out |= keys(data.test_dataset)


# By the commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with 60 ``photos``, and ``outputs/run``, a run of one epoch on them."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("DISCERN_CACHE_DIR", str(place / "cache"))
        noise_folder(Path("photos"), per_class=20)
        trained_run("run", "trainer.max_epochs=1")
    return place


@pytest.fixture
def photos(place, tmp_path, monkeypatch) -> Path:
    """A folder of 60 pictures in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(place / "photos", "photos"))


@pytest.fixture
def run(photos, place) -> Path:
    """A run of one epoch on ``photos``, in the same working directory."""
    return Path(shutil.copytree(place / "outputs" / "run", "outputs/run"))


def trained_run(name: str, *overrides: str) -> Path:
    """A run that learns its training pictures by heart; its folder."""
    cfg = run_files.composed(
        "data=image_folder", "data.dir=photos", "data.num_workers=0", "data.image_size=8",
        "data.test_size=0.3", "optimizer.lr=0.01", "trainer.max_epochs=25",
        "callbacks.early_stopping=null", "logger=csv", run_files.NOT_DRAWN, *overrides,
    )  # fmt: skip
    if "hidden" in cfg.model:
        cfg.model.hidden = [64]
    cfg.folder = f"outputs/{name}"
    train(cfg)
    return Path(cfg.folder)


def evaluation(name: str, run: Path, *overrides: str) -> dict[str, Any]:
    """What ``discern evaluate`` writes of a run, and the pictures that it measured."""
    cfg = run_files.composed(f"ckpt_path={run}", *overrides, command="evaluate")
    cfg.folder = f"outputs/{name}"
    evaluate(cfg)
    facts = json.loads(Path(cfg.folder, "metrics.json").read_text())
    return facts | {"contents": contents(Path(cfg.folder, "predictions.csv"))}


def contents(predictions: Path) -> set[bytes]:
    with predictions.open(newline="") as file:
        return {Path(row["file"]).read_bytes() for row in csv.DictReader(file)}


def accuracy(facts: dict[str, Any]) -> float:
    return float(facts["metrics"]["accuracy"]["value"])


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_a_picture_that_is_added_leaves_the_test_as_it_was(photos, caplog):
    run = trained_run("run", "data.seed=7")
    before = evaluation("before", run)
    trained = evaluation("trained", run, "split=train")
    assert accuracy(before) < 0.7 < accuracy(trained)  # noise can be learnt by heart only
    noise(photos / "ant" / "0.png", 999_999)
    after = evaluation("after", run)
    named = evaluation("named", run, "data=image_folder", "data.dir=photos")
    for facts in (after, named):
        assert facts["contents"] >= before["contents"]
        assert not facts["contents"] & trained["contents"]
        assert facts["trained_on"] == 0
        assert facts["data"]["changes"] == {"new": 1, "gone": 0, "changed": 0}
    assert (
        "photos is not as outputs/run/checkpoints/best.safetensors knows it: 1 new, 0 gone, 0"
        in (caplog.text)
    )


@pytest.mark.parametrize("way", ["ckpt_path", "model.init_from"])
def test_going_on_from_a_checkpoint_keeps_its_test(photos, run, caplog, way):
    test = contents_of_test(run)
    noise(photos / "bee" / "00.png", 999_999)
    (photos / "cat" / "000.png").rename(photos / "cat" / "zzz.png")
    later = trained_run("later", f"{way}={run}", "data.seed=1", "trainer.max_epochs=2")
    assert "1 new, 0 gone, 0 changed" in caplog.text
    assert "made with data.seed=0: data.seed=1 does not change it." in caplog.text
    assert contents_of_test(later) >= test
    assert summary(later)["data"]["trained_on"] == {"val": 0, "test": 0}
    # Once more, from the one that went on, when its first pictures are back.
    last = trained_run("last", f"model.init_from={later}", "data.seed=2", "trainer.max_epochs=1")
    assert contents_of_test(last) >= test


def contents_of_test(run: Path) -> set[bytes]:
    return evaluation(f"test of {run.name}", run)["contents"]


def test_new_pictures_are_all_measured_and_it_is_said_which_they_are(run, caplog, tmp_path):
    caplog.set_level("INFO")
    new = noise_folder(Path("new"), per_class=4, first=500_000)
    assert evaluation("all", run, "data=image_folder", f"data.dir={new}")["images"] == 12
    assert "Measured: 12 images of new, all that it has." in caplog.text
    shutil.copytree(new, "lone/test")
    assert evaluation("lone", run, "data.dir=lone")["images"] == 12
    assert "Measured: 12 images of lone, its part for test." in caplog.text
    rows = [f"new/{name}/00{n}.png,{name}" for name in CLASSES for n in range(4)]
    Path("table.csv").write_text("\n".join(["file,label", *rows]))
    shutil.copytree(new, "table/new")
    Path("table.csv").rename("table/table.csv")
    assert evaluation("table", run, "data.dir=table")["images"] == 12


def test_pictures_that_were_trained_on_are_counted_wherever_they_are_measured(run, caplog):
    trained = sorted(evaluation("trained", run, "split=train")["contents"])[:3]
    new = noise_folder(Path("new"), per_class=4, first=500_000)
    shutil.copytree(new, "parts/test")
    for number, content in enumerate(trained):
        for folder in (new / "ant", Path("parts/test/ant")):
            (folder / f"known {number}.png").write_bytes(content)
    caplog.set_level("INFO")
    assert evaluation("all", run, f"data.dir={new}")["images"] == 12
    assert "which knows 3 of its 15 images." in caplog.text
    assert "Measured: 12 images of new, all that it has but for 3 that the model is" in caplog.text
    facts = evaluation("part", run, "data.dir=parts")
    assert (facts["images"], facts["trained_on"]) == (15, 3)
    said = "3 of the 15 images of split=test are among those that the model is trained on"
    assert caplog.text.count(f"{said}.") == 2  # before, and under the numbers
    with pytest.raises(DiscernError, match=r"^data\.strict=true: 3 "):
        evaluation("strict", run, "data.dir=parts", "data.strict=true")
    assert evaluation("on train", run, "split=train")["trained_on"] == 38


def test_a_run_whose_parts_share_pictures_says_so_in_its_report(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    noise_folder(Path("photos/train"), per_class=8)
    noise_folder(Path("photos/test"), per_class=3, first=100)
    shutil.copy("photos/train/ant/000.png", "photos/test/ant/copy.png")
    with pytest.raises(DiscernError, match=r"^data\.strict=true: .* split=test "):
        trained_run("strict", "data.strict=true", "trainer.max_epochs=1", "data.val_size=0")
    run = trained_run("run", "trainer.max_epochs=1", run_files.DRAWN, "data.val_size=0")
    assert summary(run)["data"]["trained_on"] == {"test": 1}
    said = "1 of the 10 images of split=test is among those that the model is trained on."
    assert caplog.text.count(said) == 2
    assert said in (run / "report.html").read_text()


def test_the_backbone_of_a_checkpoint_was_trained_on_its_images_too(photos):
    network = (
        "model=densenet_transfer", "model.backbone=squeezenet1_1", "model.head=[8]",
        "data.image_size=64", "engine=torch", "trainer.max_epochs=1",
    )  # fmt: skip
    first = trained_run("first", *network, "model.weights=null", "model.unfreeze=all")
    weights = f"model.weights={first}/checkpoints/last.safetensors"
    later = trained_run("later", *network, weights, "data.seed=5")
    assert not contents_of_test(later) & evaluation("x", first, "split=train")["contents"]


def test_what_is_held_out_stays_so_when_most_pictures_are_others(photos, run, caplog):
    held_out = {
        split: evaluation(split, run, f"split={split}")["contents"] for split in ("val", "test")
    }
    for path in sorted(photos.rglob("*.png")):
        if path.read_bytes() not in held_out["test"] | held_out["val"]:
            noise(path, 400_000 + int(path.stem) * 3 + CLASSES.index(path.parent.name))
    later = trained_run("later", f"ckpt_path={run}", "trainer.max_epochs=2")
    for split, before in held_out.items():
        assert evaluation(f"{split} later", later, f"split={split}")["contents"] >= before
    # By way of another data set, which has none of them.
    noise_folder(Path("others"), first=700_000)
    between = trained_run("between", f"model.init_from={run}", "data.dir=others", "data.seed=3")
    assert summary(between)["data"]["trained_on"] == {"val": 0, "test": 0}
    last = trained_run("last", f"model.init_from={between}", "data.seed=4")
    trained = evaluation("trained last", last, "split=train")["contents"]
    assert not trained & (held_out["test"] | held_out["val"])


def test_pictures_that_were_held_out_are_not_trained_on_where_they_are_moved_to_train(
    photos, caplog
):
    run = trained_run("run", "trainer.max_epochs=1", "data.val_size=0")
    held_out = contents_of_test(run)
    shutil.copytree("photos", "parts/train")
    noise_folder(Path("parts/test"), per_class=2, first=900_000)
    later = trained_run(
        "later", f"model.init_from={run}", "data.dir=parts", "trainer.max_epochs=1",
        "data.val_size=0",
    )  # fmt: skip
    assert not evaluation("trained", later, "split=train")["contents"] & held_out
    assert f"{len(held_out)} images of parts are among those to train on, but were held" in (
        caplog.text
    )


def test_a_split_that_other_data_have_no_part_for(run):
    noise_folder(Path("parts/train"), per_class=3, first=700_000)
    noise_folder(Path("parts/val"), per_class=3, first=800_000)
    with pytest.raises(DiscernError, match=r"^split=test is not in these data, .* must be val\.$"):
        evaluation("test", run, "data.dir=parts")
    assert evaluation("val", run, "data.dir=parts", "split=val")["images"] == 9


def without_images(run: Path) -> Path:
    """The checkpoint of a run as it was before checkpoints said what was trained on."""
    content = read(run / "checkpoints" / "last.safetensors")
    del content["images"]
    write(content, Path("old.safetensors"))
    return Path("old.safetensors")


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on(run, caplog):
    old = without_images(run)
    facts = evaluation("test", old, "data=image_folder", "data.dir=photos")
    assert facts["trained_on"] is None
    assert "old.safetensors does not record which images its model was trained on" in caplog.text
    asked = ("data=image_folder", "data.dir=photos")
    with pytest.raises(
        DiscernError, match=r"^split=val is not allowed: old\.safetensors does not record"
    ):
        evaluation("val", old, *asked, "split=val")
    with pytest.raises(DiscernError, match=r"^data\.strict=true: old\.safetensors does not record"):
        evaluation("strict", old, *asked, "data.strict=true")


def test_what_was_typed_alone_is_said_not_to_change_the_split(photos, caplog):
    first = trained_run("first", "trainer.max_epochs=1")
    later = trained_run(
        "later", f"model.init_from={first}", "data.seed=1", "data.val_size=0.2",
        "data.test_size=0.5", "trainer.max_epochs=1",
    )  # fmt: skip
    for setting in ("seed=1", "val_size=0.2", "test_size=0.5"):
        assert f"data.{setting} does not change it." in caplog.text
    caplog.clear()
    own = evaluation("own", later)
    named = evaluation("named", later, "data=image_folder", "data.dir=photos")
    assert own["contents"] == named["contents"]
    assert "does not change it" not in caplog.text
    trained_run("last", f"model.init_from={later}", "data.seed=0", "trainer.max_epochs=1")
    assert "does not change it" not in caplog.text


def test_folds_that_a_checkpoint_does_not_have_are_refused(photos):
    first = trained_run("first", "trainer.max_epochs=1")
    of_fold = trained_run("of_fold", "data.folds=3", "data.fold=1", "trainer.max_epochs=1")
    for run, fold, wrong in [(first, 0, "folds=3"), (of_fold, 0, "fold=0"), (of_fold, 2, "fold=2")]:
        for way in (f"ckpt_path={run}", f"model.init_from={run}"):
            with pytest.raises(DiscernError, match=f"data.{wrong} is not allowed: photos is"):
                trained_run("later", way, "data.folds=3", f"data.fold={fold}")
    trained_run(
        "same", f"model.init_from={of_fold}", "data.folds=3", "data.fold=1", "trainer.max_epochs=1"
    )


def test_the_training_part_of_other_data_is_no_more_than_that(run, caplog):
    caplog.set_level("INFO")
    trained = sorted(evaluation("trained", run, "split=train")["contents"])[0]
    noise_folder(Path("parts/train"), per_class=4, first=500_000)
    noise_folder(Path("parts/test"), per_class=2, first=600_000)
    assert evaluation("part", run, "data.dir=parts", "split=train")["images"] == 12
    assert "Measured: 12 images of parts, its part for train." in caplog.text
    held_out = sorted(evaluation("test", run)["contents"])[0]
    Path("parts/train/ant/trained.png").write_bytes(trained)
    Path("parts/train/ant/held out.png").write_bytes(held_out)
    assert evaluation("more", run, "data.dir=parts", "split=train")["images"] == 13
    assert "13 images of parts, its part for train but for 1 that the model is" in caplog.text


def test_the_training_images_are_the_fraction_that_was_trained_on(photos):
    run = trained_run("run", "data.fraction=0.5", "trainer.max_epochs=1")
    own = evaluation("own", run, "split=train")
    asked = evaluation("named", run, "split=train", "data=image_folder", "data.dir=photos")
    assert own["contents"] == asked["contents"]
    assert own["trained_on"] == own["images"] == summary(run)["data"]["images"]["train"]


def test_a_lone_test_will_do_for_cats_and_dogs_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise_folder(Path("pets"), per_class=8)
    shutil.rmtree("pets/ant")
    Path("pets/bee").rename("pets/dog")
    run = trained_run("run", "data=catdog", "data.dir=pets", "trainer.max_epochs=1")
    noise_folder(Path("lone/test"), per_class=3, first=1_000_000)
    shutil.rmtree("lone/test/ant")
    Path("lone/test/bee").rename("lone/test/dog")
    assert evaluation("lone", run, "data.dir=lone")["images"] == 6


@pytest.mark.parametrize("change", ["rename", "add", "remove"])
@pytest.mark.parametrize("command", ["evaluate", "ckpt_path", "model.init_from"])
def test_other_classes_are_an_error_with_both_lists(photos, run, change, command):
    if change == "rename":
        (photos / "bee").rename(photos / "wasp")
    elif change == "add":
        noise(photos / "dog" / "0.png", 1)
    else:
        shutil.rmtree(photos / "bee")
    now = {"rename": "ant, cat, wasp", "add": "ant, bee, cat, dog", "remove": "ant, cat"}[change]
    commands = {
        "evaluate": lambda: evaluation("evaluation", run),
        "ckpt_path": lambda: trained_run("later", f"ckpt_path={run}"),
        "model.init_from": lambda: trained_run("later", f"model.init_from={run}"),
    }
    with pytest.raises(DiscernError, match=rf"has the classes {now}, .* knows ant, bee, cat"):
        commands[command]()


def test_a_class_is_the_same_however_its_letters_are_composed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    composed, decomposed = (
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "cafe\N{COMBINING ACUTE ACCENT}",
    )
    noise_folder(Path("photos"), per_class=10)
    Path("photos/cat").rename(f"photos/{composed}")
    run = trained_run("run", "trainer.max_epochs=1")
    before = evaluation("before", run)
    Path(f"photos/{composed}").rename(f"photos/{decomposed}")
    after = evaluation("after", run)
    assert after["contents"] == before["contents"]
    assert after["metrics"] == before["metrics"]


def test_the_folder_of_the_run_is_taken_where_none_is_given(photos, run, monkeypatch):
    assert evaluation("own", run)["data"]["as_in_training"]
    shutil.copy(run / "checkpoints" / "last.safetensors", "alone.safetensors")
    with pytest.raises(
        DiscernError, match=r"^data\.dir=null is not allowed; .*alone\.safetensors "
    ):
        evaluation("alone", Path("alone.safetensors"))
    photos.rename("moved")
    with pytest.raises(DiscernError, match=r"^data\.dir=null .*, which was photos, .* folder of"):
        evaluation("moved away", run)
    facts = evaluation("moved", run, "data.dir=moved")
    assert facts["data"]["as_in_training"]
    assert facts["data"]["changes"] is None


def test_a_checkpoint_that_says_its_pictures_in_another_form_is_refused(run):
    path = run / "checkpoints" / "last.safetensors"
    content = read(path)
    for name, other in damaged(content["images"]):
        torch.save(content | {"images": other}, f"{name}.pth")
        with pytest.raises(DiscernError, match="does not record its training images"):
            evaluation(name, Path(f"{name}.pth"), "data=image_folder", "data.dir=photos")


def damaged(images: dict[str, torch.Tensor]) -> Iterator[tuple[str, Any]]:
    yield "missing", {name: part for name, part in images.items() if name != "sides"}
    yield "more", images | {"other": images["keys"]}
    yield "type", images | {"labels": images["labels"].float()}
    yield "shape", images | {"keys": images["keys"][:, None]}
    yield "length", images | {"sides": images["sides"][1:]}
    yield "label", images | {"labels": images["labels"] + 1}
    yield "side", images | {"sides": images["sides"] + 5}
    yield "order", images | {"keys": images["keys"].flip(0)}
    yield "list", images | {"before": [1, 2]}
    yield "text", "images"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (torch.zeros(1, dtype=torch.int64).expand(2**40), "its tensors claim more than it holds"),
        (
            torch.zeros(3, dtype=torch.int64).to_sparse(),
            r"it asks for torch._utils._rebuild_sparse_tensor",
        ),
        (
            torch.empty(3, dtype=torch.int64, device="meta"),
            r"it asks for torch._utils._rebuild_meta_tensor",
        ),
    ],
)
def test_a_checkpoint_with_pictures_that_are_no_numbers_is_refused(before, reason, photos, run):
    content = read(run / "checkpoints" / "last.safetensors")
    torch.save(content | {"images": content["images"] | {"before": before}}, "given.pth")
    with pytest.raises(DiscernError, match=f"^given.pth cannot be read: {reason}"):
        evaluation("given", Path("given.pth"), "data=image_folder", "data.dir=photos")


@pytest.mark.parametrize(
    "split",
    [
        {"test": [(0, 5)]},
        {"val": []},
        {"test": [(5, 0)] * 3},
        {"test": [(-1, 5)] * 3},
        {"val_size": 10**400},
        {"seed": -5},
        {"folds": 10**20},
        {"val": [(0, 1 << 80)] * 3},
        {"other": 1},
    ],
)
def test_a_checkpoint_with_another_rule_is_refused(run, split):
    content = read(run / "checkpoints" / "last.safetensors")
    card = content["discern"]
    write(content | {"discern": card | {"split": card["split"] | split}}, Path("other.safetensors"))
    with pytest.raises(
        DiscernError, match=r"does not (record its training images|describe a model)"
    ):
        evaluation("x", Path("other.safetensors"), "data=image_folder", "data.dir=photos")
