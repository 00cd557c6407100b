from __future__ import annotations

import pytest
import torch
import torchvision
from torchvision import datasets

from discern.data.published.catdog import CatDog
from discern.data.published.cifar import CIFAR10, CIFAR100
from discern.data.published.flowers import Flowers102
from discern.data.published.in_torchvision import cifar_facts, weights_url
from discern.data.published.mnist import MNIST
from discern.data.published.pets import OxfordPets
from discern.data.published.pretrained import published_weights
from discern.data.published.publication import FASHION_MNIST
from discern.data.published.publication import MNIST as DIGITS
from discern.data.published.wanted import NEEDS, refusals
from discern.errors import DiscernError
from discern.models.weights import published_file


@pytest.fixture
def no_network(monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.mark.parametrize("kind", [CatDog, CIFAR10, CIFAR100, Flowers102, OxfordPets, MNIST])
def test_what_is_missing_is_said_in_the_words_of_the_download(no_network, tmp_path, kind):
    more = {"source": "full"} if kind is MNIST else {}
    needs = NEEDS[f"{kind.__module__}.{kind.__name__}"]
    told, silent = refusals(needs({"dir": str(tmp_path), **more}))
    with pytest.raises(DiscernError) as later:
        kind(dir=tmp_path, **more).prepare_data()
    assert str(told[0]) == str(later.value)
    assert silent == []
    assert [*tmp_path.glob("*.zip"), *tmp_path.glob("*.gz")] == []


def test_weights_that_are_missing_too(no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    (told,), _ = refusals(published_weights("torchvision", "densenet121"))
    with pytest.raises(DiscernError) as later:
        published_file(torchvision.models.DenseNet121_Weights.DEFAULT.url)
    assert str(told) == str(later.value)


def test_nothing_has_to_be_downloaded_of_what_is_there(tmp_path):
    for name in ("cats", "images", "annotations", "cifar-10-batches-py"):
        (tmp_path / name).mkdir()
    for kind in (CatDog, CIFAR10):
        assert NEEDS[f"{kind.__module__}.{kind.__name__}"]({"dir": str(tmp_path)}) == []
    assert published_weights("torchvision", "nosuch") == published_weights("timm", "resnet18") == []


# What is read in torchvision's source, or repeated of it


def test_addresses_of_weights_are_torchvisions():
    models = torchvision.models
    for name in models.list_models(module=models):
        assert weights_url(name) == models.get_model_weights(name).DEFAULT.url, name


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_facts_on_cifar_are_torchvisions(name):
    kind = getattr(datasets, name)
    facts = {key: getattr(kind, key) for key in ("base_folder", "url", "filename")}
    assert cifar_facts(name) == facts


@pytest.mark.parametrize(
    ("own", "kind"), [(DIGITS, datasets.MNIST), (FASHION_MNIST, datasets.FashionMNIST)]
)
def test_digests_and_classes_are_torchvisions(own, kind):
    assert {f"{name}.gz": digest for name, digest in own.md5.items()} == dict(kind.resources)
    assert len(own.class_names) == len(kind.classes)
    if own is FASHION_MNIST:
        assert own.class_names == tuple(kind.classes)
