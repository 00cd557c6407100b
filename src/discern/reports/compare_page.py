"""compare.html: runs side by side, their curves in one chart, the images that they dispute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from discern.reports.comparison import Comparison, Disagreement
from discern.reports.comparison_tables import gain, metric_rows, pair_table, verdicts
from discern.reports.fonts import isolated
from discern.reports.page import Tile, cell, data_url, tile, write_page
from discern.reports.run_page import Chart, line_chart
from discern.runs.metric_table import DRAWN
from discern.runs.thumbnails import LOSSLESS, thumbnails

MAX_CURVES = 200
"""Runs whose curves are drawn."""


def write_compare_page(compared: Comparison, path: Path) -> None:
    """Write the page."""
    charts = _charts(compared)
    header, rows = pair_table(compared)
    # Text cells of numbers are sorted by the number.
    pairs = [
        [name, cell(pair.difference.value, shown), interval, *map(_number_cell, others)]
        for pair, (name, shown, interval, *others) in zip(compared.pairs, rows, strict=True)
    ]
    title = f"{len(compared.runs)} runs compared"
    if len(compared.runs) == 2:
        title = " and ".join(map(isolated, compared.names))
    write_page(
        "compare.html.j2",
        path,
        title=title,
        kind="A comparison of runs",
        data={"charts": charts},
        compared=compared,
        tiles=_tiles(compared) if len(compared.runs) == 2 else [],
        metrics=metric_rows(compared),
        verdicts=verdicts(compared),
        pair_header=header,
        pairs=pairs,
        charts=charts,
        disputed=_disputed(compared.disagreement),
    )


def _number_cell(text: str) -> dict[str, str]:
    return cell(float(text.strip("< ").replace(",", "")), text)


def _tiles(compared: Comparison) -> list[Tile]:
    """The test accuracies of two runs, and their difference."""
    accuracies = zip(compared.letters, compared.accuracies, strict=True)
    tiles = [one.tile(f"Test accuracy of {letter}") for letter, one in accuracies if one]
    for pair, row in zip(compared.pairs, pair_table(compared)[1], strict=True):
        tiles.append(tile(row[0], gain(pair), f"95 % interval {row[2]}"))
    return tiles


def _charts(compared: Comparison) -> Mapping[str, Chart]:
    labels = list(map(" ".join, zip(compared.letters, compared.names, strict=True)))
    epochs = [run.epochs() for run in compared.runs[:MAX_CURVES]]
    more = "" if len(labels) <= MAX_CURVES else f", the first {MAX_CURVES} runs"
    charts: dict[str, Chart] = {}
    for split, images in (("val", "validation"), ("train", "training")):
        for metric in DRAWN:
            column = f"{split}/{metric.name}"
            runs = [(rows, {label: column}) for label, rows in zip(labels, epochs, strict=False)]
            caption = metric.label(f" on the {images} images") + more
            charts[f"{split}-{metric.name}"] = line_chart(caption, runs, keep_empty=True)
    return {
        name: chart
        for name, chart in charts.items()
        if any(line["points"] for line in chart["series"])
    }


def _disputed(found: Disagreement | None) -> dict[str, object] | None:
    if found is None or not len(found.pixels):
        return None
    shown = thumbnails(np.arange(len(found.pixels)), found.pixels)
    return {
        "sprite": data_url(shown.picture),
        "tiny": found.pixels.shape[-1] <= LOSSLESS,
        "columns": shown.columns,
        "rows": -(-len(found.pixels) // shown.columns),
        "pictures": list(zip(found.labels, found.predictions, strict=True)),
    }
