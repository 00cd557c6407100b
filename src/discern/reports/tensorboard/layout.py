"""Which curves share a chart in TensorBoard's tab Custom Scalars."""

from __future__ import annotations

from collections.abc import Iterable

from discern.models.metrics import STEP_LOSS
from discern.runs.metric_table import metric_of

Layout = dict[str, dict[str, list[str | list[str]]]]
"""Category -> chart -> its kind and the tags in it."""

COURSE = {
    "learning rate": "train/lr",
    "images per second": "train/images_per_second",
    "seconds an epoch": "train/seconds",
    "gradient norm": "train/grad_norm",
    "loss of single steps": STEP_LOSS,
}
"""Charts of training itself rather than of its metrics."""


def layout(metric_names: Iterable[str]) -> Layout:
    """A chart for each metric, with its training and validation curves.

    Args:
        metric_names: the metrics that a fit logs, such as ``train/loss`` and ``val/loss``.
    """
    charts: dict[str, list[str]] = {}
    for tag in metric_names:
        charts.setdefault(metric_of(tag).title, []).append(tag)
    return {
        "training and validation": {name: _lines(*tags) for name, tags in charts.items()},
        "course of training": {name: _lines(tag) for name, tag in COURSE.items()},
    }


def _lines(*tags: str) -> list[str | list[str]]:
    # TensorBoard treats a tag as a regular expression that matches anywhere.
    return ["Multiline", [f"^{tag}$" for tag in tags]]
