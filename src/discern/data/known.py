"""What a trained model has seen: the images that its run knew, and on which side each was."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from discern.data.augment import mix
from discern.data.splits import END, Integers
from discern.errors import DiscernError


class Side(IntEnum):
    """Where an image is; of one that is there twice the lower counts."""

    TRAIN = 0
    VAL = 1
    TEST = 2
    UNUSED = 3
    """Of the training images, not among the part that ``data.fraction`` takes."""


_Position = Annotated[int, Field(ge=0, le=END)]
_Intervals = Annotated[list[tuple[_Position, _Position]], Field(max_length=2**20)]
_Size = Annotated[int | float, Field(ge=0, allow_inf_nan=False)]


class Rule(BaseModel):
    """How a run's images were divided, by which further ones are too.

    Attributes:
        seed: that the positions are drawn by.
        val_size, test_size, folds, fold, fraction: the settings; ``test_size`` None where the data
            set has a part for the test.
        test, val, used: for each class from and to which position an image is held out for the
            test, held out for validation, or trained on; None where nothing was drawn.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    val_size: _Size
    test_size: _Size | None
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)]
    fraction: Annotated[float, Field(gt=0, le=1)]
    test: _Intervals | None = None
    val: _Intervals | None = None
    used: _Intervals | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that decided of the split."""
        names = {"seed", *(("folds", "fold") if self.folds is not None else ("val_size",))}
        if self.test_size is not None:
            names.add("test_size")
        return self.model_dump(include=names)


@dataclass(frozen=True)
class Changes:
    """How a data set differs from the one that a model was trained on, in images."""

    new: int
    gone: int
    changed: int
    """Others under the same name, or the same in another class."""

    def __str__(self) -> str:
        if not (self.new or self.gone or self.changed):
            return "the same images in other parts"
        return f"{self.new:,} new, {self.gone:,} gone, {self.changed:,} changed"


@dataclass(frozen=True)
class KnownImages:
    """The images of a run.

    Attributes:
        keys: of their contents, int64 (N,), ascending.
        labels: int64 (N,).
        sides: a ``Side`` of each, uint8 (N,).
        names: numbers of their files' names, int64 (N,); empty where they are from no files.
        before: keys of what was trained on besides, by the run as it was before it was continued
            or by the one that it was started from: int64 (M,), ascending.
        rule: how they were divided; None of a model that does not say.
        class_names: of the model; None of one that knows none.
        fingerprint: of the data set.
        source: the checkpoint's file.
    """

    keys: Integers
    labels: Integers
    sides: NDArray[np.uint8]
    names: Integers
    before: Integers
    rule: Rule | None
    class_names: list[str] | None
    fingerprint: str | None = None
    source: Path | None = None

    @property
    def trained_on(self) -> Integers:
        """Keys of what was trained on, (T,), ascending."""
        trained = self.keys[self.sides == Side.TRAIN]
        return np.union1d(trained, self.before) if len(self.before) else trained

    def sides_of(self, keys: Integers) -> Integers:
        """A ``Side`` of each key, (N,), or -1 of one that is not known."""
        order = np.lexsort((self.sides, self.keys))
        sides = _look_up(self.keys[order], self.sides[order].astype(np.int64), keys)
        sides[np.isin(keys, self.before)] = Side.TRAIN
        return sides

    def are_those_of(self, keys: Integers) -> bool:
        """Whether a data set is the model's own: half of the images of the one are in the other."""
        contents, known = np.unique(keys), np.unique(self.keys)
        shared = len(np.intersect1d(contents, known, assume_unique=True))
        return 0 < min(len(contents), len(known)) <= 2 * shared

    def changes(self, keys: Integers, labels: Integers, names: Integers) -> Changes:
        """How images differ from these."""
        new, gone = _beyond((keys, labels), (self.keys, self.labels))
        changed = np.isin(keys[new], self.keys[gone])
        if len(names) and len(self.names):
            changed |= np.isin(names[new], self.names[gone])
        count = int(changed.sum())
        return Changes(len(new) - count, max(0, len(gone) - count), count)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the images."""
        labels = self.labels.astype(np.int32)
        arrays: list[NDArray[Any]] = [self.keys, labels, self.sides, self.names, self.before]
        named = zip(TENSORS, arrays, strict=True)
        return {name: torch.from_numpy(array.copy()) for name, array in named}


TENSORS = {
    "keys": torch.int64,
    "labels": torch.int32,
    "sides": torch.uint8,
    "names": torch.int64,
    "before": torch.int64,
}
"""What a checkpoint keeps of images -> its type."""


def from_tensors(
    saved: Mapping[str, Any],
    rule: Rule | None,
    class_names: list[str] | None,
    fingerprint: str | None,
    source: Path,
) -> KnownImages:
    """The images that a checkpoint knows.

    Raises:
        DiscernError: the tensors are not such as discern writes.
    """
    if not _are_whole(saved, len(class_names or ())):
        raise DiscernError(f"{source} does not say in a form that is known what it was trained on.")
    arrays = {name: saved[name].numpy() for name in TENSORS}
    arrays["labels"] = arrays["labels"].astype(np.int64)
    return KnownImages(
        **arrays, rule=rule, class_names=class_names, fingerprint=fingerprint, source=source
    )


def _are_whole(saved: Mapping[str, Any], classes: int) -> bool:
    if set(saved) != set(TENSORS):
        return False
    for name, kind in TENSORS.items():
        part = saved[name]
        if not isinstance(part, Tensor) or part.dtype != kind or part.ndim != 1:
            return False
    count = len(saved["keys"])
    if not len(saved["labels"]) == len(saved["sides"]) == count:
        return False
    if len(saved["names"]) not in (0, count):
        return False
    if count and not (0 <= int(saved["labels"].min()) <= int(saved["labels"].max()) < classes):
        return False
    ascending = all(bool((saved[name].diff() >= 0).all()) for name in ("keys", "before"))
    return ascending and (not count or int(saved["sides"].max()) <= max(Side))


def unknown(class_names: list[str] | None, source: Path) -> KnownImages:
    """What is known of a model that does not say what it was trained on."""
    none, no_sides = np.empty(0, np.int64), np.empty(0, np.uint8)
    return KnownImages(none, none, no_sides, none, none, None, class_names, source=source)


def same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of classes are equal, however their letters are composed."""
    return list(map(_composed, one)) == list(map(_composed, other))


