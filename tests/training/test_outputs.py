from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from discern.run import train
from discern.runs.tested import read_tested
from discern.training.outputs import SAMPLES, TestOutputs, spread
from photos import photos_in_turn
from run_files import composed, summary


class Rank:
    """One of several processes that test together: every so-many-th image is its own."""

    def __init__(self, rank: int, ranks: int, images: int) -> None:
        self.shares = [range(other, images, ranks) for other in range(ranks)]
        self.rank, self.images = rank, images

    def run(self, batch_size: int) -> TestOutputs:
        outputs = TestOutputs()
        trainer: Any = SimpleNamespace(world_size=len(self.shares))
        module: Any = SimpleNamespace()
        outputs.on_test_epoch_start(trainer, module)
        # As many batches as the first one has, of which the last may be empty.
        for begin in range(0, len(self.shares[0]), batch_size):
            numbers = [*self.shares[self.rank][begin : begin + batch_size]]
            said = {"logits": logits(numbers), "labels": labels(numbers)}
            outputs.on_test_batch_end(trainer, module, said, None, begin)
        outputs.on_test_epoch_end(trainer, module)
        return outputs

    def gather(self, part: Tensor) -> list[Tensor]:
        of = (lambda share: logits(share).float()) if part.dim() == 2 else labels
        assert torch.equal(part, of(self.shares[self.rank]))
        return [of(share) for share in self.shares]


def labels(numbers: Iterable[int]) -> Tensor:
    return torch.tensor([*numbers], dtype=torch.int64) % 3


def logits(numbers: Iterable[int]) -> Tensor:
    rows = [[number, number / 2] for number in numbers]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


@pytest.mark.parametrize("images", [1, 4, 5, 17])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_image_is_there_once_in_its_place_whatever_the_number_of_processes(
    images, ranks, monkeypatch
):
    for rank in range(ranks):
        process = Rank(rank, ranks, images)
        monkeypatch.setattr("discern.training.outputs.gather_all_tensors", process.gather)
        outputs = process.run(batch_size=2)
        assert outputs.logits is not None
        assert outputs.labels is not None
        assert torch.equal(outputs.logits, logits([*range(images)]).float())
        assert torch.equal(outputs.labels, torch.arange(images) % 3)


def test_a_test_without_batches_has_no_outputs():
    outputs = TestOutputs()
    outputs.on_test_epoch_end(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert outputs.logits is None
    assert outputs.labels is None


@pytest.mark.parametrize("length", [1, SAMPLES - 1, SAMPLES, 49, 194, 10_000])
def test_a_sample_is_spread_over_all_of_a_split(length: int) -> None:
    places = spread(length, SAMPLES)
    assert len(set(places)) == len(places) == min(length, SAMPLES)
    gaps = [b - a for a, b in zip(places, [*places[1:], length], strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert spread(0, SAMPLES) == []


def of_folder(place: Path, *overrides: str, name: str) -> Path:
    """The folder of a run on ``pictures``, whose files are found class by class."""
    cfg = composed(
        *("data=image_folder", "data.image_size=8", "data.num_workers=0", "data.val_size=12"),
        *("data.test_size=12", "data.eval_batch_size=3", "model.hidden=[8]", "report=false"),
        *("trainer.accelerator=cpu", "trainer.max_epochs=2", *overrides),
    )
    cfg.data.dir, cfg.folder = str(place / "pictures"), str(place / name)
    return train(cfg).folder


def test_what_a_limit_leaves_of_a_test_is_of_all_classes_and_keeps_its_files(tmp_path):
    photos_in_turn(tmp_path / "pictures", 42)
    limits = ("trainer.limit_val_batches=1", "trainer.limit_test_batches=2")
    part = of_folder(tmp_path, *limits, name="part")
    assert summary(part)["calibration"]["images"] == 3
    some = read_tested(part).predictions
    assert some.labels.tolist() == [0, 0, 1, 1, 2, 2]
    whole = read_tested(
        of_folder(tmp_path, "train=false", f"ckpt_path='{part}'", name="whole")
    ).predictions
    rows = [whole.files.index(file) for file in some.files]
    assert rows != list(range(6))
    assert some.indices.tolist() == whole.indices[rows].tolist()
    assert some.losses == pytest.approx(whole.losses[rows], rel=1e-5)
