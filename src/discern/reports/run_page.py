"""report.html of a run: its settings, results and mistakes, made from its folder alone."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from discern.config.check import as_typed_settings
from discern.config.typed import command_line
from discern.errors import as_override
from discern.files.csv_cells import csv_text
from discern.files.reading import read_bytes, read_text
from discern.files.yaml_file import MAX_YAML
from discern.redaction import redacted, redacted_text
from discern.reports.calibration import BINS, reliability
from discern.reports.confusion import class_scores, confusion_matrix
from discern.reports.intervals import Estimate
from discern.reports.measures import measure
from discern.reports.page import Tile, cell, data_url, duration, percent, tile, write_page
from discern.reports.speed import counted_in
from discern.runs.folder import (
    CONFIG,
    MAX_CSV,
    MAX_PICTURE,
    REPORT,
    Run,
    finite,
    home,
    mapping,
    numbers,
    read_run,
)
from discern.runs.metric_table import DRAWN, METRICS
from discern.runs.predictions import Predictions
from discern.runs.state import State
from discern.runs.summary import trained_on_sentence
from discern.runs.tested import Tested, read_tested
from discern.runs.thumbnails import GALLERY, LOSSLESS, Thumbnails, open_picture, side_of
from discern.text import printable

MATRIX_UP_TO = 30
"""The largest number of classes for which the confusions are a matrix; above it, a list."""

MAX_CONFUSIONS, MAX_BAD_FILES = 100, 200
"""Rows in the lists of confusions and of skipped files."""

SAMPLES_BYTES, SAMPLES_WIDTH = 250_000, 1000
"""A picture of samples with more bytes than this becomes a JPEG of this width in pixels."""

TOP = 3
"""Classes whose probabilities are shown beside a picture."""

Section = dict[str, object]
"""What a section's template shows, as ``this``; ``plots`` are charts: id -> :class:`Chart`."""


class Line(TypedDict):
    """A line of a chart: its points are pairs of epoch and value."""

    name: str
    points: list[list[float]]


class Chart(TypedDict):
    """A line chart, drawn by page.js."""

    kind: str
    caption: str
    series: list[Line]
    marks: NotRequired[list[dict[str, object]]]
    unit: NotRequired[str]


def write_run_page(folder: Path) -> Path:
    """Write report.html into a run's folder.

    Returns:
        The file.

    Raises:
        DiscernError: it is not the folder of a run.
    """
    facts = _Facts(read_run(folder), _without_bad_pictures(read_tested(folder)))
    sections = {name: made for name, section in SECTIONS.items() if (made := section(facts))}
    charts: dict[str, object] = {}
    for section in sections.values():
        charts |= mapping(section.get("plots"))
    run, tested = facts.run, facts.tested
    path = folder / REPORT
    write_page(
        "run.html.j2",
        path,
        title=run.title,
        kind="A run of discern",
        data={"charts": charts, **(_gallery(tested) if tested else {})},
        state=run.state.value,
        reason=_reason(run),
        warnings=_warnings(run),
        lead=_lead(run),
        tiles=_tiles(facts),
        sprite=tested and data_url(tested.thumbnails.picture),
        sections=sections,
    )
    return path


@dataclass(frozen=True)
class _Facts:
    """The facts that sections are made from.

    Attributes:
        run: the contents of its folder.
        tested: predictions on the test images; None if the folder has no such file.
    """

    run: Run
    tested: Tested | None

    @cached_property
    def measured(self) -> dict[str, Estimate]:
        """The test metrics with intervals; empty without predictions."""
        seed = self.run.facts.get("seed")
        seed = seed if isinstance(seed, int) and seed >= 0 else 0
        return measure(self.tested.predictions, seed) if self.tested else {}

    @cached_property
    def confusions(self) -> NDArray[np.int64]:
        """The confusion matrix of the test images, (K, K); empty without predictions."""
        if self.tested is None:
            return np.zeros((0, 0), np.int64)
        found = self.tested.predictions
        return confusion_matrix(found.labels, found.predicted, len(found.class_names))


def _without_bad_pictures(tested: Tested | None) -> Tested | None:
    """The predictions, without thumbnails if the file's picture is not a sheet of thumbnails."""
    if tested is not None:
        try:
            side_of(tested.thumbnails)
        except ValueError:
            return replace(tested, thumbnails=Thumbnails(np.zeros(0, np.int64), b"", 1))
    return tested


# The head of the page


