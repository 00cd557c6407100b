"""A data set whose images tell their own index, and a model that notes which it has seen."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from discern.data.module import InMemoryDataModule, LoadedImages

NUM_IMAGES = 20


class NumberedImages(InMemoryDataModule):
    """Twenty training images of 1 x 1 x 2 pixels, of which the first is the image's index."""

    class_names = ["even", "odd"]  # noqa: RUF012 - an attribute of the base class
    input_shape = (1, 1, 2)

    def __init__(self, **settings: Any) -> None:
        defaults = {"val_size": 0, "batch_size": 3, "eval_batch_size": 5, "num_workers": 0}
        super().__init__(**{**defaults, "mean": 0.0, "std": 1.0, "seed": 1, **settings})

    def load_images(self) -> LoadedImages:
        index = torch.arange(NUM_IMAGES, dtype=torch.uint8)
        images = torch.stack((index, 255 - index), dim=1).view(-1, 1, 1, 2)
        labels = index.long() % 2
        return LoadedImages("Numbered", images, labels, images, labels, "full", ("digest",))


def indices_of(images: Tensor) -> list[int]:
    return [round(first * 255) for first in images[:, 0, 0, 0].tolist()]


class Recorder(LightningModule):
    """A linear model; ``seen`` is the epoch, number and image indices of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        torch.nn.init.eye_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self.seen: list[tuple[int, int, list[int]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.append((self.current_epoch, batch_idx, indices_of(images)))
        return torch.nn.functional.cross_entropy(self.linear(images.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validated += indices_of(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer on the CPU that prints and writes nothing of its own."""
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**defaults, **options})
