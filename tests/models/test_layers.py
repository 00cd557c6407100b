from __future__ import annotations

import torch
from torch import nn

from discern.models.layers import MAX_LAYERS, layer_table


class Network(nn.Module):
    """Two layers, one of them frozen, dropout, and an empty container."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.features[0].weight.requires_grad_(False)
        self.more = nn.ModuleList()
        self.head = nn.Linear(4 * 6 * 6, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.features(images).flatten(1)))


def test_each_layer_has_its_shape_and_its_parameters():
    rows = layer_table(Network(), (1, 8, 8))
    assert [tuple(row.values()) for row in rows] == [
        ("features.0", "Conv2d", [4, 6, 6], 4, 36),
        ("features.1", "BatchNorm2d", [4, 6, 6], 8, 0),
        ("head", "Linear", [10], 1450, 0),
        ("dropout", "Dropout", [144], 0, 0),
    ]


def test_looking_at_a_network_leaves_it_and_randomness_as_they_were():
    network = Network().train()
    network.features.eval()
    network.dropout.register_forward_hook(lambda *_: torch.rand(1))
    states = [state.clone() for state in network.state_dict().values()]
    before = torch.get_rng_state()
    layer_table(network, (1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    assert not network.features[1].training
    for state, now in zip(states, network.state_dict().values(), strict=True):
        assert torch.equal(state, now)


def test_a_network_that_cannot_be_called_has_no_shapes():
    rows = layer_table(Network(), (3, 8, 8))
    assert [row["shape"] for row in rows] == [None, None, None]  # dropout was never reached
    assert rows[0]["frozen"] == 36


def test_a_network_of_many_layers_is_shown_by_its_blocks():
    blocks = [nn.Sequential(*(nn.Linear(2, 2) for _ in range(10))) for _ in range(9)]
    rows = layer_table(nn.Sequential(nn.Flatten(), *blocks), (1, 1, 2))
    assert len(rows) == 10 <= MAX_LAYERS
    assert tuple(rows[1].values()) == ("1", "Sequential", [2], 60, 0)


def test_a_single_layer_is_its_own_table():
    assert [row["name"] for row in layer_table(nn.Flatten(), (1, 2, 3))] == ["flatten"]
