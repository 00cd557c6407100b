"""report.html of a run: its settings, results and mistakes, made from its folder alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from discern.errors import as_override
from discern.files.reading import read_bytes
from discern.files.yaml_file import MAX_YAML
from discern.redaction import redacted, redacted_text
from discern.reports.calibration import BINS, reliability
from discern.reports.confusion import class_scores
from discern.reports.page import Tile, cell, data_url, duration, percent, tile, write_page
from discern.reports.run_environment import (
    bad_files,
    environment,
    failure,
    files,
    layers,
    samples,
    time,
)
from discern.reports.run_facts import RunFacts, Section, command_of, read_facts
from discern.reports.speed import counted_in
from discern.runs.folder import (
    CONFIG,
    REPORT,
    Run,
    finite,
    home,
    mapping,
    numbers,
)
from discern.runs.metric_table import (
    CLASS_ACCURACY,
    DRAWN,
    MAX_CLASS_CURVES,
    METRICS,
    SHARE,
)
from discern.runs.predictions import Predictions
from discern.runs.state import State
from discern.runs.summary import trained_on_sentence
from discern.runs.tested import Tested
from discern.runs.thumbnails import GALLERY, LOSSLESS, side_of

MATRIX_UP_TO = 150
"""The largest number of classes whose confusion matrix is shown, which has a cell for each pair."""

LISTED_FROM, MAX_CONFUSIONS = 21, (20, 100)
"""The smallest number of classes with a list of confusions, and the most rows of it: beside a
matrix and without one."""

MAX_EPOCH_CELLS = 200_000
"""Cells in the table of epochs, which leaves out columns of a run of very many."""

MAX_WARNINGS, MAX_WARNING = 20, 2000
"""Sentences on what to look at that are shown, and characters of each."""

TOP = 3
"""Classes whose probabilities are shown beside a picture."""


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
    top: NotRequired[float]


def write_run_page(folder: Path) -> Path:
    """Write report.html into a run's folder.

    Returns:
        The file.

    Raises:
        DiscernError: it is not the folder of a run.
    """
    facts = read_facts(folder)
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
    """Sentences on what to look at, and on metrics of images that the model was trained on."""
    data = run.part("data")
    images, trained_on = numbers(data.get("images")), numbers(data.get("trained_on"))
    noticed = run.facts.get("warnings")
    found = noticed[:MAX_WARNINGS] if isinstance(noticed, list) else []
    return [each[:MAX_WARNING] for each in found if isinstance(each, str)] + [
        f"{trained_on_sentence(split, int(count), int(images.get(split, 0)))}."
        for split, count in trained_on.items()
        if count > 0
    ]


def _tiles(facts: RunFacts) -> list[Tile]:
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


def _configuration(facts: RunFacts) -> Section:
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
        "command": command_of(run),
        "changed": rows if isinstance(changed, dict) else None,
        "config": redacted_text(config.decode("utf-8", errors="backslashreplace")),
    }


def _as_typed(value: object) -> str:
    try:
        return as_override(value)
    except (TypeError, ValueError):
        return str(value)


def _curves(facts: RunFacts) -> Section | None:
    epochs = facts.run.epochs()
    if not epochs:
        return None
    logged = {name for row in epochs for name in row if not name.startswith(CLASS_ACCURACY)}
    names = sorted(logged - {"epoch"})[: MAX_EPOCH_CELLS // len(epochs)]
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
        if metric.unit == SHARE:
            charts[metric.name]["top"] = 1.0
    charts["class_accuracy"] = _class_curves(run, epochs) | {"marks": marks, "top": 1.0}
    speed = "Training speed (images/s)" + (f": {counted}" if counted else "")
    for name, caption, unit in (
        ("lr", "Learning rate", ""),
        ("grad_norm", "Gradient norm (before clipping, mean of every 50th step)", ""),
        ("seconds", "Training time per epoch (s)", " s"),
        ("images_per_second", speed, " images/s"),
    ):
        line = {caption.partition(" (")[0].lower(): f"train/{name}"}
        charts[name] = line_chart(caption, [(epochs, line)]) | {"unit": unit}
    return {name: chart for name, chart in charts.items() if chart["series"]}


def _class_curves(run: Run, epochs: Sequence[Mapping[str, float]]) -> Chart:
    """The validation accuracy of each class by epoch, where there are few."""
    classes = run.part("data").get("classes")
    names = classes if isinstance(classes, list) else []
    logged = {name for row in epochs for name in row if name.startswith(CLASS_ACCURACY)}
    numbered = ((str(name), f"{CLASS_ACCURACY}{number}") for number, name in enumerate(names))
    drawn = (pair for pair in numbered if pair[1] in logged)
    columns = dict(itertools.islice(drawn, MAX_CLASS_CURVES))
    return line_chart("Validation accuracy of each class", [(epochs, columns)])


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


def _metrics(facts: RunFacts) -> Section | None:
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


def _confusions(facts: RunFacts) -> Section | None:
    if facts.tested is None:
        return None
    names, matrix = facts.tested.predictions.class_names, facts.confusions
    return {
        "classes": names,
        "matrix": matrix.tolist() if len(names) <= MATRIX_UP_TO else None,
        "pairs": _most_confused(matrix) if len(names) >= LISTED_FROM else None,
    }


def _most_confused(matrix: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """The most frequent confusions: label, predicted class and number of images."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    shown = MAX_CONFUSIONS[len(matrix) > MATRIX_UP_TO]
    most = np.argsort(-wrong, axis=None, kind="stable")[:shown]
    pairs = [divmod(int(place), len(matrix)) for place in most]
    return [(*pair, int(wrong[pair])) for pair in pairs if wrong[pair]]


def _mistakes(facts: RunFacts) -> Section | None:
    return {"images": len(facts.tested.predictions)} if facts.tested else None


def _classes(facts: RunFacts) -> Section | None:
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


def _calibration(facts: RunFacts) -> Section | None:
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
        "temperature": _temperature(facts.run),
        "plots": {"calibration": {"kind": "calibration", "bins": shown}},
    }


def _temperature(run: Run) -> dict[str, float] | None:
    """The temperature of the model, and the calibration error on test images with it."""
    found = run.part("calibration")
    pair = mapping(found.get("test")).get("ece")
    value = finite(found.get("temperature"))
    after = finite(pair[1]) if isinstance(pair, list) and len(pair) == 2 else None
    return None if value is None or after is None else {"value": value, "error": after}


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


def _untested(facts: RunFacts) -> Section | None:
    return {"missing": True} if not facts.tested and facts.run.state is State.DONE else None


SECTIONS: dict[str, Callable[[RunFacts], Section | None]] = {
    "traceback": failure,
    "configuration": _configuration,
    "curves": _curves,
    "metrics": _metrics,
    "confusion": _confusions,
    "mistakes": _mistakes,
    "classes": _classes,
    "calibration": _calibration,
    "test": _untested,
    "samples": samples,
    "skipped": bad_files,
    "layers": layers,
    "time": time,
    "environment": environment,
    "files": files,
}
"""The sections of the page in order: name of the template in ``pages/run`` and of the anchor ->
what the template shows, or None to leave the section out."""
