from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discern.data.published.catdog import CatDog
from discern.errors import DiscernError
from mirror import closed_url, serving

OPTIONS = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_size": 0, "test_size": 0.25}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def picture(number: int) -> bytes:
    """A JPEG that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(1000 * len(path.parts) + number))


def course(train: int = 4, test: int = 2) -> list[str]:
    """Names of the course's files, with so many of each class."""
    return [
        f"{part}/{kind}/{kind}.{number}.jpg"
        for part, count in (("train", train), ("test", test))
        for kind in ("cat", "dog")
        for number in range(count)
    ]


def ready(folder: Path, **options) -> CatDog:
    data = CatDog(**{"dir": folder, "url": closed_url(), **OPTIONS, **options})
    data.prepare_data()
    data.setup()
    return data


def classified(data: CatDog, split: str) -> list[tuple[str, str]]:
    """Name and class of each file of a split."""
    images = getattr(data, f"{split}_dataset")
    labels = [data.class_names[images[place][1]] for place in range(len(images))]
    return [(Path(name).name, label) for name, label in zip(images.names(), labels, strict=True)]


# The forms


@pytest.mark.parametrize("inside", ["Cat_Dog_data", "."])
def test_the_courses_form_keeps_its_test_part(tmp_path, inside):
    put(tmp_path / inside, *course())
    data = ready(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert data.num_images == {"train": 8, "val": 0, "test": 4}
    assert {(name[:3], label) for name, label in classified(data, "test")} == {
        ("cat", "cat"),
        ("dog", "dog"),
    }
    assert {Path(name).parts[-3] for name in data.test_dataset.names()} == {"test"}


@pytest.mark.parametrize("inside", ["PetImages", "."])
def test_microsofts_form_gets_a_test_part_and_small_letters(tmp_path, inside):
    put(tmp_path / inside, *(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(8)))
    data = ready(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert data.num_images == {"train": 12, "val": 0, "test": 4}
    labels = {Path(photo.path).parent.name: photo.label for photo in data.parts["train"]}
    assert labels == {"Cat": "cat", "Dog": "dog"}


@pytest.mark.parametrize("inside", ["train", "."])
@pytest.mark.parametrize("unlabelled", ["test", "test1"])
def test_kaggles_form_is_told_by_names_and_its_test_passed_over(tmp_path, inside, unlabelled):
    put(tmp_path / inside, *(f"{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(8)))
    put(tmp_path / unlabelled, "1.jpg", "2.jpg")
    data = ready(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert data.num_images == {"train": 12, "val": 0, "test": 4}
    everything = classified(data, "train") + classified(data, "test")
    assert all(name.startswith(f"{label}.") for name, label in everything)
    assert data.bad_files == []


def test_what_is_no_cat_and_no_dog_is_listed_as_not_used(tmp_path):
    put(tmp_path, *(f"{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(8)))
    put(tmp_path, "cow.1.jpg", "cat.x.jpg")
    data = ready(tmp_path)
    assert sum(data.num_images.values()) == 16
    assert {bad.path.name for bad in data.bad_files} == {"cow.1.jpg", "cat.x.jpg"}


def test_a_folder_of_another_class_is_not_used(tmp_path):
    put(tmp_path / "Cat_Dog_data", *course(), "train/cow/cow.1.jpg")
    data = ready(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert [bad.path.name for bad in data.bad_files] == ["cow"]


def test_the_course_comes_before_microsoft(tmp_path):
    put(tmp_path / "Cat_Dog_data", *course())
    put(tmp_path / "PetImages", *(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(8)))
    assert sum(ready(tmp_path).num_images.values()) == 12


def test_a_whole_form_is_used_beside_one_that_is_not(tmp_path):
    put(tmp_path / "Cat_Dog_data", "train/cat/cat.0.jpg")
    put(tmp_path / "PetImages", *(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(8)))
    assert sum(ready(tmp_path).num_images.values()) == 16


def test_the_test_is_held_out_where_the_course_has_only_a_train_folder(tmp_path):
    put(tmp_path / "Cat_Dog_data", *course(train=4, test=0))
    assert ready(tmp_path).num_images == {"train": 6, "val": 0, "test": 2}


def test_a_part_for_validation_is_used(tmp_path):
    files = course() + [name.replace("test/", "validation/") for name in course(train=0)]
    put(tmp_path, *(name.replace("cat/", "cats/").replace("dog/", "dogs/") for name in files))
    data = ready(tmp_path, val_size=0.5)
    assert data.class_names == ["cat", "dog"]
    assert data.num_images == {"train": 8, "val": 4, "test": 4}


def test_a_table_takes_the_place_of_the_forms(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = ["file,label,split", "a.jpg,Cat,train", "b.jpg,dog,train", "c.jpg,cat,test"]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    data = ready(tmp_path, csv="mine.csv")
    assert classified(data, "train") == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert classified(data, "test") == [("c.jpg", "cat")]
    (tmp_path / "mine.csv").write_text("file,label\na.jpg,cow\nb.jpg,dog\n")
    with pytest.raises(DiscernError, match=r"^data\.csv=mine\.csv has the label cow; it must be"):
        ready(tmp_path, csv="mine.csv")


def test_folders_that_are_named_take_the_place_of_the_forms(tmp_path):
    put(tmp_path, "x/Cat/a.jpg", "x/dogs/b.jpg", "y/cats/c.jpg", "cat/no.jpg", "dog/no.jpg")
    data = ready(tmp_path, parts={"train": "x", "test": "y"})
    assert classified(data, "train") == [("a.jpg", "cat"), ("b.jpg", "dog")]
    assert classified(data, "test") == [("c.jpg", "cat")]


# Files that are damaged or hostile


def test_microsofts_damaged_files_are_listed_and_left_out(tmp_path):
    folder = tmp_path / "PetImages"
    put(folder, *(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(100)))
    (folder / "Cat" / "666.jpg").write_bytes(b"")
    whole = picture(1)
    (folder / "Dog" / "11702.jpg").write_bytes(whole[: len(whole) // 2])
    for kind in ("Cat", "Dog"):
        (folder / kind / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    data = ready(tmp_path)
    assert data.num_images == {"train": 150, "val": 0, "test": 50}
    assert {(bad.path.name, bad.label) for bad in data.bad_files} == {
        ("666.jpg", "cat"),
        ("11702.jpg", "dog"),
        ("Thumbs.db", "cat"),
        ("Thumbs.db", "dog"),
    }


def test_a_file_that_claims_to_be_huge_and_a_link_to_nothing_are_left_out(tmp_path):
    folder = tmp_path / "PetImages"
    put(folder, *(f"{kind}/{n}.jpg" for kind in ("Cat", "Dog") for n in range(100)))
    huge = bytearray(picture(1))
    start = huge.index(b"\xff\xc0") + 5  # height and width of the frame
    huge[start : start + 4] = b"\xff\xff\xff\xff"
    (folder / "Cat" / "huge.jpg").write_bytes(huge)
    (folder / "Dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = ready(tmp_path)
    assert sum(data.num_images.values()) == 200
    reasons = {bad.path.name: bad.reason for bad in data.bad_files}
    assert "pixels" in reasons["huge.jpg"]
    assert "No such file" in reasons["gone.jpg"]


# What is not complete


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        (["Cat_Dog_data/train/cat/cat.0.jpg"], "dog"),
        (["Cat_Dog_data/test/cat/cat.0.jpg", "Cat_Dog_data/test/dog/dog.0.jpg"], "cat or a dog"),
        (["PetImages/Dog/0.jpg"], "cat"),
        (["train/dog.0.jpg", "train/dog.1.jpg"], "cat"),
        (["test/cat/cat.0.jpg", "test/dog/dog.0.jpg"], "cat or a dog"),
    ],
)
def test_a_form_that_lacks_a_class_is_told_and_nothing_downloaded(tmp_path, files, missing):
    put(tmp_path, *files)
    with pytest.raises(DiscernError, match=f"has no training pictures of a {missing}; data.dir="):
        ready(tmp_path)
    assert list(tmp_path.glob("*.zip*")) == []


def test_an_empty_folder_of_the_course_is_not_taken_for_the_data(tmp_path):
    (tmp_path / "Cat_Dog_data" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DiscernError, match="Cat_Dog_data is not complete"):
        ready(tmp_path)


def test_a_class_whose_pictures_are_all_damaged_is_told(tmp_path):
    put(tmp_path / "PetImages", "Cat/0.jpg", "Cat/1.jpg")
    (tmp_path / "PetImages" / "Dog").mkdir()
    (tmp_path / "PetImages" / "Dog" / "0.jpg").write_bytes(b"")
    with pytest.raises(DiscernError, match="only the class cat"):
        ready(tmp_path, max_bad=1.0)


def test_a_dir_that_is_a_file_or_cannot_be_looked_at_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"^data\.dir=.* is a file"):
        ready(tmp_path / "file")
    with pytest.raises(DiscernError, match=r"^data\.dir=.* cannot be read: File name too long"):
        ready(tmp_path / ("x" * 300))


# The download


def archive() -> bytes:
    """The course's archive, with what macOS adds to one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for number, name in enumerate(course()):
            zipped.writestr(f"Cat_Dog_data/{name}", picture(number))
        zipped.writestr("Cat_Dog_data/.DS_Store", b"\0")
        zipped.writestr("__MACOSX/Cat_Dog_data/._train", b"\0")
    return file.getvalue()


@pytest.fixture
def mirror():
    with serving() as mirror:
        mirror.bodies["cats.zip"] = archive()
        yield mirror


def test_the_archive_is_downloaded_once_to_a_new_folder(tmp_path, mirror):
    folder = tmp_path / "not" / "yet" / "there"
    for _ in range(2):
        data = ready(folder, url=f"{mirror.url}cats.zip")
        assert data.num_images == {"train": 8, "val": 0, "test": 4}
        assert data.bad_files == []
    assert mirror.requests == [("GET", "cats.zip")]
    assert not (folder / "__MACOSX").exists()


def test_an_archive_that_is_there_is_unpacked_without_network(tmp_path):
    (tmp_path / "Cat_Dog_data.zip").write_bytes(archive())
    assert sum(ready(tmp_path).num_images.values()) == 12


def test_an_archive_that_is_there_and_another_is_told_without_advice(tmp_path):
    (tmp_path / "Cat_Dog_data.zip").write_bytes(archive())
    with pytest.raises(DiscernError, match=r"^/.*\.zip is not the file expected: its SHA-256"):
        ready(tmp_path, sha256="0" * 64)


def test_an_archive_with_the_digest_given_is_used_and_no_other(tmp_path, mirror):
    url = f"{mirror.url}cats.zip"
    digest = hashlib.sha256(archive()).hexdigest()
    assert sum(ready(tmp_path / "right", url=url, sha256=digest).num_images.values()) == 12
    with pytest.raises(DiscernError, match="its SHA-256 starts with"):
        ready(tmp_path / "wrong", url=url, sha256="0" * 64)
    assert not (tmp_path / "wrong" / "Cat_Dog_data").exists()


def test_another_archive_than_the_first_is_refused(tmp_path, mirror):
    url = f"{mirror.url}cats.zip"
    ready(tmp_path, url=url)
    (tmp_path / "Cat_Dog_data").rename(tmp_path / "away")
    (tmp_path / "Cat_Dog_data.zip").unlink()
    mirror.bodies["cats.zip"] += b"\0"
    with pytest.raises(DiscernError, match="its SHA-256 starts with"):
        ready(tmp_path, url=url)


def test_without_network_one_sentence_says_what_to_do(tmp_path):
    with pytest.raises(DiscernError) as caught:
        ready(tmp_path / "new")
    message = str(caught.value)
    assert message.startswith(f"Cats and dogs are not in {tmp_path / 'new'}, and http://127.0.0.1:")
    assert "cannot be downloaded: Connection refused: set data.dir or DISCERN_DATA_DIR" in message
    for layout in ("Cat_Dog_data/train/cat", "PetImages/Cat", "train/cat.0.jpg"):
        assert layout in message
    assert "\n" not in message
    assert message.count(". ") == 0


def test_without_prepare_data_the_missing_files_are_told(tmp_path):
    with pytest.raises(DiscernError, match=r"^Cats and dogs are not in .*: set data\.dir or DISC"):
        CatDog(dir=tmp_path, **OPTIONS).setup()


def test_an_archive_that_leads_outside_leaves_nothing(tmp_path, mirror):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("Cat_Dog_data/train/cat/cat.0.jpg", picture(0))
        zipped.writestr("../outside.jpg", picture(1))
    mirror.bodies["cats.zip"] = file.getvalue()
    with pytest.raises(DiscernError, match="leads outside"):
        ready(tmp_path / "data", url=f"{mirror.url}cats.zip")
    assert not (tmp_path / "outside.jpg").exists()
    assert not (tmp_path / "data" / "Cat_Dog_data").exists()