def _lead(run: Run) -> list[str]:
    parts = [] if run.began is None else [f"{run.began:%Y-%m-%d %H:%M}"]
    if run.seconds is not None:
        parts.append(duration(run.seconds))
    if run.tags:
        parts.append("tags: " + ", ".join(run.tags))
    return parts


def _reason(run: Run) -> str:
    if run.state is State.UNFINISHED:
        return "This run is still going on, or its process died before it could record its end."
    advice = run.part("diverged").get("advice")
    return run.ended.sentence + (f". {advice}" if isinstance(advice, str) else "")


def _warnings(run: Run) -> list[str]:
    """Sentences on metrics measured on images that the model was trained on."""
    data = run.part("data")
    images, trained_on = numbers(data.get("images")), numbers(data.get("trained_on"))
    return [
        f"{trained_on_sentence(split, int(count), int(images.get(split, 0)))}."
        for split, count in trained_on.items()
        if count > 0
    ]


def _tiles(facts: _Facts) -> list[Tile]:
    run, tiles = facts.run, []
    if facts.tested is not None:
        images = f"of {len(facts.tested.predictions):,} test images"
        tiles.append(facts.measured["accuracy"].tile("Test accuracy"))
        share = percent(_most_frequent(facts.tested.predictions)[1])
        tiles.append(tile("Always the most frequent class", share, images))
    if (validation := run.metric("val", "accuracy")) is not None:
        epoch, epochs = run.facts.get("best_epoch"), run.facts.get("epochs")
        at = f"in epoch {epoch} of {epochs}, whose checkpoint was kept" if epoch else ""
        tiles.append(tile("Validation accuracy", percent(validation), at))
    if (speed := finite(run.facts.get("images_per_second"))) is not None:
        tiles.append(tile("Training", f"{speed:,.0f} images/s", counted_in(run)))
    return tiles


