"""test_predictions.safetensors: what a run's model says of the test images, kept in its folder.

All that is said of the test later, its report and the comparison of runs, is made from this file.
Nothing in it is executed, whoever has written it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
"""Up to so many classes all probabilities are kept; of more classes, so many of the highest."""


MOST_BYTES, MAX_HEADER = 1 << 29, 1 << 25
"""Of the file, and of what it says in words: half a million files' names."""

MAX_CLASSES, MAX_PROBABILITIES = 5_000, 100_000_000
"""Of a test that is read again: a table of all confusions of more classes takes a gigabyte."""

_WHOLE = ("I32", "I64")
DTYPES = {
    **dict.fromkeys(("indices", "labels", "predicted", "thumbnail_rows", "top_classes"), _WHOLE),
    **dict.fromkeys(("losses", "probabilities", "top_probabilities"), ("F32",)),
    "in_top": ("BOOL",),
    "thumbnails": ("U8",),
}
"""Name of a tensor -> its format's names for what numbers it may have."""


@dataclass(frozen=True)
class Tested:
    """A model on the test images.

    Attributes:
        predictions: what it says. With more than 100 classes the probabilities beyond the ten
            highest of an image are 0.
        images: hex digest of the images and labels, equal for models that saw the same.
        thumbnails: of some of the images.
    """

    predictions: Predictions
    images: str
    thumbnails: Thumbnails


def digest_of(words: NDArray[np.uint64], labels: NDArray[np.int64]) -> str:
    """Hex digest of images, two words each (N, 2), with their labels (N,), in their order."""
    told = hashlib.sha256(np.ascontiguousarray(words).data)
    told.update(np.ascontiguousarray(labels).data)
    return told.hexdigest()


def write_tested(tested: Tested, folder: Path) -> None:
    """Write the file."""
    said, shown = tested.predictions, tested.thumbnails
    tensors: dict[str, NDArray[Any]] = {
        "indices": said.indices,
        "labels": said.labels.astype(np.int32),
        "predicted": said.predicted.astype(np.int32),
        "losses": said.losses,
        "in_top": said.in_top,
        "thumbnail_rows": shown.rows.astype(np.int32),
        "thumbnails": np.frombuffer(shown.picture, np.uint8),
        **_probabilities(said.probabilities),
    }
    about = {
        "class_names": said.class_names,
        "files": said.files,
        "images": tested.images,
        "columns": shown.columns,
    }
    content = save(tensors, {"discern": json.dumps(about)})
    with write_whole(folder / FILE, "wb") as file:
        file.write(content)


def _probabilities(probabilities: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    if probabilities.shape[1] <= CLASSES_WHOLE:
        return {"probabilities": probabilities}
    top = np.argpartition(-probabilities, TOP, axis=1)[:, :TOP]
    return {
        "top_classes": top.astype(np.int32),
        "top_probabilities": np.take_along_axis(probabilities, top, axis=1),
    }


def read_tested(folder: Path) -> Tested | None:
    """What the file in a run's folder says; None where there is none, or none that can be read.

    The best job of a sweep is tested after the others, in a folder of its own within.
    """
    return _read_file(folder) or _read_file(folder / "test")


class _About(Strict):
    """What the file says beside the numbers."""

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
        if size > MOST_BYTES or header > MAX_HEADER:
            return None
        with safe_open(path, "np") as file:
            shapes = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            if any(part.get_dtype() not in DTYPES.get(name, ()) for name, part in shapes.items()):
                return None
            tensors = {name: file.get_tensor(name) for name in shapes}
            about = json.loads((file.metadata() or {})["discern"])
        return _read(tensors, _About.model_validate(about))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None


def _read(tensors: dict[str, NDArray[Any]], about: _About) -> Tested:
    names = about.class_names
    labels = tensors["labels"].astype(np.int64)
    images, classes = len(labels), len(names)
    if images * classes > MAX_PROBABILITIES:
        raise ValueError("too many probabilities")
    if "probabilities" in tensors:
        probabilities = tensors["probabilities"]
    else:
        top, values = tensors["top_classes"].astype(np.int64), tensors["top_probabilities"]
        if top.shape != values.shape or top.ndim != 2 or len(top) != images:
            raise ValueError("as many probabilities as classes are needed")
        _check_range(top, classes)
        probabilities = np.zeros((images, classes), np.float32)
        np.put_along_axis(probabilities, top, values, axis=1)
    predictions = Predictions(
        names,
        indices=tensors["indices"].astype(np.int64),
        labels=labels,
        predicted=tensors["predicted"].astype(np.int64),
        probabilities=probabilities,
        losses=tensors["losses"],
        in_top=tensors["in_top"],
        files=about.files,
    )
    shown = Thumbnails(
        tensors["thumbnail_rows"].astype(np.int64), tensors["thumbnails"].tobytes(), about.columns
    )
    _check(predictions, shown)
    return Tested(predictions, about.images, shown)


def _check(predictions: Predictions, shown: Thumbnails) -> None:
    """Raise ValueError where the parts do not belong together."""
    images, classes = len(predictions), len(predictions.class_names)
    if predictions.probabilities.shape != (images, classes):
        raise ValueError("probabilities of other images or classes")
    parts = (
        predictions.labels,
        predictions.indices,
        predictions.predicted,
        predictions.losses,
        predictions.in_top,
    )
    if any(part.shape != (images,) for part in parts):
        raise ValueError("parts of different lengths")
    if predictions.files is not None and len(predictions.files) != images:
        raise ValueError("as many files as images are needed")
    if shown.rows.ndim != 1:
        raise ValueError("rows of rows")
    for numbers, below in (
        (predictions.labels, classes),
        (predictions.predicted, classes),
        (shown.rows, images),
    ):
        _check_range(numbers, below)


def _check_range(numbers: NDArray[np.int64], below: int) -> None:
    if (numbers < 0).any() or (numbers >= below).any():
        raise ValueError("a number out of range")
