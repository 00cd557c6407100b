from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss

from discern.config.schema import MLPSettings
from discern.models.mlp import MLP


def features_to_images(features: torch.Tensor) -> torch.Tensor:
    return features.reshape(1, 1, 1, -1)


# The networks that the course notes compute by hand


def test_the_notes_single_neuron():
    torch.manual_seed(7)
    features = torch.randn((1, 5))
    weights = torch.randn_like(features)
    bias = torch.randn((1, 1))
    by_hand = torch.sigmoid(torch.sum(features * weights) + bias)

    network = MLP((1, 1, 5), 1, hidden=[])
    network.load_state_dict({"output.weight": weights, "output.bias": bias[0]})
    output = torch.sigmoid(network(features_to_images(features)))
    torch.testing.assert_close(output, by_hand)
    assert output.item() == pytest.approx(0.1595, abs=5e-5)


def test_the_notes_network_of_two_layers():
    torch.manual_seed(7)
    features = torch.randn((1, 3))
    w1, w2 = torch.randn(3, 2), torch.randn(2, 1)
    b1, b2 = torch.randn((1, 2)), torch.randn((1, 1))
    by_hand = torch.sigmoid(torch.sigmoid(features @ w1 + b1) @ w2 + b2)

    network = MLP((1, 1, 3), 1, hidden=[2], activation="sigmoid")
    network.load_state_dict(
        {
            "hidden.0.weight": w1.T,
            "hidden.0.bias": b1[0],
            "output.weight": w2.T,
            "output.bias": b2[0],
        }
    )
    output = torch.sigmoid(network(features_to_images(features)))
    torch.testing.assert_close(output, by_hand)
    assert output.item() == pytest.approx(0.3171, abs=5e-5)


def test_the_network_of_the_notes_chapters():
    """784-256-10 with a sigmoid, as nn.Sequential."""
    network = MLP((1, 28, 28), 10, hidden=[256], activation="sigmoid")
    theirs = nn.Sequential(nn.Linear(784, 256), nn.Sigmoid(), nn.Linear(256, 10))
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), network.state_dict().values(), strict=True))
    )
    images = torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(network(images), theirs(images.reshape(4, -1)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 12))
def test_cross_entropy_on_logits_is_nll_on_log_softmax(seed, images, classes):
    torch.manual_seed(seed)
    logits = MLP((1, 3, 3), classes, hidden=[5])(torch.randn(images, 1, 3, 3) * 10)
    labels = torch.randint(classes, (images,))
    difference = cross_entropy(logits, labels) - nll_loss(logits.log_softmax(dim=1), labels)
    assert abs(difference.item()) <= 1e-6


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_the_softmax_sums_to_one(seed, scale):
    torch.manual_seed(seed)
    logits = MLP((1, 4, 4), 10, hidden=[6])(torch.randn(7, 1, 4, 4) * scale)
    torch.testing.assert_close(logits.softmax(dim=1).sum(dim=1), torch.ones(7))


# What the settings make of it


@pytest.mark.parametrize("hidden", [[], [3], [128, 64], [7, 7, 7, 7]])
def test_it_has_the_layers_asked_for(hidden):
    network = MLP((3, 8, 8), 10, hidden=hidden)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == list(zip([*hidden, 10], [3 * 8 * 8, *hidden], strict=True))
    assert network(torch.zeros(5, 3, 8, 8)).shape == (5, 10)


def test_the_default_is_the_notes_784_128_64_10():
    sizes = [tuple(p.shape) for p in MLP((1, 28, 28), 10).parameters() if p.ndim == 2]
    assert sizes == [(128, 784), (64, 128), (10, 64)]


@pytest.mark.parametrize("name", get_args(MLPSettings.model_fields["activation"].annotation))
def test_every_activation_is_applied_to_hidden_units_only(name):
    network = MLP((1, 1, 2), 3, hidden=[4], activation=name)
    images = torch.randn(6, 1, 1, 2)
    units = network.hidden[0](images.flatten(1))
    (kind,) = (kind for kind in dir(nn) if kind.lower() == name.replace("_", ""))
    expected = network.output(getattr(nn, kind)()(units))
    torch.testing.assert_close(network(images), expected)


def test_dropout_is_for_training_alone_and_zero_needs_no_random_numbers():
    images = torch.randn(50, 1, 4, 4)
    network = MLP((1, 4, 4), 10, hidden=[100], dropout=0.5)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))

    state = torch.get_rng_state()
    without = MLP((1, 4, 4), 10, hidden=[100], dropout=0.0)
    torch.set_rng_state(state)
    without(images)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_zeroes_its_share_of_the_units_and_scales_the_others():
    torch.manual_seed(0)
    network = MLP((1, 1, 1), 1, hidden=[2000], activation="softplus", dropout=0.25)
    with torch.no_grad():
        network.hidden[0].weight.zero_()
        network.hidden[0].bias.fill_(3.0)
        network.output.weight.fill_(1.0)
        network.output.bias.zero_()
        unit = nn.functional.softplus(torch.tensor(3.0))
        kept = [(network(torch.zeros(1, 1, 1, 1)) / unit * 0.75).item() for _ in range(5)]
    assert len({round(count) for count in kept}) > 1
    for count in kept:
        assert count == pytest.approx(1500, abs=100)
        assert count == pytest.approx(round(count), abs=0.01)


def test_its_weights_are_saved_and_loaded_like_any_module(tmp_path):
    network = MLP((1, 4, 4), 10, hidden=[3])
    torch.save(network.state_dict(), tmp_path / "weights")
    again = MLP((1, 4, 4), 10, hidden=[3])
    again.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(network(images), again(images))
