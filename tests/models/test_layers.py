from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from discern.models.layers import MAX_LAYERS, layer_table, shape_lazy_layers
from discern.models.saved import load
from discern.run import train
from run_files import TINY, composed, own_model


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


def test_lazy_layers_are_given_the_sizes_of_an_image():
    network = nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5)
    )
    torch.manual_seed(0)
    shape_lazy_layers(network, (3, 8, 8))
    assert network[3].weight.shape == (5, 4 * 6 * 6)
    assert network[1].num_batches_tracked == 0
    assert network.training


def test_lazy_layers_are_given_sizes_where_nothing_is_allocated():
    with torch.device("meta"):
        network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    shape_lazy_layers(network, (1, 8, 8))
    assert network[1].weight.shape == (5, 64)
    assert network[1].weight.is_meta


class Lazy(nn.Sequential):
    """A user's own network whose layers follow from the images."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))


def test_a_run_of_a_network_with_lazy_layers_is_loaded(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/own.yaml").write_text("_target_: models.test_layers.Lazy\n")
    few = [each for each in TINY if not each.startswith("model.")]
    cfg = composed(*few, *own_model("models.test_layers.Lazy"))
    cfg.data.dir, cfg.folder = str(tiny_mnist), str(tmp_path / "run")
    assert load(train(cfg).folder)[1].weight.shape == (10, 784)
