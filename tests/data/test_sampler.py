from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from discern.data.loader import ImageLoader
from discern.data.sampler import (
    EpochSampler,
    ShareSampler,
    batch_with_a_repeat,
    mixed_order,
    spread_order,
)

SIZES = st.integers(1, 60)
SEEDS = st.integers(0, 2**32)
EPOCHS = st.integers(0, 1000)


def order(size: int, seed: int, epoch: int, num_replicas: int = 1, rank: int = 0) -> list[int]:
    sampler = EpochSampler(TensorDataset(torch.arange(size)), seed, num_replicas, rank)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(SIZES, SEEDS, EPOCHS, st.integers(1, 70))
def test_batches_visit_each_index_once_an_epoch_and_keep_the_last(size, seed, epoch, batch_size):
    dataset = TensorDataset(torch.arange(size))
    sampler = EpochSampler(dataset, seed)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    batches = [indices.tolist() for (indices,) in loader]
    assert len(batches) == len(loader) == -(-size // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert sorted(chain.from_iterable(batches)) == list(range(size))


@given(SIZES, SEEDS, EPOCHS, st.integers(1, 9))
def test_replicas_share_an_epoch_equally_between_them(size, seed, epoch, world_size):
    shares = [order(size, seed, epoch, world_size, rank) for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-size // world_size)}
    visits = Counter(chain.from_iterable(shares))
    assert set(visits) == set(range(size))
    surplus = -(-size // world_size) * world_size - size
    if size >= world_size:
        assert sum(count == 2 for count in visits.values()) == surplus
        assert max(visits.values()) <= 2


@given(SIZES, SEEDS, EPOCHS)
def test_the_order_is_a_function_of_seed_and_epoch(size, seed, epoch):
    torch.manual_seed(epoch)
    first = order(size, seed, epoch)
    torch.manual_seed(seed)
    assert order(size, seed, epoch) == first


def test_the_order_differs_between_epochs_and_between_seeds():
    orders = {tuple(order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_leaves_the_global_random_numbers_alone():
    state = torch.get_rng_state()
    order(50, seed=1, epoch=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_iterator_follows_an_epoch_set_after_it_was_made():
    sampler = EpochSampler(TensorDataset(torch.arange(50)), seed=3)
    iterator = iter(sampler)
    sampler.set_epoch(7)
    assert list(iterator) == order(50, seed=3, epoch=7)


@given(SIZES, st.integers(0, 70), st.integers(1, 4))
def test_samples_can_be_left_out_of_the_next_iteration_only(size, skipped, world_size):
    dataset = TensorDataset(torch.arange(size))
    sampler = EpochSampler(dataset, 5, num_replicas=world_size, rank=world_size - 1)
    complete = list(sampler)
    sampler.skip_next(skipped)
    assert list(sampler) == complete[skipped:]
    assert list(sampler) == complete


# Balanced


def drawn(labels: torch.Tensor, seed=1, epoch=0, num_replicas=1, rank=0, skipped=0) -> list[int]:
    dataset = TensorDataset(labels)
    sampler = EpochSampler(dataset, seed, num_replicas, rank, labels=labels)
    sampler.set_epoch(epoch)
    sampler.skip_next(skipped)
    return list(sampler)


UNEVEN = torch.tensor([0] * 70 + [1] * 20 + [3] * 10)  # and of class 2 there is none


def test_each_class_comes_equally_often_on_average():
    indices = torch.tensor([drawn(UNEVEN, epoch=epoch) for epoch in range(60)])
    assert indices.shape == (60, 100)
    counts = torch.bincount(UNEVEN[indices].flatten(), minlength=4)
    assert counts[2] == 0
    # Of 6,000 draws a third: 2,000, with a standard deviation of 37.
    assert ((counts[[0, 1, 3]] - 2000).abs() < 150).all()


def test_each_image_of_a_class_comes_equally_often_on_average():
    indices = torch.tensor([drawn(UNEVEN, epoch=epoch) for epoch in range(60)])
    counts = torch.bincount(indices.flatten(), minlength=100)[90:]
    assert ((counts - 200).abs() < 70).all()  # a standard deviation is 14


@given(SEEDS, EPOCHS)
def test_a_balanced_order_is_a_function_of_seed_and_epoch(seed, epoch):
    state = torch.get_rng_state()
    first = drawn(UNEVEN, seed, epoch)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(seed)
    assert drawn(UNEVEN, seed, epoch) == first
    assert drawn(UNEVEN, seed, epoch + 1) != first


@given(st.integers(0, 120), st.integers(1, 4))
def test_a_balanced_epoch_is_continued(skipped, world_size):
    whole = drawn(UNEVEN, num_replicas=world_size, rank=world_size - 1)
    rest = drawn(UNEVEN, num_replicas=world_size, rank=world_size - 1, skipped=skipped)
    assert rest == whole[skipped:]


@given(st.integers(1, 9))
def test_replicas_share_a_balanced_epoch(world_size):
    shares = [drawn(UNEVEN, num_replicas=world_size, rank=rank) for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-100 // world_size)}
    dealt = [index for turn in zip(*shares, strict=True) for index in turn]
    assert dealt[:100] == drawn(UNEVEN)


def test_places_tell_the_epoch_and_how_often_an_image_was_there_before():
    dataset = TensorDataset(torch.arange(7))
    for labels in (None, torch.arange(7) % 2):
        plain, places = (
            EpochSampler(dataset, 1, labels=labels, places=asked) for asked in (False, True)
        )
        for sampler in (plain, places):
            sampler.set_epoch(5)
        order = list(plain)
        before = [order[:place].count(index) for place, index in enumerate(order)]
        assert list(places) == [
            (5 * 7 + repeat) * 7 + index for repeat, index in zip(before, order, strict=True)
        ]


@given(st.integers(1, 9))
def test_replicas_count_together_how_often_an_image_was_there_before(world_size):
    def places(num_replicas: int, rank: int) -> list[int]:
        dataset = TensorDataset(UNEVEN)
        return list(EpochSampler(dataset, 1, num_replicas, rank, labels=UNEVEN, places=True))

    shares = [places(world_size, rank) for rank in range(world_size)]
    dealt = [place for turn in zip(*shares, strict=True) for place in turn]
    assert dealt[:100] == places(1, 0)
    assert len(set(dealt)) == 100


class Numbers(TensorDataset):
    """Serves whole batches, as discern's data sets do."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(indices), torch.tensor(indices)


@given(SIZES, st.integers(1, 5), st.integers(1, 70))
def test_processes_share_all_images_in_the_same_number_of_batches(size, processes, batch_size):
    seen: list[list[int]] = []
    counts = set()
    for rank in range(processes):
        dataset = Numbers(torch.arange(size))
        sampler = ShareSampler(dataset, processes, rank)
        loader = ImageLoader(dataset, batch_size=batch_size, sampler=sampler)
        batches = [labels.tolist() for _, labels in loader]
        assert len(batches) == len(loader)
        counts.add(len(batches))
        seen.append([index for batch in batches for index in batch])
        assert seen[-1] == sorted(seen[-1])
        backwards = ShareSampler(dataset, processes, rank, range(size)[::-1])
        assert list(backwards) == [size - 1 - index for index in seen[-1]]
    assert len(counts) == 1
    assert sorted(chain.from_iterable(seen)) == list(range(size))


@given(SIZES, SEEDS, EPOCHS, st.integers(1, 5), st.integers(1, 70))
def test_what_training_visits_twice_is_the_last_image_of_a_known_batch(
    size, seed, epoch, processes, batch_size
):
    measured: list[int] = []
    for rank in range(processes):
        dataset = Numbers(torch.arange(size))
        sampler = EpochSampler(dataset, seed, processes, rank)
        sampler.set_epoch(epoch)
        loader = ImageLoader(dataset, batch_size=batch_size, sampler=sampler)
        repeat = batch_with_a_repeat(loader)
        for number, (_, labels) in enumerate(loader):
            measured += labels.tolist()[:-1] if number == repeat else labels.tolist()
    assert sorted(measured) == list(range(size))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=60), st.integers(1, 60))
def test_the_first_images_of_the_mixed_order_are_of_as_many_classes_as_there_can_be(labels, first):
    order = mixed_order(torch.tensor(labels)).tolist()
    assert sorted(order) == list(range(len(labels)))
    held = {labels[index] for index in order[:first]}
    assert len(held) == min(first, len(set(labels)))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=60), st.data())
def test_the_first_images_of_the_spread_order_hold_each_class_in_its_proportion(labels, data):
    count = data.draw(st.integers(0, len(labels)))
    order = spread_order(torch.tensor(labels), count).tolist()
    assert sorted(order) == list(range(len(labels)))
    assert order[:count] == sorted(order[:count])
    assert order[count:] == sorted(order[count:])
    held = Counter(labels[index] for index in order[:count])
    for label, whole in Counter(labels).items():
        assert abs(held[label] - whole * count / len(labels)) < 1
