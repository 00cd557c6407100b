from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from discern.models.mlp import MLP
from discern.models.transfer import TransferClassifier
from discern.reports.tensorboard.graph import graph_of


def edges(network: nn.Module, shape=(1, 4, 4)) -> dict[str, list[str]]:
    return {node.name: list(node.input) for node in graph_of(network, shape).node}


def test_layers_follow_each_other_and_a_shared_activation_is_drawn_where_it_is_used():
    found = edges(MLP((1, 4, 4), 3, (5, 5), "relu", 0.0, "none"))
    assert list(found) == [
        "images", "flatten", "hidden.0/linear", "activation/relu", "hidden.1/linear",
        "activation_2/relu", "output/linear", "logits",
    ]  # fmt: skip
    assert found["activation_2/relu"] == ["hidden.1/linear"]
    assert found["logits"] == ["output/linear"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.ReLU(True))
        self.noise = nn.Dropout(0.5)
        self.out = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        if len(images) != 1 or images.mean() > 5:
            raise AssertionError
        images = images + torch.rand(())
        return self.out(self.noise(images + self.block(images)).flatten(1))


def test_branches_meet_again():
    found = edges(Residual())
    assert found["block/0/conv2d"] == ["add"]
    assert found["block/1/batch_norm"] == ["block/0/conv2d"]
    assert found["add_2"] == ["add", "block/2/relu"]


def test_the_network_and_the_random_numbers_are_left_as_they_were():
    network = Residual().train()
    network.block[1].eval()  # the user's own choice
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    graph_of(network, (1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_fails_is_left_as_it_was_too():
    network = Residual().train()
    with pytest.raises(RuntimeError):
        graph_of(network, (3, 4, 4))
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_frozen_backbone_is_drawn_though_another_engine_runs_it():
    network = TransferClassifier((3, 64, 64), 2, "torchvision", "squeezenet1_1", None, head=(8,))
    network.engine = lambda images: 1 / 0
    network.train()
    found = edges(network, (3, 64, 64))
    assert sum(name.startswith("backbone/") for name in found) > 30
    assert network.engine is not None
    assert network.head.training
    assert not network.backbone.training
