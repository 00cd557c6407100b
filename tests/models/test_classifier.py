from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from discern.errors import DiscernError
from discern.models.classifier import Classifier
from discern.models.layers import count_parameters
from discern.models.mlp import MLP
from run_files import own_model


def classifier(network: nn.Module | None = None) -> Classifier:
    network = network or MLP((1, 4, 4), 10, hidden=[3])
    return Classifier(network, 10, partial(torch.optim.SGD, lr=0.1))


def test_its_weights_have_the_networks_own_names():
    network = MLP((1, 4, 4), 10, hidden=[3])
    model = classifier(network)
    assert model.state_dict().keys() == network.state_dict().keys()
    other = classifier()
    other.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(other(images), network(images))


def test_weights_of_another_network_are_not_loaded():
    with pytest.raises(RuntimeError, match="size mismatch"):
        classifier().load_state_dict(MLP((1, 4, 4), 10, hidden=[4]).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        classifier().load_state_dict({})


def test_a_forward_pass_gives_the_networks_logits_and_a_prediction_probabilities():
    model = classifier()
    images = torch.randn(5, 1, 4, 4)
    assert torch.equal(model(images), model.network(images))
    probabilities = model.predict_step((images, torch.zeros(5)), 0)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(5))
    assert torch.equal(probabilities.argmax(dim=1), model(images).argmax(dim=1))


WRONG = {
    "a tuple": lambda logits: (logits,),
    "None": lambda logits: None,
    "a tensor of shape (5, 10, 1, 1)": lambda logits: logits[:, :, None, None],
    "a tensor of shape (50,)": torch.flatten,
    "a tensor of shape (5, 9)": lambda logits: logits[:, :9],
    "a tensor of shape (5, 20)": lambda logits: torch.cat([logits, logits], 1),
    "a tensor of shape (1, 10)": lambda logits: logits.mean(0, keepdim=True),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_network_that_gives_no_logits_is_told_what_it_gives(said):
    class Own(MLP):
        def forward(self, images):
            return WRONG[said](super().forward(images))

    model = classifier(Own((1, 4, 4), 10, hidden=[3]))
    batch = torch.randn(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    for step in (model.training_step, model.validation_step, model.test_step):
        with pytest.raises(DiscernError) as caught:
            step(batch, 0)
        assert str(caught.value).startswith(
            f"model: Own gives {said} for images of shape (5, 1, 4, 4); it must give logits"
        )


def test_frozen_parameters_are_counted_apart_and_not_optimised():
    network = MLP((1, 4, 4), 10, hidden=[3])
    network.hidden[0].requires_grad_(False)
    assert count_parameters(network) == {"trainable": 3 * 10 + 10, "frozen": 16 * 3 + 3}
    optimizer = classifier(network).configure_optimizers()
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 40


def test_gradients_are_clipped_in_mixed_precision_too(tiny_run):
    settings = ("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1.0")
    assert "val" in tiny_run(*settings).metrics


def test_frozen_parameters_stay_as_they_are(tiny_run):
    result = tiny_run(
        *own_model("test_classifier.HalfFrozen"),
        "optimizer.lr=0.1",
    )
    weights = result.model.state_dict()
    assert torch.equal(weights["0.weight"], torch.ones(4, 784) / 784)
    assert not torch.equal(weights["2.weight"], torch.zeros(10, 4))


class HalfFrozen(nn.Sequential):
    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(nn.Linear(784, 4), nn.Tanh(), nn.Linear(4, num_classes))
        nn.init.constant_(self[0].weight, 1 / 784)
        nn.init.zeros_(self[2].weight)
        self[0].requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


def test_the_losses_of_single_steps_are_logged_as_often_as_asked(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = tiny_run("logger=default", "trainer.log_every_n_steps=2", "trainer.max_epochs=1")
    steps = {}
    for path in result.folder.glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        if "train/step_loss" in events.Tags()["scalars"]:
            steps = {event.step: event.value for event in events.Scalars("train/step_loss")}
    assert list(steps) == [1, 3, 5]
    assert all(1 < loss < 4 for loss in steps.values())


def test_validation_is_a_hand_made_pass_in_eval_mode_without_autograd(tiny_run, monkeypatch):
    from discern.models.mlp import MLP

    seen = []
    forward = MLP.forward

    def watched(self, images):
        logits = forward(self, images)
        seen.append((self.training, logits.requires_grad, images, logits.detach().clone()))
        return logits

    monkeypatch.setattr(MLP, "forward", watched)
    graph = "callbacks.dashboard.graph=false"  # it is drawn from a pass of its own
    run = tiny_run("model.dropout=0.5", "trainer.max_epochs=1", "test=false", graph)
    training, validation = seen[1:7], seen[7:]  # the first is that of the table of layers
    assert all(mode and graph for mode, graph, _, _ in training)
    assert not any(mode or graph for mode, graph, _, _ in validation)
    network = run.model.network.eval()
    with torch.no_grad():
        for _, _, images, logits in validation:
            assert torch.equal(forward(network, images), logits), "the best, nothing dropped"
    before = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(network(images), network(images))
    assert torch.equal(torch.get_rng_state(), before)
    network.train()
    with torch.no_grad():
        assert not torch.equal(network(images), network(images))


# The weights of classes in the training loss


def weighted_loss(
    weights: list[float], logits: Tensor, labels: Tensor, smoothing: float, mixed: bool
) -> Tensor:
    """The loss of a training step whose network gives these logits."""
    shares = one_hot(labels, 3).float()
    model = Classifier(
        nn.Identity(), 3, partial(torch.optim.SGD, lr=0.1), label_smoothing=smoothing,
        class_weights=torch.tensor(weights),
        mixing=(lambda images, _: (images, (shares + shares.flip(0)) / 2)) if mixed else None,
    )  # fmt: skip
    return model.training_step((logits, labels), 0)


@given(
    st.lists(st.floats(0.1, 50), min_size=3, max_size=3), st.floats(0, 0.5), st.booleans(),
    st.integers(0, 2**31), st.floats(0.1, 10),
)  # fmt: skip
def test_only_the_ratio_of_class_weights_counts(weights, smoothing, mixed, seed, factor):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 3, generator=generator)
    labels = torch.randint(3, (8,), generator=generator)
    one = weighted_loss(weights, logits, labels, smoothing, mixed)
    other = weighted_loss([factor * w for w in weights], logits, labels, smoothing, mixed)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    if not smoothing and not mixed:
        torch.testing.assert_close(one, cross_entropy(logits, labels, torch.tensor(weights)))


def test_a_rare_class_does_not_take_the_images_of_others_where_labels_are_smoothed():
    """Of a class that is a 30th: each image has to be called what it is."""
    labels = torch.tensor([0] * 30 + [1, 2])
    logits = torch.zeros(32, 3, requires_grad=True)
    weighted_loss([1.0, 30.0, 30.0], logits, labels, 0.1, mixed=False).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.argmin(dim=1), labels)
