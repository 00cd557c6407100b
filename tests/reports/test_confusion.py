from __future__ import annotations

import csv
import itertools
import warnings

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torchmetrics.functional.classification import multiclass_accuracy

from discern.reports.confusion import (
    class_scores,
    confusion_figure,
    confusion_matrix,
    write_class_scores,
)

# Rows are labels: of 4 cats 3 were found, the owl was taken for a cat, nothing for an owl.
MATRIX = np.array([[3, 1, 0], [1, 4, 0], [1, 0, 0]])


def by_name(matrix):
    return {metric.name: scores for metric, scores in class_scores(matrix).items()}


def test_rows_are_labels_and_columns_predictions():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    predicted = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 0])
    assert np.array_equal(confusion_matrix(labels, predicted, 3), MATRIX)


def test_scores_by_hand():
    scores = by_name(MATRIX)
    assert scores["precision"] == pytest.approx([3 / 5, 4 / 5, 0])
    assert scores["recall"] == pytest.approx([3 / 4, 4 / 5, 0])
    assert scores["f1"] == pytest.approx([2 / 3, 4 / 5, 0])


def test_a_class_has_the_accuracy_that_torchmetrics_has_for_it():
    labels, predicted = (torch.tensor(of) for of in np.nonzero(MATRIX))
    counts = torch.tensor(MATRIX[np.nonzero(MATRIX)])
    labels, predicted = labels.repeat_interleave(counts), predicted.repeat_interleave(counts)
    expected = multiclass_accuracy(predicted, labels, num_classes=3, average="none")
    assert by_name(MATRIX)["accuracy"] == pytest.approx(expected.numpy())


def test_the_file_has_a_row_a_class(tmp_path):
    write_class_scores(MATRIX, ["cat", "dog, small", "owl"], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["cat", "dog, small", "owl"]
    assert rows[0] == {
        "class": "cat",
        "accuracy": "0.750000",
        "precision": "0.600000",
        "recall": "0.750000",
        "f1": "0.666667",
        "support": "4",
    }


def drawn(matrix, names, title="mlp on Something, test") -> Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = confusion_figure(matrix, names, title)
        figure.canvas.draw()
    return figure


def names_of(classes: int, script: str) -> list[str]:
    long = {"latin": "class {} costs $1", "cyrillic": "Щ{}" + 40 * "Ж", "arabic": "قطة {} جميلة"}
    return [long[script].format(number)[: 8 + number] for number in range(classes)]


@pytest.mark.parametrize(
    ("classes", "script"),
    [(2, "latin"), (20, "arabic"), (100, "cyrillic")],
)
def test_the_picture_shows_every_name_in_full_view(classes, script):
    names = names_of(classes, script)
    figure = drawn(np.diag(np.arange(classes)), names, "a title that is long " * 6)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert [text[:2] for text in shown] == [name[:2] for name in names]
    assert len(set(shown)) == classes
    titles = [axes.xaxis.label, axes.yaxis.label, figure._suptitle]
    texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), *titles]
    page = figure.bbox
    for box in map(box_of, texts):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for axis in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert not overlapping(axis)
    assert box_of(figure._suptitle).y0 > axes.bbox.y1
    # Counts are written where there is room; a 0 is left empty.
    assert len(axes.texts) == (classes - 1 if classes <= 20 else 0)


def overlapping(texts) -> int:
    boxes = map(box_of, texts)
    return sum(bool(one.overlaps(other)) for one, other in itertools.pairwise(boxes))


def box_of(text):
    return text.get_window_extent(text.figure.canvas.get_renderer())


def test_of_more_classes_than_there_is_room_for_every_so_many_have_names():
    figure = drawn(np.eye(150, dtype=int), [f"class {number}" for number in range(150)])
    axes = figure.axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    step = 150 // len(shown)
    assert step > 1
    assert shown == [f"class {number}" for number in range(0, 150, step)]
    assert not overlapping(axes.get_yticklabels())


def test_counts_can_be_read_on_every_colour():
    shares = np.linspace(1, 99, 20).astype(int)
    matrix = np.zeros((20, 20), int)
    matrix[np.arange(20), np.arange(20)] = shares
    matrix[np.arange(20), (np.arange(20) + 1) % 20] = 100 - shares
    axes = drawn(matrix, list("abcdefghijklmnopqrst")).axes[0]
    colours = axes.images[0].to_rgba(matrix / 100)
    for text in axes.texts:
        column, row = text.get_position()
        assert contrast(to_rgb(text.get_color()), colours[row, column, :3]) > 4.5


def contrast(one, other) -> float:
    """WCAG 2's."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))
