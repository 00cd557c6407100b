from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from discern.data.images import as_batch
from discern.data.in_memory import InMemoryImages
from discern.errors import DiscernError

IMAGES = torch.randint(0, 256, (9, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator())
LABELS = torch.arange(9) * 2


def test_a_batch_is_the_images_asked_for_normalised():
    dataset = InMemoryImages(IMAGES, LABELS, mean=0.25, std=0.5)
    images, labels = dataset.__getitems__([7, 0, 7])
    assert images.dtype == torch.float32
    expected = (IMAGES[[7, 0, 7]].double() / 255 - 0.25) / 0.5
    torch.testing.assert_close(images, expected.float())
    assert labels.tolist() == [14, 0, 14]


def test_mean_and_std_may_differ_between_channels():
    dataset = InMemoryImages(IMAGES, LABELS, mean=[0.1, 0.2, 0.3], std=(1.0, 0.5, 0.25))
    images, _ = dataset.__getitems__([3])
    for channel, (mean, std) in enumerate([(0.1, 1.0), (0.2, 0.5), (0.3, 0.25)]):
        expected = (IMAGES[3, channel] / 255 - mean) / std
        torch.testing.assert_close(images[0, channel], expected)


def test_serving_a_batch_leaves_the_images_as_they_are():
    before = IMAGES.clone()
    dataset = InMemoryImages(IMAGES, LABELS)
    dataset.__getitems__([1, 2])[0].zero_()
    assert torch.equal(IMAGES, before)


def test_an_item_is_a_batch_of_one_without_its_first_dimension():
    dataset = InMemoryImages(IMAGES, LABELS, mean=0.5, std=0.5)
    image, label = dataset[4]
    assert torch.equal(image, dataset.__getitems__([4])[0][0])
    assert label.shape == ()
    assert label == 8
    assert len(list(dataset)) == len(dataset) == 9


def test_indices_choose_images_without_copying_them():
    dataset = InMemoryImages(IMAGES, LABELS, indices=torch.tensor([8, 2]))
    assert len(dataset) == 2
    assert dataset.__getitems__([1, 0])[1].tolist() == [4, 16]
    assert dataset.images.data_ptr() == IMAGES.data_ptr()
    with pytest.raises(IndexError):
        dataset[2]


def test_a_data_loader_passes_batches_on_as_they_are():
    loader = DataLoader(InMemoryImages(IMAGES, LABELS), batch_size=4, collate_fn=as_batch)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [
        (4, 3, 4, 5),
        (4, 3, 4, 5),
        (1, 3, 4, 5),
    ]
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("std", 0.0), ("std", -1.0), ("std", [1.0, 0.0, 1.0]), ("mean", [0.1, 0.2]), ("std", [])],
)
def test_an_unsuitable_mean_or_std_is_refused(setting, value):
    with pytest.raises(DiscernError, match=rf"^data\.{setting}="):
        InMemoryImages(IMAGES, LABELS, **{setting: value})


def test_images_must_be_bytes_with_a_label_each():
    with pytest.raises(ValueError, match="expected uint8 images"):
        InMemoryImages(IMAGES.float(), LABELS)
    with pytest.raises(ValueError, match="expected uint8 images"):
        InMemoryImages(IMAGES, LABELS[:-1])


def test_an_image_is_known_by_its_pixels_however_they_lie_in_memory():
    plain = InMemoryImages(IMAGES, LABELS)
    turned = InMemoryImages(IMAGES.contiguous(memory_format=torch.channels_last), LABELS)
    assert np.array_equal(plain.identify(), turned.identify())
