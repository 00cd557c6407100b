from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from discern.config.check import check
from discern.data import stamps
from discern.data.image_folder import ImageFolder
from discern.data.views import PHOTO_AUGMENTATIONS
from discern.errors import DiscernError
from discern.training.build import build_data
from photos import oriented, photo, photo_folder
from run_files import composed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return photo_folder(tmp_path / "photos", per_class=10)


def module(folder: Path, **settings) -> ImageFolder:
    defaults = {"dir": folder, "image_size": 16, "num_workers": 0, "batch_size": 4}
    return ImageFolder(**{**defaults, **settings})


def set_up(folder: Path, **settings) -> ImageFolder:
    data = module(folder, **settings)
    data.setup()
    return data


def build(folder: Path, *overrides: str) -> ImageFolder:
    """What a run builds of the settings, once they are checked; its folder is beside the data."""
    cfg = composed("data=image_folder", "data.num_workers=0", *overrides)
    cfg.data.dir = str(folder)
    cfg.folder = str(folder.parent / "run")
    check(cfg)
    return build_data(cfg)


def refusal(folder: Path, *overrides: str) -> str:
    """The one sentence by which a run refuses the settings."""
    with pytest.raises(DiscernError) as refused:
        build(folder, *overrides)
    sentence = str(refused.value)
    assert re.fullmatch(r"[^\n]+[^.]\.", sentence)
    return sentence


