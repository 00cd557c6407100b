from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from discern.data.published.flowers import CLASS_NAMES, Flowers102
from discern.errors import DiscernError
from mirror import mirrored, publish

OPTIONS = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_size": 0.5}
# The label of each picture, from the first; the numbers of the parts are mixed as in the real one.
LABELS = [*range(102, 0, -1), *range(1, 103), 77, 2, 10]
PARTS = {
    "trnid": [*range(204, 102, -1)],
    "valid": [*range(1, 103)],
    "tstid": [205, 207, 206],
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def picture(number: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (9, 8), (number, 0, 0))
    image.save(file, "JPEG", comment=str(number))  # or some would be the same to the byte
    return file.getvalue()


def matrix(**arrays) -> bytes:
    """A .mat file as the publisher's: a row of numbers."""
    file = io.BytesIO()
    savemat(file, {name: np.array([row], np.uint8) for name, row in arrays.items()})
    return file.getvalue()


def archive(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(scope="module")
def site() -> dict[str, bytes]:
    """A tiny data set in the official form: the files by their names."""
    pictures = {f"jpg/image_{n:05}.jpg": picture(n) for n in range(1, len(LABELS) + 1)}
    return {
        "102flowers.tgz": archive(pictures),
        "imagelabels.mat": matrix(labels=LABELS),
        "setid.mat": matrix(**PARTS),
    }


@pytest.fixture(autouse=True)
def published(site, monkeypatch):
    publish(monkeypatch, Flowers102, site)


@pytest.fixture
def mirror(site, monkeypatch):
    with mirrored(monkeypatch, Flowers102, site) as mirror:
        yield mirror


def put(folder: Path, site: dict[str, bytes]) -> None:
    """The files as torchvision leaves them, without the archive."""
    (folder / "jpg").mkdir(parents=True, exist_ok=True)
    for name in ("imagelabels.mat", "setid.mat"):
        (folder / name).write_bytes(site[name])
    for number in range(1, len(LABELS) + 1):
        (folder / "jpg" / f"image_{number:05}.jpg").write_bytes(picture(number))


def ready(folder: Path, **options) -> Flowers102:
    data = Flowers102(dir=folder, **OPTIONS | options)
    data.prepare_data()
    data.setup()
    return data


def labels(data: Flowers102, split: str) -> dict[int, int]:
    """Number of each picture -> its label, from 0."""
    images = getattr(data, f"{split}_dataset")
    return {
        int(Path(name).stem.removeprefix("image_")): int(images[place][1])
        for place, name in enumerate(images.names())
    }


@pytest.mark.parametrize("inside", ["flowers-102", "."])
def test_the_official_split_and_labels_are_used(tmp_path, site, inside):
    (tmp_path / "data" / "flowers-102").mkdir(parents=True)  # as a failed download leaves it
    put(tmp_path / "data" / inside, site)
    data = ready(tmp_path / "data")
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        assert labels(data, split) == {n: LABELS[n - 1] - 1 for n in PARTS[key]}


def test_the_names_are_in_the_official_order_of_labels(tmp_path, site):
    put(tmp_path / "flowers-102", site)
    data = ready(tmp_path)
    assert data.class_names == list(CLASS_NAMES)
    assert data.class_names[76] == "passion flower"  # the first of the test's labels is 77
    assert data.class_names == torchvision.datasets.Flowers102.classes


def test_the_labels_stay_where_a_class_has_no_picture_left(tmp_path, site):
    put(tmp_path / "flowers-102", site)
    (tmp_path / "flowers-102" / "jpg" / "image_00103.jpg").unlink()  # the only one of label 1
    data = ready(tmp_path, max_bad=0.5)
    assert data.class_names == list(CLASS_NAMES)
    assert [(bad.path.name, bad.label) for bad in data.bad_files] == [
        ("image_00103.jpg", "pink primrose")
    ]
    assert data.train_class_counts.tolist() == [0] + [1] * 101
    assert labels(data, "test") == {205: 76, 206: 1, 207: 9}


def test_folds_divide_the_training_part(tmp_path, site):
    put(tmp_path / "flowers-102", site)
    assert ready(tmp_path, folds=2, fold=1).num_images == {"train": 51, "val": 51, "test": 3}


def test_all_is_downloaded_once(tmp_path, mirror):
    for _ in range(2):
        data = ready(tmp_path / "new")
        assert data.num_images == {"train": 102, "val": 102, "test": 3}
    assert sorted(name for _, name in mirror.requests) == [
        "102flowers.tgz",
        "imagelabels.mat",
        "setid.mat",
    ]


def test_only_what_is_missing_is_downloaded(tmp_path, site, mirror):
    put(tmp_path / "flowers-102", site)
    (tmp_path / "flowers-102" / "setid.mat").unlink()
    ready(tmp_path)
    assert [name for _, name in mirror.requests] == ["setid.mat"]


def test_a_download_that_is_another_file_is_refused(tmp_path, mirror):
    mirror.bodies["102flowers.tgz"] = archive({"jpg/image_00001.jpg": picture(1)})
    with pytest.raises(DiscernError, match="its MD5 starts with"):
        ready(tmp_path)
    assert not (tmp_path / "flowers-102" / "jpg").exists()


def test_labels_that_are_another_file_are_not_parsed(tmp_path, site):
    put(tmp_path / "flowers-102", site)
    (tmp_path / "flowers-102" / "imagelabels.mat").write_bytes(matrix(labels=LABELS[::-1]))
    with pytest.raises(DiscernError, match=r"imagelabels\.mat is not the file that was published"):
        ready(tmp_path)


def test_without_network_one_sentence_says_what_to_do(tmp_path):
    with pytest.raises(
        DiscernError, match=r"^Oxford 102 Flowers is not in .*, and http://"
    ) as told:
        ready(tmp_path)
    assert "set data.dir or DISCERN_DATA_DIR to a folder that has flowers-102" in str(told.value)
    with pytest.raises(DiscernError, match=r"^Oxford 102 Flowers is not in .*: set data\.dir"):
        Flowers102(dir=tmp_path, **OPTIONS).setup()


def test_a_dir_that_cannot_be_looked_at_is_told(tmp_path):
    with pytest.raises(DiscernError, match=r"^data\.dir=.* cannot be read: File name too long"):
        ready(tmp_path / ("x" * 300))
