from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
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


# Tiny data sets in the official forms


def images_and_labels(kind, part, count) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (N, 3072) and labels (N,)."""
    numbers = np.random.default_rng([KINDS.index(kind), part == "test"])
    pixels = numbers.integers(0, 256, (count, 3072), np.uint8)
    return pixels, (np.arange(count) * 7 % kind.published.num_classes).astype(np.uint8)


def names_of(kind) -> list[str]:
    return [f"kind {number}" for number in range(kind.published.num_classes)]


def parts(kind, version):
    """Name, pixels and labels of each file of images."""
    pixels, labels = images_and_labels(kind, "train", NUM_TRAIN)
    each = NUM_TRAIN // len(version.train)
    for number, name in enumerate(version.train):
        place = slice(number * each, (number + 1) * each)
        yield name, pixels[place], labels[place]
    yield version.test, *images_and_labels(kind, "test", NUM_TEST)


def put_binary(kind, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    version = kind.published.binary
    for name, pixels, labels in parts(kind, version):
        before = [labels[:, None]]
        if kind is CIFAR100:
            before.insert(0, 19 - labels[:, None] % 20)  # the coarse label comes first
        (folder / name).write_bytes(np.hstack([*before, pixels]).tobytes())
    (folder / version.names).write_text("\n".join(names_of(kind)) + "\n\n")


def put_archive(kind, folder: Path) -> Path:
    """The archive of the binary version, made like the official one."""
    inner = folder / "made" / kind.published.binary.folder
    put_binary(kind, inner)
    (inner / "readme.html").write_text("<html>")
    archive = folder / kind.published.archive
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


def put_python(kind, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    version = kind.published.python
    for name, pixels, labels in parts(kind, version):
        entries = {"batch_label": name, "filenames": [f"{n}.png" for n in range(len(labels))]}
        entries |= {kind.published.labels_key.decode(): labels.tolist()}
        if kind is CIFAR100:
            entries |= {"coarse_labels": (labels % 20).tolist()}
        (folder / name).write_bytes(pickled_by_python_2(entries, pixels))
    key = kind.published.names_key.decode()
    (folder / version.names).write_bytes(
        pickled_by_python_2({"num_vis": 3072, key: names_of(kind)})
    )


def pickled_by_python_2(entries: dict[str, object], pixels=None, dtype=b"u1") -> bytes:
    """As Python 2 and the NumPy of 2009 pickled it, protocol 2; the array is at ``data``."""
    out = b"\x80\x02}("
    for key, value in entries.items():
        out += in_python_2(key) + in_python_2(value)
    if pixels is not None:
        out += in_python_2("data") + (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
            + (b"K\x00\x85U\x01b\x87R(K\x01" + in_python_2(pixels.shape[0]))
            + (in_python_2(pixels.shape[1]) + b"\x86")
            + (b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"K\x00K\x01\x87R")
            + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            + (b"\x89T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb")
        )
    return out + b"u."


def in_python_2(value: object) -> bytes:
    if isinstance(value, str):
        return b"T" + struct.pack("<i", len(value)) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    assert isinstance(value, list)
    return b"](" + b"".join(map(in_python_2, value)) + b"e"


@pytest.fixture(autouse=True)
def tiny(tmp_path_factory, monkeypatch):
    """Tiny data sets pass for the published ones, at an address that is a file."""
    for kind in KINDS:
        site = tmp_path_factory.mktemp("site")
        archive = put_archive(kind, site)
        put_python(kind, site / "python")
        python = kind.published.python
        digests = tuple(md5(site / "python" / name) for name in python.files)
        published = dataclasses.replace(
            kind.published,
            num_train=NUM_TRAIN,
            num_test=NUM_TEST,
            url=archive.as_uri(),
            md5=md5(archive),
            python=dataclasses.replace(python, md5=digests),
        )
        monkeypatch.setattr(kind, "published", published)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for kind in KINDS:
        url = (tmp_path / "absent" / kind.published.archive).as_uri()
        monkeypatch.setattr(kind, "published", dataclasses.replace(kind.published, url=url))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


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
    assert (data.title, data.source_used) == (kind.published.title, "full")


PUTTERS = {
    "binary": lambda kind, folder: put_binary(kind, folder / kind.published.binary.folder),
    "binary files": put_binary,
    "archive": put_archive,
    "python": lambda kind, folder: put_python(kind, folder / kind.published.python.folder),
    "python files": put_python,
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
def test_what_is_downloaded_lies_where_the_authors_put_it(tmp_path, kind):
    ready(kind, tmp_path / "new" / "folder")
    published = kind.published
    names = {path.name for path in (tmp_path / "new" / "folder").glob("[!.]*")}
    assert names == {published.archive, published.binary.folder}
    files = (tmp_path / "new" / "folder" / published.binary.folder).iterdir()
    assert {path.name for path in files} == {*published.binary.files, "readme.html"}


@EITHER
def test_each_form_has_the_same_fingerprint_and_each_change_another(tmp_path, kind):
    put_binary(kind, tmp_path / "binary")
    put_python(kind, tmp_path / "python")
    binary = ready(kind, tmp_path / "binary").fingerprint
    assert ready(kind, tmp_path / "python").fingerprint == binary
    found = {binary}
    for name in (*kind.published.binary.train, kind.published.binary.test):
        for place in (-1, -3073):  # a pixel of the last image, and its label
            changed = tmp_path / f"{name}{place}"
            put_binary(kind, changed)
            content = bytearray((changed / name).read_bytes())
            content[place] ^= 1
            (changed / name).write_bytes(content)
            found.add(ready(kind, changed).fingerprint)
    assert len(found) == 1 + 2 * (len(kind.published.binary.train) + 1)


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
        rf"^{published.title} is not in {tmp_path}, and file:.* cannot be downloaded: No such file "
        rf"or directory: set data\.dir or DISCERN_DATA_DIR to a folder that has "
        rf"{published.binary.folder}, {published.python.folder} or {published.archive}, or connect "
        r"to the network\.$"
    )
    with pytest.raises(DiscernError, match=match):
        kind(dir=tmp_path, **OPTIONS).prepare_data()
    with pytest.raises(DiscernError, match=rf"^{published.title} is not in .* data\.dir"):
        kind(dir=tmp_path, **OPTIONS).setup()


def test_a_folder_that_is_a_file_is_an_error_of_the_setting(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"^data\.dir=.*/file cannot be read as a folder"):
        ready(CIFAR10, tmp_path / "file")


def test_another_archive_of_that_name_is_refused_and_left(tmp_path):
    archive = tmp_path / CIFAR10.published.archive
    archive.write_bytes(b"something else")
    with pytest.raises(DiscernError, match=rf"^{archive} is not the file expected: its MD5"):
        ready(CIFAR10, tmp_path)
    assert archive.read_bytes() == b"something else"


def test_an_incomplete_folder_is_named(tmp_path):
    folder = tmp_path / CIFAR10.published.binary.folder
    put_binary(CIFAR10, folder)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DiscernError, match=rf"^{folder} is not complete.* no data_batch_3\.bin: d"):
        ready(CIFAR10, tmp_path)


def test_an_incomplete_folder_is_passed_over_where_the_other_form_is_there(tmp_path, offline):
    put_python(CIFAR10, tmp_path / CIFAR10.published.python.folder)
    (tmp_path / CIFAR10.published.binary.folder).mkdir()
    check(CIFAR10, ready(CIFAR10, tmp_path))


@EITHER
@pytest.mark.parametrize("change", ["cut", "grown", "an image less"])
def test_a_binary_file_of_another_size_is_refused(tmp_path, kind, change):
    put_binary(kind, tmp_path)
    file = tmp_path / kind.published.binary.test
    content = file.read_bytes()
    row = len(content) // NUM_TEST
    changes = {"cut": content[:-1], "grown": content + b"\0", "an image less": content[:-row]}
    file.write_bytes(changes[change])
    with pytest.raises(
        DiscernError, match=rf"^{file} is not as published.* instead of {len(content):,}"
    ):
        ready(kind, tmp_path)


@EITHER
def test_a_label_without_a_class_is_refused(tmp_path, kind):
    put_binary(kind, tmp_path)
    file = tmp_path / kind.published.binary.train[0]
    content = bytearray(file.read_bytes())
    content[-3073] = kind.published.num_classes
    file.write_bytes(content)
    with pytest.raises(DiscernError, match=rf"^{file} .* label {kind.published.num_classes}, and"):
        ready(kind, tmp_path)


@pytest.mark.parametrize("count", [0, 9, 11])
def test_as_many_names_as_classes_are_needed(tmp_path, count):
    put_binary(CIFAR10, tmp_path)
    (tmp_path / "batches.meta.txt").write_text("\n".join(map(str, range(count))))
    with pytest.raises(DiscernError, match=rf"names {count} classes instead of 10\.$"):
        ready(CIFAR10, tmp_path)


# The Python version


@EITHER
def test_a_pickle_with_another_digest_is_not_read(tmp_path, kind):
    put_python(kind, tmp_path)
    for name in kind.published.python.files:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + b"\0")
        with pytest.raises(DiscernError, match=rf"^{tmp_path / name} is not the .* MD5 starts"):
            ready(kind, tmp_path)
        (tmp_path / name).write_bytes(content)


class _Touch:
    """Makes a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def with_pickle(monkeypatch, folder: Path, content: bytes, name: str = "test_batch") -> None:
    """The Python version with one file replaced, whose digest passes for the published one."""
    put_python(CIFAR10, folder)
    (folder / name).write_bytes(content)
    version = CIFAR10.published.python
    digests = tuple(md5(folder / file) for file in version.files)
    python = dataclasses.replace(version, md5=digests)
    monkeypatch.setattr(CIFAR10, "published", dataclasses.replace(CIFAR10.published, python=python))


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch, name):
    touched = tmp_path / "touched"
    hostile = pickle.dumps({b"data": _Touch(touched)}, protocol=3)
    with_pickle(monkeypatch, tmp_path, hostile, name)
    with pytest.raises(DiscernError, match=r"is not as published: it asks for \w+\.mkdir"):
        ready(CIFAR10, tmp_path)
    assert not touched.exists()
    pickle.loads(hostile)
    assert touched.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"rubbish",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nndarray\n(K\x01tR.",  # call the stand-in
        b"cnumpy.core.multiarray\n_reconstruct\n(I1\ntR(K\x01tb.",  # a state of the wrong length
        b"cnumpy\ndtype\n}(U\x04nameU\x01xusb.",  # set an attribute of the stand-in
        b"\x80\x02\x82\x01.",  # a class by the number that someone registered
        b"U\x01xQ.",  # an object of the application's
        b"]q\x00h\x00a.",  # a list that holds itself
        pickle.dumps({b"labels": [1] * NUM_TEST}),
        pickle.dumps({b"data": 1, b"labels": [1] * NUM_TEST}),
        pickle.dumps(np.zeros((NUM_TEST, 3072), np.uint8)),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, monkeypatch, content):
    with_pickle(monkeypatch, tmp_path, content)
    with pytest.raises(DiscernError, match=rf"^{tmp_path / 'test_batch'} is not as published: "):
        ready(CIFAR10, tmp_path)


