from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from discern.reports.measures import measure
from discern.runs.predictions import Predictions


def random_predictions(images: int, classes: int, labelled: int | None = None, scale: float = 2.0):
    """Logits and labels that agree more often than by chance; only some classes are labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, labelled or classes, (images,), generator=generator)
    logits = scale * torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 1.5 * scale
    names = [str(number) for number in range(classes)]
    return logits, labels, Predictions.of(logits, labels, torch.arange(images), names)


@pytest.mark.parametrize(("classes", "labelled"), [(2, 2), (5, 5), (10, 10), (10, 3), (40, 40)])
def test_the_values_are_those_of_torchmetrics(classes, labelled):
    logits, labels, predictions = random_predictions(700, classes, labelled)
    found = {name: estimate.value for name, estimate in measure(predictions, 0).items()}
    expected = {
        "loss": cross_entropy(logits, labels),
        "accuracy": multiclass_accuracy(logits, labels, classes, average="micro"),
        "precision": multiclass_precision(logits, labels, classes, average="macro"),
        "recall": multiclass_recall(logits, labels, classes, average="macro"),
        "f1": multiclass_f1_score(logits, labels, classes, average="macro"),
        "ece": multiclass_calibration_error(logits, labels, classes, n_bins=15, norm="l1"),
    }
    if classes > 5:
        top = multiclass_accuracy(logits, labels, classes, average="micro", top_k=5)
        expected["top5_error"] = 1 - top
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-6)


def test_a_class_that_is_nowhere_does_not_count_and_one_never_predicted_counts_as_0():
    logits = torch.eye(4)[[0, 0, 1, 1]] * 5
    predictions = Predictions.of(
        logits, torch.tensor([0, 2, 1, 1]), torch.arange(4), ["a", "b", "c", "nowhere"]
    )
    found = measure(predictions, 0)
    assert found["precision"].value == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert found["recall"].value == pytest.approx((1 + 1 + 0) / 3)


def test_every_interval_holds_its_value_and_shrinks_with_more_images():
    few, many = (measure(random_predictions(n, 10, scale=0.6)[2], 0) for n in (400, 6400))
    assert few.keys() == many.keys()
    for name in few:
        for found in (few[name], many[name]):
            assert 0 <= found.low <= found.value <= found.high, name
        ratio = (many[name].high - many[name].low) / (few[name].high - few[name].low)
        assert ratio == pytest.approx(1 / 4, rel=0.4), name


def test_the_methods_and_the_seed():
    predictions = random_predictions(300, 10)[2]
    one, again, other = (measure(predictions, seed) for seed in (1, 1, 2))
    assert one == again
    assert {name for name in one if one[name].method == "wilson"} == {"accuracy", "top5_error"}
    assert {name for name in one if one[name] != other[name]} == {
        "loss",
        "precision",
        "recall",
        "f1",
        "ece",
    }


def test_the_macro_interval_agrees_with_wilsons_where_both_apply():
    # With two balanced classes the macro recall is nearly the accuracy.
    found = measure(random_predictions(4000, 2, scale=0.5)[2], 0)
    for end in ("low", "high"):
        assert getattr(found["recall"], end) == pytest.approx(
            getattr(found["accuracy"], end), abs=0.002
        )


def test_one_image_has_intervals_too():
    found = measure(random_predictions(1, 10)[2], 0)
    assert found["accuracy"].value in (0, 1)
    assert all(estimate.low <= estimate.high for estimate in found.values())


def drawn(images: int, classes: int, generator: torch.Generator, sharpened: float = 1.0):
    """Predictions whose labels are drawn from the probabilities, which are sharpened after that."""
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    names = [str(number) for number in range(classes)]
    return Predictions.of(sharpened * logits, labels, torch.arange(images), names)


@pytest.mark.parametrize(("images", "classes"), [(100, 2), (300, 3), (1000, 10)])
def test_the_interval_of_a_calibrated_models_error_contains_0(images, classes):
    generator = torch.Generator().manual_seed(0)
    found = [measure(drawn(images, classes, generator), n)["ece"].low == 0 for n in range(60)]
    assert sum(found) >= 54


def test_the_interval_of_an_overconfident_models_error_does_not_contain_0():
    generator = torch.Generator().manual_seed(0)
    assert all(measure(drawn(1000, 10, generator, 2.0), n)["ece"].low > 0 for n in range(20))
