from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from discern.runs.predictions import Predictions
from discern.runs.tested import FILE, Tested, digest_of, read_tested, write_tested
from discern.runs.thumbnails import Thumbnails


def made(classes: int = 3, files: list[str] | None = None) -> Tested:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, classes, generator=generator)
    labels = torch.arange(20) % classes
    names = [f"class {number}" for number in range(classes)]
    said = Predictions.of(logits, labels, torch.arange(20) + 7, names, files)
    return Tested(said, "f00d", Thumbnails(np.array([4, 2]), b"a picture", 2))


@pytest.mark.parametrize("files", [None, [f"photos/ö {n}.jpg" for n in range(20)]])
def test_what_is_written_is_read(tmp_path, files):
    before = made(files=files)
    write_tested(before, tmp_path)
    after = read_tested(tmp_path)
    assert after is not None
    for name in ("indices", "labels", "predicted", "probabilities", "losses", "in_top"):
        one, other = (getattr(each.predictions, name) for each in (before, after))
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert after.predictions.files == files
    assert after.predictions.class_names == before.predictions.class_names
    assert after.images == "f00d"
    assert after.thumbnails.rows.tolist() == [4, 2]
    assert (after.thumbnails.picture, after.thumbnails.columns) == (b"a picture", 2)


def test_of_many_classes_the_highest_probabilities_are_kept(tmp_path):
    before = made(classes=300).predictions
    write_tested(made(classes=300), tmp_path)
    after = read_tested(tmp_path).predictions
    assert (tmp_path / FILE).stat().st_size < before.probabilities.nbytes
    order = np.argsort(-before.probabilities, axis=1)
    kept, lost = order[:, :10], order[:, 10:]
    of = np.take_along_axis
    assert np.array_equal(of(after.probabilities, kept, 1), of(before.probabilities, kept, 1))
    assert not of(after.probabilities, lost, 1).any()
    assert np.array_equal(after.losses, before.losses)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"a": 1})),
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: save_file({"labels": np.zeros(3)}, path),
        lambda path: save_file({"labels": np.zeros(3)}, path, {"discern": "[]"}),
        lambda path: path.write_bytes(path.read_bytes().replace(b"class_names", b"class_nomes")),
    ],
)
def test_a_file_that_is_none_is_none(tmp_path, spoil):
    write_tested(made(), tmp_path)
    spoil(tmp_path / FILE)
    assert read_tested(tmp_path) is None


def test_a_test_of_no_images_is_none(tmp_path):
    none = torch.zeros(0, dtype=torch.int64)
    said = Predictions.of(torch.zeros(0, 3), none, none, ["a", "b", "c"])
    write_tested(Tested(said, "f00d", Thumbnails(np.zeros(0, np.int64), b"", 1)), tmp_path)
    assert read_tested(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", np.full(20, 3)),
        ("predicted", np.full(20, -1)),
        ("thumbnail_rows", np.array([20])),
        ("losses", np.zeros(19)),
        ("probabilities", np.zeros((20, 4))),
    ],
)
def test_parts_that_do_not_belong_together_are_none(tmp_path, name, value):
    said = made().predictions
    tensors = {
        "indices": said.indices, "labels": said.labels, "predicted": said.predicted,
        "losses": said.losses, "in_top": said.in_top, "probabilities": said.probabilities,
        "thumbnail_rows": np.array([0]), "thumbnails": np.zeros(3, np.uint8),
    }  # fmt: skip
    about = {"class_names": said.class_names, "files": None, "images": "x", "columns": 1}
    save_file(tensors, tmp_path / FILE, {"discern": json.dumps(about)})
    assert read_tested(tmp_path) is not None
    save_file({**tensors, name: value}, tmp_path / FILE, {"discern": json.dumps(about)})
    assert read_tested(tmp_path) is None


def test_the_digest_is_that_of_images_and_labels():
    words, labels = np.arange(8, dtype=np.uint64).reshape(4, 2), np.array([0, 1, 0, 1])
    assert digest_of(words, labels) == digest_of(words.copy(), labels.copy())
    assert digest_of(words[::-1], labels) != digest_of(words, labels)
    assert digest_of(words, 1 - labels) != digest_of(words, labels)
