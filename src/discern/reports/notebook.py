"""HTML that results and comparisons show in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from discern.files.reading import is_regular, read_bytes
from discern.reports.comparison import Comparison
from discern.reports.comparison_tables import disputed_sheet, metric_rows, pair_table, verdicts
from discern.reports.intervals import Estimate
from discern.reports.page import data_url, percent, render
from discern.runs.folder import MAX_PICTURE, home, is_run, read_run
from discern.runs.metric_table import DRAWN, metric_of
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
    return render(
        "notebook.html.j2",
        head=[f"{title}, ended: {ended}"],
        tables=[(["", *names], rows)],
        lines=[str(folder)],
        source=picture_in(folder, "curves.png"),
        description=f"{title}: {' and '.join(metric.title for metric in DRAWN)} by epoch",
    )


def picture_in(folder: Path, name: str) -> str:
    """The data URL of a picture in a run's folder; empty if it is not there."""
    picture = folder / name
    shown = is_regular(picture, home(folder))
    return data_url(read_bytes(picture, MAX_PICTURE, home(folder))) if shown else ""


def evaluation_html(
    title: str, images: int, metrics: Mapping[str, Estimate], folder: Path, picture: str
) -> str:
    """The metrics of an evaluation with their intervals, and the confusion matrix.

    Args:
        title: the model, the data and the split.
        images: the number of images.
        metrics: metric -> value with its interval.
        folder: the evaluation's.
        picture: the file of the confusion matrix in it.
    """
    rows = [
        [metric_of(name).title, metric_of(name).text(one.value), one.ends(name)]
        for name, one in metrics.items()
    ]
    return render(
        "notebook.html.j2",
        head=[f"{title}: {images:,} images"],
        tables=[(["", "value", "95 % interval"], rows)],
        lines=[str(folder)],
        source=picture_in(folder, picture),
        description=f"Confusion matrix of {title}",
    )


def predictions_html(
    title: str,
    rows: Sequence[tuple[str, str, float]],
    count: int,
    unreadable: Mapping[str, str],
    png: bytes | None,
) -> str:
    """The first predictions, the files that could not be read, and the pictures.

    Args:
        title: the model and its data.
        rows: name of a picture, predicted class and its probability.
        count: the number of all pictures.
        unreadable: file -> why it could not be read.
        png: the pictures beside their class probabilities.
    """
    more = [f"… and {count - len(rows):,} more"] if count > len(rows) else []
    return render(
        "notebook.html.j2",
        head=[title],
        tables=[(["", "prediction", "probability"], [[n, c, percent(p)] for n, c, p in rows])],
        lines=[*more, *(f"{name}: {reason}" for name, reason in unreadable.items())],
        source=data_url(png) if png else "",
        description="Pictures beside their class probabilities",
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
