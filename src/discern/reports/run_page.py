"""report.html of a run: what it was, what it gave, where it is wrong, from its folder alone."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

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
from discern.reports.page import cell, duration, percent, size, write_page
from discern.reports.speed import counted_in
from discern.runs.folder import (
    CONFIG,
    MAX_CSV,
    MAX_PICTURE,
    REPORT,
    Run,
    finite,
    home,
    numbers,
    read_run,
)
from discern.runs.metric_table import DRAWN, METRICS, metric_of
from discern.runs.predictions import Predictions
from discern.runs.state import State
from discern.runs.summary import trained_on_sentence
from discern.runs.tested import Tested, read_tested
from discern.runs.thumbnails import (
    GALLERY,
    LOSSLESS,
    Thumbnails,
    open_picture,
    side_of,
)
from discern.text import printable

MATRIX_UP_TO = 30
"""Classes up to which the confusions are a matrix; of more, a list of the most frequent."""

CONFUSIONS, BAD_FILES = 100, 200
"""Rows that the lists of confusions and of bad files have at most."""

SAMPLES_BYTES, SAMPLES_WIDTH = 250_000, 1000
"""Above so many bytes a picture of samples is made smaller and a JPEG: pixels of its width."""

TOP = 3
"""Classes whose probabilities stand beside a picture."""


def write_run_page(folder: Path) -> Path:
    """Write report.html into a run's folder.

    Returns:
        The file.

    Raises:
        DiscernError: it is not the folder of a run.
    """
    shown = _Shown(read_run(folder), _with_pictures(read_tested(folder)))
    sections = {name: section(shown) for name, section in SECTIONS.items()}
    data: dict[str, Any] = {"charts": {}}
    for section in sections.values():
        data["charts"] |= (section or {}).get("plots", {})
    if shown.tested is not None:
        data |= _pictures(shown.tested)
    path = folder / REPORT
    write_page(
        "run.html.j2",
        path,
        title=shown.run.title,
        kind="A run of discern",
        data=data,
        state=shown.run.state.value,
        reason=_reason(shown.run),
        warnings=_warnings(shown.run),
        lead=_lead(shown.run),
        tiles=_tiles(shown.run, shown.tested, shown.measured),
        sprite=shown.tested and _data_url(shown.tested.thumbnails.picture),
        sections={name: section for name, section in sections.items() if section},
    )
    return path


@dataclass(frozen=True)
class _Shown:
    """What the sections of the page are made of.

    Attributes:
        run: what its folder tells.
        tested: what it said of the test images; None where it has no such file.
    """

    run: Run
    tested: Tested | None

    @cached_property
    def epochs(self) -> list[dict[str, float]]:
        return self.run.epochs()

    @cached_property
    def measured(self) -> dict[str, Estimate] | None:
        return None if self.tested is None else measure(self.tested.predictions, _seed(self.run))

    @cached_property
    def test(self) -> dict[str, Any] | None:
        if self.tested is None or self.measured is None:
            return None
        return _tested(self.tested, self.measured)


def _with_pictures(tested: Tested | None) -> Tested | None:
    """What was tested, without its pictures where the file has others in their place."""
    if tested is None:
        return None
    try:
        side_of(tested.thumbnails)
        return tested
    except ValueError:
        return replace(tested, thumbnails=Thumbnails(np.zeros(0, np.int64), b"", 1))


# What it was


def command(run: Run) -> str:
    """What starts the run again, for a shell."""
    return command_line(redacted(run.overrides), as_typed_settings())


def changed_rows(changed: Any) -> list[list[str]] | None:
    """Setting, value, default of what differs from the defaults; None where it is not known."""
    if not isinstance(changed, dict):
        return None
    return [
        [name, *(_typed(pair.get(key)) for key in ("value", "default"))]
        for name, pair in changed.items()
        if isinstance(pair, dict)
    ]


def _typed(value: Any) -> str:
    try:
        return as_override(value)
    except (TypeError, ValueError):
        return str(value)


def _lead(run: Run) -> list[str]:
    parts = [] if run.began is None else [f"{run.began:%Y-%m-%d %H:%M}"]
    if run.seconds is not None:
        parts.append(duration(run.seconds))
    if run.tags:
        parts.append("tags: " + ", ".join(run.tags))
    return parts


def _reason(run: Run) -> str:
    if run.state is State.UNFINISHED:
        return "This run is still going on, or its process died before it could say how it ended."
    advice = run.part("diverged").get("advice")
    return run.ended.sentence + (f". {advice}" if isinstance(advice, str) else "")


def _warnings(run: Run) -> list[str]:
    """What makes a number something else than it seems."""
    data = run.part("data")
    images, trained_on = numbers(data.get("images")), numbers(data.get("trained_on"))
    return [
        f"{trained_on_sentence(split, int(count), int(images.get(split, 0)))}."
        for split, count in trained_on.items()
        if count > 0
    ]


def _seed(run: Run) -> int:
    seed = run.facts.get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else 0


# What it gave


def _tiles(
    run: Run, tested: Tested | None, measured: Mapping[str, Estimate] | None
) -> list[dict[str, str]]:
    tiles = []
    if tested is not None and measured is not None:
        accuracy = measured["accuracy"]
        told = f"95 % interval {percent(accuracy.low)} to {percent(accuracy.high)}"
        tiles.append({"name": "Test accuracy", "value": percent(accuracy.value), "detail": told})
        _, share = _most_frequent(tested.predictions)
        tiles.append({"name": "Always the most frequent class", "value": percent(share),
                      "detail": f"of {len(tested.predictions):,} test images"})  # fmt: skip
    validation = run.metric("val", "accuracy")
    if validation is not None:
        epoch, epochs = run.facts.get("best_epoch"), run.facts.get("epochs")
        at = f"in epoch {epoch} of {epochs}, which was kept" if epoch else ""
        tiles.append({"name": "Validation accuracy", "value": percent(validation), "detail": at})
    speed = finite(run.facts.get("images_per_second"))
    if speed is not None:
        value, detail = f"{speed:,.0f} images/s", counted_in(run)
        tiles.append({"name": "Training", "value": value, "detail": detail})
    return tiles


def _metric_table(run: Run, measured: Mapping[str, Estimate] | None) -> dict[str, Any] | None:
    measured = measured or {}
    rows = []
    for metric in METRICS:
        name, interval = metric.name, ""
        values = [run.metric(split, name) for split in ("train", "val", "test")]
        if name in measured:
            values[-1] = measured[name].value
            interval = measured[name].ends(name)
        if any(value is not None for value in values):
            rows.append([metric.title, *map(metric.text, values), interval])
    if not rows:
        return None
    kept = run.facts.get("checkpoint")
    # A run of an older version does not say.
    unsaid = "weights that training ended with" if "checkpoint" in run.facts else "best checkpoint"
    caption = f"Of {kept}" if isinstance(kept, str) else f"Of the {unsaid}"
    if run.facts.get("best_epoch"):
        caption += f", from epoch {run.facts['best_epoch']}"
    return {
        "header": ["", "training", "validation", "test", "95 % interval"],
        "rows": rows,
        "caption": caption,
    }


def _most_frequent(predictions: Predictions) -> tuple[str, float]:
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    most = int(counts.argmax())
    return predictions.class_names[most], float(counts[most] / len(predictions))


def _majority(predictions: Predictions) -> str:
    name, share = _most_frequent(predictions)
    return (
        f"Who always says “{name}”, the most frequent class of the test images, is right "
        f"{percent(share)} of the time."
    )


def _charts(run: Run, epochs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    best = run.facts.get("best_epoch")
    marks = [{"x": best, "name": f"best epoch ({best})"}] if isinstance(best, int) else []
    charts: dict[str, dict[str, Any]] = {}
    for metric in DRAWN:
        lines = [
            {"name": name, "points": points(epochs, f"{split}/{metric.name}")}
            for split, name in (("train", "training"), ("val", "validation"))
        ]
        charts[metric.name] = {"caption": metric.label(), "series": lines, "marks": marks}
    for column, caption, unit in (
        ("train/lr", "Learning rate", ""),
        ("train/images_per_second", "Training speed (images/s)", " images/s"),
    ):
        if column.endswith("images_per_second") and counted_in(run):
            caption += f": {counted_in(run)}"
        line = {"name": caption.lower(), "points": points(epochs, column)}
        charts[column.removeprefix("train/")] = {"caption": caption, "series": [line], "unit": unit}
    for chart in charts.values():
        chart["kind"] = "lines"
        chart["series"] = [line for line in chart["series"] if line["points"]]
    return {name: chart for name, chart in charts.items() if chart["series"]}


def points(epochs: Sequence[Mapping[str, float]], metric: str) -> list[list[float]]:
    """Epoch and value of each epoch in which a metric is a number."""
    return [
        [int(row["epoch"]), row[metric]]
        for row in epochs
        if metric in row and math.isfinite(row[metric])
    ]


def _epoch_table(epochs: Sequence[Mapping[str, float]]) -> dict[str, Any] | None:
    if not epochs:
        return None
    names = sorted({name for row in epochs for name in row} - {"epoch"})
    rows = [
        [int(row["epoch"]), *(cell(row.get(name), _brief(row.get(name))) for name in names)]
        for row in epochs
    ]
    return {"header": ["epoch", *names], "rows": rows}


def _brief(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


# The test


def _tested(tested: Tested, measured: Mapping[str, Estimate]) -> dict[str, Any]:
    said = tested.predictions
    names = said.class_names
    matrix = confusion_matrix(said.labels, said.predicted, len(names))
    scores = class_scores(matrix)
    error = measured["ece"]
    return {
        "classes": names,
        "matrix": _matrix(matrix, names) if len(names) <= MATRIX_UP_TO else None,
        "confusions": _confusions(matrix, names) if len(names) > MATRIX_UP_TO else None,
        "scores": {
            "header": ["class", *(metric.title for metric in scores), "test images"],
            "rows": [
                [
                    name,
                    *(
                        cell(float(of[index]), metric.text(float(of[index])))
                        for metric, of in scores.items()
                    ),
                    int(matrix[index].sum()),
                ]
                for index, name in enumerate(names)
            ],
        },
        "calibration": (
            f"Expected calibration error {metric_of('ece').text(error.value)}, 95 % interval "
            f"{error.ends('ece')}: how far confidence and accuracy are apart on average."
        ),
    }


def _matrix(matrix: Any, names: Sequence[str]) -> list[list[dict[str, Any]]]:
    rows = []
    for label, counts in enumerate(matrix.tolist()):
        total = max(1, sum(counts))
        rows.append(
            [
                {
                    "count": count,
                    "cell": f"{label},{said}",
                    "share": count / total,
                    # The square root spreads the small shares, where the confusions are.
                    "shade": f"{math.sqrt(count / total):.3f}",
                    "told": _told(names, label, said, count),
                }
                for said, count in enumerate(counts)
            ]
        )
    return rows


def _told(names: Sequence[str], label: int, said: int, count: int) -> str:
    return f"{count} of {names[label]} said to be {names[said]}"


def _confusions(matrix: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    found = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in found]
    return [
        {
            "label": names[label],
            "predicted": names[said],
            "count": int(wrong[label, said]),
            "cell": f"{label},{said}",
            "told": _told(names, label, said, int(wrong[label, said])),
        }
        for label, said in pairs
        if wrong[label, said]
    ]


def _pictures(tested: Tested) -> dict[str, Any]:
    """What the page's script is told of the thumbnails."""
    said, shown = tested.predictions, tested.thumbnails
    rows = shown.rows
    top = np.argsort(-said.probabilities[rows], axis=1, kind="stable")[:, :TOP]
    pictures = [
        {
            "label": int(said.labels[row]),
            "predicted": int(said.predicted[row]),
            "loss": float(said.losses[row]),
            "top": [[int(one), float(said.probabilities[row, one])] for one in which],
            "name": _name(said, int(row)),
        }
        for row, which in zip(rows.tolist(), top.tolist(), strict=True)
    ]
    place = {row: number for number, row in enumerate(rows.tolist())}
    tall = math.ceil(len(rows) / shown.columns)
    tiny = tall > 0 and side_of(shown) <= LOSSLESS
    return {
        "classes": said.class_names,
        "pictures": pictures,
        "sprite": {"columns": shown.columns, "rows": tall, "tiny": tiny},
        "worst": [place[row] for row in said.worst(GALLERY).tolist() if row in place],
        "uncertain": [place[row] for row in said.least_certain(GALLERY).tolist() if row in place],
    }


