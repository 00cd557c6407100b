from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torchmetrics.functional.classification import multiclass_accuracy

from discern.reports.confusion import (
    class_scores,
    confusion_figure,
    confusion_matrix,
    write_class_scores,
)
from discern.reports.sheet import save as save_figure

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


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 100])
def test_the_picture_shows_every_name_in_full_view(monkeypatch, tmp_path, classes):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    names = [f"class {number} costs $1 or $2"[: 8 + number] for number in range(classes)]
    matrix = np.diag(np.arange(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(confusion_figure(matrix, names, "mlp on Something, test"), tmp_path / "x.png")
    (figure,) = figures
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted class", "True class")
    assert [label.get_text()[:7] for label in axes.get_yticklabels()] == [n[:7] for n in names]
    texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label]
    page = figure.bbox
    for box in (text.get_window_extent() for text in texts):
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    # Counts are written where there is room; a 0 is left empty.
    assert len(axes.texts) == (classes - 1 if classes <= 20 else 0)
