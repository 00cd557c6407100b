"""curves.png: training and validation metrics by epoch."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from discern.reports.sheet import legend_above, save
from discern.reports.sheet import title as write_title
from discern.runs.folder import is_run, read_run
from discern.runs.metric_table import DRAWN, Metric

# Okabe & Ito's blue and vermilion: distinguishable with colour blindness and in grey.
TRAINING, VALIDATION = "#0072B2", "#D55E00"


def draw_curves(
    rows: Sequence[dict[str, float]], best_epoch: int | None, title: str, path: Path
) -> None:
    """Draw the curves of a run.

    Args:
        rows: one per epoch, with ``epoch`` (from 1) and ``train/…``, ``val/…`` metrics.
        best_epoch: the epoch (from 1) of the best checkpoint; None for none.
        title: the picture's title.
        path: the PNG file.
    """
    figure = Figure(figsize=(5 * len(DRAWN), 4))
    # matplotlib's automatic layout takes longer than drawing the picture.
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.13, top=0.82, wspace=0.2)
    for axes, metric in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        _draw(axes, rows, metric, best_epoch)
    write_title(figure, title)
    save(figure, path)


def draw_curves_of(folder: Path) -> None:
    """Draw the curves of the run in a folder; do nothing if it has no epochs."""
    if not is_run(folder):
        return
    run = read_run(folder)
    if rows := run.epochs():
        best = run.facts.get("best_epoch")
        best_epoch = best if isinstance(best, int) else None
        draw_curves(rows, best_epoch, run.title, folder / "curves.png")


def _draw(
    axes: Axes,
    rows: Sequence[dict[str, float]],
    metric: Metric,
    best_epoch: int | None,
) -> None:
    for split, name, colour, marker in (
        ("train", "training", TRAINING, "o"),
        ("val", "validation", VALIDATION, "s"),
    ):
        points = [
            (row["epoch"], row[f"{split}/{metric.name}"])
            for row in rows
            if f"{split}/{metric.name}" in row
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=name)
    if best_epoch is not None:
        axes.axvline(best_epoch, color="0.4", linestyle=":", label=f"best epoch ({best_epoch})")
    axes.set_xlabel("Epoch")
    axes.set_ylabel(metric.label())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    legend_above(axes)
