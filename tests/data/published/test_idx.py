from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from discern.data.published.idx import idx_header, idx_sha256, read_idx
from discern.errors import DiscernError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
IMAGES_FILE = struct.pack(">4I", 2051, 2, 3, 4) + bytes(range(24))
LABELS_FILE = struct.pack(">2I", 2049, 3) + bytes([7, 0, 9])


def written(folder: Path, content: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def error_of(path: Path, dimensions: int) -> str:
    with pytest.raises(DiscernError) as caught:
        read_idx(path, dimensions)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert ". " not in message
    return message


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_reads_images_and_labels(tmp_path, compress):
    images = read_idx(written(tmp_path, compress(IMAGES_FILE)), 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, IMAGES)
    labels = read_idx(written(tmp_path, compress(LABELS_FILE)), 1)
    np.testing.assert_array_equal(labels, [7, 0, 9])


def test_reads_an_empty_array(tmp_path):
    assert read_idx(written(tmp_path, struct.pack(">2I", 2049, 0)), 1).shape == (0,)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "dimensions", "problem"),
    [
        (IMAGES_FILE[:-1], 3, "truncated"),
        (IMAGES_FILE[:10], 3, "truncated: it ends within its header"),
        (IMAGES_FILE + b"\0", 3, "too long"),
        (LABELS_FILE, 3, "holds labels (magic number 2049) where images (2051)"),
        (IMAGES_FILE, 1, "holds images (magic number 2051) where labels (2049)"),
        (b"<html>not found</html>", 3, "not an IDX file of images: it starts with 3c68746d"),
        (b"", 1, "starts with nothing"),
        (struct.pack(">4I", 2051, 0, 2**32 - 1, 2**32 - 1) + b"\0", 3, "truncated"),
        (struct.pack(">4I", 0x0D03, 2, 3, 4) + bytes(96), 3, "not an IDX file"),
    ],
)
def test_a_file_that_is_not_one_such_array_is_refused(
    tmp_path, compress, content, dimensions, problem
):
    assert problem in error_of(written(tmp_path, compress(content)), dimensions)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_header_that_announces_terabytes_allocates_nothing(tmp_path, monkeypatch, compress):
    def refuse(*_: object) -> None:
        raise AssertionError("allocated")

    monkeypatch.setattr("discern.data.published.idx.np.empty", refuse)
    content = struct.pack(">4I", 2051, 2**31, 2**10, 2**10) + bytes(100)
    assert "truncated" in error_of(written(tmp_path, compress(content)), 3)


def test_a_damaged_gzip_file_is_refused(tmp_path):
    complete = gzip.compress(IMAGES_FILE)
    assert "not a complete gzip file" in error_of(written(tmp_path, complete[:-9]), 3)
    damaged = complete[:-8] + bytes([complete[-8] ^ 1]) + complete[-7:]
    assert "not a complete gzip file" in error_of(written(tmp_path, damaged), 3)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    assert "cannot be read: No such file" in error_of(tmp_path / "absent", 3)
    assert "cannot be read: Is a directory" in error_of(tmp_path, 3)


def test_header_and_digest_are_those_of_the_file():
    assert idx_header((2, 3, 4)) == IMAGES_FILE[:16]
    assert idx_sha256(IMAGES) == hashlib.sha256(IMAGES_FILE).hexdigest()
    reordered = np.asfortranarray(IMAGES)
    assert idx_sha256(reordered) == hashlib.sha256(IMAGES_FILE).hexdigest()


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_by_its_header(tmp_path):
    path = tmp_path / "images.gz"
    packer = zlib.compressobj(9, wbits=31)
    packed = packer.compress(idx_header((400_000, 28, 28)))
    packed += b"".join(packer.compress(bytes(1 << 20)) for _ in range(300))
    path.write_bytes(packed + packer.flush())
    with pytest.raises(DiscernError, match="announces 313,600,016 bytes; at most 200,000,000"):
        read_idx(path, 3)
