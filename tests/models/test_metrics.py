from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score
from torch.nn.functional import cross_entropy

from discern.models import metrics as module
from discern.models.metrics import EpochMetrics
from discern.reports.measures import measure
from discern.runs.predictions import Predictions


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The textbook's definitions, class by class and image by image."""
    images, classes = logits.shape
    guesses = logits.argmax(dim=1).tolist()
    truths = labels.tolist()
    precisions, recalls, f1s = [], [], []
    for c in range(classes):
        hits = sum(g == t == c for g, t in zip(guesses, truths, strict=True))
        guessed, there = guesses.count(c), truths.count(c)
        # A class that neither occurs nor is guessed has no part in the mean.
        if guessed or there:
            precisions.append(hits / guessed if guessed else 0.0)
            recalls.append(hits / there if there else 0.0)
            both = precisions[-1] + recalls[-1]
            f1s.append(2 * precisions[-1] * recalls[-1] / both if both else 0.0)
    result = {
        "loss": cross_entropy(logits.double(), labels).item(),
        "accuracy": sum(g == t for g, t in zip(guesses, truths, strict=True)) / images,
        "precision": sum(precisions) / len(precisions),
        "recall": sum(recalls) / len(recalls),
        "f1": sum(f1s) / len(f1s),
    }
    if classes > 5:
        among = [t in row.topk(5).indices for t, row in zip(truths, logits, strict=True)]
        result["top5_error"] = 1 - sum(among) / images
    return result


def measured(
    logits: torch.Tensor, labels: torch.Tensor, sizes: list[int], split: str = "val"
) -> dict[str, float]:
    metrics = EpochMetrics(logits.shape[1], split)
    for some_logits, some_labels in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metrics.update(cross_entropy(some_logits, some_labels), some_logits, some_labels)
    return {name: float(value) for name, value in metrics.compute().items()}


@st.composite
def epochs(draw):
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    classes = draw(st.integers(2, 12))
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    logits = torch.randn(sum(sizes), classes)
    return logits, torch.randint(classes, (sum(sizes),)), sizes


@given(epochs())
def test_they_are_the_textbooks_whatever_the_sizes_of_the_batches(epoch):
    logits, labels, sizes = epoch
    assert measured(logits, labels, sizes) == pytest.approx(by_hand(logits, labels), abs=2e-6)


@given(epochs(), st.integers(1, 20))
def test_counting_now_or_later_is_the_same(epoch, rows_at_once):
    logits, labels, sizes = epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
        soon = measured(logits, labels, sizes)
    assert soon == pytest.approx(measured(logits, labels, sizes), abs=1e-6)


def test_the_mean_loss_is_over_images_and_not_over_batches():
    metrics = EpochMetrics(3, "train")
    for loss, size in ((1.0, 3), (5.0, 1)):
        metrics.update(
            torch.tensor(loss), torch.zeros(size, 3), torch.zeros(size, dtype=torch.long)
        )
    assert float(metrics.compute()["loss"]) == pytest.approx(2.0)


def test_training_measures_loss_and_accuracy_only():
    logits, labels = torch.randn(10, 10), torch.arange(10)
    assert measured(logits, labels, [10], "train").keys() == {"loss", "accuracy"}


def test_few_classes_have_no_top_five():
    logits, labels = torch.randn(8, 5), torch.arange(8) % 5
    assert list(measured(logits, labels, [8])) == ["loss", "accuracy", "precision", "recall", "f1"]


def test_the_averages_over_classes_are_those_of_scikit_learn():
    torch.manual_seed(0)
    # Of ten classes some are no label, and some are never predicted.
    logits, labels = torch.randn(60, 10), torch.randint(7, (60,))
    logits[:, 5:8] -= 9
    found = measured(logits, labels, [25, 35])
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = score(labels, logits.argmax(dim=1), average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected, abs=1e-6), name


def test_an_epoch_starts_afresh_and_an_empty_one_has_no_metrics():
    metrics = EpochMetrics(3, "val")
    assert metrics.compute() == {}
    right, labels = torch.eye(3) * 9, torch.arange(3)
    metrics.update(torch.tensor(0.1), right, labels)
    assert float(metrics.compute()["accuracy"]) == 1
    assert metrics.compute() == {}
    metrics.update(torch.tensor(0.1), right.roll(1, 0), labels)
    assert float(metrics.compute()["accuracy"]) == 0


def test_an_epoch_without_a_mistake_does_not_tie_the_top_five_to_the_first():
    """torchmetrics lets metrics share their counts once these were equal."""
    metrics = EpochMetrics(10, "val")
    labels = torch.arange(10)
    metrics.update(torch.tensor(0.0), torch.eye(10), labels)
    assert float(metrics.compute()["top5_error"]) == 0
    second_best = torch.eye(10) + 2 * torch.eye(10).roll(1, 1)
    metrics.update(torch.tensor(0.0), second_best, labels)
    result = metrics.compute()
    assert float(result["accuracy"]) == 0
    assert float(result["top5_error"]) == 0


def test_half_precision_is_added_up_in_single():
    logits = torch.randn(4000, 10).bfloat16()
    labels = torch.randint(10, (4000,))
    metrics = EpochMetrics(10, "train")
    for some_logits, some_labels in zip(logits.split(1), labels.split(1), strict=True):
        metrics.update(torch.tensor(1 / 3).bfloat16(), some_logits, some_labels)
    assert float(metrics.compute()["loss"]) == pytest.approx(float(torch.tensor(1 / 3).bfloat16()))


def test_nothing_is_kept_of_the_graph():
    metrics = EpochMetrics(3, "train")
    logits = torch.randn(4, 3, requires_grad=True)
    metrics.update(logits.sum(), logits, torch.zeros(4, dtype=torch.long))
    assert not any(value.requires_grad for value in metrics.compute().values())


def test_they_leave_nothing_in_a_state_dict():
    metrics = EpochMetrics(3, "val")
    metrics.update(torch.tensor(1.0), torch.eye(3), torch.arange(3))
    assert metrics.state_dict() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_loss_that_is_not_finite_makes_the_mean_so(bad):
    metrics = EpochMetrics(3, "train")
    for loss in (0.5, bad, 0.25):
        metrics.update(torch.tensor(loss), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    assert not metrics.compute()["loss"].isfinite()


def test_the_mean_loss_counts_images_and_not_batches():
    metrics = EpochMetrics(3, "train")
    for loss, size in ((1.0, 1), (2.0, 3)):
        images = torch.zeros(size, 3), torch.zeros(size, dtype=torch.int64)
        metrics.update(torch.tensor(loss), *images)
    assert metrics.compute()["loss"].item() == pytest.approx(1.75)


def test_an_epoch_and_a_report_measure_the_same():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(700, 10, generator=generator)
    labels = torch.randint(0, 10, (700,), generator=generator)
    epoch = EpochMetrics(10, "test")
    for batch, truth in zip(logits.split(64), labels.split(64), strict=True):
        epoch.update(cross_entropy(batch, truth), batch, truth)
    names = [str(number) for number in range(10)]
    predictions = Predictions.of(logits, labels, torch.arange(700), names)
    report = measure(predictions, 0)
    measured = {name: float(value) for name, value in epoch.compute().items()}
    assert measured.keys() == report.keys() - {"ece"}
    for name in measured.keys() - {"loss"}:
        assert measured[name] == np.float32(report[name].value), name
    assert measured["loss"] == pytest.approx(report["loss"].value, rel=1e-6)
