"""HTML that results and comparisons show in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from discern.files.reading import is_regular, read_bytes
from discern.reports.comparison import Comparison
from discern.reports.comparison_tables import disputed_sheet, metric_rows, pair_table, verdicts
from discern.reports.page import data_url, render
from discern.runs.folder import MAX_PICTURE, home, is_run, read_run
from discern.runs.metric_table import DRAWN
from discern.runs.state import Ended
from discern.runs.summary import metric_cells


def result_html(metrics: Mapping[str, Mapping[str, float]], ended: Ended, folder: Path) -> str:
    """The metrics of a run, and its curves if its folder has them.

    Args:
        metrics: split -> metric -> value.
        ended: how training ended, and why.
        folder: the run's, with summary.json and perhaps curves.png.
    """
    names, rows = metric_cells(metrics)
    # The folder may have been moved since.
    title = read_run(folder).title if is_run(folder) else folder.name
    curves = folder / "curves.png"
    shown = is_regular(curves, home(folder))
    return render(
        "notebook.html.j2",
        head=[f"{title}, ended: {ended}"],
        tables=[(["", *names], rows)],
        lines=[str(folder)],
        source=data_url(read_bytes(curves, MAX_PICTURE, home(folder))) if shown else "",
        description=f"{title}: {' and '.join(metric.title for metric in DRAWN)} by epoch",
    )


def comparison_html(compared: Comparison) -> str:
    """Runs side by side: their settings, metrics, tests and disputed images."""
    runs = zip(compared.letters, compared.names, compared.runs, strict=True)
    differing = [*compared.settings, *compared.circumstances]
    found = compared.disagreement
    shown = found is not None and len(found.pixels)
    return render(
        "notebook.html.j2",
        head=[],
        tables=[
            (["", "run"], [[letter, f"{run.title}, {name}"] for letter, name, run in runs]),
            *(
                ([name, *compared.letters], [[each, *cells] for each, cells in rows])
                for name, rows in (("difference", differing), ("metric", metric_rows(compared)))
            ),
            pair_table(compared),
        ],
        lines=[*verdicts(compared), *compared.notes],
        source=data_url(disputed_sheet(found).png()) if found and shown else "",
        description="Test images on which the runs disagree",
    )
