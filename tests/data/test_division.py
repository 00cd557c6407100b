from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numbered_images import NUM_IMAGES, NumberedImages
from torch import Tensor

from discern.data.division import Content, Division, divide, seen
from discern.data.known import KnownImages, Rule, Side
from discern.errors import DiscernError

LABELS = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(torch.tensor)
SEEDS = st.integers(0, 2**32 - 1)


def content(labels: Tensor, keys: Any = None) -> Content:
    """As many images as labels, each of its own content where no keys are given."""
    keys = np.random.default_rng(0).permutation(2**20)[: len(labels)] if keys is None else keys
    return Content(np.asarray(keys, dtype=np.int64), labels.numpy(), np.empty(0, np.int64))


def rule(**settings: Any) -> Rule:
    defaults = {"seed": 0, "val_size": 0, "test_size": None, "folds": None, "fold": 0}
    return Rule.model_construct(**{**defaults, "fraction": 1.0, **settings})


def divided(images: Content, known: KnownImages | None = None, **settings: Any) -> Division:
    classes = int(images.labels.max()) + 1
    own = known is not None and known.are_those_of(images.keys)
    return divide(images, classes, rule(**settings), True, known, own)


def on(side: Side, division: Division) -> Tensor:
    return torch.from_numpy(np.flatnonzero(division.sides == side))


def stratified_split(labels: Tensor, size: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices kept and indices held out for validation."""
    division = divided(content(labels), val_size=size, seed=seed)
    return on(Side.TRAIN, division), on(Side.VAL, division)


def stratified_folds(labels: Tensor, folds: int, fold: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices kept and indices in the fold."""
    division = divided(content(labels), folds=folds, fold=fold, seed=seed)
    return on(Side.TRAIN, division), on(Side.VAL, division)


def stratified_sample(labels: Tensor, fraction: float, seed: int = 0) -> Tensor:
    """Indices trained on."""
    return on(Side.TRAIN, divided(content(labels), fraction=fraction, seed=seed))


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
        divided(content(torch.arange(8) % 2), test_size=8)


# Folds


@given(LABELS, SEEDS, st.data())
def test_every_image_is_in_one_fold_and_each_fold_even_to_within_one(labels, seed, data):
    folds = data.draw(st.integers(2, len(labels)))
    parts = [stratified_folds(labels, folds, fold, seed) for fold in range(folds)]
    everything = list(range(len(labels)))
    assert sorted(index for _, held_out in parts for index in held_out.tolist()) == everything
    for kept, held_out in parts:
        assert kept.dtype == held_out.dtype == torch.int64
        assert sorted(kept.tolist() + held_out.tolist()) == everything
        assert kept.tolist() == sorted(kept.tolist())
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


@pytest.mark.parametrize(("folds", "fold"), [(9, 0), (100, 3)])
def test_folds_that_cannot_be_made_are_refused(folds, fold):
    with pytest.raises(DiscernError, match=rf"^data\.folds={folds} is not allowed; .* from 2 to"):
        stratified_folds(torch.arange(8) % 2, folds, fold, seed=0)


@pytest.mark.parametrize("fold", [3, 9])
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


# Of further images, and of the same content twice


def known_to(images: Content, division: Division, known: KnownImages | None = None) -> KnownImages:
    """What a model that was trained on the images knows of them."""
    names = [str(number) for number in range(int(images.labels.max()) + 1)]
    return seen([(images, division.sides)], division.rule, names, "fingerprint", known)


SETTINGS = st.fixed_dictionaries(
    {
        "val_size": st.sampled_from([0, 3, 0.1, 0.5]),
        "test_size": st.sampled_from([None, 0, 2, 0.2, 0.4]),
        "folds": st.sampled_from([None, None, 2, 5]),
        "fraction": st.sampled_from([1.0, 0.5]),
        "seed": st.integers(0, 3),
    }
)


@given(st.lists(st.integers(0, 12), min_size=12, max_size=40), SETTINGS, st.randoms())
def test_images_of_one_content_are_on_one_side_whatever_their_order_and_labels(
    keys, settings, random
):
    labels = torch.tensor([random.randrange(3) for _ in keys] + [0, 1, 2])
    keys = np.array([key * 7919 + 1 for key in keys] + [5, 6, 7])
    division = divided(content(labels, keys), **settings)
    order = np.random.default_rng(random.randrange(99)).permutation(len(keys))
    again = divided(content(labels[torch.from_numpy(order)], keys[order]), **settings)
    assert (again.sides == division.sides[order]).all()
    assert again.rule == division.rule
    for key in keys:
        assert len(set(division.sides[keys == key].tolist())) == 1


@given(SETTINGS, SETTINGS, st.data())
def test_what_a_model_knows_never_changes_sides(settings, others, data):
    keys, labels = KEYS[:60], np.arange(60) % 3
    first = content(torch.from_numpy(labels), keys)
    division = divided(first, **settings)
    known = known_to(first, division)
    kept = data.draw(st.lists(st.integers(0, 59), min_size=30, unique=True))
    added = data.draw(st.integers(0, 29))
    keys = np.concatenate([keys[kept], KEYS[60 : 60 + added]])
    labels = np.concatenate([labels[kept], np.arange(added) % 3])
    moved = data.draw(st.lists(st.integers(0, len(keys) - 1), max_size=5))
    labels[moved] = 0  # relabelled
    now = content(torch.from_numpy(np.concatenate([labels, [0, 1, 2]])), [*keys, *KEYS[-3:]])
    test_size = settings["test_size"] if settings["test_size"] is None else others["test_size"] or 0
    later = divided(now, known, **{**others, "test_size": test_size})
    before = dict(zip(first.keys.tolist(), division.sides.tolist(), strict=True))
    trains = {Side.TRAIN, Side.UNUSED}  # another fraction may be trained on
    for key, side in zip(now.keys.tolist(), later.sides.tolist(), strict=True):
        was = before.get(key)
        assert was is None or was == side or {was, side} <= trains
    assert known_to(now, later, known).trained_on.tolist() == sorted(
        {*known.trained_on.tolist(), *now.keys[later.sides == Side.TRAIN].tolist()}
    )


KEYS = np.random.default_rng(1).integers(0, 2**62, 200)


def test_further_images_fall_in_the_proportion_that_was_asked_for():
    first = content(torch.arange(200) % 2, KEYS)
    known = known_to(first, divided(first, val_size=0.1, test_size=0.2))
    more = np.random.default_rng(2).integers(0, 2**62, 4000)
    everything = content(torch.arange(4200) % 2, np.concatenate([KEYS, more]))
    sides = divided(everything, known, val_size=0.1, test_size=0.2).sides[200:]
    assert np.isclose((sides == Side.TEST).mean(), 0.2, atol=0.05)
    assert np.isclose((sides == Side.VAL).mean(), 0.08, atol=0.04)


def test_another_data_set_is_divided_by_its_own_settings_but_for_what_was_trained_on():
    first = content(torch.arange(100) % 2, KEYS[:100])
    known = known_to(first, divided(first))
    other = content(torch.arange(90) % 2, KEYS[90:180])
    division = divided(other, known, val_size=40)
    assert (division.sides == Side.VAL).sum() == 40
    assert (division.sides[:10] == Side.TRAIN).all()


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
