from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from discern.errors import DiscernError
from discern.run import train
from discern.training.overfit import of
from photos import photos_in_turn
from run_files import Convolution, composed, summary

OVERFIT = ("debug=overfit", "trainer.max_epochs=50", "optimizer.lr=0.01", "test=false")


class Blind(nn.Module):
    """A network that ignores its input, for which its weights are zero."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(0 * images.mean(dim=(2, 3)))


class Frozen(Convolution):
    """A network that nothing trains."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(input_shape, num_classes, width=4)
        self.requires_grad_(False)


def of_class(kind: type) -> tuple[str, ...]:
    settings = ("~model.hidden", "~model.activation", "~model.dropout", "~model.norm")
    return (f"model._target_={__name__}.{kind.__name__}", *settings)


def test_a_sound_network_can_overfit(tiny_run, caplog):
    caplog.set_level("INFO")
    result = tiny_run(*OVERFIT, "model.hidden=[32]")
    facts = summary(result.folder)["overfit"]
    assert facts["can"]
    assert facts["loss"] < 0.1 < 2.2 < facts["loss_of_frequencies"] <= round(math.log(10), 6)
    assert (facts["images"], facts["classes"]) == (40, 10)
    assert facts["verdict"] in caplog.messages
    assert facts["verdict"].startswith("The network can overfit: its loss on 40 images of 10 cla")


def test_a_network_that_ignores_its_input_cannot(tiny_run):
    result = tiny_run(*OVERFIT, *of_class(Blind), "trainer.max_epochs=200")
    facts = summary(result.folder)["overfit"]
    assert not facts["can"]
    assert facts["loss"] == pytest.approx(facts["loss_of_frequencies"], abs=0.01)
    assert facts["verdict"].startswith("The network cannot overfit as it was trained: its loss on")


def test_a_network_without_weights_to_train_is_refused(tiny_run):
    with pytest.raises(DiscernError, match="no weights that are trained: all of them are frozen"):
        tiny_run(*OVERFIT, *of_class(Frozen))


def test_a_network_that_has_only_begun_is_told_what_to_change(tiny_run):
    result = tiny_run(*OVERFIT, "trainer.max_epochs=15")
    facts = summary(result.folder)["overfit"]
    assert not facts["can"]
    assert facts["verdict"].startswith("The network has not overfitted yet")
    assert "trainer.max_epochs" in facts["verdict"]


def test_the_batch_holds_all_classes_of_sorted_files(tmp_path):
    for part, count in {"train": 30, "val": 6, "test": 6}.items():
        photos_in_turn(tmp_path / "pictures" / part, count)
    cfg = composed(
        *("data=image_folder", "data.image_size=8", "data.batch_size=6", "data.num_workers=0"),
        *("trainer.accelerator=cpu", "model.hidden=[8]", *OVERFIT),
    )
    cfg.data.dir, cfg.folder = str(tmp_path / "pictures"), str(tmp_path / "run")
    facts = summary(train(cfg).folder)["overfit"]
    assert (facts["images"], facts["classes"]) == (6, 3)


def test_a_run_that_overfits_nothing_says_nothing_of_it(tiny_run):
    assert "overfit" not in summary(tiny_run().folder)


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@given(LABELS, st.lists(st.floats(-50, 50), min_size=5, max_size=5))
def test_no_network_that_ignores_its_input_is_ever_said_to_overfit(labels, bias):
    outcome = of(torch.tensor([bias] * len(labels)).double(), torch.tensor(labels))
    assert not outcome.can
    assert "can overfit:" not in outcome.verdict


@given(LABELS)
def test_logits_that_know_the_labels_are_said_to_overfit_where_there_are_several(labels):
    truth = torch.tensor(labels)
    outcome = of(50 * nn.functional.one_hot(truth, 5).double(), truth)
    assert outcome.can == (len(set(labels)) > 1)