def bad_files(folder: Path) -> list[tuple[str, str, str]]:
    with (folder.parent / "run" / "bad_files.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "reason"]
    return [(str(Path(file).relative_to(folder)), label, reason) for file, label, reason in rows]


def names(images, folder: Path) -> list[str]:
    return [str(Path(name).relative_to(folder)) for name in images.names()]


def splits(data: ImageFolder) -> dict[str, set[str]]:
    parts = {"train": data.train_dataset, "val": data.val_dataset, "test": data.test_dataset}
    return {part: set(images.names()) for part, images in parts.items()}


def class_counts(data: ImageFolder) -> dict[str, list[int]]:
    parts = {"train": data.train_dataset, "val": data.val_dataset, "test": data.test_dataset}
    return {
        part: torch.bincount(
            images.labels if images.indices is None else images.labels[images.indices],
            minlength=data.num_classes,
        ).tolist()
        for part, images in parts.items()
    }


# Parts and splits


def test_parts_that_are_there_are_used_as_they_are(tmp_path):
    folder = photo_folder(tmp_path / "photos", parts=("train", "valid", "test"), per_class=3)
    data = set_up(folder)
    assert data.class_names == ["cat", "dog"]
    assert data.title == "photos"
    assert data.num_images == {"train": 6, "val": 6, "test": 6}
    for split, part in (("train", "train"), ("val", "valid"), ("test", "test")):
        files = names(getattr(data, f"{split}_dataset"), folder)
        assert files == [f"{part}/{name}/{n}.jpg" for name in ("cat", "dog") for n in range(3)]
    assert data.train_dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("parts", [(), ("train",), ("train", "test"), ("train", "val")])
def test_parts_that_are_not_there_are_held_out_of_each_class_by_the_seed(tmp_path, parts):
    folder = photo_folder(tmp_path / "photos", parts=parts, per_class=10)
    first, again, other = (set_up(folder, seed=s, val_size=4, test_size=0.2) for s in (1, 1, 2))
    counts = class_counts(first)
    assert counts["test"] == ([10, 10] if "test" in parts else [2, 2])
    left = 10 if "test" in parts else 8
    assert counts["val"] == ([10, 10] if "val" in parts else [2, 2])
    assert counts["train"] == [left - (0 if "val" in parts else 2)] * 2
    assert splits(first) == splits(again)
    assert splits(first) != splits(other)


@pytest.mark.parametrize("settings", [{}, {"folds": 4, "fold": 1}, {"fraction": 0.5}])
def test_no_image_is_in_two_splits(folder, settings):
    data = set_up(folder, val_size=0.25, test_size=0.25, **settings)
    parts = splits(data)
    assert not parts["train"] & parts["val"]
    assert not (parts["train"] | parts["val"]) & parts["test"]
    assert class_counts(data)["test"] == [3, 2]
    if "fraction" not in settings:
        assert sum(map(len, parts.values())) == 20


def test_every_image_is_in_one_fold_and_the_test_is_the_same_for_all(folder):
    runs = [splits(set_up(folder, folds=3, fold=fold, test_size=0.1)) for fold in range(3)]
    assert runs[0]["test"] == runs[1]["test"] == runs[2]["test"]
    everything = runs[0]["train"] | runs[0]["val"]
    assert len(everything) == 18
    assert set.union(*(run["val"] for run in runs)) == everything
    assert [len(run["val"]) for run in runs] == [6, 6, 6]


def test_a_fraction_takes_the_same_of_each_class_and_leaves_the_others_alone(folder):
    whole, half = (class_counts(set_up(folder, fraction=part)) for part in (1.0, 0.5))
    assert whole == {"train": [8, 8], "val": [1, 1], "test": [1, 1]}
    assert half == {**whole, "train": [4, 4]}


def test_without_sizes_nothing_is_held_out(folder):
    data = set_up(folder, val_size=0, test_size=0)
    assert data.num_images == {"train": 20, "val": 0, "test": 0}
    assert not data.has_validation
    assert data.val_dataloader() == []
    assert list(data.test_dataloader()) == []


def test_a_table_of_a_flat_folder(tmp_path):
    photo_folder(tmp_path / "photos", per_class=4)
    folder = tmp_path / "flat"
    folder.mkdir()
    rows = ["file,label,split"]
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.jpg"))):
        file.rename(folder / f"{number}.jpg")
        part = "test" if number % 4 == 3 else "train"
        rows.append(f"{number}.jpg,{'ab'[number // 4]},{part}")
    (folder / "labels.csv").write_text("\n".join(rows))
    data = set_up(folder, val_size=2)
    assert data.class_names == ["a", "b"]
    assert names(data.test_dataset, folder) == ["3.jpg", "7.jpg"]
    assert class_counts(data) == {"train": [2, 2], "val": [1, 1], "test": [1, 1]}


def test_the_fingerprint_changes_with_any_pixel_label_or_image(tmp_path):
    folder = photo_folder(tmp_path / "photos", parts=("train", "test"), per_class=4)

    def fingerprint() -> str:
        return set_up(folder).fingerprint

    known = [fingerprint()]
    assert fingerprint() == known[0]
    photo(0.5, "other").save(folder / "train" / "cat" / "0.jpg")
    known.append(fingerprint())
    (folder / "test" / "cat" / "1.jpg").rename(folder / "test" / "dog" / "9.jpg")
    known.append(fingerprint())
    (folder / "train" / "dog" / "2.jpg").unlink()
    known.append(fingerprint())
    (folder / "train" / "dog").rename(folder / "train" / "wolf")
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    known.append(fingerprint())
    assert len(set(known)) == len(known)


def test_class_names_in_any_script_and_of_any_bytes(tmp_path):
    classes = ["żółć", "猫", os.fsdecode(b"caf\xe9")]
    folder = photo_folder(tmp_path / os.fsdecode(b"d\xe9"), classes, per_class=4)
    data = set_up(folder, test_size=3, val_size=3)
    assert sorted(data.class_names) == sorted(["żółć", "猫", "caf\\xe9"])
    assert data.title == "d\\xe9"
    assert class_counts(data)["test"] == [1, 1, 1]


def test_links_are_followed_and_loops_are_not(folder):
    (folder / "cat" / "loop").symlink_to(folder)
    (folder / "dog" / "dog").symlink_to(folder / "dog")
    (folder / "cat" / "copy.jpg").symlink_to(folder / "cat" / "0.jpg")
    data = set_up(folder, val_size=0, test_size=0)
    assert class_counts(data)["train"] == [11, 10]


def test_the_second_set_up_reads_no_file(folder, monkeypatch):
    monkeypatch.setattr(stamps, "SETTLED_NS", -(10**18))
    first = set_up(folder)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file is read"))
        again = set_up(folder)
    assert again.fingerprint == first.fingerprint
    assert splits(again) == splits(first)


def test_pictures_that_change_places_change_the_fingerprint(folder):
    for name, colour in (("cat", 0.1), ("dog", 0.6)):
        file = folder / name / "swapped.bmp"
        photo(colour, "swapped").save(file)
        os.utime(file, (1_700_000_000, 1_700_000_000))
    first = set_up(folder).fingerprint
    (folder / "cat" / "swapped.bmp").rename(folder / "aside.bmp")
    (folder / "dog" / "swapped.bmp").rename(folder / "cat" / "swapped.bmp")
    (folder / "aside.bmp").rename(folder / "dog" / "swapped.bmp")
    assert set_up(folder).fingerprint != first


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path):
    folder = photo_folder(tmp_path / "photos", ["10", "2", "0", "1"], per_class=3)
    assert set_up(folder, test_size=0, val_size=0).class_names == ["0", "1", "2", "10"]
    decimal = photo_folder(tmp_path / "decimal", ["10.0", "2.0", "-1.5", "+1"], per_class=3)
    assert set_up(decimal, test_size=0, val_size=0).class_names == ["-1.5", "+1", "2.0", "10.0"]
    photo_folder(folder, ["other"], per_class=3)
    names = set_up(folder, test_size=0, val_size=0).class_names
    assert names == ["0", "1", "10", "2", "other"]


