from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from discern.models.schedule import Schedule


@pytest.fixture
def optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


@pytest.mark.parametrize(("interval", "total"), [("step", 30), ("epoch", 3)])
def test_the_scheduler_is_told_the_length_of_the_run_in_its_own_unit(optimizer, interval, total):
    schedule = Schedule(CosineAnnealingLR, interval=interval, total_as="T_max")
    entry = schedule.for_run(optimizer, steps=30, epochs=3)
    assert entry["interval"] == interval
    assert entry["scheduler"].T_max == total
    assert "monitor" not in entry


def test_the_name_of_the_argument_is_the_schedulers(optimizer):
    def build(optimizer, total_steps):
        return OneCycleLR(optimizer, max_lr=1.0, total_steps=total_steps)

    entry = Schedule(build, "step", total_as="total_steps").for_run(optimizer, 30, 3)
    assert entry["scheduler"].total_steps == 30


def test_a_scheduler_without_a_length_is_told_none(optimizer):
    entry = Schedule(lambda o: StepLR(o, 4), monitor="val/loss").for_run(optimizer, 30, 3)
    assert entry["scheduler"].step_size == 4
    assert (entry["interval"], entry["monitor"]) == ("epoch", "val/loss")
