"""What several runs differ in, in settings, in metrics and image by image."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from discern.console import for_terminal
from discern.errors import as_override
from discern.reports.intervals import Estimate, wilson
from discern.reports.page import percent
from discern.reports.paired import Paired, compare_pairs
from discern.runs.folder import Run, short_names
from discern.runs.metric_table import DRAWN
from discern.runs.state import State
from discern.runs.tested import Tested, read_tested
from discern.runs.thumbnails import GALLERY, pixels_of

ALL_PAIRS = 5
"""Runs up to which each is compared with each; of more, each with the first."""

SPELT_OUT = 4
"""Runs up to which it is said of an image what each of them says."""

NOT_COMPARED = ("folder", "tags", "sweep", "report", "test")
"""Settings that say where a run writes, who has started it, and what is done with the model."""

FIRST = [f"{split}/{metric.name}" for split in ("val", "test") for metric in DRAWN]
"""Metrics that are told before the others."""

NONE = "–"

Row = tuple[str, list[str]]
"""A setting's name and its value in each run, as text."""


@dataclass(frozen=True)
class Disagreement:
    """Images of which not all of the runs say the same.

    Attributes:
        count: how many there are.
        images: of how many.
        pixels: of some of them, uint8 (M, C, S, S), the most disputed first.
        labels: the name of the class of each of these, M.
        said: of each what the runs say of it, and whether that is right.
    """

    count: int
    images: int
    pixels: NDArray[np.uint8]
    labels: list[str]
    said: list[list[tuple[str, bool]]]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: two or more.
        letters: A, B, C, … by which they are called.
        names: what their folders are called.
        settings: those that differ.
        circumstances: what else differs: data, code, machine.
        metrics: the names of those that any has.
        accuracies: of each run on the test images, with its interval; None where what it said of
            them is not known.
        pairs: of runs on the same test images.
        disagreement: of the runs on the same test images; None where no two were.
        notes: what is to be known, in sentences.
    """

    runs: list[Run]
    letters: list[str]
    names: list[str]
    settings: list[Row]
    circumstances: list[Row]
    metrics: list[str]
    accuracies: list[Estimate | None]
    pairs: list[Paired]
    disagreement: Disagreement | None
    notes: list[str]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs, from what their folders hold."""
    letters = [_letter(number) for number in range(len(runs))]
    tested = [read_tested(run.folder) for run in runs]
    groups = _same_images(tested)
    shared = [group for group in groups if len(group) > 1]
    circumstances = _differing([_circumstances(run) for run in runs])
    return Comparison(
        list(runs),
        letters,
        short_names([run.folder for run in runs]),
        settings=_differing([_settings(run) for run in runs], silent=True),
        circumstances=circumstances,
        metrics=_metrics(runs),
        accuracies=[None if each is None else _accuracy(each) for each in tested],
        pairs=[pair for group in shared for pair in _pairs(group, tested)],
        disagreement=_disagreement(shared[0], tested, letters) if shared else None,
        notes=[
            *_notes(runs, letters, tested, groups),
            *(
                ["They were not all trained on the same data: the fingerprints differ."]
                if any(name == FINGERPRINT for name, _ in circumstances)
                else []
            ),
        ],
    )


