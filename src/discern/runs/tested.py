"""test_predictions.safetensors: a run's predictions for the test images, kept in its folder.

The test section of its report and comparisons of runs are made from this file. Nothing in it is
executed, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from discern.files.reading import inside, open_regular
from discern.files.writing import write_whole
from discern.runs.folder import home
from discern.runs.predictions import Predictions
from discern.runs.thumbnails import Thumbnails
from discern.schema import Strict

FILE = "test_predictions.safetensors"

CLASSES_WHOLE, TOP = 100, 10
"""Up to this many classes all probabilities are kept; of more classes, the highest of an image."""

MAX_BYTES, MAX_HEADER = 1 << 29, 1 << 25
"""Bytes of the file, and of its header, which fits the names of half a million files."""

MAX_CLASSES, MAX_PROBABILITIES = 5_000, 100_000_000
"""Limits on reading: a confusion matrix of more classes takes a gigabyte."""

_INTEGERS = ("I32", "I64")
TENSORS: dict[str, tuple[tuple[str, ...], str]] = {
    "indices": (_INTEGERS, "N"),
    "labels": (_INTEGERS, "N"),
    "predicted": (_INTEGERS, "N"),
    "losses": (("F32",), "N"),
    "in_top": (("BOOL",), "N"),
    "probabilities": (("F32",), "NK"),
    "top_classes": (_INTEGERS, "NT"),
    "top_probabilities": (("F32",), "NT"),
    "thumbnail_rows": (_INTEGERS, "M"),
    "thumbnails": (("U8",), "B"),
}
"""Name of a tensor -> the dtypes it may have, in safetensors' names, and its dimensions: N images,
K classes, the T most probable classes, M thumbnails, B bytes."""


@dataclass(frozen=True)
class Tested:
    """A model on the test images.

    Attributes:
        predictions: its predictions. With more than 100 classes the probabilities beyond the ten
            highest of an image are 0.
        images: hex digest of images and labels, equal for models tested on the same images.
        thumbnails: of some of the images.
    """

    predictions: Predictions
    images: str
    thumbnails: Thumbnails


def digest_of(words: NDArray[np.uint64], labels: NDArray[np.int64]) -> str:
    """Hex digest of images, two words each (N, 2), with their labels (N,), in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(words).data)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()


def write_tested(tested: Tested, folder: Path) -> None:
    """Write the file."""
    found, shown = tested.predictions, tested.thumbnails
    tensors: dict[str, NDArray[np.generic]] = {
        "indices": found.indices,
        "labels": found.labels.astype(np.int32),
        "predicted": found.predicted.astype(np.int32),
        "losses": found.losses,
        "in_top": found.in_top,
        "thumbnail_rows": shown.rows.astype(np.int32),
        "thumbnails": np.frombuffer(shown.picture, np.uint8),
        **_probabilities(found.probabilities),
    }
    about = {
        "class_names": found.class_names,
        "files": found.files,
        "images": tested.images,
        "columns": shown.columns,
    }
    content = save(tensors, {"discern": json.dumps(about)})
    with write_whole(folder / FILE, "wb") as file:
        file.write(content)


def _probabilities(probabilities: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    if probabilities.shape[1] <= CLASSES_WHOLE:
        return {"probabilities": probabilities}
    top = np.argpartition(-probabilities, TOP, axis=1)[:, :TOP]
    return {
        "top_classes": top.astype(np.int32),
        "top_probabilities": np.take_along_axis(probabilities, top, axis=1),
    }


def read_tested(folder: Path) -> Tested | None:
    """The contents of the file in a run's folder; None if it is missing or cannot be read.

    The best job of a sweep is tested last, in the folder ``test`` inside its own.
    """
    return _read_file(folder) or _read_file(folder / "test")


class _About(Strict):
    """The file's metadata."""

    class_names: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    files: list[str] | None
    images: str = Field(max_length=1000)
    columns: int = Field(ge=1, le=10_000)


def _read_file(folder: Path) -> Tested | None:
    try:
        path = inside(folder / FILE, home(folder))
        with open_regular(path, path.parent) as file:
            size = os.fstat(file.fileno()).st_size
            header = int.from_bytes(file.read(8), "little")
        if size > MAX_BYTES or header > MAX_HEADER:
            return None
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if any(part.get_dtype() not in TENSORS[name][0] for name, part in slices.items()):
                return None
            tensors = {name: file.get_tensor(name) for name in slices}
            about = json.loads((file.metadata() or {})["discern"])
        return _read(tensors, _About.model_validate(about))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None


def _read(tensors: Mapping[str, NDArray[np.generic]], about: _About) -> Tested:
    """The contents of the file.

    Raises:
        ValueError, KeyError: the tensors do not match each other, or one is missing.
    """
    images, classes = len(tensors["labels"]), len(about.class_names)
    if not 0 < images * classes <= MAX_PROBABILITIES:
        raise ValueError("too many probabilities, or none")
    if about.files is not None and len(about.files) != images:
        raise ValueError("the number of files is not the number of images")
    _check_shapes(tensors, {"N": images, "K": classes})
    whole = {
        name: part.astype(np.int64) for name, part in tensors.items() if part.dtype.kind == "i"
    }
    for name, end in (
        ("labels", classes), ("predicted", classes), ("top_classes", classes),
        ("thumbnail_rows", images),
    ):  # fmt: skip
        if name in whole and ((whole[name] < 0) | (whole[name] >= end)).any():
            raise ValueError(f"{name} out of range")
    probabilities = tensors.get("probabilities")
    if probabilities is None:
        probabilities = np.zeros((images, classes), np.float32)
        np.put_along_axis(probabilities, whole["top_classes"], tensors["top_probabilities"], axis=1)
    predictions = Predictions(
        about.class_names,
        indices=whole["indices"],
        labels=whole["labels"],
        predicted=whole["predicted"],
        probabilities=probabilities.astype(np.float32, copy=False),
        losses=tensors["losses"].astype(np.float32, copy=False),
        in_top=tensors["in_top"].astype(np.bool_, copy=False),
        files=about.files,
    )
    picture = tensors["thumbnails"].tobytes()
    shown = Thumbnails(whole["thumbnail_rows"], picture, about.columns)
    return Tested(predictions, about.images, shown)


def _check_shapes(tensors: Mapping[str, NDArray[np.generic]], sizes: dict[str, int]) -> None:
    for name, tensor in tensors.items():
        dimensions = TENSORS[name][1]
        if tensor.ndim != len(dimensions) or any(
            sizes.setdefault(dimension, size) != size
            for dimension, size in zip(dimensions, tensor.shape, strict=True)
        ):
            raise ValueError(f"{name} has the wrong shape {tensor.shape}")
