"""What objects show of themselves in a notebook: HTML with its pictures in it, all text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from discern.files.reading import is_regular, read_bytes
from discern.reports.comparison import Comparison
from discern.reports.comparison_tables import (
    disputed_sheet,
    metric_rows,
    pair_header,
    pair_rows,
    verdicts,
)
from discern.runs.folder import MAX_PICTURE, home, is_run, read_run
from discern.runs.metric_table import DRAWN
from discern.runs.state import Ended
from discern.runs.summary import metric_cells

_CELL = 'style="text-align: right; padding: 0.1em 0.6em"'


def picture(png: bytes, description: str) -> str:
    """A PNG picture, with what it shows for those who cannot see it."""
    data = base64.b64encode(png).decode()
    return (
        f'<img alt="{escape(description)}" style="max-width: 100%" '
        f'src="data:image/png;base64,{data}">'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td {_CELL}>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def result_html(metrics: Mapping[str, Mapping[str, float]], ended: Ended, folder: Path) -> str:
    """What a run gave: a table of its metrics, and its curves where its folder has them.

    Args:
        metrics: split -> metric -> value.
        ended: how training ended, and why.
        folder: the run's, with summary.json and perhaps curves.png.
    """
    names, rows = metric_cells(metrics)
    # The folder may have been moved since.
    title = read_run(folder).title if is_run(folder) else folder.name
    parts = [f"<p><strong>{escape(title)}</strong>, ended: {escape(str(ended))}</p>"]
    if rows:
        parts.append(table(["", *names], rows))
    curves = folder / "curves.png"
    if is_regular(curves, home(folder)):
        content = read_bytes(curves, MAX_PICTURE, home(folder))
        drawn = " and ".join(metric.title for metric in DRAWN)
        parts.append(picture(content, f"{title}: {drawn} by epoch"))
    parts.append(f"<p><code>{escape(str(folder))}</code></p>")
    return "\n".join(parts)


def comparison_html(compared: Comparison) -> str:
    """Runs side by side: what differs, their metrics, whether one is better, where they differ."""
    runs = zip(compared.letters, compared.names, compared.runs, strict=True)
    parts = [table(["", "run"], [[letter, f"{run.title}, {name}"] for letter, name, run in runs])]
    differing = [*compared.settings, *compared.circumstances]
    for name, rows in (("what differs", differing), ("metric", metric_rows(compared))):
        if rows:
            parts.append(table([name, *compared.letters], [[each, *cells] for each, cells in rows]))
    if compared.pairs:
        parts.append(table(pair_header(compared), pair_rows(compared)))
    told = [*verdicts(compared), *compared.notes]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in told]
    found = compared.disagreement
    if found is not None and len(found.pixels):
        parts.append(picture(disputed_sheet(found).png(), "Test images that they disagree about"))
    return "\n".join(parts)
