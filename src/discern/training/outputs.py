"""What a run keeps of its images: test predictions and pictures of training samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import STEP_OUTPUT
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from discern.config.values import plain
from discern.data.module import ImageDataModule
from discern.reports.fonts import isolated
from discern.reports.lettering import distinct
from discern.reports.samples import CAPTION, FONT, Caption, as_pixels, copied, draw_grid, remember
from discern.runs.predictions import Predictions, warn_of_undefined
from discern.runs.tested import Tested, digest_of, write_tested
from discern.runs.thumbnails import chosen, thumbnails


class TestOutputs(Callback):
    """Collects the logits and labels of a test, in the order of its images.

    Attributes:
        logits: float32 (N, K), on the CPU; None before a test has ended.
        labels: int64 (N,).
    """

    def __init__(self) -> None:
        self.logits: Tensor | None = None
        self.labels: Tensor | None = None
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._batches = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's logits and labels."""
        assert isinstance(outputs, dict)
        self._batches.append((outputs["logits"], outputs["labels"]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Concatenate the batches, also of other processes."""
        if not self._batches:
            return
        logits, labels = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        self._batches = []
        logits = logits.float()  # an empty share has no type of its own
        if trainer.world_size > 1:
            logits, labels = _of_all_processes(logits), _of_all_processes(labels)
        self.logits, self.labels = logits.cpu(), labels.cpu()


def _of_all_processes(part: Tensor) -> Tensor:
    """Gather the parts of W processes, each holding every W-th row, in the original order."""
    shares = gather_all_tensors(part)
    whole = part.new_empty(sum(map(len, shares)), *part.shape[1:])
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


THUMBNAILS, THUMBNAILS_OF_FILES = 600, 200
"""Test images of which a small picture is kept; files have to be read and decoded again."""


@rank_zero_only
def keep_test(outputs: TestOutputs, data: ImageDataModule, folder: Path) -> None:
    """Write the predictions for the test images, with thumbnails of some."""
    if outputs.logits is None or outputs.labels is None:
        return
    tested = data.evaluated("test")
    indices = torch.arange(len(tested)) if tested.indices is None else tested.indices
    predictions = Predictions.of(
        outputs.logits,
        outputs.labels,
        indices,
        list(data.class_names),
        tested.names(),
    )
    warn_of_undefined(predictions.undefined, len(predictions))
    keep_predictions(predictions, data, folder)


def keep_predictions(predictions: Predictions, data: ImageDataModule, folder: Path) -> None:
    """Write predictions for the test images, with thumbnails of some."""
    tested = data.evaluated("test")
    rows = chosen(predictions, THUMBNAILS_OF_FILES if predictions.files else THUMBNAILS)
    pictures, _ = tested.__getitems__(rows.tolist())
    shown = thumbnails(rows, pixels_of(pictures, data))
    seen = digest_of(tested.identify(), predictions.labels)
    write_tested(Tested(predictions, seen, shown), folder)


SAMPLES = 25
"""Training images in samples.png."""


AUGMENTED, EPOCHS_SHOWN = 5, 4
"""Training images in augmented.png, and epochs in whose views each is shown beside itself."""


@rank_zero_only
def show_samples(
    cfg: DictConfig, data: ImageDataModule, facts: Mapping[str, Any], folder: Path
) -> None:
    """Draw samples.png and augmented.png: training images as the network will see them.

    Those of jobs of a sweep with the same data are copied, and no image is read.
    """
    title, train = facts["data"]["title"], data.train_dataset
    key = repr((plain(cfg.data), data.fingerprint, data.preprocessing, title))
    if copied(key, folder):
        return
    drawn = [folder / "samples.png"]
    few = spread(len(train), SAMPLES)
    images, labels = data.seen_in_epoch(few, 0)
    names = distinct(list(data.class_names), CAPTION, FONT)
    shown = f"{isolated(title)}: training images as the network sees them"
    captions: list[Caption] = [(names[label],) for label in labels.tolist()]
    draw_grid(pixels_of(images, data), captions, shown, drawn[0])
    if data.augmentation is not None:
        few = few[:: max(1, len(few) // AUGMENTED)][:AUGMENTED]
        unchanged, labels = train.__getitems__(few)
        views = [data.seen_in_epoch(few, epoch)[0] for epoch in range(EPOCHS_SHOWN)]
        captions = [
            (caption,)
            for label in labels.tolist()
            for caption in (names[label], *(f"epoch {n + 1}" for n in range(len(views))))
        ]
        images = torch.stack([unchanged, *views], dim=1).flatten(0, 1)
        shown = f"{isolated(title)}: a few images and what training makes of them"
        drawn.append(folder / "augmented.png")
        draw_grid(pixels_of(images, data), captions, shown, drawn[1], 1 + len(views))
    remember(key, drawn)


def spread(length: int, number: int) -> list[int]:
    """At most ``number`` positions, evenly from all of a list, which may be sorted by class."""
    taken = min(number, length)
    return [place * length // taken for place in range(taken)]


def pixels_of(images: Tensor, data: ImageDataModule) -> NDArray[np.uint8]:
    """Normalised images as uint8 pixels."""
    return as_pixels(images, data.preprocessing)
