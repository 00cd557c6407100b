"""Writes what TensorBoard shows of a run besides its scalars."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor

from discern.data.module import ImageDataModule
from discern.errors import DiscernError, first_line
from discern.reports.confusion import confusion_figure, confusion_matrix
from discern.reports.samples import as_pixels, top_losses
from discern.reports.sheet import rendered
from discern.reports.tensorboard.layout import layout
from discern.reports.tensorboard.logger import TensorBoard
from discern.runs.predictions import Predictions
from discern.runs.sweep_job import sweep_draws

log = logging.getLogger(__name__)

THRESHOLDS = 51
"""Points of a precision-recall curve."""


class Dashboard(Callback):
    """Shows a run's network, its validation and its features in TensorBoard.

    It does nothing without a TensorBoard logger, has no hook around batches, and writes between
    epochs, when nobody measures training's speed. With several processes there are no pictures of
    the validation, of which each process sees a part.

    Args:
        images_every: epochs from one set of pictures of the validation to the next; the last epoch
            has one in any case.
        worst: predictions in the picture of the worst.
        pr_curves: classes, the first ones, that have a precision-recall curve.
        graph: whether the network is drawn.
        projector: images that are points in the projector, where a frozen backbone has features.
        sparing: leave out all but the charts' layout; jobs of a sweep always do.
    """

    def __init__(
        self,
        images_every: int,
        worst: int,
        pr_curves: int,
        graph: bool,
        projector: int,
        sparing: bool,
    ) -> None:
        self.images_every = images_every
        self.worst = worst
        self.pr_curves = pr_curves
        self.graph = graph
        self.projector = projector
        self.sparing = sparing or sweep_draws()
        self._validated = self._drawn = 0  # epochs, from 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which curves share a chart; draw the network."""
        logger, model = _logger(trainer), _classifier(pl_module)
        if logger is None:
            return
        logger.experiment.add_custom_scalars(layout(model.metric_names))
        if self.graph and not self.sparing:
            self._draw_graph(logger, trainer, model)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have what the model says kept."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        drawn = not self.sparing and trainer.world_size == 1
        if fitting and drawn and _logger(trainer) is not None:
            _classifier(pl_module).validated = []
            self._validated = trainer.current_epoch + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is due."""
        logger, epoch = _logger(trainer), trainer.current_epoch + 1
        if logger is None or self.sparing:
            return
        if self._validated == epoch and epoch % self.images_every == 0:
            self._draw_validation(logger, trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation, and write the points of the projector."""
        logger, model = _logger(trainer), _classifier(pl_module)
        if logger is None or self.sparing:
            return
        if self._validated > self._drawn:
            self._draw_validation(logger, trainer, pl_module)
        if self.projector and getattr(trainer.datamodule, "features", None) is not None:  # type: ignore[attr-defined]
            self._write_projector(logger, trainer, model)
        model.validated = None

    # What is written

    def _draw_graph(self, logger: TensorBoard, trainer: Trainer, model: Any) -> None:
        from discern.reports.tensorboard.graph import graph_of

        try:
            graph = graph_of(model.network, trainer.datamodule.input_shape)  # type: ignore[attr-defined]
        except Exception as error:  # a network of the user's own that cannot be run like this
            log.warning("TensorBoard has no graph of the network: %s.", first_line(error))
            return
        logger.log_graph_of(graph)

    def _draw_validation(self, logger: TensorBoard, trainer: Trainer, model: Any) -> None:
        self._drawn = epoch = self._validated
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        predictions = _predictions(model.validated, data)
        if predictions is None:
            return
        writer, names = logger.experiment, predictions.class_names
        # Of a model whose outputs are NaN there is no curve.
        for number, name in enumerate(names[: 0 if predictions.undefined else self.pr_curves]):
            truth = predictions.labels == number
            scores = predictions.probabilities[:, number]
            writer.add_pr_curve(f"val/pr_curve/{name}", truth, scores, epoch, THRESHOLDS)
        title = f"{len(predictions):,} validation images after epoch {epoch}"
        matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
        figure = confusion_figure(matrix, names, title)
        writer.add_image("val/confusion_matrix", rendered(figure), epoch, dataformats="HWC")
        rows = predictions.worst(self.worst)
        try:
            pixels, _ = _pixels(data.val_dataset, rows, data)
        except (DiscernError, OSError) as error:
            log.warning("TensorBoard has no picture of the worst predictions: %s", error)
            return
        page = top_losses(predictions, rows, pixels, f"The worst of {title}")
        writer.add_image(
            "val/worst_predictions", rendered(page.finished()), epoch, dataformats="HWC"
        )

    def _write_projector(self, logger: TensorBoard, trainer: Trainer, model: Any) -> None:
        from discern.reports.tensorboard.projector import THUMBNAIL, Points, write_projector

        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.val_dataset if data.has_validation else data.train_dataset
        chosen = _spread(len(dataset), self.projector)
        try:
            # Those that there are: of training images, of their first view.
            view = None if data.has_validation else data.augmentation
            assert data.features is not None
            features = data.features.rows(dataset, chosen, view, data.seed, 0)
            pixels, labels = _pixels(dataset.smaller(THUMBNAIL), chosen, data)
            columns = _columns(model.network, data, features, labels)
            files = dataset.names()
            if files is not None:
                columns["file"] = [Path(files[place]).name for place in chosen.tolist()]
            points = Points(features.numpy(), pixels, columns)
            write_projector(points, "features of the backbone", Path(logger.log_dir))
        except (DiscernError, OSError) as error:
            log.warning("TensorBoard's projector has no points: %s", error)


def _logger(trainer: Trainer) -> TensorBoard | None:
    if not trainer.is_global_zero:
        return None
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoard)), None)


def _classifier(pl_module: LightningModule) -> Any:
    """The module as what it is: discern trains no other."""
    return pl_module


def _predictions(
    validated: list[tuple[Tensor, Tensor]], data: ImageDataModule
) -> Predictions | None:
    """What the model said of the validation images, in their order; None without a batch."""
    if not validated:
        return None
    logits, labels = (torch.cat(parts).cpu() for parts in zip(*validated, strict=True))
    indices = torch.arange(len(labels))
    return Predictions.of(logits.float(), labels, indices, list(data.class_names))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of ``count`` indices, at equal distances."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _pixels(
    dataset: Any, rows: NDArray[np.int64], data: ImageDataModule
) -> tuple[NDArray[np.uint8], Tensor]:
    """Pixels, uint8 (N, C, H, W), and labels of some images of a data set."""
    images, labels = dataset.__getitems__(rows.tolist())
    return as_pixels(images, data.preprocessing["mean"], data.preprocessing["std"]), labels


def _columns(
    network: Any, data: ImageDataModule, features: Tensor, labels: Tensor
) -> dict[str, list[str]]:
    """Label and predicted class of each image."""
    head = network.head
    training = head.training
    head.eval()
    with torch.no_grad():
        weights = next(head.parameters())  # which trainer.precision may have made double or half
        predicted = head(features.to(weights.device, weights.dtype)).argmax(dim=1).cpu()
    head.train(training)
    names = data.class_names
    said = {"label": labels.tolist(), "predicted": predicted.tolist()}
    return {column: [names[number] for number in numbers] for column, numbers in said.items()}
