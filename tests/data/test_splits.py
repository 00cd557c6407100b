from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numbered_images import NUM_IMAGES, NumberedImages

from discern.data.splits import stratified_folds, stratified_sample, stratified_split
from discern.errors import DiscernError

LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(torch.tensor)
SEEDS = st.integers(0, 2**32)


@given(LABELS, SEEDS, st.data())
def test_the_parts_are_disjoint_complete_sorted_and_of_the_size_asked_for(labels, seed, data):
    size = data.draw(st.integers(0, len(labels) - 1))
    kept, held_out = stratified_split(labels, size, seed)
    assert kept.dtype == held_out.dtype == torch.int64
    assert len(held_out) == size
    assert sorted(kept.tolist() + held_out.tolist()) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())


@given(LABELS, SEEDS, st.data())
def test_each_class_gives_its_share_within_one(labels, seed, data):
    size = data.draw(st.integers(0, len(labels) - 1))
    _, held_out = stratified_split(labels, size, seed)
    for label in range(6):
        share = size * int((labels == label).sum()) / len(labels)
        assert abs(int((labels[held_out] == label).sum()) - share) < 1


@pytest.mark.parametrize(
    ("size", "held_out_of_each"),
    [
        (4, [3, 1, 0]),  # shares 2.4, 1.2 and 0.4: a tie goes to the lower class
        (6, [4, 2, 0]),  # shares 3.6, 1.8 and 0.6
        (9, [5, 3, 1]),  # shares 5.4, 2.7 and 0.9
    ],
)
def test_the_largest_remainders_are_rounded_up(size, held_out_of_each):
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 1)
    _, held_out = stratified_split(labels, size, seed=0)
    assert torch.bincount(labels[held_out], minlength=3).tolist() == held_out_of_each


def test_the_seed_decides_and_nothing_else_does():
    labels = torch.arange(200) % 4
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = stratified_split(labels, 0.25, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = stratified_split(labels, 0.25, seed=3)
    other = stratified_split(labels, 0.25, seed=4)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_any_image_of_a_class_may_be_held_out():
    labels = torch.zeros(6, dtype=torch.int64)
    drawn = {int(stratified_split(labels, 1, seed)[1]) for seed in range(100)}
    assert drawn == set(range(6))


@pytest.mark.parametrize(("size", "count"), [(0.1, 20), (20, 20), (0.0, 0), (0, 0), (0.001, 0)])
def test_a_size_is_a_count_or_a_fraction(size, count):
    kept, held_out = stratified_split(torch.arange(200) % 4, size, seed=0)
    assert (len(kept), len(held_out)) == (200 - count, count)


@pytest.mark.parametrize("size", [8, 9, 1.0, 2.5, -1, -0.1, float("nan"), float("inf")])
def test_a_size_that_leaves_nothing_or_means_nothing_is_refused(size):
    with pytest.raises(DiscernError, match=rf"^data\.val_size={size} .*\.$"):
        stratified_split(torch.arange(8) % 2, size, seed=0)


def test_the_setting_is_named_by_which_the_size_was_given():
    with pytest.raises(DiscernError, match=r"^data\.test_size=8 holds out all of the 8 training"):
        stratified_split(torch.arange(8) % 2, 8, seed=0, setting="data.test_size")


# Folds


@given(LABELS, SEEDS, st.data())
def test_every_image_is_in_one_fold_and_each_fold_even_to_within_one(labels, seed, data):
    folds = data.draw(st.integers(2, len(labels)))
    parts = [stratified_folds(labels, folds, fold, seed) for fold in range(folds)]
    everything = list(range(len(labels)))
    assert sorted(index for _, held_out in parts for index in held_out.tolist()) == everything
    for kept, held_out in parts:
        assert kept.dtype == held_out.dtype == torch.int64
        assert kept.tolist() == [i for i in everything if i not in set(held_out.tolist())]
        assert held_out.tolist() == sorted(held_out.tolist())
    counts = torch.stack([torch.bincount(labels[held], minlength=6) for _, held in parts])
    assert int((counts.amax(0) - counts.amin(0)).max()) <= 1
    totals = counts.sum(1)
    assert int(totals.max() - totals.min()) <= 1


def test_the_seed_decides_the_folds_and_nothing_else_does():
    labels = torch.arange(200) % 4
    state = torch.get_rng_state()
    first = stratified_folds(labels, 5, 2, seed=3)[1]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(stratified_folds(labels, 5, 2, seed=3)[1], first)
    assert not torch.equal(stratified_folds(labels, 5, 2, seed=4)[1], first)
    assert not torch.equal(stratified_folds(labels, 5, 1, seed=3)[1], first)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (0, 0), (9, 0), (-2, 0)])