def _name(predictions: Predictions, row: int) -> str:
    """What an image is found by: its file in its folder, or its number in the data set."""
    if predictions.files is None:
        return f"no. {predictions.indices[row]}"
    return "/".join(Path(predictions.files[row]).parts[-2:])


def _calibration(predictions: Predictions) -> dict[str, Any]:
    bins = reliability(predictions.confidences, predictions.correct)
    return {
        "kind": "calibration",
        "bins": [
            {
                "count": int(bins.counts[number]),
                "share": float(bins.counts[number] / bins.counts.max()),
                "confidence": float(bins.confidence[number]),
                "accuracy": float(bins.accuracy[number]),
            }
            for number in range(BINS)
            if bins.counts[number]
        ],
    }


# The pictures and files


def _samples(folder: Path) -> list[dict[str, str]]:
    shown = []
    for name, caption in (
        ("samples.png", "Training images as the network sees them"),
        ("augmented.png", "A few images and what training makes of them, epoch by epoch"),
        ("lr_find.png", "The search for a learning rate"),
    ):
        picture = _picture(folder / name)
        if picture is not None:
            shown.append({"caption": caption, "source": picture})
    return shown


def _picture(path: Path) -> str | None:
    """A picture's file as a data URL, made smaller where it is large; None where there is none."""
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
    return _data_url(content)


