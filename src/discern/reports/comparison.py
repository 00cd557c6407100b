"""The differences between runs: settings, metrics and predictions image by image."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from discern.console import for_terminal
from discern.errors import as_override
from discern.reports.fonts import isolated
from discern.reports.intervals import Estimate, wilson
from discern.reports.page import percent
from discern.reports.paired import Paired, compare_pairs
from discern.runs.folder import Run, short_names
from discern.runs.metric_table import DRAWN
from discern.runs.predictions import Predictions
from discern.runs.state import State
from discern.runs.tested import Tested, read_tested
from discern.runs.thumbnails import GALLERY, pixels_of

MAX_ALL_PAIRS = 5
"""The most runs of which all pairs are compared; of more, each is compared with the first."""

MAX_LISTED = 8
"""The most runs whose letters stand in a sentence."""

MAX_SPELT_OUT = 4
"""The most runs whose predictions of an image are listed one by one."""

NOT_COMPARED = ("folder", "tags", "sweep", "report", "test")
"""Settings on the run's folder, on its sweep, and on what is done after training."""

FIRST = [f"{split}/{metric.name}" for split in ("val", "test") for metric in DRAWN]
"""Metrics that come before the others."""

NONE = "–"

Row = tuple[str, list[str]]
"""The name of a setting or metric, and its value in each run as text."""


class PredictedBy(NamedTuple):
    """What a run, or several, predict for an image: a class's name between other words."""

    before: str
    name: str
    after: str
    right: bool

    @property
    def text(self) -> str:
        """All of it, for where it is not marked up."""
        return f"{self.before}{isolated(self.name)}{self.after}"


@dataclass(frozen=True)
class Disagreement:
    """Test images on which the runs' predictions differ.

    Attributes:
        count: the number of these images.
        images: the number of all test images.
        pixels: M of these images, uint8 (M, C, S, S), the most disputed first.
        labels: M names of their true classes.
        predictions: for each of the M images, the runs' predictions.
    """

    count: int
    images: int
    pixels: NDArray[np.uint8]
    labels: list[str]
    predictions: list[list[PredictedBy]]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        runs: two or more.
        letters: A, B, C, …, a short name for each run.
        names: the names of their folders.
        settings: the settings that differ.
        circumstances: other differences: data, code, machine.
        metrics: the names of all metrics that any run has.
        accuracies: the test accuracy of each run with its interval; None without predictions.
        pairs: the paired tests of runs on the same test images.
        disagreement: of the runs on the same test images; None if there are no two such runs.
        notes: limits of the comparison, in sentences.
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
    """Compare runs by the contents of their folders."""
    letters = [_letter(number) for number in range(len(runs))]
    tested = [read_tested(run.folder) for run in runs]
    groups = _same_images(tested)
    shared = [group for group in groups if len(group) > 1]
    circumstances = _differing([_circumstances(run) for run in runs])
    return Comparison(
        list(runs),
        letters,
        short_names([run.folder for run in runs]),
        settings=_differing([_settings(run) for run in runs], missing_differs=True),
        circumstances=circumstances,
        metrics=_metrics(runs),
        accuracies=list(map(_accuracy, tested)),
        pairs=[pair for group in shared for pair in _pairs(group, tested)],
        disagreement=_disagreement(shared[0], tested, letters) if shared else None,
        notes=_notes(runs, letters, tested, groups, dict(circumstances)),
    )


def _letter(number: int) -> str:
    """A, B, …, Z, AA, AB, …."""
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + string.ascii_uppercase[last]


def _metrics(runs: Sequence[Run]) -> list[str]:
    found = {name for run in runs for name in run.metrics()}
    return [*(name for name in FIRST if name in found), *sorted(found - set(FIRST))]


def _accuracy(tested: Tested | None) -> Estimate | None:
    if tested is None or not len(tested.predictions):
        return None
    return wilson(int(tested.predictions.correct.sum()), len(tested.predictions))


# What differs


FINGERPRINT = "data fingerprint"


def _differing(runs: Sequence[Mapping[str, str]], missing_differs: bool = False) -> list[Row]:
    """The rows that are not the same in all runs.

    Args:
        runs: name -> text, for each run; a run with an empty mapping is not compared.
        missing_differs: whether a run without a name differs from one that has it.
    """
    known = [each for each in runs if each]
    names = dict.fromkeys(name for each in known for name in each)
    return [
        (for_terminal(name), [for_terminal(each.get(name, NONE)) for each in runs])
        for name in names
        if len({each.get(name) for each in known if missing_differs or name in each}) > 1
    ]


def _settings(run: Run) -> dict[str, str]:
    kept = {name: part for name, part in run.config.items() if name not in NOT_COMPARED}
    # Paths inside the runs' own folders are the same path.
    own = run.config.get("folder")
    return {
        name: text.replace(own, "(folder)") if isinstance(own, str) and own else text
        for name, text in _flat(kept, "")
    }


