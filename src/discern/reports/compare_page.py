"""compare.html: runs side by side, their curves in one chart, the images that they dispute."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from discern.reports.comparison import Comparison, Disagreement, Row
from discern.reports.comparison_tables import metric_rows, pair_header, pair_rows, verdicts
from discern.reports.page import cell, percent, write_page
from discern.reports.run_page import points
from discern.runs.folder import Run
from discern.runs.metric_table import DRAWN
from discern.runs.thumbnails import LOSSLESS, thumbnails

CURVES = 200
"""Runs whose curves are drawn."""


def write_compare_page(compared: Comparison, path: Path) -> None:
    """Write the page."""
    labels = _labels(compared)
    charts = _charts(compared.runs, labels)
    page: dict[str, Any] = {
        "letters": compared.letters,
        "runs": [
            {
                "letter": letter,
                "name": name,
                "title": run.title,
                "state": run.state.value,
                "tags": ", ".join(run.tags),
            }
            for letter, name, run in zip(
                compared.letters, compared.names, compared.runs, strict=True
            )
        ],
        "tiles": _tiles(compared),
        "notes": compared.notes,
        "verdicts": verdicts(compared),
        "settings": _table(compared.settings),
        "circumstances": _table(compared.circumstances),
        "metrics": _table(metric_rows(compared)),
        "pairs": {
            "header": pair_header(compared),
            "rows": [
                _pair(row, pair.difference.value)
                for row, pair in zip(pair_rows(compared), compared.pairs, strict=True)
            ],
        },
        "charts": [{"id": name, "caption": chart["caption"]} for name, chart in charts.items()],
        "disputed": _disputed(compared.disagreement),
    }
    title = f"{len(compared.runs)} runs compared"
    if len(compared.runs) == 2:
        title = " and ".join(compared.names)
    write_page(
        "compare.html.j2",
        path,
        title=title,
        kind="A comparison of runs",
        data={"charts": charts},
        **page,
    )


def _labels(compared: Comparison) -> list[str]:
    return [
        f"{letter} {name}" for letter, name in zip(compared.letters, compared.names, strict=True)
    ]


def _tiles(compared: Comparison) -> list[dict[str, str]]:
    """Of two runs what is asked first."""
    if len(compared.runs) > 2:
        return []
    tiles = []
    for letter, one in zip(compared.letters, compared.accuracies, strict=True):
        if one is not None:
            told = f"95 % interval {percent(one.low)} to {percent(one.high)}"
            tiles.append({"name": f"Test accuracy of {letter}", "value": percent(one.value),
                          "detail": told})  # fmt: skip
    for row in pair_rows(compared):
        tiles.append({"name": row[0], "value": row[1], "detail": f"95 % interval {row[2]}"})
    return tiles


def _table(rows: Sequence[Row]) -> list[list[str]]:
    return [[name, *values] for name, values in rows]


def _pair(row: Sequence[str], difference: float) -> list[Any]:
    """The cells of a pair, which are sorted by their numbers."""
    name, gain, interval, *others = row
    return [name, cell(difference, gain), interval,
            *(cell(float(text.strip("< ").replace(",", "")), text) for text in others)]  # fmt: skip


def _charts(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    epochs = [run.epochs() for run in runs[:CURVES]]
    charts: dict[str, dict[str, Any]] = {}
    for (split, images), metric in itertools.product(
        (("val", "validation"), ("train", "training")), DRAWN
    ):
        lines = [
            {"name": label, "points": points(rows, f"{split}/{metric.name}")}
            for label, rows in zip(labels, epochs, strict=False)
        ]
        # A run keeps its colour in all charts, also where another has no such metric.
        if any(line["points"] for line in lines):
            shown = "" if len(runs) <= CURVES else f", the first {CURVES} runs"
            charts[f"{split}-{metric.name}"] = {
                "kind": "lines",
                "caption": metric.label(f" on the {images} images") + shown,
                "series": lines,
            }
    return charts


def _disputed(found: Disagreement | None) -> dict[str, Any] | None:
    if found is None or not len(found.pixels):
        return None
    shown = thumbnails(np.arange(len(found.pixels)), found.pixels)
    across, down = shown.columns, math.ceil(len(found.pixels) / shown.columns)
    kind = "png" if shown.picture.startswith(b"\x89PNG") else "jpeg"
    pictures = []
    for place, (label, said) in enumerate(zip(found.labels, found.said, strict=True)):
        row, column = divmod(place, across)
        pictures.append(
            {
                "label": label,
                "said": said,
                "told": f"is {label}; " + "; ".join(text for text, _ in said),
                "x": f"{100 * column / max(1, across - 1):.4f}",
                "y": f"{100 * row / max(1, down - 1):.4f}",
            }
        )
    return {
        "sprite": f"data:image/{kind};base64,{base64.b64encode(shown.picture).decode()}",
        "tiny": found.pixels.shape[-1] <= LOSSLESS,
        "width": 100 * across,
        "height": 100 * down,
        "pictures": pictures,
    }