def _data_url(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _bad_files(path: Path) -> dict[str, Any] | None:
    try:
        text = read_text(path, MAX_CSV, home(path.parent))
        lines = csv.reader(io.StringIO(text, newline=""))
        header, *rows = list(itertools.islice(lines, BAD_FILES + 2))
    except (OSError, ValueError, csv.Error):
        return None
    if not rows:
        return None
    more = f"the first {BAD_FILES} of them" if len(rows) > BAD_FILES else f"{len(rows)} in all"
    return {
        "header": header,
        "rows": [list(map(csv_text, row)) for row in rows[:BAD_FILES]],
        "caption": f"Images that could not be used, and why: {more}",
    }


def _text(path: Path) -> str:
    try:
        content = read_bytes(path, MAX_YAML, home(path.parent))
        return content.decode("utf-8", errors="backslashreplace")
    except (OSError, ValueError):
        return ""


# The time and the place


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


def _spent(run: Run) -> list[dict[str, Any]]:
    seconds = numbers(run.part("seconds"))
    total = seconds.pop("total", 0.0)
    if not seconds or not total:
        return []
    parts = {PHASES.get(name, name): value for name, value in seconds.items()}
    parts["everything else"] = max(0.0, total - sum(parts.values()))
    longest = max(parts.values()) or 1.0
    rows = [
        {"name": name, "width": f"{100 * value / longest:.1f}", "shown": duration(value)}
        for name, value in parts.items()
    ]
    return [*rows, {"name": "in all", "width": f"{0:.1f}", "shown": duration(total)}]


def _speed(run: Run) -> list[str]:
    lines = []
    speed, features = finite(run.facts.get("images_per_second")), numbers(run.part("features"))
    if speed is not None:
        counted = counted_in(run)
        told = f" ({counted}: not the speed of the whole network)" if counted else ""
        lines.append(f"Training saw {speed:,.0f} images a second{told}.")
    if features:
        reused, computed = features.get("reused", 0), features.get("computed", 0)
        saved = features.get("seconds_saved")
        spared = f", which saved {duration(saved)}" if saved else ""
        lines.append(
            f"Features of the frozen backbone: {computed:,.0f} computed, {reused:,.0f} reused "
            f"from the cache{spared}; {size(features.get('bytes', 0))}."
        )
    return lines


def _environment(run: Run) -> list[list[str]]:
    data, git = run.part("data"), run.part("git")
    images, counts = numbers(data.get("images")), numbers(run.part("parameters"))
    rows = [
        ["data", f"{data.get('title', '')} ({data.get('source', '')})" if data else ""],
        ["images", ", ".join(f"{count:,.0f} {split}" for split, count in images.items())],
        ["data fingerprint", str(data.get("fingerprint", ""))],
        ["parameters", ", ".join(f"{count:,.0f} {kind}" for kind, count in counts.items())],
        ["seed", str(run.facts.get("seed", ""))],
        ["commit", _commit(git)],
        *([name, str(value)] for name, value in run.part("machine").items()),
        ["versions", ", ".join(f"{name} {of}" for name, of in run.part("versions").items())],
        ["folder", printable(run.folder.resolve())],
    ]  # fmt: skip
    return [row for row in rows if row[1]]


def _commit(git: Mapping[str, Any]) -> str:
    commit = str(git.get("commit", ""))
    return f"{commit}, with changes that were not committed" if git.get("dirty") else commit


# The sections


def _settings(shown: _Shown) -> dict[str, Any]:
    return {
        "command": command(shown.run),
        "changed": changed_rows(redacted(shown.run.facts.get("changed"))),
        "config": redacted_text(_text(shown.run.folder / CONFIG)),
    }


def _curves(shown: _Shown) -> dict[str, Any] | None:
    table, plots = _epoch_table(shown.epochs), _charts(shown.run, shown.epochs)
    charts = [{"id": name, "caption": chart["caption"]} for name, chart in plots.items()]
    return table and {"table": table, "charts": charts, "plots": plots}


def _result(shown: _Shown) -> dict[str, Any] | None:
    table = _metric_table(shown.run, shown.measured)
    majority = None if shown.tested is None else _majority(shown.tested.predictions)
    return table and {"table": table, "majority": majority}


def _calibrated(shown: _Shown) -> dict[str, Any] | None:
    if shown.tested is None or shown.test is None:
        return None
    return {**shown.test, "plots": {"calibration": _calibration(shown.tested.predictions)}}


def _untested(shown: _Shown) -> dict[str, Any] | None:
    if shown.tested is not None or shown.run.state is not State.DONE:
        return None
    return {"sentence": "This run has no file of what its model said of the test images."}


def _trained_on(shown: _Shown) -> dict[str, Any] | None:
    pictures = _samples(shown.run.folder)
    return {"pictures": pictures} if pictures else None


def _time(shown: _Shown) -> dict[str, Any] | None:
    parts = _spent(shown.run)
    return {"parts": parts, "speed": _speed(shown.run)} if parts else None


SECTIONS: dict[str, Callable[[_Shown], dict[str, Any] | None]] = {
    "settings": _settings,
    "curves": _curves,
    "result": _result,
    "confusion": lambda shown: shown.test,
    "mistakes": lambda shown: shown.test,
    "classes": lambda shown: shown.test,
    "calibration": _calibrated,
    "test": _untested,
    "samples": _trained_on,
    "bad": lambda shown: _bad_files(shown.run.folder / "bad_files.csv"),
    "time": _time,
    "environment": lambda shown: {"facts": _environment(shown.run)},
}
"""The sections of the page, in their order. The name is that of the template in ``pages/run`` and
of its anchor; its function gives what the template shows as ``this``, and None leaves it out. A
function's ``plots`` are charts: id -> what the page's script draws."""
