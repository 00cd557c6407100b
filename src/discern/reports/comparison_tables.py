"""A comparison of runs in tables and sentences: for the terminal, a page, and as CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from discern.console import for_terminal
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.reports.comparison import NONE, Comparison, Disagreement, Row
from discern.reports.page import duration
from discern.reports.paired import Paired
from discern.reports.samples import grid
from discern.reports.sheet import Sheet
from discern.reports.speed import speed_of
from discern.runs.metric_table import metric_of
from discern.text import printable

SURE = 0.05
"""p below which a difference is taken for one."""

CAUTION = (
    "This is about the trained models and images like these; whether their settings differ takes "
    "runs with several seeds."
)


# For people


def metric_rows(compared: Comparison) -> list[Row]:
    """The metrics of each run as text, and what it took."""
    rows: list[Row] = []
    for name in compared.metrics:
        values = [run.metrics().get(name) for run in compared.runs]
        rows.append((for_terminal(name), list(map(metric_of(name).text, values))))
        if name == "test/accuracy" and any(compared.accuracies):
            rows.append(("  95 % interval", [
                NONE if one is None else one.ends(name)
                for one in compared.accuracies
            ]))  # fmt: skip
    counts = [run.part("parameters").get("trainable") for run in compared.runs]
    epochs = [run.facts.get("epochs") for run in compared.runs]
    return [
        *rows,
        ("epochs", [str(count) if isinstance(count, int) else NONE for count in epochs]),
        ("trained weights", [f"{n:,}" if isinstance(n, int) else NONE for n in counts]),
        ("training", [speed_of(run) or NONE for run in compared.runs]),
        ("time", [duration(run.seconds) for run in compared.runs]),
    ]


def pair_header(compared: Comparison) -> list[str]:
    """The names of the columns of :func:`pair_rows`."""
    many = len(compared.pairs) > 1
    return [
        "on the same test images", "more accurate by", "95 % interval", "only 1st right",
        "only 2nd right", "McNemar's p", *(["Holm's p"] if many else []),
    ]  # fmt: skip


def pair_rows(compared: Comparison) -> list[list[str]]:
    """Each pair as text; differences are in percentage points."""
    many = len(compared.pairs) > 1
    return [
        [
            f"{compared.letters[pair.second]} against {compared.letters[pair.first]}",
            f"{100 * pair.difference.value:+.2f} points",
            f"{100 * pair.difference.low:+.2f} to {100 * pair.difference.high:+.2f}",
            f"{pair.only_first:,}",
            f"{pair.only_second:,}",
            chance(pair.p),
            *([chance(pair.adjusted)] if many else []),
        ]
        for pair in compared.pairs
    ]


def chance(p: float) -> str:
    """A p value for people."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


def verdicts(compared: Comparison) -> list[str]:
    """What the tests come to, in sentences."""
    lines = []
    if len(compared.pairs) == 1:
        lines.append(_verdict(compared, compared.pairs[0]))
    elif compared.pairs:
        lines.append(_count_of_sure(compared.pairs))
    found = compared.disagreement
    if found is not None:
        lines.append(
            f"They disagree about {found.count:,} of {found.images:,} test images."
            if found.count
            else f"They say the same of all {found.images:,} test images."
        )
    return lines


def _verdict(compared: Comparison, pair: Paired) -> str:
    gain = pair.difference.value
    first, second = compared.letters[pair.first], compared.letters[pair.second]
    if pair.p >= SURE:
        return (
            f"Which of {first} and {second} is better cannot be told from {pair.images:,} test "
            f"images (McNemar's p = {chance(pair.p)}). {CAUTION}"
        )
    p = chance(pair.p)
    low, high = 100 * pair.difference.low, 100 * pair.difference.high
    if gain < 0:
        first, second, low, high = second, first, -high, -low
    return (
        f"{second} is better than {first} on the test images: its accuracy is "
        f"{100 * abs(gain):.2f} percentage points higher (95 % interval {low:.2f} to {high:.2f}, "
        f"McNemar's p {p if p.startswith('<') else f'= {p}'}). {CAUTION}"
    )


def _count_of_sure(pairs: list[Paired]) -> str:
    sure = sum(pair.adjusted < SURE for pair in pairs)
    return (
        f"{sure:,} of {len(pairs):,} pairs {'differs' if sure == 1 else 'differ'}, with p below "
        f"{SURE} after Holm's adjustment for as many tests. {CAUTION}"
    )


# For programs


def write_runs(compared: Comparison, path: Path) -> None:
    """Write a row a run: what differs, all metrics, the interval of the test's accuracy."""
    differing = [*compared.settings, *compared.circumstances]
    header = [
        "run", "folder", "title", "state", *(name for name, _ in differing), *compared.metrics,
        "test/accuracy low", "test/accuracy high", "epochs", "trained weights", "seconds",
    ]  # fmt: skip
    rows: list[list[str | float | None]] = []
    for place, run in enumerate(compared.runs):
        metrics, accuracy = run.metrics(), compared.accuracies[place]
        rows.append(
            [
                compared.letters[place],
                printable(run.folder),
                run.title,
                run.state.value,
                *(values[place] for _, values in differing),
                *(metrics.get(name) for name in compared.metrics),
                *((None, None) if accuracy is None else (accuracy.low, accuracy.high)),
                _plain(run.facts.get("epochs")),
                _plain(run.part("parameters").get("trainable")),
                run.seconds,
            ]
        )
    _write(path, header, rows)


def write_pairs(compared: Comparison, path: Path) -> None:
    """Write a row a pair; differences are of accuracies, the second's minus the first's."""
    header = [
        "first", "second", "images", "only first right", "only second right", "say different",
        "difference", "difference low", "difference high", "p", "p adjusted",
    ]  # fmt: skip
    rows: list[list[str | float | None]] = [
        [
            compared.letters[pair.first],
            compared.letters[pair.second],
            pair.images,
            pair.only_first,
            pair.only_second,
            pair.differ,
            pair.difference.value,
            pair.difference.low,
            pair.difference.high,
            pair.p,
            pair.adjusted,
        ]
        for pair in compared.pairs
    ]
    _write(path, header, rows)


def _plain(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[str | float | None]]) -> None:
    text = io.StringIO()
    write_csv(text, [header, *rows])
    with write_whole(path, "wb") as file:
        # A name that is no UTF-8 has lone surrogates.
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def disputed_sheet(found: Disagreement) -> Sheet:
    """The images, the most disputed first."""
    captions = [
        (f"is {label}", *(text for text, _ in said))
        for label, said in zip(found.labels, found.said, strict=True)
    ]
    title = f"The most disputed of {found.count:,} of {found.images:,} test images"
    return grid(found.pixels, captions, title)