def check_classes(title: str, found: Sequence[str], known: KnownImages) -> None:
    """Check that a data set has a model's classes, in its order.

    Raises:
        DiscernError: it has others; names both lists.
    """
    names = known.class_names
    if names is None or same_classes(found, names):
        return
    more, fewer = _without(found, names), _without(names, found)
    parts = [f"only the data have {_listed(more)}"] if 0 < len(more) < len(found) else []
    parts += [f"only the model has {_listed(fewer)}"] if 0 < len(fewer) < len(names) else []
    parts += ["in another order"] if not more and not fewer else []
    raise DiscernError(
        f"{title} has the classes {_listed(found)}, and the model in {known.source} knows "
        f"{'; '.join([_listed(names), *parts])}."
    )


MOST_LISTED = 40
"""Classes that a sentence names."""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_LISTED])
    return shown if len(names) <= MOST_LISTED else f"{shown}, … ({len(names):,} in all)"


def _without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(map(_composed, others))
    return [name for name in names if _composed(name) not in known]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _look_up(keys: Integers, values: Integers, wanted: Integers) -> Integers:
    """The first value of each wanted key, or -1, where the keys ascend."""
    if not len(keys):
        return np.full(len(wanted), -1)
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    found: Integers = np.where(keys[at] == wanted, values[at], -1)
    return found


Rows = tuple[Integers, Integers]
"""Key and label of each image."""


def _beyond(these: Rows, those: Rows) -> tuple[Integers, Integers]:
    """The rows that only the first have, and those that only the second have, with repeats."""
    one, other = _numbered(*these), _numbered(*those)
    return np.flatnonzero(~np.isin(one, other)), np.flatnonzero(~np.isin(other, one))


def _numbered(keys: Integers, labels: Integers) -> NDArray[np.uint64]:
    """A word for each row, by its key, its label, and how many that equal it come before."""
    order = np.lexsort((labels, keys))
    rows = np.stack([keys[order], labels[order]], axis=1)
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    places = np.arange(len(rows))
    words = rows[:, 0].astype(np.uint64)
    for part in (rows[:, 1], places - np.maximum.accumulate(np.where(first, places, 0))):
        words = mix(words + part.astype(np.uint64))
    numbered = np.empty_like(words)
    numbered[order] = words
    return numbered
