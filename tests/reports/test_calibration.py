from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from discern.reports.calibration import (
    bin_of,
    draw_reliability,
    reliability,
)
from discern.reports.intervals import Estimate
from discern.reports.measures import measure
from discern.runs.predictions import Predictions


def test_a_bin_holds_its_upper_end():
    edges = np.array([0, 1e-6, 1 / 15, 0.0667, 2 / 15, 0.5, 1], np.float64)
    assert bin_of(edges).tolist() == [0, 0, 0, 1, 1, 7, 14]


def test_the_error_by_hand():
    # In one bin 2 images at 0.95, one of them right; in another 2 at 0.6, both right.
    sure = torch.tensor([0.95, 0.95, 0.6, 0.6])
    logits = torch.stack([sure, 1 - sure], dim=1).log()
    labels = torch.tensor([0, 1, 0, 0])
    predictions = Predictions.of(logits, labels, torch.arange(4), ["cat", "dog"])
    error = measure(predictions, 0)["ece"].value
    assert error == pytest.approx(2 / 4 * 0.45 + 2 / 4 * 0.4)


def test_the_bins_of_the_diagram():
    bins = reliability(np.array([0.95, 0.99, 0.6], np.float32), np.array([True, False, True]))
    assert bins.counts[[8, 14]].tolist() == [1, 2]
    assert bins.counts.sum() == 3
    assert bins.confidence[[8, 14]] == pytest.approx([0.6, 0.97])
    assert bins.accuracy[[8, 14]] == pytest.approx([1, 0.5])
    assert bins.accuracy[0] == 0


def test_the_picture_is_drawn_whatever_the_bins(tmp_path):
    for number, confidences in enumerate(([0.5], [1.0] * 10_000, np.linspace(0.1, 1, 500))):
        values = np.array(confidences, np.float32)
        path = tmp_path / f"{number}.png"
        bins = reliability(values, values > 0.7)
        draw_reliability(bins, Estimate(0.1, 0.05, 0.2, "bootstrap"), "mlp on $X$", path)
        assert Image.open(path).size == (720, 840)
