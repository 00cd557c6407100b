"""Names of folders, tables and cells that mean a part of a data set, in any usual spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PARTS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
}
# Validation or test: the other names decide; without others it is unclear.
_UNCLEAR = frozenset({"eval", "evaluation", "evaluate"})
# Only beside a word such as images: imagesTr and imagesTs.
_SHORT = {"tr": "train", "va": "val", "ts": "test", "te": "test"}
# Words without information on what a folder shows.
_NEUTRAL = frozenset(
    {
        *("set", "sets", "data", "dataset", "datasets", "image", "images", "img", "imgs", "pic"),
        *("pics", "picture", "pictures", "photo", "photos", "folder", "dir", "file", "files"),
        *("jpg", "jpeg", "png", "bmp", "tif", "tiff", "label", "labels", "labelled", "labeled"),
        *("raw", "all", "mask", "masks", "annotation", "annotations", "class", "classes"),
    }
)
# With a number, these name a class.
_COUNTED = frozenset({"class", "classes", "label", "labels", "labelled", "labeled"})
# Words for pieces of a data set that have nothing to do with classes.
_SHARD = frozenset(
    {
        *("part", "parts", "shard", "shards", "batch", "batches", "fold", "folds", "chunk"),
        *("chunks", "split", "splits", "subset", "subsets", "partition", "archive", "volume"),
    }
)
_UNLABELLED = frozenset(
    {
        *("pred", "predict", "prediction", "predictions", "inference", "demo", "unlabeled"),
        *("unlabelled", "unlab", "unsup", "unsupervised", "mask", "masks", "annotation"),
        *("annotations", "segmentation", "segmentations", "extra", "sample", "samples"),
    }
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_HOLD_OUT = re.compile(r"h[oe]ld[\W_]+out", re.IGNORECASE)


@dataclass(frozen=True)
class Name:
    """The meaning of a name.

    Attributes:
        parts: ``train``, ``val``, ``test`` and ``eval``, which may be either of the latter.
        rest: the words, in lower case, that are neither parts, numbers nor neutral.
        shard: whether a number or letter counts pieces, as in ``images_part_1``.
        neutral: whether there are neutral words.
    """

    parts: frozenset[str]
    rest: tuple[str, ...]
    shard: bool
    neutral: bool

    @property
    def is_neutral(self) -> bool:
        """Whether it is made of neutral words, such as ``images`` or ``all_data``."""
        return self.neutral and not self.parts and not self.rest


def parse(name: str) -> Name:
    """The meaning of a name's words."""
    words = [word.lower() for word in _WORD.findall(_HOLD_OUT.sub("holdout", name))]
    parts, rest, shard, neutral = set(), [], False, False
    short = [_SHORT[word] for word in words if word in _SHORT]
    for word in words:
        part = _part_in(word)
        if part is not None:
            parts.add(part)
            neutral |= word not in _PARTS
        elif word in _SHARD:
            shard = True
        elif word in _NEUTRAL:
            neutral = True
        elif not word.isdecimal():
            rest.append(word)
    if short and not parts and neutral and len(rest) == len(short):
        parts, rest = set(short), []
    counted = any(word.isdecimal() or len(word) == 1 for word in words)
    if counted and _COUNTED & set(words):
        counted = neutral = False
    if shard and counted:
        rest = [word for word in rest if len(word) > 1]
    return Name(frozenset(parts), tuple(rest), (shard or neutral) and counted, neutral)


def _part_in(word: str) -> str | None:
    """The part that a word means, alone or joined to a neutral one, as in ``testset``."""
    if word in _PARTS:
        return _PARTS[word]
    if word in _UNCLEAR:
        return "eval"
    for neutral in _NEUTRAL:
        for end in (word.removesuffix(neutral), word.removeprefix(neutral)):
            if end != word and end in _PARTS:
                return _PARTS[end]
    return None


def part_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` if a name means that and nothing else; else None."""
    parsed = parse(name)
    (part,) = parsed.parts if len(parsed.parts) == 1 else (None,)
    return None if parsed.rest or part == "eval" else part


def parts_among(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Which of sibling names mean parts.

    A name does if it has no other words (``Training``, ``test_images``), or if several parts share
    its other words (``seg_train``, ``seg_test``).

    Returns:
        Name -> ``train``, ``val`` or ``test``; and the ambiguous names.
    """
    names = list(names)
    joined = _joined(names)
    parsed = {name: parse(name) for name in names}
    parsed = {name: it if it.parts else joined.get(name, it) for name, it in parsed.items()}
    parsed = {name: it for name, it in parsed.items() if it.parts}
    by_rest: dict[tuple[str, ...], set[str]] = {}
    for it in parsed.values():
        by_rest.setdefault(it.rest, set()).update(it.parts)
    parsed = {name: it for name, it in parsed.items() if not it.rest or len(by_rest[it.rest]) > 1}
    taken = {part for it in parsed.values() if len(it.parts) == 1 for part in it.parts}
    parts, unclear = {}, []
    for name, it in parsed.items():
        found = set(it.parts)
        if found == {"eval"} and "eval" in taken and len(taken & {"val", "test"}) == 1:
            found = {"val", "test"} - taken
        if len(found) == 1 and "eval" not in found:
            (parts[name],) = found
        else:
            unclear.append(name)
    return parts, unclear


def _joined(names: Iterable[str]) -> dict[str, Name]:
    """Names that begin or end with a part, as in ``cartrain``; not conclusive alone."""
    found = {}
    for name in names:
        for part in sorted(_PARTS, key=len, reverse=True):
            low = name.lower()
            rests = [end for end in (low.removesuffix(part), low.removeprefix(part)) if end != low]
            if rests and rests[0]:
                found[name] = Name(frozenset({_PARTS[part]}), (rests[0],), False, False)
                break
    return found


def is_unlabelled(name: str) -> bool:
    """Whether a folder beside those of parts is clearly not a class, such as ``seg_pred``."""
    words = set(parse(name).rest) | {w.lower() for w in _WORD.findall(name)}
    return bool(words & _UNLABELLED) or parse(name).is_neutral


def shards_among(names: Iterable[str]) -> list[str]:
    """Names of numbered pieces of a data set, such as ``part_1``; at least two or none."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        parsed = parse(name)
        if parsed.shard:
            groups.setdefault(parsed.rest, []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]
