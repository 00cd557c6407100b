from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from discern.runs.predictions import Predictions, write_predictions

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0], [0.0, 0.5, 0.0]])
LABELS = torch.tensor([0, 1, 2])
NAMES = ["cat", 'the "dog", small', "owl"]


@pytest.fixture
def predictions() -> Predictions:
    return Predictions.of(LOGITS, LABELS, torch.tensor([5, 7, 9]), NAMES)


def test_what_is_derived_from_the_logits(predictions):
    expected = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(axis=1, keepdims=True)
    assert predictions.probabilities == pytest.approx(expected)
    assert predictions.predicted.tolist() == [0, 1, 1]
    assert predictions.correct.tolist() == [True, True, False]
    assert predictions.confidences == pytest.approx(expected.max(axis=1))
    assert predictions.losses == pytest.approx(-np.log(expected[[0, 1, 2], [0, 1, 2]]))
    assert predictions.in_top.all()
    assert predictions.worst(2).tolist() == [2, 0]


def test_the_label_is_in_the_top_five_of_more_classes():
    logits = torch.arange(7.0).flip(0).repeat(7, 1)
    predictions = Predictions.of(logits, torch.arange(7), torch.arange(7), list("abcdefg"))
    assert predictions.in_top.tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_the_file_has_a_row_an_image(monkeypatch, predictions, tmp_path, at_once):
    monkeypatch.setattr("discern.runs.predictions.ROWS_AT_ONCE", at_once)
    write_predictions(predictions, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["5", "7", "9"]
    assert [row["label"] for row in rows] == NAMES
    assert [row["predicted"] for row in rows] == [NAMES[0], NAMES[1], NAMES[1]]
    assert {row["file"] for row in rows} == {""}
    for row, probabilities in zip(rows, predictions.probabilities, strict=True):
        written = [np.float32(row[f"probability_{name}"]) for name in NAMES]
        assert written == pytest.approx(probabilities, rel=1e-6)
