"""The images known to a trained model's run, and the side that each was on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from discern.data.augment import mix
from discern.data.splits import END, Integers
from discern.errors import DiscernError, shortened
from discern.schema import Strict


class Side(IntEnum):
    """The side of an image; the lower one for an image that occurs twice."""

    TRAIN = 0
    VAL = 1
    TEST = 2
    UNUSED = 3
    """A training image outside the part that ``data.fraction`` takes."""
    KEPT_OUT = 4
    """A training image that an earlier run held out: neither trained on nor measured."""


_Position = Annotated[int, Field(ge=0, le=END)]
_Intervals = Annotated[list[tuple[_Position, _Position]], Field(max_length=2**20)]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Size = _Count | Annotated[float, Field(ge=0, le=1)]


class Rule(Strict):
    """How a run's images were divided; further images are divided by the same rule.

    Attributes:
        seed: that the positions are drawn by.
        val_size, test_size, folds, fold, fraction: the settings; ``test_size`` None where the data
            set has a part for the test.
        test, val, used: for each class from and to which position an image is held out for the
            test, held out for validation, or trained on; None where nothing was drawn.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    val_size: _Size
    test_size: _Size | None
    folds: Annotated[int, Field(ge=2, lt=2**31)] | None
    fold: _Count
    fraction: Annotated[float, Field(gt=0, le=1)]
    test: _Intervals | None = None
    val: _Intervals | None = None
    used: _Intervals | None = None

    @property
    def asked(self) -> dict[str, object]:
        """The settings that decided what was drawn."""
        names = {"test_size"} if self.test is not None else set()
        if self.val is not None:
            names |= {"folds", "fold"} if self.folds is not None else {"val_size"}
        return self.model_dump(include=names | {"seed"}) if names else {}

    def suits(self, classes: int) -> bool:
        """Whether the rule is for so many classes."""
        drawn = [part for part in (self.test, self.val, self.used) if part is not None]
        return all(
            len(part) == classes and all(start <= end for start, end in part) for part in drawn
        )