def _most_frequent(predictions: Predictions) -> tuple[str, float]:
    """The most frequent label and its share of the images."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    most = int(counts.argmax())
    return predictions.class_names[most], float(counts[most] / len(predictions))


# Configuration, curves and metrics


def _configuration(facts: _Facts) -> Section:
    run = facts.run
    changed = redacted(run.facts.get("changed"))
    rows = [
        [name, *(_as_typed(pair.get(key)) for key in ("value", "default"))]
        for name, pair in mapping(changed).items()
        if isinstance(pair, dict)
    ]
    try:
        config = read_bytes(run.folder / CONFIG, MAX_YAML, home(run.folder))
    except (OSError, ValueError):
        config = b""
    return {
        "command": command_line(redacted(run.overrides), as_typed_settings()),
        "changed": rows if isinstance(changed, dict) else None,
        "config": redacted_text(config.decode("utf-8", errors="backslashreplace")),
    }


def _as_typed(value: object) -> str:
    try:
        return as_override(value)
    except (TypeError, ValueError):
        return str(value)


def _curves(facts: _Facts) -> Section | None:
    epochs = facts.run.epochs()
    if not epochs:
        return None
    names = sorted({name for row in epochs for name in row} - {"epoch"})
    rows = [
        [int(row["epoch"]), *(cell(row.get(name), _brief(row.get(name))) for name in names)]
        for row in epochs
    ]
    return {"header": ["epoch", *names], "rows": rows, "plots": _charts(facts.run, epochs)}


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def _charts(run: Run, epochs: Sequence[Mapping[str, float]]) -> dict[str, Chart]:
    best, counted = run.facts.get("best_epoch"), counted_in(run)
    marks = [{"x": best, "name": f"best epoch ({best})"}] if isinstance(best, int) else []
    charts: dict[str, Chart] = {}
    for metric in DRAWN:
        splits = {"training": f"train/{metric.name}", "validation": f"val/{metric.name}"}
        charts[metric.name] = line_chart(metric.label(), [(epochs, splits)]) | {"marks": marks}
    speed = "Training speed (images/s)" + (f": {counted}" if counted else "")
    for name, caption, unit in (
        ("lr", "Learning rate", ""),
        ("images_per_second", speed, " images/s"),
    ):
        line = {caption.lower(): f"train/{name}"}
        charts[name] = line_chart(caption, [(epochs, line)]) | {"unit": unit}
    return {name: chart for name, chart in charts.items() if chart["series"]}


def line_chart(
    caption: str,
    runs: Sequence[tuple[Sequence[Mapping[str, float]], Mapping[str, str]]],
    *,
    keep_empty: bool = False,
) -> Chart:
    """A chart of columns of metrics.csv.

    Args:
        caption: of the chart.
        runs: the epochs of each run, and the columns that are drawn of it: name -> column.
        keep_empty: whether a line without points stays, so that a run has one colour in all charts.
    """
    lines: list[Line] = [
        {"name": name, "points": points(epochs, column)}
        for epochs, columns in runs
        for name, column in columns.items()
    ]
    return {
        "kind": "lines",
        "caption": caption,
        "series": [line for line in lines if line["points"] or keep_empty],
    }


def points(epochs: Sequence[Mapping[str, float]], metric: str) -> list[list[float]]:
    """Epoch and value of each epoch in which a metric is finite."""
    return [
        [int(row["epoch"]), row[metric]]
        for row in epochs
        if metric in row and math.isfinite(row[metric])
    ]


def _metrics(facts: _Facts) -> Section | None:
    run, rows = facts.run, []
    for metric in METRICS:
        name, interval = metric.name, ""
        values = [run.metric(split, name) for split in ("train", "val", "test")]
        if name in facts.measured:
            values[-1] = facts.measured[name].value
            interval = facts.measured[name].ends(name)
        if any(value is not None for value in values):
            rows.append([metric.title, *map(metric.text, values), interval])
    if not rows:
        return None
    kept = run.facts.get("checkpoint")
    # A run of an older version does not say which checkpoint was measured.
    other = "weights that training ended with" if "checkpoint" in run.facts else "best checkpoint"
    caption = f"Of {kept}" if isinstance(kept, str) else f"Of the {other}"
    if run.facts.get("best_epoch"):
        caption += f", from epoch {run.facts['best_epoch']}"
    majority = _most_frequent(facts.tested.predictions) if facts.tested else None
    return {"rows": rows, "caption": caption, "majority": majority}


# The test


def _confusions(facts: _Facts) -> Section | None:
    if facts.tested is None:
        return None
    names, matrix = facts.tested.predictions.class_names, facts.confusions
    if len(names) <= MATRIX_UP_TO:
        return {"classes": names, "matrix": matrix.tolist()}
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    most = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in most]
    found = [(*pair, int(wrong[pair])) for pair in pairs if wrong[pair]]
    return {"classes": names, "matrix": None, "pairs": found}


def _mistakes(facts: _Facts) -> Section | None:
    return {"images": len(facts.tested.predictions)} if facts.tested else None


def _classes(facts: _Facts) -> Section | None:
    if facts.tested is None:
        return None
    scores = class_scores(facts.confusions)
    rows = [
        [
            name,
            *(cell(float(of[i]), metric.text(float(of[i]))) for metric, of in scores.items()),
            int(facts.confusions[i].sum()),
        ]
        for i, name in enumerate(facts.tested.predictions.class_names)
    ]
    return {"header": ["class", *(metric.title for metric in scores), "test images"], "rows": rows}


def _calibration(facts: _Facts) -> Section | None:
    if facts.tested is None:
        return None
    found = facts.tested.predictions
    bins = reliability(found.confidences, found.correct)
    shown = [
        {
            "count": int(bins.counts[number]),
            "share": float(bins.counts[number] / bins.counts.max()),
            "confidence": float(bins.confidence[number]),
            "accuracy": float(bins.accuracy[number]),
        }
        for number in range(BINS)
        if bins.counts[number]
    ]
    return {
        "error": facts.measured["ece"],
        "plots": {"calibration": {"kind": "calibration", "bins": shown}},
    }


def _gallery(tested: Tested) -> dict[str, object]:
    """The thumbnails, for the page's script."""
    found, shown = tested.predictions, tested.thumbnails
    rows = shown.rows
    top = np.argsort(-found.probabilities[rows], axis=1, kind="stable")[:, :TOP]
    pictures = [
        {
            "label": int(found.labels[row]),
            "predicted": int(found.predicted[row]),
            "loss": float(found.losses[row]),
            "top": [[int(one), float(found.probabilities[row, one])] for one in which],
            "name": _image_name(found, row),
        }
        for row, which in zip(rows.tolist(), top.tolist(), strict=True)
    ]
    place = {row: number for number, row in enumerate(rows.tolist())}
    tall = math.ceil(len(rows) / shown.columns)
    tiny = tall > 0 and side_of(shown) <= LOSSLESS
    return {
        "classes": found.class_names,
        "pictures": pictures,
        "sprite": {"columns": shown.columns, "rows": tall, "tiny": tiny},
        "worst": [place[row] for row in found.worst(GALLERY).tolist() if row in place],
        "uncertain": [place[row] for row in found.least_certain(GALLERY).tolist() if row in place],
    }


