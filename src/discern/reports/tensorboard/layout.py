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
    "loss of single steps": STEP_LOSS,
}
"""Charts on how training went rather than on what it gave."""


def layout(metric_names: Iterable[str]) -> Layout:
    """A chart for each metric, with its training and its validation curve.

    Args:
        metric_names: what a fit logs, such as ``train/loss`` and ``val/loss``.
    """
    charts: dict[str, list[str]] = {}
    for tag in metric_names:
        charts.setdefault(metric_of(tag).title, []).append(tag)
    return {
        "training and validation": {name: _lines(*tags) for name, tags in charts.items()},
        "course of training": {name: _lines(tag) for name, tag in COURSE.items()},
    }


def _lines(*tags: str) -> list[str | list[str]]:
    # TensorBoard takes a tag for a pattern that may begin anywhere.
    return ["Multiline", [f"^{tag}$" for tag in tags]]