@pytest.mark.parametrize(
    ("labels", "rows", "dtype", "reason"),
    [
        ([0] * (NUM_TEST - 1), NUM_TEST, b"u1", "20 images and labels"),
        ([0] * NUM_TEST, NUM_TEST - 1, b"u1", "20 images and labels"),
        ([0] * NUM_TEST, NUM_TEST, b"O8", "another type"),
        ([0] * NUM_TEST, NUM_TEST, b"f4", "another type"),
        ([-1] * NUM_TEST, NUM_TEST, b"u1", "."),
        ([300] * NUM_TEST, NUM_TEST, b"u1", "."),
        ([10] * NUM_TEST, NUM_TEST, b"u1", "it has the label 10, and"),
        (["a"] * NUM_TEST, NUM_TEST, b"u1", "."),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, monkeypatch, labels, rows, dtype, reason):
    pixels = np.zeros((rows, 3072), np.uint8)
    with_pickle(monkeypatch, tmp_path, pickled_by_python_2({"labels": labels}, pixels, dtype))
    with pytest.raises(DiscernError, match=f"test_batch is not as published: .*{reason}"):
        ready(CIFAR10, tmp_path)


def test_pickles_of_these_tests_are_what_numpy_reads(tmp_path):
    """So the pickles that the reader is tested with are real ones."""
    pixels = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
    content = pickled_by_python_2({"labels": [3, 4]}, pixels)
    loaded = pickle.load(io.BytesIO(content), encoding="bytes")
    assert loaded[b"labels"] == [3, 4]
    np.testing.assert_array_equal(loaded[b"data"], pixels)