@dataclass(frozen=True)
class Changes:
    """How a data set differs from the one that a model was trained on, in images."""

    new: int
    gone: int
    changed: int
    """Other content under the same name, or the same content in another class."""

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
        names: keys of their file names, int64 (N,); empty for images without files.
        before: keys of further images, int64 (M,), ascending: of the run as it was before it was
            continued, and of the one that it was started from.
        before_sides: a ``Side`` of each of these, uint8 (M,).
        rule: how they were divided; None if the model does not record it.
        class_names: of the model; None where a data set may have others.
        fingerprint: of the data set.
        source: the checkpoint's file.
        continued: whether it is the run itself that goes on, and its rule counts for any data.
    """

    keys: Integers
    labels: Integers
    sides: NDArray[np.uint8]
    names: Integers
    before: Integers
    before_sides: NDArray[np.uint8]
    rule: Rule | None
    class_names: list[str] | None
    fingerprint: str | None = None
    source: Path = Path()
    continued: bool = False

    @property
    def trained_on(self) -> Integers:
        """Keys of the images trained on, (T,), ascending."""
        trained = self.keys[self.sides == Side.TRAIN]
        return np.union1d(trained, self.before[self.before_sides == Side.TRAIN])

    def all_sides(self) -> tuple[Integers, NDArray[np.uint8]]:
        """Unique keys, ascending, and the side of each: TRAIN before any other."""
        keys = np.concatenate([self.keys, self.before])
        sides = np.concatenate([self.sides, self.before_sides])
        order = np.lexsort((sides, keys))
        keys, first = np.unique(keys[order], return_index=True)
        return keys, sides[order][first]

    def sides_of(self, keys: Integers) -> Integers:
        """The ``Side`` of each key, (N,), or -1 for an unknown key."""
        known, sides = self.all_sides()
        if not len(known):
            return np.full(len(keys), -1)
        at = np.searchsorted(known, keys).clip(max=len(known) - 1)
        found: Integers = np.where(known[at] == keys, sides[at].astype(np.int64), -1)
        return found

    def are_those_of(self, keys: Integers) -> bool:
        """Whether a data set is the model's own: half of the model's images are in it."""
        known = np.unique(self.keys)
        return 0 < len(known) <= 2 * int(np.isin(known, keys).sum())

    def changes(self, keys: Integers, labels: Integers, names: Integers) -> Changes:
        """How images differ from these."""
        new, gone = _beyond((keys, labels), (self.keys, self.labels))
        changed = np.isin(keys[new], self.keys[gone])
        if len(names) and len(self.names):
            changed |= np.isin(names[new], self.names[gone])
        count = int(changed.sum())
        return Changes(len(new) - count, max(0, len(gone) - count), count)

    def tensors(self) -> dict[str, Tensor]:
        """The images as tensors for a checkpoint."""
        return {name: torch.tensor(getattr(self, name)).to(kind) for name, kind in TENSORS.items()}


TENSORS = {
    "keys": torch.int64,
    "labels": torch.int32,
    "sides": torch.uint8,
    "names": torch.int64,
    "before": torch.int64,
    "before_sides": torch.uint8,
}
"""Tensor in a checkpoint -> its type."""


def from_tensors(
    saved: Mapping[str, Tensor],
    rule: Rule,
    class_names: list[str],
    fingerprint: str | None,
    source: Path,
) -> KnownImages:
    """The images that a checkpoint knows.

    Raises:
        DiscernError: the tensors or the rule are not such as discern writes.
    """
    if not rule.suits(len(class_names)) or not _are_whole(saved, len(class_names)):
        raise DiscernError(f"{source} does not record its training images as expected.")
    arrays: dict[str, Any] = {name: saved[name].numpy() for name in TENSORS}
    arrays["labels"] = arrays["labels"].astype(np.int64)
    return KnownImages(
        **arrays, rule=rule, class_names=class_names, fingerprint=fingerprint, source=source
    )


def _are_whole(saved: Mapping[str, Tensor], classes: int) -> bool:
    if set(saved) != set(TENSORS) or not all(_is_plain(saved[n], TENSORS[n]) for n in TENSORS):
        return False
    length = {name: len(part) for name, part in saved.items()}
    count, labels = length["keys"], saved["labels"]
    if (
        not length["labels"] == length["sides"] == count
        or length["names"] not in (0, count)
        or length["before"] != length["before_sides"]
        or (count and not 0 <= int(labels.min()) <= int(labels.max()) < classes)
    ):
        return False
    ascend = all(bool((saved[name].diff() >= 0).all()) for name in ("keys", "before"))
    sides = torch.cat([saved["sides"], saved["before_sides"]])
    return ascend and (not len(sides) or int(sides.max()) <= max(Side))


def _is_plain(part: object, kind: torch.dtype) -> bool:
    """Whether this is a one-dimensional CPU tensor of that type with all of its storage."""
    return (
        isinstance(part, Tensor)
        and part.layout == torch.strided
        and part.device.type == "cpu"
        and part.dtype == kind
        and part.ndim == 1
        and part.untyped_storage().nbytes() >= part.numel() * part.element_size()
    )


def unknown(class_names: list[str] | None, source: Path) -> KnownImages:
    """The images of a model that does not record what it was trained on: none."""
    none, no_sides = np.empty(0, np.int64), np.empty(0, np.uint8)
    return KnownImages(none, none, no_sides, none, none, no_sides, None, class_names, source=source)


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
    listed = partial(shortened, most=MAX_LISTED)
    parts = [f"only the data have {listed(more)}"] if 0 < len(more) < len(found) else []
    parts += [f"only the model has {listed(fewer)}"] if 0 < len(fewer) < len(names) else []
    parts += ["in another order"] if not more and not fewer else []
    raise DiscernError(
        f"{title} has the classes {listed(found)}, and the model in {known.source} knows "
        f"{'; '.join([listed(names), *parts])}."
    )


MAX_LISTED = 40
"""Classes that a sentence names."""


def _without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(map(_composed, others))
    return [name for name in names if _composed(name) not in known]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


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
