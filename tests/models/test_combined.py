"""Networks made of saved models."""

from __future__ import annotations

import pytest
import torch

from discern.errors import DiscernError
from discern.models.card import written
from discern.models.combined import Model, combined


def made(temperature: float | None = None, seed: int = 0, **preprocessing: object) -> Model:
    """A linear network of 2 × 4 × 4 pixels and three classes."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3))
    card = written(
        model={"name": "mlp", "settings": {}},
        class_names=["a", "b", "c"],
        input_shape=(2, 4, 4),
        preprocessing={"mean": 0.5, "std": 0.5, **preprocessing},
        data={},
        temperature=temperature,
    )
    return Model(network, card)


IMAGES = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def probabilities(model: Model, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model.network(images).softmax(1)


def test_one_model_is_calibrated_by_its_temperature_or_not():
    one = made(2.5)
    with torch.no_grad():
        logits = one.network(IMAGES)
    assert torch.allclose(probabilities(combined([one])), (logits / 2.5).softmax(1))
    assert torch.allclose(probabilities(combined([one], calibrated=False)), logits.softmax(1))
    assert combined([one]).card.temperature is None  # it is in the network


def test_several_are_the_mean_of_their_calibrated_probabilities():
    models = [made(2.0), made(0.5, seed=1), made(None, seed=2)]
    each = [probabilities(combined([model])) for model in models]
    assert torch.allclose(probabilities(combined(models)), torch.stack(each).mean(0))


def test_flip_is_the_mean_with_the_mirror_image():
    one = combined([made(2.0)])
    expected = (probabilities(one) + probabilities(one, IMAGES.flip(-1))) / 2
    assert torch.allclose(probabilities(combined([made(2.0)], "flip")), expected)


def test_five_crops_are_those_of_torchvision():
    from torchvision.transforms.functional import five_crop

    model = combined([made(resize=9)], "five_crop")
    assert model.card.input_shape == (2, 9, 9)
    images = torch.randn(5, 2, 9, 9)
    crops = five_crop(images, [4, 4])
    # Where the centre is between two pixels torchvision rounds to the even one.
    expected = torch.stack([probabilities(combined([made()]), crop) for crop in crops]).mean(0)
    assert torch.allclose(probabilities(model, images), expected)


@pytest.mark.parametrize("resize", [None, 4])
def test_five_crops_need_more_than_a_crop(resize):
    with pytest.raises(DiscernError, match=r"tta=five_crop is not possible: .* 4 × 4 pixels"):
        combined([made(resize=resize)], "five_crop")


def test_a_combination_can_be_exported():
    model = combined([made(2.0), made(seed=1)], "flip")
    program = torch.export.export(model.network, (IMAGES,))
    assert torch.allclose(program.module()(IMAGES), model.network(IMAGES))
    assert model.classes == ["a", "b", "c"]
    assert model.preprocessing.mean == 0.5