def test_class_names_are_in_one_normal_form(tmp_path):
    folder = photo_folder(tmp_path / "photos", ["cafe\u0301", "caf\u00e9", "tea"], per_class=3)
    data = set_up(folder, test_size=0, val_size=0)
    assert data.class_names == ["caf\u00e9", "tea"]
    assert class_counts(data)["train"] == [6, 3]


def test_what_is_guessed_and_passed_over_is_in_the_log(tmp_path, caplog):
    folder = photo_folder(tmp_path / "x" / "photos", parts=("Training", "pred"), per_class=8)
    (folder / "notes.csv").write_text("who,when\nme,now\n")
    caplog.set_level("INFO")
    data = set_up(tmp_path / "x")
    for said in ("x: the data set is in", "Training is taken for the part train",
                 "pred is passed over", "notes.csv is not read"):  # fmt: skip
        assert any(said in remark for remark in data.remarks)
        assert said in caplog.text


@pytest.mark.parametrize("override", ["none", "{train:p,test:q}"])
def test_the_parts_may_be_said(tmp_path, override):
    folder = photo_folder(tmp_path / "photos", ["train", "boat"], parts=("p", "q"), per_class=6)
    if override == "none":
        folder = folder / "p"
    data = build(folder, f"data.parts={override}")
    assert data.class_names == ["boat", "train"]
    assert data.num_images["test"] == (1 if override == "none" else 12)


@pytest.mark.parametrize(
    "value", ["all", "{train:../p}", "{train:/p}", "{test:p}", "{train:p,tset:q}", "{train:''}"]
)
def test_parts_that_cannot_be_are_refused(folder, value):
    assert "must be none, {train:FOLDER" in refusal(folder, f"data.parts={value}")


def test_pictures_of_more_than_eight_bits_are_told_of_with_their_white(folder, caplog):
    caplog.set_level("INFO")
    for number, greatest in enumerate((4095, 4000, 900)):
        values = np.full((20, 20), greatest, np.uint16)
        Image.fromarray(values).save(folder / "cat" / f"deep{number}.png")
    set_up(folder)
    assert (
        "3 pictures have more than eight bits a value, of which white is 1,023 in 1, 4,095 in 2"
        in (caplog.text)
    )


# Pictures of all kinds


