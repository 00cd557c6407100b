"""The temperature that makes probabilities match accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn.functional import cross_entropy

from discern.models.temperature import NoTemperatureError, fit_temperature
from discern.runs.predictions import Predictions, tempered


def drawn(temperature: float, images: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their probabilities at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(images, 5, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0, 8.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(true):
    assert fit_temperature(*drawn(true)) == pytest.approx(true, rel=0.1)


def test_it_is_the_optimum_and_scales_with_the_logits():
    logits, labels = drawn(2.0)
    found = fit_temperature(logits, labels)
    losses = [
        float(cross_entropy(logits.double() / t, labels))
        for t in (found, found / 1.01, found * 1.01)
    ]
    assert losses[0] == min(losses)
    assert fit_temperature(10 * logits, labels) == pytest.approx(10 * found, rel=1e-6)
    assert fit_temperature(logits + 1e4, labels) == pytest.approx(found, rel=1e-2)


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        (np.zeros((0, 3)), [], "there are no validation images"),
        (np.eye(3), [1, 1, 1], "all validation images are of one class"),
        ([[1.0, np.nan], [0, 1]], [0, 1], "not finite"),
        ([[1.0, np.inf], [0, 1]], [0, 1], "not finite"),
        (np.eye(3), [0, 1, 2], "classified correctly"),
        (np.eye(3), [1, 2, 0], "no better than guessing"),
        (np.zeros((3, 3)), [1, 2, 0], "no better than guessing"),
        (1e-4 * np.eye(3)[[0] * 99 + [1] * 99], [0] * 98 + [1] * 100, "below 0.01"),
    ],
)
def test_where_there_is_none_the_reason_is_said(logits, labels, why):
    with pytest.raises(NoTemperatureError, match=why):
        fit_temperature(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels).long())


VALUES = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, np.nextafter(np.float32(1), np.float32(2)), 3e38, -3e38, 1e-45]
    ),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=VALUES),
    st.floats(0.01, 100),
)
def test_no_class_changes_at_any_temperature(logits, temperature):
    scores = torch.from_numpy(logits)
    labels = torch.zeros(len(scores), dtype=torch.int64)
    names = [str(number) for number in range(scores.shape[1])]
    before, after = (
        Predictions.of(scores, labels, labels, names, temperature=each)
        for each in (None, temperature)
    )
    assert (before.predicted == after.predicted).all()
    assert (before.correct == after.correct).all()
    assert (before.in_top == after.in_top).all()
    assert np.isfinite(after.probabilities).all()
    assert after.probabilities.sum(1) == pytest.approx(1)
    assert (after.confidences == after.probabilities.max(1)).all()
    assert tempered(scores, temperature).amax(1).eq(0).all()
