"""test_predictions.safetensors: what a run's model says of the test images, kept in its folder.

All that is said of the test later, its report and the comparison of runs, is made from this file.
Nothing in it is executed, whoever has written it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from discern.files import write_whole
from discern.reports.predictions import Predictions
from discern.reports.thumbnails import Thumbnails

FILE = "test_predictions.safetensors"

CLASSES_WHOLE, TOP = 100, 10
"""Up to so many classes all probabilities are kept; of more classes, so many of the highest."""


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


def _read_file(folder: Path) -> Tested | None:
    try:
        with safe_open(folder / FILE, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {})["discern"])
        return _read(tensors, about)
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError):
        return None


def _read(tensors: dict[str, NDArray[Any]], about: dict[str, Any]) -> Tested:
    names, files = about["class_names"], about["files"]
    labels = tensors["labels"].astype(np.int64)
    images, classes = len(labels), len(names)
    if "probabilities" in tensors:
        probabilities = tensors["probabilities"].astype(np.float32)
    else:
        probabilities = np.zeros((images, classes), np.float32)
        top = tensors["top_classes"].astype(np.int64)
        np.put_along_axis(probabilities, top, tensors["top_probabilities"], axis=1)
    predictions = Predictions(
        [str(name) for name in names],
        indices=tensors["indices"].astype(np.int64),
        labels=labels,
        predicted=tensors["predicted"].astype(np.int64),
        probabilities=probabilities,
        losses=tensors["losses"].astype(np.float32),
        in_top=tensors["in_top"].astype(np.bool_),
        files=None if files is None else [str(file) for file in files],
    )
    rows = tensors["thumbnail_rows"].astype(np.int64)
    _check(predictions, rows)
    picture = tensors["thumbnails"].astype(np.uint8).tobytes()
    shown = Thumbnails(rows, picture, int(about["columns"]))
    return Tested(predictions, str(about["images"]), shown)


def _check(said: Predictions, rows: NDArray[np.int64]) -> None:
    """Raise ValueError where the parts do not belong together."""
    images, classes = len(said), len(said.class_names)
    if said.probabilities.shape != (images, classes) or classes == 0:
        raise ValueError("probabilities of other images or classes")
    parts = (said.indices, said.predicted, said.losses, said.in_top)
    if any(part.shape != (images,) for part in parts):
        raise ValueError("parts of different lengths")
    if said.files is not None and len(said.files) != images:
        raise ValueError("as many files as images are needed")
    for numbers, below in ((said.labels, classes), (said.predicted, classes), (rows, images)):
        if numbers.ndim != 1 or (numbers < 0).any() or (numbers >= below).any():
            raise ValueError("a number out of range")
