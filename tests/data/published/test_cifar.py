from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from discern.data.published.cifar import CIFAR10, CIFAR100
from discern.errors import DiscernError

KINDS = [CIFAR10, CIFAR100]
EITHER = pytest.mark.parametrize("kind", KINDS)
OPTIONS = {
    "val_size": 0,
    "batch_size": 4,
    "eval_batch_size": 7,
    "num_workers": 0,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "seed": 0,
}
NUM_TRAIN, NUM_TEST = 50, 20


# Tiny data sets in the official form


def images_and_labels(kind, part, count) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (N, 3072) and labels (N,)."""
    numbers = np.random.default_rng([KINDS.index(kind), part == "test"])
    pixels = numbers.integers(0, 256, (count, 3072), np.uint8)
    return pixels, (np.arange(count) * 7 % num_classes(kind)).astype(np.uint8)


def num_classes(kind) -> int:
    return 100 if kind is CIFAR100 else 10


def names_of(kind) -> list[str]:
    return [f"kind {number}" for number in range(num_classes(kind))]


def files_of(kind) -> dict[str, bytes]:
    """The files by their names, pickles of protocol 2 as Python 2 wrote them."""
    published = kind.published
    contents = {published.meta["filename"]: {published.meta["key"]: names_of(kind)}}
    for part, listed, count in (
        ("train", published.train_list, NUM_TRAIN),
        ("test", published.test_list, NUM_TEST),
    ):
        pixels, labels = images_and_labels(kind, part, count)
        for number, (name, _) in enumerate(listed):
            place = slice(number * count // len(listed), (number + 1) * count // len(listed))
            key = "fine_labels" if kind is CIFAR100 else "labels"
            contents[name] = {"data": pixels[place], key: labels[place].tolist()}
    return {name: pickle.dumps(content, protocol=2) for name, content in contents.items()}


def put_files(kind, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files_of(kind).items():
        (folder / name).write_bytes(content)


def put_archive(kind, folder: Path) -> Path:
    """The archive, made like the official one."""
    inner = folder / "made" / kind.published.base_folder
    put_files(kind, inner)
    (inner / "readme.html").write_text("<html>")
    archive = folder / kind.published.filename
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.add(inner, inner.name, filter=without_time)
    archive.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    shutil.rmtree(folder / "made")
    return archive


def without_time(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """So that each archive that is made has the same digest."""
    info.mtime = 0
    return info


@pytest.fixture(autouse=True)
def tiny(tmp_path_factory, monkeypatch):
    """Tiny data sets pass for the published ones, at an address that is a file."""
    for kind in KINDS:
        archive = put_archive(kind, tmp_path_factory.mktemp("site"))
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in files_of(kind).items()}
        published = kind.published
        known = {
            "url": archive.as_uri(),
            "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest(),
            "train_list": [[name, md5[name]] for name, _ in published.train_list],
            "test_list": [[name, md5[name]] for name, _ in published.test_list],
            "meta": {**published.meta, "md5": md5[published.meta["filename"]]},
        }
        monkeypatch.setattr(kind, "published", type("Tiny", (published,), known))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for kind in KINDS:
        url = (tmp_path / "absent" / kind.published.filename).as_uri()
        monkeypatch.setattr(kind, "published", type("Tiny", (kind.published,), {"url": url}))


def ready(kind, folder: Path, **options):
    data = kind(dir=folder, **{**OPTIONS, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def check(kind, data) -> None:
    """The data are those of the tiny data set."""
    for part, dataset, count in (
        ("train", data.train_dataset, NUM_TRAIN),
        ("test", data.test_dataset, NUM_TEST),
    ):
        pixels, labels = images_and_labels(kind, part, count)
        images, found = dataset.__getitems__(list(range(count)))
        scaled = torch.from_numpy(pixels.reshape(-1, 3, 32, 32)) / 255
        mean, std = (torch.tensor(OPTIONS[name]).reshape(3, 1, 1) for name in ("mean", "std"))
        torch.testing.assert_close(images, (scaled - mean) / std)
        assert found.tolist() == labels.tolist()
    assert data.class_names == names_of(kind)
    assert (data.title, data.source_used) == (kind.full_name, "full")


PUTTERS = {
    "folder": lambda kind, folder: put_files(kind, folder / kind.published.base_folder),
    "files": put_files,
    "archive": put_archive,
    "nothing": lambda kind, folder: None,
}


@EITHER
@pytest.mark.parametrize("put", PUTTERS.values(), ids=PUTTERS)
def test_the_data_are_found_in_every_form(tmp_path, kind, put):
    put(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    check(kind, ready(kind, tmp_path))
    if before and put is not put_archive:
        assert sorted(tmp_path.iterdir()) == before


@EITHER
@pytest.mark.parametrize("put", [p for n, p in PUTTERS.items() if n != "nothing"])
def test_what_is_there_needs_no_network(tmp_path, offline, kind, put):
    put(kind, tmp_path)
    check(kind, ready(kind, tmp_path))


@EITHER
def test_what_is_downloaded_lies_where_torchvision_puts_it(tmp_path, kind):
    ready(kind, tmp_path / "new" / "folder")
    published = kind.published
    names = {path.name for path in (tmp_path / "new" / "folder").glob("[!.]*")}
    assert names == {published.filename, published.base_folder}
    files = (tmp_path / "new" / "folder" / published.base_folder).iterdir()
    assert {path.name for path in files} == {*files_of(kind), "readme.html"}


@EITHER
def test_torchvision_reads_the_same(tmp_path, kind):
    data = ready(kind, tmp_path)
    theirs = kind.published(tmp_path, train=False)
    assert data.class_names == theirs.classes
    assert np.array_equal(data.test_dataset.images, theirs.data.transpose(0, 3, 1, 2))
    assert data.test_dataset.labels.tolist() == theirs.targets


def test_the_two_data_sets_can_share_a_folder(tmp_path):
    for kind in KINDS:
        check(kind, ready(kind, tmp_path))
    for kind in KINDS:
        check(kind, ready(kind, tmp_path))


def test_an_image_has_three_channels_and_is_held_out_by_the_base_class(tmp_path):
    data = ready(CIFAR10, tmp_path, val_size=10)
    assert data.input_shape == (3, 32, 32)
    assert data.num_images == {"train": 40, "val": 10, "test": 20}
    assert data.num_classes == 10
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((4, 3, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


def test_runs_of_one_process_share_the_images(tmp_path):
    first, second = ready(CIFAR10, tmp_path), ready(CIFAR10, tmp_path, seed=1)
    assert first.train_dataset.images.data_ptr() == second.train_dataset.images.data_ptr()


@EITHER
def test_without_a_network_a_sentence_says_what_to_do(tmp_path, offline, kind):
    published = kind.published
    match = (
        rf"^{kind.full_name} is not in {tmp_path}, and file:.* cannot be downloaded: No such file "
        rf"or directory: set data\.dir or DISCERN_DATA_DIR to a folder that has "
        rf"{published.base_folder} or {published.filename}, or connect to the network\.$"
    )
    with pytest.raises(DiscernError, match=match):
        kind(dir=tmp_path, **OPTIONS).prepare_data()
    with pytest.raises(DiscernError, match=rf"^{kind.full_name} is not in .* data\.dir"):
        kind(dir=tmp_path, **OPTIONS).setup()


def test_a_folder_that_is_a_file_is_an_error_of_the_setting(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"^data\.dir=.*/file cannot be read as a folder"):
        ready(CIFAR10, tmp_path / "file")


def test_another_archive_of_that_name_is_refused_and_left(tmp_path):
    archive = tmp_path / CIFAR10.published.filename
    archive.write_bytes(b"something else")
    with pytest.raises(DiscernError, match=rf"^{archive} is not the file expected: its MD5"):
        ready(CIFAR10, tmp_path)
    assert archive.read_bytes() == b"something else"


def test_an_incomplete_folder_is_named(tmp_path):
    folder = tmp_path / CIFAR10.published.base_folder
    put_files(CIFAR10, folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DiscernError, match=rf"^{folder} is not complete.* no data_batch_3: delete"):
        ready(CIFAR10, tmp_path)


class _Touch:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@EITHER
def test_a_pickle_with_another_digest_is_not_read(tmp_path, kind):
    touched = tmp_path / "touched"
    put_files(kind, tmp_path)
    for name, content in files_of(kind).items():
        for other in (content + b"\0", pickle.dumps(_Touch(touched))):
            (tmp_path / name).write_bytes(other)
            with pytest.raises(DiscernError, match=rf"^{tmp_path / name} is not the .* MD5 starts"):
                ready(kind, tmp_path)
        (tmp_path / name).write_bytes(content)
    assert not touched.exists()
