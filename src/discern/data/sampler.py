"""The order in which images are visited, and which process visits them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from discern.data.images import Batch


class EpochSampler(DistributedSampler[int]):
    """Shuffled indices whose order is a function of the seed and the epoch alone.

    Each index comes once an epoch, unless classes are balanced. With several replicas each visits
    its own share, and the shares are made equally long by visiting the first few indices of the
    order twice.

    It is a ``DistributedSampler`` even for a single process, because Lightning calls ``set_epoch``
    on one and replaces any other sampler when it trains on several devices.

    Args:
        dataset: the data set whose indices are drawn.
        seed: at least 0.
        num_replicas: number of processes that train together.
        rank: which of them this is, from 0.
        labels: class of each image, int64 (N,), to draw as many images as there are, with
            replacement, each class equally often on average; None for each image once.
        places: yield the places of ``AugmentedImages`` instead of indices, which tell it the epoch
            and how often that has had the index before.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        labels: Tensor | None = None,
        places: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.places = places
        self._weights = None if labels is None else 1 / torch.bincount(labels)[labels]
        self._skipped = 0

    def skip_next(self, samples: int) -> None:
        """Leave out the first ``samples`` indices of this replica the next time it is iterated."""
        self._skipped = samples

    def __iter__(self) -> Iterator[int]:
        # A generator reads the epoch when its first index is asked for, not when it is made:
        # Lightning makes the iterator of a resumed epoch before it sets that epoch.
        skipped, self._skipped = self._skipped, 0
        order = self._order()
        if self.places:
            before = 0 if self._weights is None else _repeats(order)
            order = (self.epoch * len(order) + before) * len(order) + order
        padded = np.resize(order, self.total_size)
        yield from padded[self.rank :: self.num_replicas][skipped:].tolist()

    def _order(self) -> NDArray[np.int64]:
        # SeedSequence mixes the two numbers, where their sum would give seed 0 in epoch 1 the
        # order of seed 1 in epoch 0.
        mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        if self._weights is not None:
            drawn = torch.multinomial(
                self._weights, len(self._weights), replacement=True, generator=generator
            )
        else:
            drawn = torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        order: NDArray[np.int64] = drawn.numpy()
        return order


def _repeats(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the index at each place of an order comes before it, int64 (N,)."""
    together = np.argsort(order, kind="stable")
    begins = np.searchsorted(order[together], order[together])
    found = np.empty_like(order)
    found[together] = np.arange(len(order)) - begins
    return found


class InOrderSampler(EpochSampler, SequentialSampler):
    """The indices in their own order in every epoch.

    It is a ``SequentialSampler`` because Lightning replaces any other if it overfits.
    """

    def _order(self) -> NDArray[np.int64]:
        return np.arange(len(self.dataset))  # type: ignore[arg-type]


class ShareSampler(DistributedSampler[int], SequentialSampler):
    """Every n-th index of an order, so that no two processes have the same index.

    Shares differ by one image at most, and ``len()`` is the length of the longest. From it every
    process gets the same number of batches, of which the last may be empty: processes that wait for
    each other would otherwise hang.

    It is a ``DistributedSampler`` and a ``SequentialSampler`` because Lightning replaces any other
    if it trains on several devices, or overfits.

    Args:
        dataset: the data set whose indices are shared.
        num_replicas: number of processes.
        rank: which of them this is, from 0.
        order: each index once; None for the indices in their own order.
    """

    def __init__(
        self,
        dataset: Dataset[Batch],
        num_replicas: int,
        rank: int,
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        order = range(len(dataset)) if order is None else order  # type: ignore[arg-type]
        self.share = order[rank::num_replicas]

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)

    def lacks_a_batch(self, batch_size: int) -> bool:
        """Whether this process has one batch less than the process with the longest share."""
        return -(-len(self.share) // batch_size) < -(-self.num_samples // batch_size)


def mixed_order(labels: Tensor) -> Tensor:
    """Indices, int64 (N,), that take an image of each class in turn, as long as it has any.

    Args:
        labels: int64 (N,).
    """
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels)
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    place = torch.arange(len(labels)) - first  # within the class
    return by_class[torch.argsort(place, stable=True)]


def spread_order(labels: Tensor, count: int) -> Tensor:
    """Indices, int64 (N,), of which the first ``count`` hold each class in its proportion.

    Those and the others are each in their own order.

    Args:
        labels: int64 (N,).
        count: from 0 to N.
    """
    by_class = torch.argsort(labels, stable=True)
    taken = torch.zeros(len(labels), dtype=torch.bool)
    taken[by_class[torch.arange(count) * len(labels) // max(count, 1)]] = True
    return torch.cat([taken.nonzero().flatten(), (~taken).nonzero().flatten()])


def batch_with_a_repeat(loader: DataLoader[Batch] | None) -> int | None:
    """Index of the batch whose last image another process also has; None without such a batch.

    Training needs shares of equal length, so some images are visited by two processes.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or loader is None or loader.batch_size is None:
        return None
    padding = sampler.total_size - len(sampler.dataset)  # type: ignore[arg-type]
    if sampler.rank < sampler.num_replicas - padding:
        return None
    return (sampler.num_samples - 1) // loader.batch_size
