"""The confusion matrix and the scores of each class, and their files."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.reports.lettering import distinct, width_of
from discern.reports.sheet import black_or_white
from discern.reports.sheet import title as write_title
from discern.runs.metric_table import BY_CLASS, ClassCounts, Metric, ratio

NUMBERS_UP_TO = 20
"""The most classes for which each cell shows its count."""

CELL, SIDES, LONGEST = 0.55, (3.2, 12.0), 1.8
"""Inches of a cell's side, of the matrix's side at least and at most, and of the longest name."""

FONTS, PITCH = (7.0, 9.0), 1.2
"""Points of the smallest and the largest name, and the height of a line in sizes of its font."""


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Images with label i that were predicted as j, at [i, j], from two arrays (N,)."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_scores(matrix: NDArray[np.int64]) -> dict[Metric, NDArray[np.floating]]:
    """The scores of each class, (K,) per metric, from a confusion matrix (K, K)."""
    images = matrix.astype(np.float64)
    counts = ClassCounts(images.diagonal(), images.sum(axis=1), images.sum(axis=0))
    return {metric: metric.of_classes(counts) for metric in BY_CLASS}


def write_class_scores(matrix: NDArray[np.int64], class_names: list[str], path: Path) -> None:
    """Write a row per class: class, its scores, support."""
    scores = class_scores(matrix)
    with write_whole(path) as file:
        write_csv(file, [["class", *(metric.name for metric in scores), "support"]])
        for number, name in enumerate(class_names):
            shares = [f"{each[number]:.6f}" for each in scores.values()]
            write_csv(file, [[name, *shares, matrix[number].sum()]])


def confusion_figure(matrix: NDArray[np.int64], class_names: list[str], title: str) -> Figure:
    """The matrix as a heat map: counts as numbers, shares of the true class as colour.

    Rows are true classes. Of more classes than there is room for, every so many have their names.
    """
    classes = len(class_names)
    # In inches: a layout engine would draw everything several times.
    side = max(SIDES[0], min(CELL * classes, SIDES[1]))
    cell = side / classes
    font = max(FONTS[0], min(FONTS[1], 72 * cell / PITCH))
    names = distinct(class_names, LONGEST, font, lines=2 if 72 * cell > 2.5 * font else 1)
    longest = max(width_of(name, font) for name in names)
    margin = 0.65 + longest
    width, height = margin + side + 1.3, margin + side + 0.8
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    shares = ratio(matrix.astype(float), matrix.sum(axis=1, keepdims=True).astype(float))
    # The square root spreads the small shares, where the confusions are.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    step = math.ceil(font * PITCH / (72 * cell) - 0.01)
    _name_axes(axes, names, step, font, upright=longest > 0.9 * cell)
    if classes <= NUMBERS_UP_TO:
        _write_counts(axes, matrix, image.to_rgba(shares))
    bar = ((margin + side + 0.2) / width, margin / height, 0.2 / width, side / height)
    _draw_scale(figure, image, bar)
    write_title(figure, title, y=1 - 0.4 / height)
    return figure


def _name_axes(axes: Axes, names: list[str], step: int, font: float, upright: bool) -> None:
    places, shown = range(0, len(names), step), names[::step]
    axes.set_xticks(places, shown, fontsize=font, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(places, shown, fontsize=font, parse_math=False)
    axes.tick_params(length=2)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")


def _write_counts(axes: Axes, matrix: NDArray[np.int64], colours: NDArray[np.floating]) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = black_or_white(colours[row, column])
            size = 9 if count < 10_000 else 7
            axes.text(
                column, row, str(count), ha="center", va="center", color=colour, fontsize=size
            )


def _draw_scale(figure: Figure, image: AxesImage, place: tuple[float, float, float, float]) -> None:
    scale = figure.colorbar(image, cax=figure.add_axes(place), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    scale.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    scale.set_label("Share of the true class's images")