def odd_pictures(folder: Path) -> int:
    """Pictures that are not quite photographs, in the class ``odd``; their number."""
    odd = folder / "odd"
    odd.mkdir()
    image = photo(0.2, "odd")
    image.convert("P").save(odd / "palette.png")
    image.convert("P").save(odd / "clear.gif", transparency=3)
    image.convert("CMYK").save(odd / "inks.jpg")
    image.convert("L").save(odd / "grey.jpg")
    image.convert("1").save(odd / "bit.png")
    image.convert("LA").save(odd / "grey-alpha.png")
    image.convert("RGBA").save(odd / "alpha.webp")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(odd / "deep.png")
    image.save(odd / "moving.gif", save_all=True, append_images=[photo(0.7, "next")] * 2)
    image.save(odd / "pages.tif", save_all=True, append_images=[photo(0.7, "next")])
    image.save(odd / "UPPER.JPEG", "JPEG", progressive=True)
    image.save(odd / "no suffix", "PNG")
    image.save(odd / "other.png", "JPEG")
    Image.new("RGB", (1, 1), "red").save(odd / "one.png")
    Image.new("RGB", (1, 2000), "red").save(odd / "tall.png")
    Image.new("RGB", (3000, 2), "red").save(odd / "wide.jpg")
    Image.new("L", (5000, 4000), 90).save(odd / "huge.png")
    oriented(image, odd / "turned.jpg", 6)
    return len(list(odd.iterdir()))


def test_pictures_of_all_kinds_are_used_in_training_and_evaluation(folder):
    count = odd_pictures(folder)
    for augment in PHOTO_AUGMENTATIONS:
        data = set_up(folder, val_size=0, test_size=0, augment=augment, batch_size=7)
        assert data.bad_files == []
        assert class_counts(data)["train"] == [10, 10, count]
        labels = torch.cat([labels for _, labels in data.train_dataloader()])
        assert torch.bincount(labels).tolist() == [10, 10, count]
    images = torch.cat([images for images, _ in data.sequential_loader(data.train_dataset, 8)])
    assert images.shape == (20 + count, 3, 16, 16)
    assert images.isfinite().all()
    assert images.abs().max() <= 1


def test_what_cannot_be_used_is_listed_with_the_reason(folder):
    whole = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "cat" / "half.jpg").write_bytes(whole[:300])
    (folder / "dog" / "notes.txt").write_text("hello")
    (folder / "dog" / "film.mpg").write_bytes(b"\0\0\1\xb3" + bytes(100))
    (folder / "dog" / "gone.jpg").symlink_to("nowhere")
    (folder / "README.md").write_text("# Photos")
    (folder / ".hidden.jpg").write_text("")
    (folder / "empty").mkdir()
    strange = os.fsdecode(b"\xff.jpg")
    (folder / "cat" / strange).write_bytes(b"")
    data = build(folder, "data.max_bad=0.2")
    assert data.class_names == ["cat", "dog"]
    listed = {file: (label, reason) for file, label, reason in bad_files(folder)}
    assert listed.keys() == {
        *("cat/half.jpg", "cat/\\xff.jpg", "dog/notes.txt", "dog/film.mpg", "dog/gone.jpg"),
        "README.md",
    }
    assert "truncated" in listed["cat/half.jpg"][1].lower()
    assert listed["dog/notes.txt"] == ("dog", "not a picture in a format that Pillow reads")
    assert listed["dog/gone.jpg"] == ("dog", "No such file or directory")
    assert listed["README.md"] == ("", "not in the folder of a class")
    assert data.num_images == {"train": 16, "val": 2, "test": 2}


def test_without_bad_files_there_is_no_list(folder):
    assert build(folder).bad_files == []
    assert not (folder.parent / "run").exists()


def test_bad_files_are_warned_of(folder, caplog):
    (folder / "dog" / "notes.txt").write_text("hello")
    set_up(folder)
    assert f"1 of 21 files in {folder} are not used; bad_files.csv says why." in caplog.text


def spoil(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).write_text("spoilt")


def test_too_many_bad_files_stop_the_run_with_the_list(folder):
    spoil(folder, "cat/1.jpg", "dog/2.jpg")
    sentence = refusal(folder)
    assert "data.max_bad=0.01 is exceeded: 2 of 20 pictures in" in sentence
    assert "cat/1.jpg (not a picture in a format that Pillow reads); " in sentence
    assert sentence.endswith("bad_files.csv lists them.")
    assert [file for file, *_ in bad_files(folder)] == ["cat/1.jpg", "dog/2.jpg"]


