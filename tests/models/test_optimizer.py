from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from discern.models.classifier import Classifier
from discern.models.mlp import MLP

OPTIMIZERS = {
    "Adam": {},
    "AdamW": {"amsgrad": True},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "Adagrad": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_fused_optimizer_is_the_plain_one(name):
    build = partial(getattr(torch.optim, name), lr=0.01, **OPTIMIZERS[name])
    weights = []
    for optimizer in (build, partial(build, fused=False)):
        torch.manual_seed(0)
        model = Classifier(MLP((1, 4, 4), 10, hidden=[30]), 10, optimizer)
        built = model.configure_optimizers()
        assert built.defaults["fused"] is (optimizer is build)
        for _ in range(5):
            built.zero_grad()
            loss = nn.functional.cross_entropy(
                model(torch.randn(20, 1, 4, 4)), torch.randint(10, (20,))
            )
            loss.backward()
            built.step()
        weights.append(model.state_dict())
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chosen", [{"foreach": True}, {"differentiable": True}, {"fused": False}])
def test_how_a_step_is_computed_is_the_users_choice(chosen):
    optimizer = partial(torch.optim.Adam, lr=0.1, **chosen)
    built = Classifier(MLP((1, 4, 4), 10, hidden=[3]), 10, optimizer).configure_optimizers()
    assert built.defaults | chosen == built.defaults
    assert not built.defaults["fused"]


def test_an_optimizer_that_cannot_be_fused_is_left_as_it_is():
    model = Classifier(MLP((1, 4, 4), 10), 10, partial(torch.optim.RMSprop, lr=0.1))
    assert "fused" not in model.configure_optimizers().defaults


def own_optimizer(params, lr, fused=False):
    assert not fused
    return torch.optim.SGD(params, lr)


def test_a_users_own_optimizer_is_called_as_it_is_written():
    model = Classifier(MLP((1, 4, 4), 10), 10, partial(own_optimizer, lr=0.1))
    assert not model.configure_optimizers().defaults["fused"]


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        columns = {"strided": torch.randn(16, 20)[:, ::2], "complex": torch.randn(16, 10) + 1j}
        self.columns = nn.Parameter(columns.get(kind, torch.randn(16, 10)))
        if kind == "sparse":
            self.table = nn.Embedding(3, 2, sparse=True)

    def forward(self, images):
        return images.flatten(1) @ self.columns.real


@pytest.mark.parametrize("kind", ["strided", "complex", "sparse"])
def test_what_a_fused_optimizer_does_not_take_has_the_plain_one(kind):
    model = Classifier(Odd(kind), 10, partial(torch.optim.Adam, lr=0.1))
    assert not model.configure_optimizers().defaults["fused"]
    usual = Classifier(Odd("usual"), 10, partial(torch.optim.Adam, lr=0.1))
    assert usual.configure_optimizers().defaults["fused"]


def test_a_loaded_state_does_not_bring_how_steps_were_computed():
    network = MLP((1, 4, 4), 10)
    before = Classifier(network, 10, partial(torch.optim.Adam, lr=0.1, fused=False))
    state = before.configure_optimizers().state_dict()
    optimizer = Classifier(network, 10, partial(torch.optim.Adam, lr=0.2)).configure_optimizers()
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["fused"] is True
