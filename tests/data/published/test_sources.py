from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from discern.data.published import mnist
from discern.data.published.fetch import DownloadError
from discern.data.published.mnist import MNIST, download_missing, read_files
from discern.data.published.publication import TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS
from discern.errors import DiscernError
from idx_files import CONTENTS, published, put_files
from photos import touch_back

LAYOUTS = [Path("Tiny/raw"), Path()]


@pytest.fixture
def downloads(monkeypatch):
    """Names asked of a download that succeeds; nothing is sent."""
    asked: list[str] = []

    def download(publication, names, folder):
        asked.extend(names)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(CONTENTS[name])

    monkeypatch.setattr(mnist, "download", download)
    return asked


@pytest.fixture
def no_network(monkeypatch):
    def download(*_: object) -> None:
        raise DownloadError("http://mirror/: no answer")

    monkeypatch.setattr(mnist, "download", download)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_found_and_read_in_either_layout_gzipped_or_not(tmp_path, layout, compressed):
    put_files(tmp_path / layout, compressed=compressed)
    files = published().find(tmp_path)
    assert {path.parent for path in files.values()} == {tmp_path / layout}
    arrays = read_files(published(), files)
    assert arrays[TRAIN_IMAGES].shape == (40, 28, 28)
    assert arrays[TRAIN_IMAGES].tobytes() == CONTENTS[TRAIN_IMAGES][16:]
    assert arrays[TEST_LABELS].tolist() == list(range(10)) * 2


def test_files_in_the_folder_go_before_those_of_the_system(tmp_path):
    put_files(tmp_path / "system", compressed=True)
    data = published(system_folders=(tmp_path / "system",))
    files = data.find(tmp_path / "own")
    assert files[TRAIN_IMAGES] == tmp_path / "system" / f"{TRAIN_IMAGES}.gz"
    put_files(tmp_path / "own" / "Tiny" / "raw")
    assert data.find(tmp_path / "own")[TRAIN_IMAGES].parent == tmp_path / "own/Tiny/raw"


def test_an_uncompressed_file_goes_before_a_gzipped_one(tmp_path):
    put_files(tmp_path, compressed=True)
    put_files(tmp_path)
    assert published().find(tmp_path)[TRAIN_IMAGES] == tmp_path / TRAIN_IMAGES


def test_an_incomplete_set_is_passed_over(tmp_path):
    put_files(tmp_path / "Tiny" / "raw")
    (tmp_path / "Tiny" / "raw" / TEST_LABELS).unlink()
    assert published().find(tmp_path) is None
    put_files(tmp_path)
    assert published().find(tmp_path)[TEST_LABELS] == tmp_path / TEST_LABELS


def test_a_missing_folder_has_no_files(tmp_path):
    assert published().find(tmp_path / "absent") is None


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"^data\.dir=.*/file cannot be read as a folder: Not a"):
        published().find(tmp_path / "file")


def test_a_folder_without_permission_is_an_error(tmp_path, monkeypatch):
    def deny(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", deny)  # root, as which tests may run, may read everything
    with pytest.raises(DiscernError, match=r"^data\.dir=.* folder: Permission denied\.$"):
        published().find(tmp_path)


def test_a_changed_file_is_an_error_that_names_it_and_both_digests(tmp_path):
    put_files(tmp_path)
    file = tmp_path / TRAIN_LABELS
    file.write_bytes(file.read_bytes()[:-1] + b"\x05")
    expected = published().sha256[TRAIN_LABELS][:12]
    with pytest.raises(
        DiscernError, match=rf"^{file} .* with [0-9a-f]{{12}} instead of {expected}"
    ):
        read_files(published(), published().find(tmp_path))


def test_a_truncated_file_is_an_error(tmp_path):
    put_files(tmp_path)
    file = tmp_path / TRAIN_IMAGES
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DiscernError, match=rf"^{file} is truncated"):
        read_files(published(), published().find(tmp_path))


def test_a_file_read_again_shares_memory_until_it_changes(tmp_path):
    put_files(tmp_path)
    files = published().find(tmp_path)
    first = read_files(published(), files)[TRAIN_IMAGES]
    assert np.shares_memory(read_files(published(), files)[TRAIN_IMAGES], first)
    os.utime(tmp_path / TRAIN_IMAGES, (1, 1))
    assert not np.shares_memory(read_files(published(), files)[TRAIN_IMAGES], first)


def test_a_file_that_changes_under_the_same_size_and_time_is_read_again(tmp_path):
    put_files(tmp_path)
    files = published().find(tmp_path)
    read_files(published(), files)
    content = bytearray((tmp_path / TRAIN_IMAGES).read_bytes())
    content[-1] ^= 1
    touch_back(tmp_path / TRAIN_IMAGES, bytes(content))
    with pytest.raises(DiscernError, match=r"is not the .* file of that name"):
        read_files(published(), files)


@pytest.mark.parametrize("source", ["auto", "full"])
def test_missing_files_are_downloaded_to_the_folder_of_the_data_set(tmp_path, downloads, source):
    folder = tmp_path / "absent"
    download_missing(published(), folder, source, sample=True)
    assert set(downloads) == set(CONTENTS)
    assert published().find(folder)[TRAIN_IMAGES] == folder / "Tiny" / "raw" / TRAIN_IMAGES


def test_only_missing_files_are_downloaded(tmp_path, downloads):
    put_files(tmp_path / "Tiny" / "raw")
    (tmp_path / "Tiny" / "raw" / TEST_LABELS).unlink()
    download_missing(published(), tmp_path, "auto", sample=True)
    assert downloads == [TEST_LABELS]


@pytest.mark.parametrize("source", ["auto", "full", "sample"])
def test_nothing_is_downloaded_where_it_is_not_needed(tmp_path, downloads, source):
    if source != "sample":
        put_files(tmp_path)
    download_missing(published(), tmp_path, source, sample=True)
    assert downloads == []


def test_one_line_tells_that_the_sample_takes_the_place_of_the_files(tmp_path, no_network, caplog):
    download_missing(published(), tmp_path, "auto", sample=True)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("discern.data.published.mnist", logging.WARNING)
    assert record.getMessage() == (
        f"Tiny is not in {tmp_path} and cannot be downloaded: its packaged sample is used."
    )


@pytest.mark.parametrize(("source", "sample"), [("full", True), ("full", False), ("auto", False)])
def test_files_that_cannot_be_had_nor_replaced_are_an_error(tmp_path, no_network, source, sample):
    with pytest.raises(DiscernError, match=r"^Tiny is not in .*no answer\): do something\.$"):
        download_missing(published(), tmp_path, source, sample)


def test_the_source_is_one_of_three():
    with pytest.raises(
        DiscernError, match=r"^data\.source=best is not known: use auto, full or sample\.$"
    ):
        MNIST(source="best")
