"""Augmentation as a function of seed, epoch and index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from discern.config.schema import InMemorySettings, PhotoSettings
from discern.data.augment import AUGMENTATIONS, Augmentation, View, random_words
from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.published.mnist import MNIST
from discern.data.views import PHOTO_AUGMENTATIONS

IMAGES = np.random.default_rng(0).integers(1, 256, (20, 1, 8, 8), dtype=np.uint8)
INDICES = np.arange(20)


@given(st.permutations(range(20)), st.integers(0, 99), st.integers(0, 99), st.integers(1, 19))
def test_the_batch_does_not_matter(order, seed, epoch, cut):
    augment = AUGMENTATIONS["flip_shift"]
    whole = augment(IMAGES, seed, epoch, INDICES)
    for part in (np.array(order[:cut]), np.array(order[cut:])):
        assert np.array_equal(augment(IMAGES[part], seed, epoch, part), whole[part])


@pytest.mark.parametrize("name", ["flip", "shift", "flip_shift"])
def test_seed_and_epoch_matter(name):
    augment = AUGMENTATIONS[name]
    one = augment(IMAGES, 0, 0, INDICES)
    assert np.array_equal(one, augment(IMAGES, 0, 0, INDICES))
    assert not np.array_equal(one, augment(IMAGES, 1, 0, INDICES))
    assert not np.array_equal(one, augment(IMAGES, 0, 1, INDICES))


def test_a_flip_is_a_mirror_image_of_about_half():
    images = np.repeat(IMAGES, 100, axis=0)
    flipped = Augmentation(flip=True)(images, 3, 1, np.arange(2000))
    mirrored = (flipped == images[..., ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 900 < mirrored.sum() < 1100


def test_a_shift_moves_by_up_to_two_pixels_and_fills_with_black():
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[0, 0, 4, 4] = 255
    moved = Augmentation(shift=2)(np.repeat(image, 1000, axis=0), 0, 0, np.arange(1000))
    rows, columns = np.nonzero(moved[:, 0])[1:]
    assert len(rows) == 1000
    assert {*rows.tolist()} == {*columns.tolist()} == {2, 3, 4, 5, 6}
    assert np.unique(rows * 8 + columns, return_counts=True)[1].min() > 20, "each of 25 places"
    full = Augmentation(shift=2)(np.full((50, 1, 8, 8), 9, np.uint8), 0, 0, np.arange(50))
    assert {*np.unique(full).tolist()} == {0, 9}


def test_words_are_uniform_and_uses_are_apart():
    words = random_words(1, 2, np.arange(100_000), draw=0)
    assert abs(np.bincount((words >> np.uint64(61)).astype(int)) / 100_000 - 1 / 8).max() < 0.005
    other = random_words(1, 2, np.arange(100_000), draw=1)
    assert abs(np.corrcoef(words.astype(float), other.astype(float))[0, 1]) < 0.02


@pytest.mark.parametrize("epoch", [0, 3])
def test_the_number_of_workers_does_not_matter(tiny_mnist, epoch):
    seen = []
    for workers in (0, 1, 3):
        data = MNIST(
            dir=tiny_mnist, val_size=60, batch_size=50, augment="flip_shift", num_workers=workers
        )
        data.prepare_data()
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        seen.append([images for images, _ in loader])
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


# Balanced


class Uneven(InMemoryDataModule):
    """Of one class there is a single image, the last, which half of an epoch's draws take."""

    class_names = ["many", "one"]  # noqa: RUF012 - an attribute of the base class
    input_shape = (1, 8, 8)

    def load_images(self) -> LoadedImages:
        images = torch.from_numpy(IMAGES)
        labels = (torch.arange(len(images)) == len(images) - 1).long()
        return LoadedImages("Uneven", images, labels, images, labels)


def uneven(**settings: object) -> Uneven:
    data = Uneven(val_size=0, augment="flip_shift", **{"batch_size": 3, **settings})
    data.setup()
    return data


def balanced(**settings: int) -> DataLoader:
    return uneven(sampler="balanced", **settings).train_dataloader()


def test_an_image_that_is_drawn_again_in_an_epoch_is_in_another_view():
    images, labels = (torch.cat(parts) for parts in zip(*balanced(), strict=True))
    views = [image.numpy().tobytes() for image in images[labels == 1]]
    assert len({*views}) > len(views) / 2 > 2
    alone, _ = uneven().seen_in_epoch([19], 0)
    assert views[0] == alone.numpy().tobytes(), "the first is the one that it has without balance"


@pytest.mark.parametrize("settings", [{"num_workers": 1}, {"num_workers": 2}, {"batch_size": 7}])
def test_views_of_a_balanced_epoch_are_those_of_any_workers_and_batches(settings):
    one, other = (torch.cat([images for images, _ in balanced(**s)]) for s in ({}, settings))
    assert torch.equal(one, other)


def test_views_of_a_balanced_epoch_are_those_of_one_that_is_continued():
    whole = [images for images, _ in balanced()]
    rest = balanced()
    rest.load_state_dict({"epoch": 0, "batches": 2})
    for one, other in zip(whole[2:], [images for images, _ in rest], strict=True):
        assert torch.equal(one, other)


def test_validation_and_test_images_are_left_as_they_are(tiny_mnist):
    pairs = []
    for augment in ("none", "flip_shift"):
        data = MNIST(dir=tiny_mnist, val_size=60, augment=augment)
        data.prepare_data()
        data.setup()
        loaders = (data.val_dataloader(), data.test_dataloader())
        pairs.append([images for loader in loaders for images, _ in loader])
    assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))


def test_the_settings_name_what_there_is():
    for schema, named in ((InMemorySettings, AUGMENTATIONS), (PhotoSettings, PHOTO_AUGMENTATIONS)):
        assert set(get_args(schema.model_fields["augment"].annotation)) == set(named)


def test_a_view_is_a_key_whatever_the_augmentation_is():
    @dataclass
    class Shift:  # of a user: it compares by value, so Python gives it no hash
        pixels: int

    table = {View(Shift(2), seed=0, epoch=1): "features"}
    assert table[View(Shift(2), seed=0, epoch=1)] == "features"
    assert View(Shift(3), seed=0, epoch=1) not in table
