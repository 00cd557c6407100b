"""Which classes are taken for which: the confusion matrix, scores of each class, their files."""

from dataclasses import dataclass
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
from discern.reports.sheet import save, shorten

NUMBERS_UP_TO = 20
"""Classes up to which each cell shows its count."""


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """Images with label i that were predicted as j, at [i, j], from two arrays (N,)."""
    cells = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class ClassScores:
    """Scores of each of K classes, float64 (K,), 0 where the denominator is 0.

    Attributes:
        precision: of the images predicted as the class, the part that is.
        recall: of the images of the class, the part predicted as it.
        f1: the harmonic mean of the two.
        support: images of the class, int64.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


def class_scores(matrix: NDArray[np.int64]) -> ClassScores:
    """The scores of each class of a confusion matrix (K, K)."""
    found, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    return ClassScores(
        precision=ratio(found, predicted),
        recall=ratio(found, support),
        f1=ratio(2 * found, support + predicted),
        support=support,
    )


def macro(
    found: NDArray[np.number],
    total: NDArray[np.number],
    present: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The mean over classes of ``found / total``, (…, K) -> (…).

    As torchmetrics has it, a class without ``total`` counts as 0, and one that is not ``present``,
    neither as a label nor as a prediction, not at all.
    """
    return ratio((ratio(found, total) * present).sum(axis=-1), present.sum(axis=-1))


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """``part / whole``, and 0 where both are 0."""
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    quotient: NDArray[np.float64] = np.divide(part, whole, out=np.zeros(shape), where=whole > 0)
    return quotient


def write_class_scores(scores: ClassScores, class_names: list[str], path: Path) -> None:
    """Write a row a class: class, precision, recall, f1, support."""
    with write_whole(path) as file:
        write_csv(file, [["class", "precision", "recall", "f1", "support"]])
        for number, name in enumerate(class_names):
            shares = (scores.precision[number], scores.recall[number], scores.f1[number])
            cells = [name, *(f"{share:.6f}" for share in shares), scores.support[number]]
            write_csv(file, [cells])


def draw_confusion(
    matrix: NDArray[np.int64], class_names: list[str], title: str, path: Path
) -> None:
    """Draw :func:`confusion_figure` into a PNG file."""
    save(confusion_figure(matrix, class_names, title), path)


def confusion_figure(matrix: NDArray[np.int64], class_names: list[str], title: str) -> Figure:
    """A picture of the matrix: counts as numbers, the share of the label's images as colour."""
    classes = len(class_names)
    names = [shorten(name, 24) for name in class_names]
    # Inches, so that names fit without a layout engine, which draws everything several times.
    side = max(3.2, min(0.55 * classes, 12.0))
    font = 9.0 if classes <= NUMBERS_UP_TO else max(4.0, min(9.0, 0.7 * 72 * side / classes))
    margin = 0.75 + 0.0085 * font * max(map(len, names))
    width, height = margin + side + 1.3, margin + side + 0.6
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    shares = ratio(matrix, matrix.sum(axis=1, keepdims=True))
    # The square root spreads the small shares, where the confusions are.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    _name_axes(axes, names, font)
    if classes <= NUMBERS_UP_TO:
        _write_counts(axes, matrix, shares)
    bar = ((margin + side + 0.2) / width, margin / height, 0.2 / width, side / height)
    _draw_scale(figure, image, bar)
    figure.suptitle(title, x=0.5, y=1 - 0.25 / height, va="center", fontsize=12, parse_math=False)
    return figure


def _name_axes(axes: Axes, names: list[str], font: float) -> None:
    places = range(len(names))
    upright = max(map(len, names)) > 3 or len(names) > NUMBERS_UP_TO
    axes.set_xticks(places, names, fontsize=font, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(places, names, fontsize=font, parse_math=False)
    axes.tick_params(length=2)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("Label")


def _write_counts(axes: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            # On the dark half of the scale black would be unreadable.
            colour = "white" if shares[row, column] > 0.4 else "black"
            size = 9 if count < 10_000 else 7
            axes.text(
                column, row, str(count), ha="center", va="center", color=colour, fontsize=size
            )


def _draw_scale(figure: Figure, image: AxesImage, place: tuple[float, float, float, float]) -> None:
    scale = figure.colorbar(image, cax=figure.add_axes(place), ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    scale.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    scale.set_label("Share of the label's images")
