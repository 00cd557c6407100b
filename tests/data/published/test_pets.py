from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from discern.data.published.pets import OxfordPets
from discern.errors import DiscernError
from mirror import mirrored, publish

OPTIONS = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_size": 0}
# As published: cats begin with a capital, and the numbers count them all in one order.
BREEDS = ["Abyssinian", "american_pit_bull_terrier", "Bengal", "yorkshire_terrier"]
BREEDS[3:3] = [f"breed_{chr(ord('a') + number)}" for number in range(26)]
BREEDS[3:3] = [f"cat_{chr(ord('a') + number)}" for number in range(7)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def contents() -> dict[str, bytes]:
    """A tiny data set in the official form: three training and one test picture of a breed."""
    files = {}
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for number, breed in enumerate(BREEDS, 1):
        for index in (9, 10, 100, 201):
            # A few of the published files are no JPEG.
            form = "PNG" if index == 9 else "JPEG"
            files[f"images/{breed}_{index}.jpg"] = picture(number, index, form)
            part = "test" if index == 201 else "trainval"
            lines[part].append(f"{breed}_{index} {number} {1 + breed[0].islower()} {number}")
    for part, entries in lines.items():
        files[f"annotations/{part}.txt"] = ("\n".join(entries) + "\n").encode()
    files["images/Abyssinian_100.mat"] = b"MATLAB 5.0"
    files["images/Abyssinian_300.jpg"] = b"in no list"
    files["annotations/list.txt"] = b"#Image CLASS-ID SPECIES BREED ID\n"
    files["annotations/._trimaps"] = b"\0"
    return files


def picture(red: int, green: int, form: str) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (9, 8), (red, green, 0))
    image.save(file, form, comment=f"{red} {green}")  # or some would be the same to the byte
    return file.getvalue()


def archive(files: dict[str, bytes], folder: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            if name.startswith(f"{folder}/"):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def site() -> dict[str, bytes]:
    files = contents()
    return {f"{name}.tar.gz": archive(files, name) for name in ("images", "annotations")}


@pytest.fixture(autouse=True)
def published(site, monkeypatch):
    publish(monkeypatch, OxfordPets, site)


@pytest.fixture
def mirror(site, monkeypatch):
    with mirrored(monkeypatch, OxfordPets, site) as mirror:
        yield mirror


def ready(folder: Path, **options) -> OxfordPets:
    data = OxfordPets(dir=folder, **OPTIONS | options)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.parametrize("inside", ["oxford-iiit-pet", "."])
def test_the_official_split_and_labels_are_used(tmp_path, inside):
    (tmp_path / "oxford-iiit-pet").mkdir()  # as a failed download leaves it
    put(tmp_path / inside, contents())
    data = ready(tmp_path)
    assert data.num_images == {"train": 111, "val": 0, "test": 37}
    for images, indices in ((data.train_dataset, {9, 10, 100}), (data.test_dataset, {201})):
        for place, name in enumerate(images.names()):
            breed, _, index = Path(name).stem.rpartition("_")
            assert BREEDS[images[place][1]] == breed
            assert int(index) in indices
    assert data.bad_files == []


def test_the_names_are_in_the_order_of_the_published_numbers(tmp_path):
    put(tmp_path / "oxford-iiit-pet", contents())
    names = ready(tmp_path).class_names
    assert names[:4] == ["Abyssinian", "American Pit Bull Terrier", "Bengal", "Cat A"]
    assert names[-1] == "Yorkshire Terrier"
    assert len(names) == 37


def test_validation_is_held_out_of_the_training_part(tmp_path):
    put(tmp_path / "oxford-iiit-pet", contents())
    data = ready(tmp_path, val_size=37)
    assert data.num_images == {"train": 74, "val": 37, "test": 37}
    assert data.train_class_counts.tolist() == [2] * 37


def test_all_is_downloaded_once(tmp_path, mirror):
    for _ in range(2):
        assert sum(ready(tmp_path / "new").num_images.values()) == 148
    assert sorted(name for _, name in mirror.requests) == ["annotations.tar.gz", "images.tar.gz"]


def test_only_what_is_missing_is_downloaded(tmp_path, mirror):
    files = {name: it for name, it in contents().items() if name.startswith("annotations/")}
    put(tmp_path / "oxford-iiit-pet", files)
    assert sum(ready(tmp_path).num_images.values()) == 148
    assert [name for _, name in mirror.requests] == ["images.tar.gz"]


def test_other_images_in_the_folder_of_data_sets_are_not_taken_for_these(tmp_path, mirror):
    put(tmp_path, {"images/mine.jpg": picture(1, 1, "JPEG")})
    assert sum(ready(tmp_path).num_images.values()) == 148
    assert len(mirror.requests) == 2


def test_a_download_that_is_another_file_is_refused(tmp_path, mirror):
    mirror.bodies["annotations.tar.gz"] = archive({"annotations/test.txt": b""}, "annotations")
    with pytest.raises(DiscernError, match="its MD5 starts with"):
        ready(tmp_path)
    assert not (tmp_path / "oxford-iiit-pet" / "annotations").exists()


def test_without_network_one_sentence_says_what_to_do(tmp_path):
    with pytest.raises(DiscernError, match=r"^Oxford-IIIT Pet is not in .*, and http://") as told:
        ready(tmp_path)
    assert "set data.dir or DISCERN_DATA_DIR to a folder that has oxford-iiit" in str(told.value)


def test_without_prepare_data_the_missing_files_are_told(tmp_path):
    with pytest.raises(DiscernError, match=r"^Oxford-IIIT Pet is not in .*: set data\.dir"):
        OxfordPets(dir=tmp_path, **OPTIONS).setup()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda text: text.replace("Bengal_9 ", "../../Bengal_9 "),
            r"trainval\.txt, line 7: it is",
        ),
        (lambda text: text.replace("Bengal_9 3", "Bengal_9 x"), r"trainval\.txt, line 7: it is"),
        (lambda text: text.replace("Bengal_9 3", "Bengal_9 4"), "has not 37 breeds"),
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], "has not 37 breeds"),
        (lambda text: "", "has not 37 breeds"),
    ],
)
def test_annotations_that_are_not_as_published_are_refused(tmp_path, change, reason):
    files = contents()
    text = files["annotations/trainval.txt"].decode()
    files["annotations/trainval.txt"] = change(text).encode()
    put(tmp_path / "oxford-iiit-pet", files)
    with pytest.raises(DiscernError, match=reason):
        ready(tmp_path)


def test_test_annotations_with_other_breeds_are_refused(tmp_path):
    files = contents()
    text = files["annotations/test.txt"].replace(b"Bengal", b"Siamese")
    put(tmp_path / "oxford-iiit-pet", files | {"annotations/test.txt": text})
    with pytest.raises(DiscernError, match=r"test\.txt is not as published: its breeds are not"):
        ready(tmp_path)


def test_annotations_without_the_test_are_told(tmp_path):
    files = contents()
    del files["annotations/test.txt"]
    put(tmp_path / "oxford-iiit-pet", files)
    with pytest.raises(DiscernError, match=r"annotations is not complete, it has no test\.txt"):
        ready(tmp_path)


def test_a_dir_that_cannot_be_looked_at_is_told(tmp_path):
    with pytest.raises(DiscernError, match=r"^data\.dir=.* cannot be read: File name too long"):
        ready(tmp_path / ("x" * 300))