def _letter(number: int) -> str:
    """A, B, …, Z, AA, AB, …."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + string.ascii_uppercase[last]


def _metrics(runs: Sequence[Run]) -> list[str]:
    found = {name for run in runs for name in run.metrics()}
    return [*(name for name in FIRST if name in found), *sorted(found - set(FIRST))]


def _accuracy(tested: Tested) -> Estimate | None:
    said = tested.predictions
    return wilson(int(said.correct.sum()), len(said)) if len(said) else None


# What differs


FINGERPRINT = "data fingerprint"


def _differing(told: Sequence[Mapping[str, str]], silent: bool = False) -> list[Row]:
    """What is not the same in all runs that say anything.

    Args:
        told: name -> text, of each run.
        silent: whether a run that says nothing of a name differs from one that does.
    """
    known = [each for each in told if each]
    names = dict.fromkeys(name for each in known for name in each)
    return [
        (for_terminal(name), [for_terminal(each.get(name, NONE)) for each in told])
        for name in names
        if len({each.get(name) for each in known if silent or name in each}) > 1
    ]


def _settings(run: Run) -> dict[str, str]:
    kept = {name: part for name, part in run.config.items() if name not in NOT_COMPARED}
    # Paths below a run's own folder are the same in all.
    own = run.config.get("folder")
    return {
        name: text.replace(own, "(folder)") if isinstance(own, str) and own else text
        for name, text in _flat(kept, "")
    }


def _flat(part: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", as_override(value)


def _circumstances(run: Run) -> dict[str, str]:
    data, git = run.part("data"), run.part("git")
    commit = str(git.get("commit", ""))[:10] + (" with changes" if git.get("dirty") else "")
    told = {
        FINGERPRINT: str(data.get("fingerprint") or "")[:12],
        "commit": commit,
        **{f"version of {name}": str(of) for name, of in run.part("versions").items()},
        **{str(name): str(of) for name, of in run.part("machine").items()},
    }
    return {name: text for name, text in told.items() if text}


# The same test images


def _same_images(tested: Sequence[Tested | None]) -> list[list[int]]:
    """The numbers of the runs, together that were tested on the same images."""
    groups: dict[Any, list[int]] = {}
    for number, each in enumerate(tested):
        if each is not None and len(each.predictions):
            # Whoever writes the digest, the labels are as many and the same.
            key = each.images, each.predictions.labels.tobytes()
            groups.setdefault(key, []).append(number)
    return list(groups.values())


def _pairs(group: Sequence[int], tested: Sequence[Tested | None]) -> list[Paired]:
    first, *others = group
    pairs = [(first, other) for other in others]
    if len(group) <= ALL_PAIRS:
        pairs = [(one, other) for place, one in enumerate(group) for other in group[place + 1 :]]
    said = {number: tested[number].predictions for number in group}  # type: ignore[union-attr]
    predicted = {number: each.predicted for number, each in said.items()}
    return compare_pairs(predicted, said[first].labels, pairs)


def _notes(
    runs: Sequence[Run],
    letters: Sequence[str],
    tested: Sequence[Tested | None],
    groups: Sequence[Sequence[int]],
) -> list[str]:
    notes = []
    for letter, run in zip(letters, runs, strict=True):
        if run.state is State.UNFINISHED:
            notes.append(f"{letter} has not ended, or died before it could say so.")
        elif run.state is not State.DONE:
            notes.append(f"{letter} has not come to its end: {for_terminal(str(run.ended))}.")
        if not run.config:
            notes.append(f"{letter} has no settings that can be read.")
    folds = [letter for letter, run in zip(letters, runs, strict=True) if run.is_fold]
    if len(folds) > 1:
        notes.append(
            f"{_listed(folds)} are folds (data.folds), each validated on other images: what they "
            "differ in is part of one estimate's spread, and none is the best. The sweep's report "
            "has mean and standard deviation."
        )
    without = [letter for letter, each in zip(letters, tested, strict=True) if each is None]
    if without:
        notes.append(
            f"What {_listed(without)} said of the test images is not known: not tested, or by an "
            "older version. There is no paired test."
        )
    if len(groups) > 1:
        told = "; ".join(_listed([letters[number] for number in group]) for group in groups)
        notes.append(
            f"The test images are not the same ({told}): only accuracies on the same images can be "
            "compared, and there is no paired test of the others."
        )
    return notes


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# Where they disagree


def _disagreement(
    group: Sequence[int], tested: Sequence[Tested | None], letters: Sequence[str]
) -> Disagreement:
    known = [each for each in (tested[number] for number in group) if each is not None]
    said = [each.predictions for each in known]
    predicted = np.stack([each.predicted for each in said])
    disputed = (predicted != predicted[0]).any(axis=0)
    labels = said[0].labels
    # How far apart they are in the probability of the right class.
    each_sure = [
        np.take_along_axis(each.probabilities, labels[:, None], axis=1)[:, 0] for each in said
    ]
    apart = np.ptp(np.stack(each_sure), axis=0)
    kept = _pictures(known)
    order = np.argsort(-apart, kind="stable")
    rows = [row for row in order[disputed[order]].tolist() if row in kept][:GALLERY]
    return Disagreement(
        int(disputed.sum()),
        len(labels),
        _alike([kept[row] for row in rows]),
        [for_terminal(said[0].class_names[labels[row]]) for row in rows],
        [_said(row, known, [letters[number] for number in group]) for row in rows],
    )


def _said(row: int, known: Sequence[Tested], letters: Sequence[str]) -> list[tuple[str, bool]]:
    said = [each.predictions for each in known]
    right = [bool(each.predicted[row] == each.labels[row]) for each in said]
    if len(said) > SPELT_OUT:
        parts = [
            (which, [letter for letter, well in zip(letters, right, strict=True) if well is which])
            for which in (True, False)
        ]
        return [
            (f"{'right' if which else 'wrong'}: {', '.join(these)}", which)
            for which, these in parts
            if these
        ]
    return [
        (
            f"{letter}: {for_terminal(each.class_names[each.predicted[row]])}, "
            f"{percent(float(each.probabilities[row, each.predicted[row]]), 0)}",
            well,
        )
        for letter, each, well in zip(letters, said, right, strict=True)
    ]


def _pictures(known: Sequence[Tested]) -> dict[int, NDArray[np.uint8]]:
    """Row -> its picture (C, S, S), of all rows of which any run has kept one."""
    found: dict[int, NDArray[np.uint8]] = {}
    for each in known:
        try:
            pixels = pixels_of(each.thumbnails)
        except ValueError:
            continue
        for row, one in zip(each.thumbnails.rows.tolist(), pixels, strict=True):
            found.setdefault(row, one)
    return found


def _alike(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures, uint8 (C, S, S) each, with as many channels and as large: (M, C, S, S)."""
    if not pictures:
        return np.zeros((0, 1, 1, 1), np.uint8)
    channels = max(len(one) for one in pictures)
    side = max(one.shape[-1] for one in pictures)
    return np.stack(
        [_resized(np.repeat(one, channels // len(one), axis=0), side) for one in pictures]
    )


def _resized(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if pixels.shape[-1] == side:
        return pixels
    planes = [Image.fromarray(plane).resize((side, side)) for plane in pixels]
    return np.stack([np.asarray(plane) for plane in planes])