def _flat(part: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in part.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", as_override(value)


def _circumstances(run: Run) -> dict[str, str]:
    data, git = run.part("data"), run.part("git")
    commit = str(git.get("commit", ""))[:10] + (" with changes" if git.get("dirty") else "")
    facts = {
        FINGERPRINT: str(data.get("fingerprint") or "")[:12],
        "commit": commit,
        **{f"version of {name}": str(of) for name, of in run.part("versions").items()},
        **{str(name): str(of) for name, of in run.part("machine").items()},
    }
    return {name: text for name, text in facts.items() if text}


# The same test images


def _same_images(tested: Sequence[Tested | None]) -> list[list[int]]:
    """The runs' numbers, grouped by the images that they were tested on."""
    groups: dict[tuple[str, bytes], list[int]] = {}
    for number, each in enumerate(tested):
        if each is not None and len(each.predictions):
            # A forged digest cannot group runs with different labels.
            key = each.images, each.predictions.labels.tobytes()
            groups.setdefault(key, []).append(number)
    return list(groups.values())


def _pairs(group: Sequence[int], tested: Sequence[Tested | None]) -> list[Paired]:
    first, *others = group
    pairs = [(first, other) for other in others]
    if len(group) <= MAX_ALL_PAIRS:
        pairs = list(itertools.combinations(group, 2))
    found = {number: tested[number].predictions for number in group}  # type: ignore[union-attr]
    predicted = {number: each.predicted for number, each in found.items()}
    return compare_pairs(predicted, found[first].labels, pairs)


def _notes(
    runs: Sequence[Run],
    letters: Sequence[str],
    tested: Sequence[Tested | None],
    groups: Sequence[Sequence[int]],
    circumstances: Mapping[str, list[str]],
) -> list[str]:
    notes = []
    for letter, run in zip(letters, runs, strict=True):
        if run.state is State.UNFINISHED:
            notes.append(f"{letter} is still running, or died before it could record its end.")
        elif run.state is not State.DONE:
            notes.append(f"{letter} did not finish: {for_terminal(str(run.ended))}.")
        if not run.config:
            notes.append(f"{letter} has no readable settings.")
    folds = [letter for letter, run in zip(letters, runs, strict=True) if run.is_fold]
    if len(folds) > 1:
        notes.append(
            f"{_listed(folds)} are folds (data.folds), each validated on different images: their "
            "differences are the spread of one estimate, and none is the best. The sweep's report "
            "has mean and standard deviation."
        )
    without = [letter for letter, each in zip(letters, tested, strict=True) if each is None]
    if without:
        notes.append(
            f"{_listed(without)} {'has' if len(without) == 1 else 'have'} no predictions for the "
            "test images, and so no paired test; discern compare … test=true tests "
            f"{'it' if len(without) == 1 else 'them'}."
        )
    if len(groups) > 1:
        which = "; ".join(_listed([letters[number] for number in group]) for group in groups)
        notes.append(
            f"The runs were tested on different images ({which}): only accuracies on the same "
            "images can be compared."
        )
    if FINGERPRINT in circumstances:
        notes.append("The runs were trained on different data: the fingerprints differ.")
    return notes


def _listed(words: Sequence[str]) -> str:
    if len(words) > MAX_LISTED:
        return f"{', '.join(words[: MAX_LISTED - 1])} and {len(words) - MAX_LISTED + 1} more"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# Where they disagree


def _disagreement(
    group: Sequence[int], tested: Sequence[Tested | None], letters: Sequence[str]
) -> Disagreement:
    known = [each for each in (tested[number] for number in group) if each is not None]
    found = {letters[number]: each.predictions for number, each in zip(group, known, strict=True)}
    one, *_ = found.values()
    labels, names = one.labels, one.class_names
    predicted = np.stack([each.predicted for each in found.values()])
    disputed = (predicted != predicted[0]).any(axis=0)
    # How far apart the runs are in the probability of the true class.
    rows = np.arange(len(labels))
    spread = np.ptp([each.probabilities[rows, labels] for each in found.values()], axis=0)
    pictures = _pictures(known)
    order = np.argsort(-spread, kind="stable")
    shown = [row for row in order[disputed[order]].tolist() if row in pictures][:GALLERY]
    return Disagreement(
        int(disputed.sum()),
        len(labels),
        _same_shape([pictures[row] for row in shown]),
        [for_terminal(names[labels[row]]) for row in shown],
        [_predictions(row, found) for row in shown],
    )


def _predictions(row: int, found: Mapping[str, Predictions]) -> list[PredictedBy]:
    right = {letter: bool(each.correct[row]) for letter, each in found.items()}
    if len(found) <= MAX_SPELT_OUT:
        return [
            PredictedBy(
                f"{letter}: ",
                for_terminal(each.class_names[each.predicted[row]]),
                f", {percent(float(each.confidences[row]), 0)}",
                right[letter],
            )
            for letter, each in found.items()
        ]
    parts = {
        which: [letter for letter in right if right[letter] is which] for which in (True, False)
    }
    return [
        PredictedBy(f"{'right' if which else 'wrong'}: {', '.join(these)}", "", "", which)
        for which, these in parts.items()
        if these
    ]


def _pictures(tested: Sequence[Tested]) -> dict[int, NDArray[np.uint8]]:
    """Row -> picture, (C, S, S), of all rows of which any run has kept one."""
    found: dict[int, NDArray[np.uint8]] = {}
    for each in tested:
        with suppress(ValueError):
            pixels = pixels_of(each.thumbnails)
            found = dict(zip(each.thumbnails.rows.tolist(), pixels, strict=True)) | found
    return found


def _same_shape(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures, uint8 (C, S, S) each, with the channels and size of the largest: (M, C, S, S)."""
    channels = max((len(one) for one in pictures), default=1)
    side = max((one.shape[-1] for one in pictures), default=1)
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side)))
        for one in pictures
        for plane in np.repeat(one, channels // len(one), axis=0)
    ]
    return np.array(planes, np.uint8).reshape(-1, channels, side, side)