@pytest.mark.parametrize(("max_bad", "is_allowed"), [(0.0999, False), (0.1, True), (1, True)])
def test_as_many_bad_files_are_allowed_as_the_setting_says(folder, max_bad, is_allowed):
    spoil(folder, "cat/1.jpg", "dog/2.jpg")
    if is_allowed:
        assert sum(build(folder, f"data.max_bad={max_bad}").num_images.values()) == 18
    else:
        assert "is exceeded" in refusal(folder, f"data.max_bad={max_bad}")


@pytest.mark.parametrize("name", ["a.txt", "a.mp4", "a.mpg", "a.pdf", "a.JSON", "a", "a.csv"])
def test_what_has_no_pictures_suffix_does_not_count(folder, name):
    for number in range(10):
        spoil(folder, f"cat/{number}{name}")
    assert sum(build(folder).num_images.values()) == 20


@pytest.mark.parametrize("name", ["a.JPG", "a.png", "a.webp", "a.tiff", "a.heic"])
def test_what_has_a_pictures_suffix_counts(folder, name):
    spoil(folder, f"cat/{name}")
    assert "1 of 21 pictures" in refusal(folder)


def test_a_class_whose_pictures_are_all_bad_is_none(folder):
    spoil(photo_folder(folder, ["bird"], per_class=1), "bird/0.jpg")
    assert build(folder, "data.max_bad=0.5").class_names == ["cat", "dog"]


def test_without_any_good_picture_the_list_says_why(tmp_path):
    folder = tmp_path / "photos"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        spoil(folder, f"{name}/0.jpg", f"{name}/1.txt")
    sentence = refusal(folder)
    assert "has no picture that can be read; " in sentence
    assert len(bad_files(folder)) == 4


# Wrong input


