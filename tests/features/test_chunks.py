from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from discern.features import arrays
from discern.features.arrays import DTYPES, Places, Reader, features_of, ids_of, write_chunk
from discern.features.chunks import Chunk, DamagedChunkError, open_chunk

IDS = np.array([[1, 2], [3, 2**64 - 1], [5, 6]], dtype=np.uint64)
FEATURES = torch.tensor([[1.5, -2.0], [0.0, 3e4], [7.0, 8.0]])


@pytest.fixture
def chunk(tmp_path: Path) -> Chunk:
    return write_chunk(tmp_path, IDS, FEATURES)


def write(path: Path, header: object, body: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def parts(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def whole(path: Path) -> Chunk:
    """The chunk, verified; DamagedChunkError if it is not whole."""
    chunk = open_chunk(path, 2, "float32")
    chunk.verify()
    return chunk


def test_a_chunk_is_a_safetensors_file_that_gives_back_what_was_written(chunk):
    found = load_file(chunk.path)
    assert found["ids"].numpy().view(np.uint64).tolist() == IDS.tolist()
    assert torch.equal(found["features"], FEATURES)
    opened = whole(chunk.path)
    assert opened == chunk
    assert ids_of(opened).tolist() == IDS.tolist()
    assert torch.equal(features_of(opened), FEATURES)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 3])
def test_any_shape_and_precision(tmp_path, precision, count, width):
    ids = np.arange(2 * count, dtype=np.uint64).reshape(count, 2)
    features = torch.randn(count, width).to(DTYPES[precision])
    path = write_chunk(tmp_path, ids, features).path
    chunk = open_chunk(path, width, precision)
    chunk.verify()
    assert (chunk.rows, chunk.width, chunk.precision) == (count, width, precision)
    assert torch.equal(features_of(chunk), features)
    assert ids_of(chunk).tolist() == ids.tolist()


def test_tensors_that_are_not_contiguous(tmp_path):
    chunk = write_chunk(tmp_path, IDS[::-1], FEATURES.t().contiguous().t())
    assert ids_of(chunk).tolist() == IDS[::-1].tolist()
    assert torch.equal(features_of(chunk), FEATURES)


def test_names_sort_by_age(tmp_path):
    paths = [write_chunk(tmp_path, IDS, FEATURES).path for _ in range(5)]
    assert sorted(paths) == paths


def test_any_flipped_bit_is_seen_or_changes_nothing(chunk):
    content = chunk.path.read_bytes()
    unseen = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        chunk.path.write_bytes(flipped)
        try:
            found = whole(chunk.path)
        except DamagedChunkError:
            continue
        unseen += 1
        assert ids_of(found).tolist() == IDS.tolist()
        assert torch.equal(features_of(found), FEATURES)
    assert unseen < 20, "such as a letter of the checksum that is a capital now"


def test_a_file_that_was_cut_off_anywhere_is_seen(chunk):
    content = chunk.path.read_bytes()
    for length in range(len(content)):
        chunk.path.write_bytes(content[:length])
        with pytest.raises(DamagedChunkError):
            whole(chunk.path)
    chunk.path.write_bytes(content + b"\0")
    with pytest.raises(DamagedChunkError):
        whole(chunk.path)


@pytest.mark.parametrize("found", [(3, "float32"), (2, "float16"), (1, "bfloat16")])
def test_another_width_or_precision_than_expected(chunk, found):
    with pytest.raises(DamagedChunkError, match="of another kind"):
        open_chunk(chunk.path, *found)


