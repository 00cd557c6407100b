from __future__ import annotations

import dataclasses

import pytest
import torch

from discern.data.published import mnist, publication
from discern.data.published.fetch import DownloadError
from discern.data.published.mnist import MNIST, FashionMNIST
from discern.data.published.publication import TRAIN_IMAGES
from discern.errors import DiscernError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def download(*_: object) -> None:
        raise DownloadError("http://mirror/: no answer")

    monkeypatch.setattr(mnist, "download", download)


def ready(data: MNIST) -> MNIST:
    data.prepare_data()
    data.setup("fit")
    return data


def test_what_does_not_depend_on_the_files_is_known_before_setup(tmp_path):
    data = MNIST(dir=tmp_path)
    assert data.class_names == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert data.num_classes == 10
    assert data.input_shape == (1, 28, 28)
    assert FashionMNIST(dir=tmp_path).class_names[9] == "Ankle boot"
    assert FashionMNIST(dir=tmp_path).num_classes == 10


@pytest.mark.parametrize("source", ["auto", "full"])
def test_the_published_files_are_used_where_they_are(tiny_mnist, source):
    data = ready(MNIST(dir=tiny_mnist, source=source, val_size=30))
    assert (data.title, data.source_used) == ("MNIST", "full")
    assert data.num_images == {"train": 270, "val": 30, "test": 100}
    assert len(data.train_dataset) == 270


def test_the_sample_is_used_where_it_is_asked_for(tiny_mnist):
    data = ready(MNIST(dir=tiny_mnist, source="sample", val_size=0.25))
    assert (data.title, data.source_used) == ("MNIST sample", "sample")
    assert data.num_images == {"train": 6000, "val": 2000, "test": 1500}


def test_the_sample_takes_the_place_of_files_that_cannot_be_had(tmp_path, caplog):
    data = MNIST(dir=tmp_path, source="auto")
    ready(data)
    data.prepare_data()  # as Lightning does again before it tests
    assert (data.title, data.source_used) == ("MNIST sample", "sample")
    assert len([r for r in caplog.records if r.name == "discern.data.published.mnist"]) == 1


def test_a_corrupt_file_is_not_replaced_by_the_sample(tiny_mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (tiny_mnist / "MNIST" / "raw").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    content = bytearray((raw / TRAIN_IMAGES).read_bytes())
    content[5000] ^= 1
    (raw / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(DiscernError, match=TRAIN_IMAGES):
        ready(MNIST(dir=tmp_path, source="auto"))


def test_the_whole_data_set_or_nothing(tmp_path):
    with pytest.raises(DiscernError, match=r"^MNIST is not in .*data\.source=sample\.$"):
        MNIST(dir=tmp_path, source="full").prepare_data()
    with pytest.raises(DiscernError, match=r"^MNIST is not in .*data\.source=sample\.$"):
        MNIST(dir=tmp_path, source="full").setup()


@pytest.mark.parametrize("source", ["auto", "full", "sample"])
def test_fashion_mnist_has_no_sample(tmp_path, monkeypatch, source):
    nowhere = dataclasses.replace(publication.FASHION_MNIST, system_folders=())
    monkeypatch.setattr(FashionMNIST, "published", nowhere)
    with pytest.raises(DiscernError, match=r"apt install dataset-fashion-mnist.*DISCERN_DATA_DIR"):
        ready(FashionMNIST(dir=tmp_path, source=source))


def test_an_unknown_source_is_refused_at_once(tmp_path):
    with pytest.raises(DiscernError, match=r"^data\.source=none "):
        MNIST(dir=tmp_path, source="none")


def test_the_fingerprint_tells_the_contents_and_nothing_else(tiny_mnist):
    sample = ready(MNIST(source="sample"))
    whole = ready(MNIST(dir=tiny_mnist, source="full", seed=0))
    again = ready(MNIST(dir=tiny_mnist, source="full", seed=1, val_size=0, batch_size=7))
    assert len(whole.fingerprint) == 64
    assert whole.fingerprint == again.fingerprint != sample.fingerprint


def test_runs_of_one_process_share_the_images(tiny_mnist):
    first = ready(MNIST(dir=tiny_mnist))
    second = ready(MNIST(dir=tiny_mnist, seed=5))
    images = first.train_dataset.images
    assert second.train_dataset.images.data_ptr() == images.data_ptr()
    assert first.val_dataset.images.data_ptr() == images.data_ptr()
    assert images.dtype == torch.uint8


def test_digests_of_the_published_files_are_told_apart():
    digests = [*publication.MNIST.sha256.values(), *publication.FASHION_MNIST.sha256.values()]
    assert len({*digests}) == 8
    assert {len(digest) for digest in digests} == {64}
