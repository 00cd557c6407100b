from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from discern.data.splits import stratified_split
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
