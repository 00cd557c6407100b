"""Data loaders: of whole batches, and one that continues an epoch where a checkpoint left it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from discern.data.images import Batch, as_batch
from discern.data.preprocessing import Pixels
from discern.data.sampler import EpochSampler, ShareSampler


class ImageLoader(DataLoader[Batch]):
    """A ``DataLoader`` of a data set that serves whole batches of images.

    Pixels from worker processes are normalised in this process. If this process's share of the
    images has a batch less than others, its last batch is empty.
    """

    def __init__(self, dataset: Dataset[Batch], **options: Any) -> None:
        super().__init__(dataset, collate_fn=as_batch, **options)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        sampler = self.batch_sampler
        if sampler is None or self.num_workers > 0 or self.pin_memory:
            batches: Iterator[Batch] = super().__iter__()
        else:
            batches = self._cut(sampler)
        if isinstance(self.sampler, ShareSampler) and self.sampler.lacks_a_batch(
            self.batch_size or 1
        ):
            batches = chain(batches, [_no_images()])
        # No reference is kept to a batch while the next one is made, so that its memory, still in
        # the processor's cache, is reused.
        return map(_normalised, batches)

    def _cut(self, sampler: Iterable[list[int]]) -> Iterator[Batch]:
        """Batches made in this process.

        DataLoader's own iterator would spend 50 us on each, as long as it takes to cut 64 digits.
        """
        for indices in sampler:
            yield self.dataset.__getitems__(indices)  # type: ignore[attr-defined]


def _no_images() -> Batch:
    return torch.empty(0), torch.empty(0, dtype=torch.int64)


def _normalised(batch: tuple[Tensor | Pixels, Tensor]) -> Batch:
    images, labels = batch
    return images.normalised() if isinstance(images, Pixels) else images, labels


class ResumableDataLoader(ImageLoader):
    """An ``ImageLoader`` whose place in the epoch is saved in Lightning's checkpoints.

    Lightning saves ``state_dict()`` with a checkpoint and hands it to ``load_state_dict()`` before
    the first iteration of a resumed run. That iteration then leaves out the batches already trained
    on, by index, without loading them. ``len()`` stays the number of batches in a whole epoch, by
    which Lightning, having restored its own count of batches, knows the last one.

    Args:
        dataset: the data set that batches are cut from.
        sampler: the order of the samples.
        batch_size: samples in a batch; the last of an epoch may hold fewer.
        batches_done: returns the number of batches of the epoch trained on. The loader cannot
            count them itself: a run interrupted in the middle of a step has taken a batch from it
            and not learned from that batch.
        **options: any other argument of ``ImageLoader``.
    """

    sampler: EpochSampler
    batch_size: int

    def __init__(
        self,
        dataset: Dataset[Batch],
        *,
        sampler: EpochSampler,
        batch_size: int,
        batches_done: Callable[[], int],
        **options: Any,
    ) -> None:
        super().__init__(dataset, sampler=sampler, batch_size=batch_size, **options)
        self.batches_done = batches_done
        self._resume_from: dict[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """The place in training: the epoch, from 0, and the number of its batches trained on."""
        return {"epoch": self.sampler.epoch, "batches": self.batches_done()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next iteration at this place, if it is an iteration of that epoch."""
        self._resume_from = state_dict

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so that nothing here is looked at before the first batch is asked for: by
        # then Lightning has set the epoch, which worker processes would otherwise miss, since
        # they are sent their first indices at once. The epoch tells whether there is something to
        # skip: a checkpoint made at the end of an epoch is resumed in the following one.
        place, self._resume_from = self._resume_from, None
        if place is not None and place["epoch"] == self.sampler.epoch:
            self.sampler.skip_next(place["batches"] * self.batch_size)
        yield from super().__iter__()