def _image_name(predictions: Predictions, row: int) -> str:
    """The image's file in its folder, or its number in the data set."""
    if predictions.files is None:
        return f"no. {predictions.indices[row]}"
    return "/".join(Path(predictions.files[row]).parts[-2:])


def _untested(facts: _Facts) -> Section | None:
    return {"missing": True} if not facts.tested and facts.run.state is State.DONE else None


# Pictures and files


PICTURES = {
    "samples.png": "Training images as the network sees them",
    "augmented.png": "Augmentation: some training images as they are, then in successive epochs",
    "lr_find.png": "Learning rate finder",
}


def _samples(facts: _Facts) -> Section | None:
    folder = facts.run.folder
    found = {caption: _picture(folder / name) for name, caption in PICTURES.items()}
    pictures = {caption: picture for caption, picture in found.items() if picture}
    return {"pictures": pictures} if pictures else None


def _picture(path: Path) -> str | None:
    """A picture's file as a data URL, made smaller if it is large; None if there is none."""
    try:
        content = read_bytes(path, MAX_PICTURE, home(path.parent))
        with open_picture(content) as image:
            if len(content) > SAMPLES_BYTES:
                image.thumbnail((SAMPLES_WIDTH, 2 * SAMPLES_WIDTH))
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "JPEG", quality=80)
                content = smaller.getvalue()
    except (OSError, ValueError, SyntaxError):
        return None
    return data_url(content)


def _bad_files(facts: _Facts) -> Section | None:
    folder = facts.run.folder
    try:
        text = read_text(folder / "bad_files.csv", MAX_CSV, home(folder))
        lines = csv.reader(io.StringIO(text, newline=""))
        header, *rows = list(itertools.islice(lines, MAX_BAD_FILES + 2))
    except (OSError, ValueError, csv.Error):
        return None
    shown = [list(map(csv_text, row)) for row in rows[:MAX_BAD_FILES]]
    more = "the first " * (len(rows) > MAX_BAD_FILES)
    return {"header": header, "rows": shown, "more": more} if rows else None


# Time and environment


PHASES = {
    "import": "importing torch and Lightning",
    "data": "finding and reading data",
    "find": "finding settings",
    "features": "features of the frozen backbone",
    "fit": "training",
    "validation": "validation",
    "test": "test",
    "figures": "pictures",
}


def _time(facts: _Facts) -> Section | None:
    run = facts.run
    seconds = numbers(run.part("seconds"))
    total = seconds.pop("total", 0.0)
    if not seconds or not total:
        return None
    parts = {PHASES.get(name, name): value for name, value in seconds.items()}
    parts["everything else"] = max(0.0, total - sum(parts.values()))
    return {
        "parts": parts,
        "longest": max(parts.values()) or 1.0,
        "total": total,
        "speed": finite(run.facts.get("images_per_second")),
        "counted": counted_in(run),
        "features": numbers(run.part("features")),
    }


def _environment(facts: _Facts) -> Section:
    run = facts.run
    data, commit = run.part("data"), str(run.part("git").get("commit", ""))
    images, counts = numbers(data.get("images")), numbers(run.part("parameters"))
    changes = ", with uncommitted changes" if run.part("git").get("dirty") else ""
    rows = {
        "data": f"{data.get('title', '')} ({data.get('source', '')})" if data else "",
        "images": ", ".join(f"{count:,.0f} {split}" for split, count in images.items()),
        "data fingerprint": str(data.get("fingerprint", "")),
        "parameters": ", ".join(f"{count:,.0f} {kind}" for kind, count in counts.items()),
        "seed": str(run.facts.get("seed", "")),
        "commit": commit and commit + changes,
        **{str(name): str(value) for name, value in run.part("machine").items()},
        "versions": ", ".join(f"{name} {of}" for name, of in run.part("versions").items()),
        "folder": printable(run.folder.resolve()),
    }
    return {"facts": {name: text for name, text in rows.items() if text}}


SECTIONS: dict[str, Callable[[_Facts], Section | None]] = {
    "configuration": _configuration,
    "curves": _curves,
    "metrics": _metrics,
    "confusion": _confusions,
    "mistakes": _mistakes,
    "classes": _classes,
    "calibration": _calibration,
    "test": _untested,
    "samples": _samples,
    "skipped": _bad_files,
    "time": _time,
    "environment": _environment,
}
"""The sections of the page in order: name of the template in ``pages/run`` and of the anchor ->
what the template shows, or None to leave the section out."""