def test_what_is_no_data_set_is_refused(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").touch()
    assert "nowhere does not exist" in refusal(tmp_path / "nowhere")
    assert "file is a file" in refusal(tmp_path / "file")
    assert "has no files; it must have a folder for each class" in refusal(empty)
    flat = photo_folder(tmp_path / "flat", ["cat"]) / "cat"
    assert "has 6 files, but none in the folder of a class; it must have" in refusal(flat)
    one = photo_folder(tmp_path / "one", ["cat"])
    assert "has only the class cat in its training images" in refusal(one)
    for part in ("val", "test"):
        (one / part / "dog").mkdir(parents=True)
    shutil.rmtree(one / "cat")
    photo_folder(one, ["cat"], parts=("train",))
    assert "has only the class cat in its training images" in refusal(one)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_with_classes_that_training_lacks_is_refused(tmp_path, part):
    folder = photo_folder(tmp_path / "photos", parts=("train", part))
    photo_folder(folder, ["bird"], parts=(part,))
    assert f"has classes for {part} that its training images do not have: bird." in refusal(folder)


@pytest.mark.parametrize(
    "override",
    [
        *("data.image_size=0", "data.augment=strng", "data.fold=9", "data.folds=1"),
        *("data.max_bad=2", "data.max_bad=-1", "data.fraction=0", "data.sampler=balance"),
        *("data.interpolation=nearest", "data.mean=[0.5]", "data.std=[0,1,1]", "data.val_size=-1"),
        *("data.resize=10 data.image_size=20", "data.num_workers=-1", "data.batch_size=0"),
        *("data.folds=3 data.fold=3", "data.test_size=1.5", "data.csv=gone.csv", "data.folds=99"),
        *("data.val_size=99", "data.test_size=20"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(folder, override):
    setting, _, value = override.split()[-1].partition("=")
    sentence = refusal(folder, *override.split())
    assert setting in sentence or override.split()[0].partition("=")[0] in sentence
    assert value in sentence or override.split()[0].partition("=")[2] in sentence


def test_a_table_that_names_missing_files_is_refused(folder):
    (folder / "labels.csv").write_text("file,label\ncat/0.jpg,cat\ncat/99.jpg,cat\n")
    assert "names" in refusal(folder)
    assert "99.jpg, which cannot be found" in refusal(folder)


def test_without_a_folder_the_setting_is_named():
    cfg = composed("data=image_folder")
    with pytest.raises(DiscernError, match=r"^data\.dir=null is not allowed"):
        check(cfg)


# Loading


def seen(data: ImageFolder, epoch: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Images of an epoch, in the order of training, and their labels."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = [(images.clone(), labels.clone()) for images, labels in loader]
    return torch.cat([i for i, _ in batches]), torch.cat([n for _, n in batches]).tolist()


@pytest.mark.parametrize("augment", ["none", "notes", "strong"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_training_sees_the_same_whatever_the_number_of_processes(folder, augment):
    state = torch.get_rng_state()
    runs = [seen(set_up(folder, augment=augment, num_workers=n), epoch=2) for n in (0, 1, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    for images, labels in runs[1:]:
        assert torch.equal(images, runs[0][0])
        assert labels == runs[0][1]


@pytest.mark.parametrize("augment", ["none", "notes"])
@pytest.mark.parametrize("sampler", ["none", "balanced"])
def test_an_epoch_that_is_continued_is_the_same(folder, augment, sampler):
    data = set_up(folder, augment=augment, sampler=sampler, seed=3)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    whole = [images for images, _ in loader]
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": 1, "batches": 2})
    loader.sampler.set_epoch(1)
    rest = [images for images, _ in loader]
    assert len(rest) == len(whole) - 2
    for images, expected in zip(rest, whole[2:], strict=True):
        assert torch.equal(images, expected)


@pytest.mark.parametrize("augment", [name for name in PHOTO_AUGMENTATIONS if name != "none"])
def test_views_change_with_the_epoch_and_the_seed(folder, augment):
    def shown(seed: int, epoch: int) -> torch.Tensor:
        data = set_up(folder, val_size=0, test_size=0, augment=augment, seed=seed)
        return data.seen_in_epoch([*range(20)], epoch)[0]

    first = shown(0, 0)
    for other in (shown(0, 1), shown(1, 0)):
        assert sum(not torch.equal(*pair) for pair in zip(first, other, strict=True)) >= 18
    assert torch.equal(shown(0, 0), first)


def test_classes_of_any_size_are_balanced_on_average(tmp_path):
    folder = photo_folder(tmp_path / "photos", ["cat"], per_class=3)
    photo_folder(folder, ["dog"], per_class=27)
    data = set_up(folder, val_size=0, test_size=0, sampler="balanced", image_size=4)
    labels = [label for epoch in range(8) for label in seen(data, epoch)[1]]
    assert len(labels) == 8 * 30
    assert 80 < sum(labels) < 160


@pytest.mark.parametrize("augment", ["none", "light"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_during_training_is_left_out(folder, augment, workers):
    data = set_up(folder, val_size=0, test_size=0, augment=augment, num_workers=workers)
    loader = data.train_dataloader()
    assert len(torch.cat([labels for _, labels in loader])) == 20
    (folder / "cat" / "3.jpg").unlink()
    loader.sampler.set_epoch(1)
    assert torch.bincount(torch.cat([labels for _, labels in loader])).tolist() == [9, 10]


def test_each_file_left_out_is_warned_of(folder, caplog):
    data = set_up(folder, val_size=0, test_size=0)
    (folder / "cat" / "3.jpg").unlink()
    caplog.set_level(logging.WARNING)
    seen(data)
    assert f"{folder}/cat/3.jpg can no longer be read and is left out: No such" in caplog.text


def test_a_file_that_goes_before_evaluation_is_an_error(folder):
    data = set_up(folder, val_size=4)
    gone = Path(data.val_dataset.names()[1])
    gone.unlink()
    with pytest.raises(DiscernError, match=rf"^{gone} can no longer be read: No such[^\n]*\.$"):
        list(data.val_dataloader())