def test_folds_that_cannot_be_made_are_refused(folds, fold):
    with pytest.raises(DiscernError, match=rf"^data\.folds={folds} is not allowed; .* from 2 to"):
        stratified_folds(torch.arange(8) % 2, folds, fold, seed=0)


@pytest.mark.parametrize("fold", [-1, 3, 9])
def test_a_fold_that_there_is_not_is_refused(fold):
    with pytest.raises(DiscernError, match=rf"^data\.fold={fold} is not allowed; .* 0 to 2\.$"):
        stratified_folds(torch.arange(8) % 2, 3, fold, seed=0)


# A fraction


@given(LABELS, SEEDS, st.floats(0.001, 1))
def test_a_sample_is_a_fraction_of_each_class_but_at_least_one(labels, seed, fraction):
    kept = stratified_sample(labels, fraction, seed)
    assert kept.dtype == torch.int64
    assert kept.tolist() == sorted(set(kept.tolist()))
    for label in set(labels.tolist()):
        there, taken = (int((part == label).sum()) for part in (labels, labels[kept]))
        assert 1 <= taken <= there
        assert abs(taken - fraction * there) <= 0.5 or (taken == 1 and fraction * there < 0.5)


def test_a_larger_sample_holds_the_smaller_one_of_the_seed():
    labels = torch.arange(200) % 4
    samples = [set(stratified_sample(labels, part, seed=1).tolist()) for part in (0.1, 0.3, 1.0)]
    assert samples[0] < samples[1] < samples[2] == set(range(200))
    assert samples[0] != set(stratified_sample(labels, 0.1, seed=2).tolist())


def test_a_sample_leaves_the_global_random_numbers_alone():
    state = torch.get_rng_state()
    stratified_sample(torch.arange(20) % 4, 0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


# Of images in memory


def in_memory(**settings) -> dict[str, list[int]]:
    data = NumberedImages(**settings)
    data.setup()
    return {"train": data.train_dataset.indices.tolist(), "val": data.val_dataset.indices.tolist()}


def test_folds_of_images_in_memory_take_the_place_of_a_validation_size():
    folds = [in_memory(folds=3, fold=fold, val_size=2) for fold in range(3)]
    assert [len(fold["val"]) for fold in folds] == [7, 7, 6]
    assert sorted(index for fold in folds for index in fold["val"]) == list(range(NUM_IMAGES))
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == list(range(NUM_IMAGES))
    assert in_memory(folds=3, seed=2) != in_memory(folds=3, seed=1)


def test_a_fraction_of_images_in_memory_leaves_validation_as_it_is():
    whole, part = in_memory(val_size=4), in_memory(val_size=4, fraction=0.25)
    assert part["val"] == whole["val"]
    assert set(part["train"]) < set(whole["train"])
    assert sorted(index % 2 for index in part["train"]) == [0, 0, 1, 1]


def test_batches_of_images_in_memory_can_be_balanced():
    data = NumberedImages(fraction=0.25, sampler="balanced", batch_size=4)
    data.setup()
    loader = data.train_dataloader()
    labels = []
    for epoch in range(50):
        loader.sampler.set_epoch(epoch)
        labels += [label for _, batch in loader for label in batch.tolist()]
    assert len(labels) == 50 * len(data.train_dataset)
    assert abs(sum(labels) / len(labels) - 0.5) < 0.15