HUGE = 2**63


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [-8, 16]},
        {"data_offsets": [0, 24]},  # on the ids
        {"data_offsets": [24, 48]},  # half on the ids
        {"data_offsets": [48, HUGE]},
        {"data_offsets": [HUGE, HUGE + 24]},
        {"data_offsets": [72, 48]},
        {"data_offsets": [48, 72, 96]},
        {"data_offsets": [None, 72]},
        {"data_offsets": "ab"},
        {"data_offsets": 3},
        {"shape": [HUGE, 2]},
        {"shape": [-3, -2]},
        {"shape": [3, 0]},
        {"shape": [3.0, 2]},
        {"shape": [True, 2]},
        {"shape": [3]},
        {"shape": []},
        {"shape": None},
        {"shape": [6, 1]},
        {"dtype": "F64"},
        {"dtype": "U64"},
        {"dtype": ["F32"]},
        {"dtype": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("tensor", ["ids", "features"])
def test_a_header_that_lies_is_seen(chunk, tmp_path, tensor, change):
    header, body = parts(chunk.path)
    header[tensor] |= change
    with pytest.raises(DamagedChunkError):
        whole(write(tmp_path / "lies.safetensors", header, body))


@pytest.mark.parametrize(
    "header",
    [b"", b"{}", b"[]", b"3", b"null", b"{", b"\xff" * 40, b"[" * 90_000, b"9" * 5_000,
     b'{"ids": 3}', b'{"ids": {"shape": [1, 2]}}', b'{"__metadata__": {}}'],
)  # fmt: skip
def test_a_header_that_is_none(tmp_path, header):
    with pytest.raises(DamagedChunkError):
        whole(write(tmp_path / "none.safetensors", header, b"\0" * 72))


def test_a_header_without_a_checksum(chunk, tmp_path):
    header, body = parts(chunk.path)
    for metadata in ({}, {"crc32": None}, {"crc32": "xyz"}, {"crc32": 3}, [], None):
        header["__metadata__"] = metadata  # type: ignore[assignment]
        with pytest.raises(DamagedChunkError):
            whole(write(tmp_path / "none.safetensors", header, body))


def test_a_header_length_beyond_reason_reads_nothing(tmp_path):
    path = tmp_path / "huge.safetensors"
    for length in (2**62, 2**63 - 1, 2**64 - 1, 200_000, 0, 1):
        path.write_bytes(length.to_bytes(8, "little") + b"{}" * 50)
        with pytest.raises(DamagedChunkError):
            whole(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(os.environ["BOMB"]),)  # type: ignore[return-value]


def test_a_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "executed"))
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedChunkError):
        whole(path)
    torch.save({"ids": Bomb()}, path)
    with pytest.raises(DamagedChunkError):
        whole(path)
    assert not (tmp_path / "executed").exists()


def test_what_is_no_file_is_not_waited_for(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "device"):
        with pytest.raises(DamagedChunkError, match="not a regular file"):
            open_chunk(tmp_path / f"{name}.safetensors", 2, "float32")
    with pytest.raises(FileNotFoundError):
        open_chunk(tmp_path / "missing.safetensors", 2, "float32")


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, moment):
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        write_chunk(tmp_path, IDS, FEATURES)
    assert not list(tmp_path.iterdir())


# Reading rows


def places(*pairs: tuple[int, int]) -> Places:
    return np.array(pairs, dtype=np.int32)


@pytest.mark.parametrize("precision", DTYPES)
def test_rows_are_read_in_any_order_from_any_chunk(tmp_path, precision):
    features = torch.randn(2, 7, 5).to(DTYPES[precision])
    ids = np.arange(14, dtype=np.uint64).reshape(-1, 2)
    chunks = dict(enumerate(write_chunk(tmp_path, ids, part) for part in features))
    asked = np.random.default_rng(0).integers(0, (2, 7), size=(100, 2)).astype(np.int32)
    assert torch.equal(Reader().read(chunks, asked), features[asked[:, 0], asked[:, 1]])


def test_what_is_open_outlives_the_files_name(chunk):
    reader = Reader()
    reader.read({3: chunk}, places((3, 1)))
    shutil.rmtree(chunk.path.parent)
    assert torch.equal(reader.read({3: chunk}, places((3, 2), (3, 0))), FEATURES[[2, 0]])
    with pytest.raises(FileNotFoundError):
        Reader().read({3: chunk}, places((3, 1)))


def test_a_file_that_is_cut_off_meanwhile_is_an_error_and_no_crash(chunk):
    reader = Reader()
    os.truncate(chunk.path, chunk.features_at + 12)
    assert torch.equal(reader.read({0: chunk}, places((0, 0))), FEATURES[:1])
    with pytest.raises(OSError, match="cut off"):
        reader.read({0: chunk}, places((0, 0), (0, 1)))
    with pytest.raises(DamagedChunkError, match="cut off"):
        features_of(chunk)


def limit_that_leaves(count: int) -> int:
    """The limit of descriptors below which so many are free."""
    number, free = 0, 0
    while free < count:
        try:
            os.fstat(number)
        except OSError:
            free += 1
        number += 1
    return number


def test_more_chunks_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_OPEN", 5)
    reader = Reader()
    chunks = {number: write_chunk(tmp_path, IDS, FEATURES + number) for number in range(40)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit_that_leaves(10), hard))
    try:
        found = reader.read(chunks, places(*((number, 1) for number in (*chunks, *chunks))))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert torch.equal(found, FEATURES[1] + torch.arange(40).repeat(2)[:, None])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux for open files")
def test_files_are_closed_with_the_reader(chunk):
    def is_open() -> bool:
        return chunk.path.resolve() in {link.resolve() for link in Path("/proc/self/fd").iterdir()}

    reader = Reader()
    reader.read({0: chunk}, places((0, 0)))
    assert is_open()
    del reader
    assert not is_open()
