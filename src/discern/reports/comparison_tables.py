"""A comparison of runs as tables and sentences, and as CSV files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from discern.console import for_terminal
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.reports.comparison import NONE, Comparison, Disagreement, Row
from discern.reports.fonts import isolated
from discern.reports.page import duration
from discern.reports.paired import Paired
from discern.reports.samples import grid
from discern.reports.sheet import Sheet
from discern.reports.speed import speed_of
from discern.runs.metric_table import metric_of
from discern.text import printable

SIGNIFICANT = 0.05
"""A difference with p below this counts as significant."""

CAUTION = (
    "This is about the trained models and images like these; whether their settings differ takes "
    "runs with several seeds."
)


def metric_rows(compared: Comparison) -> list[Row]:
    """The metrics of each run as text, and its training's length and speed."""
    rows: list[Row] = []
    runs = compared.runs
    for name in compared.metrics:
        values = [run.metrics().get(name) for run in runs]
        rows.append((for_terminal(name), list(map(metric_of(name).text, values))))
        if name == "test/accuracy" and any(compared.accuracies):
            known, text = compared.accuracies, metric_of(name).text
            rows.append(("  95 % from", [NONE if one is None else text(one.low) for one in known]))
            rows.append(("  95 % to", [NONE if one is None else text(one.high) for one in known]))
    counts = [run.part("parameters").get("trainable") for run in runs]
    epochs = [run.facts.get("epochs") for run in runs]
    return [
        *rows,
        ("epochs", [str(count) if isinstance(count, int) else NONE for count in epochs]),
        ("trainable parameters", [f"{n:,}" if isinstance(n, int) else NONE for n in counts]),
        ("training images/s", [(speed_of(run) or NONE).replace(" images/s", "") for run in runs]),
        ("time", [duration(run.seconds) for run in runs]),
    ]


def pair_table(compared: Comparison) -> tuple[list[str], list[list[str]]]:
    """The paired tests as text: the header and a row per pair; differences in percentage points."""
    header = [
        "on the same test images", "accuracy", "95 % interval", "only 1st right",
        "only 2nd right", "McNemar's p", "Holm's p",
    ]  # fmt: skip
    rows = [
        [
            f"{compared.letters[pair.second]} against {compared.letters[pair.first]}",
            gain(pair),
            f"{100 * pair.difference.low:+.2f} to {100 * pair.difference.high:+.2f}",
            f"{pair.only_first:,}",
            f"{pair.only_second:,}",
            p_text(pair.p),
            p_text(pair.adjusted),
        ]
        for pair in compared.pairs
    ]
    # One test needs no adjustment for several.
    return (header, rows) if len(rows) > 1 else (header[:-1], [row[:-1] for row in rows])


def gain(pair: Paired) -> str:
    """How much more or less accurate the second run is."""
    points = 100 * pair.difference.value
    if not points:
        return "equally accurate"
    return f"{'more' if points > 0 else 'less'} accurate by {abs(points):.2f} points"


def p_text(p: float) -> str:
    """A p value for people."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def verdicts(compared: Comparison) -> list[str]:
    """The results of the tests, in sentences."""
    lines = []
    if len(compared.pairs) == 1:
        lines.append(_verdict(compared, compared.pairs[0]))
    elif compared.pairs:
        count = sum(pair.adjusted < SIGNIFICANT for pair in compared.pairs)
        lines.append(
            f"{count:,} of {len(compared.pairs):,} pairs {'differs' if count == 1 else 'differ'} "
            f"significantly: p after Holm's adjustment is below {SIGNIFICANT}. {CAUTION}"
        )
    found = compared.disagreement
    if found is not None:
        lines.append(
            f"They disagree on {found.count:,} of {found.images:,} test images."
            if found.count
            else f"Their predictions agree on all {found.images:,} test images."
        )
    return lines


def _verdict(compared: Comparison, pair: Paired) -> str:
    first, second = compared.letters[pair.first], compared.letters[pair.second]
    p = p_text(pair.p)
    p = f"McNemar's p {p if p.startswith('<') else f'= {p}'}"
    if pair.p >= SIGNIFICANT:
        return (
            f"The {pair.images:,} test images do not show whether {first} or {second} is better "
            f"({p}). {CAUTION}"
        )
    points = [100 * each for each in (pair.difference.low, pair.difference.high)]
    better, worse = second, first
    if pair.difference.value < 0:
        better, worse = first, second
        points = [-each for each in reversed(points)]
    return (
        f"{better} is better than {worse} on the test images: its accuracy is "
        f"{100 * abs(pair.difference.value):.2f} percentage points higher (95 % interval "
        f"{points[0]:.2f} to {points[1]:.2f}, {p}). {CAUTION}"
    )


# CSV files


def write_runs(compared: Comparison, path: Path) -> None:
    """Write a row per run: what differs, all metrics, the interval of the test accuracy."""
    differing = [*compared.settings, *compared.circumstances]
    rows: list[dict[str, str | float | None]] = []
    for place, run in enumerate(compared.runs):
        metrics, accuracy = run.metrics(), compared.accuracies[place]
        rows.append(
            {
                "run": compared.letters[place],
                "folder": printable(run.folder),
                "title": run.title,
                "state": run.state.value,
                **{name: values[place] for name, values in differing},
                **{name: metrics.get(name) for name in compared.metrics},
                "test/accuracy low": accuracy.low if accuracy else None,
                "test/accuracy high": accuracy.high if accuracy else None,
                "epochs": _whole(run.facts.get("epochs")),
                "trainable parameters": _whole(run.part("parameters").get("trainable")),
                "seconds": run.seconds,
            }
        )
    _write(path, rows)


def write_pairs(compared: Comparison, path: Path) -> None:
    """Write a row per pair; differences are of accuracies, the second's minus the first's."""
    rows: list[dict[str, str | float | None]] = [
        {
            "first": compared.letters[pair.first],
            "second": compared.letters[pair.second],
            "images": pair.images,
            "only first right": pair.only_first,
            "only second right": pair.only_second,
            "different predictions": pair.differ,
            "difference": pair.difference.value,
            "difference low": pair.difference.low,
            "difference high": pair.difference.high,
            "p": pair.p,
            "p adjusted": pair.adjusted,
        }
        for pair in compared.pairs
    ]
    _write(path, rows)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _write(path: Path, rows: Sequence[Mapping[str, str | float | None]]) -> None:
    text = io.StringIO()
    write_csv(text, [rows[0], *(row.values() for row in rows)])
    with write_whole(path, "wb") as file:
        # A name that is not UTF-8 has lone surrogates.
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def disputed_sheet(found: Disagreement) -> Sheet:
    """The images, the most disputed first."""
    captions = [
        (f"true {isolated(label)}", *(said.text for said in predictions))
        for label, predictions in zip(found.labels, found.predictions, strict=True)
    ]
    title = (
        f"The runs disagree on {found.count:,} of {found.images:,} test images: the most disputed"
    )
    return grid(found.pixels, captions, title)
