from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from discern.callbacks.outputs import TestOutputs


class Rank:
    """One of several processes that test together: every so-many-th image is its own."""

    def __init__(self, rank: int, ranks: int, images: int) -> None:
        # As DistributedSampler does: the first images again, so that all have as many.
        padded = [n % images for n in range(-(-images // ranks) * ranks)]
        self.shares = [padded[other::ranks] for other in range(ranks)]
        self.rank, self.images = rank, images

    def run(self, batch_size: int) -> TestOutputs:
        outputs = TestOutputs()
        loaders = SimpleNamespace(dataset=range(self.images))
        trainer: Any = SimpleNamespace(world_size=len(self.shares), test_dataloaders=loaders)
        module: Any = SimpleNamespace(all_gather=self._all_gather)
        outputs.on_test_epoch_start(trainer, module)
        mine = self.shares[self.rank]
        for begin in range(0, len(mine), batch_size):
            numbers = mine[begin : begin + batch_size]
            said = {"logits": logits(numbers), "labels": torch.tensor(numbers) % 3}
            outputs.on_test_batch_end(trainer, module, said, None, begin)
        outputs.on_test_epoch_end(trainer, module)
        return outputs

    def _all_gather(self, part: Tensor) -> Tensor:
        of = logits if part.dim() == 2 else lambda numbers: torch.tensor(numbers) % 3
        assert torch.equal(part, of(self.shares[self.rank]))
        return torch.stack([of(share) for share in self.shares])


def logits(numbers: list[int]) -> Tensor:
    return torch.tensor([[number, number / 2] for number in numbers], dtype=torch.float64)


@pytest.mark.parametrize("images", [1, 4, 5, 17])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_image_is_there_once_in_its_place_whatever_the_number_of_processes(images, ranks):
    for rank in range(ranks):
        outputs = Rank(rank, ranks, images).run(batch_size=2)
        assert outputs.logits is not None
        assert outputs.labels is not None
        assert torch.equal(outputs.logits, logits([*range(images)]).float())
        assert torch.equal(outputs.labels, torch.arange(images) % 3)


def test_a_test_without_batches_has_no_outputs():
    outputs = TestOutputs()
    outputs.on_test_epoch_end(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert outputs.logits is None
    assert outputs.labels is None
