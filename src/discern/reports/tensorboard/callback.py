"""The callback that writes pictures, curves, graph and features to TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor, nn

from discern.data.augment import View
from discern.data.images import Images, Shown
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, first_line
from discern.models.classifier import Classifier
from discern.reports.confusion import confusion_figure, confusion_matrix
from discern.reports.samples import as_pixels, top_losses
from discern.reports.sheet import rendered
from discern.reports.tensorboard.layout import layout
from discern.reports.tensorboard.logger import TensorBoard, step_of
from discern.runs.predictions import Predictions
from discern.runs.sweep_job import sweep_draws

log = logging.getLogger(__name__)

THRESHOLDS = 51
"""Points of a precision-recall curve."""


class Dashboard(Callback):
    """Shows a run's network, validation and features in TensorBoard.

    It does nothing without a TensorBoard logger, has no hook around batches, and writes between
    epochs, outside the time that counts for training speed. With several processes there are no
    validation pictures, since each process sees only a part of the images.

    Args:
        images_every: write validation pictures every this many epochs, and after the last one.
        worst: number of images in the picture of the worst predictions.
        pr_curves: number of classes, the first ones, with a precision-recall curve.
        graph: whether to write the network's graph.
        projector: number of images in the projector, for models with a frozen backbone.
        sparing: write only the layout of charts; jobs of a sweep always do.
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
        self._step = 0  # of the last validation's scalars

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout of charts and the network's graph."""
        logger, model = _logger(trainer), _classifier(pl_module)
        if logger is None:
            return
        logger.experiment.add_custom_scalars(layout(model.metric_names))
        if self.graph and not self.sparing:
            self._draw_graph(logger, trainer, model)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the model keep its validation outputs."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        drawn = not self.sparing and trainer.world_size == 1
        if fitting and drawn and _logger(trainer) is not None:
            _classifier(pl_module).validated = []
            self._validated, self._step = trainer.current_epoch + 1, step_of(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the validation pictures if they are due."""
        logger, epoch = _logger(trainer), trainer.current_epoch + 1
        if logger is None or self.sparing:
            return
        if self._validated == epoch and epoch % self.images_every == 0:
            self._draw_validation(logger, trainer, _classifier(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last validation's pictures and the projector."""
        logger, model = _logger(trainer), _classifier(pl_module)
        if logger is None or self.sparing:
            return
        if self._validated > self._drawn:
            self._draw_validation(logger, trainer, model)
        if self.projector and getattr(trainer.datamodule, "features", None) is not None:  # type: ignore[attr-defined]
            self._write_projector(logger, trainer, model)
        model.validated = None

    def _draw_graph(self, logger: TensorBoard, trainer: Trainer, model: Classifier) -> None:
        from discern.reports.tensorboard.graph import graph_of

        try:
            graph = graph_of(model.network, trainer.datamodule.input_shape)  # type: ignore[attr-defined]
        except Exception as error:  # a user's own network may not run like this
            log.warning("TensorBoard has no graph of the network: %s.", first_line(error))
            return
        logger.log_graph_of(graph)

    def _draw_validation(self, logger: TensorBoard, trainer: Trainer, model: Classifier) -> None:
        self._drawn = epoch = self._validated
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        predictions = _predictions(model.validated or [], data)
        if predictions is None:
            return
        writer, names = logger.experiment, predictions.class_names
        # Outputs that are NaN have no curve.
        for number, name in enumerate(names[: 0 if predictions.undefined else self.pr_curves]):
            truth = predictions.labels == number
            scores = predictions.probabilities[:, number]
            writer.add_pr_curve(f"val/pr_curve/{name}", truth, scores, self._step, THRESHOLDS)
        title = f"{len(predictions):,} validation images after epoch {epoch}"
        matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
        figure = confusion_figure(matrix, names, title)
        writer.add_image("val/confusion_matrix", rendered(figure), self._step, dataformats="HWC")
        rows = predictions.worst(self.worst)
        try:
            pixels, _ = _pixels(data.evaluated("val"), rows, data)
        except (DiscernError, OSError) as error:
            log.warning("TensorBoard has no picture of the worst predictions: %s", error)
            return
        page = top_losses(predictions, rows, pixels, f"The worst of {title}")
        writer.add_image(
            "val/worst_predictions", rendered(page.finished()), self._step, dataformats="HWC"
        )

    def _write_projector(self, logger: TensorBoard, trainer: Trainer, model: Classifier) -> None:
        from discern.reports.tensorboard.projector import THUMBNAIL, Points, write_projector

        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.val_dataset if data.has_validation else data.train_dataset
        chosen = _spread(len(dataset), self.projector)
        try:
            # Cached features of training images exist only for augmented views: take the first.
            augmentation = None if data.has_validation else data.augmentation
            shown = Shown(dataset, View.of(augmentation, data.seed, 0))
            assert data.features is not None
            features = data.features.rows(shown, chosen)
            pixels, labels = _pixels(dataset.smaller(THUMBNAIL), chosen, data)
            columns = _columns(cast(nn.Module, model.network.head), data, features, labels)
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


def _classifier(pl_module: LightningModule) -> Classifier:
    """The module; discern trains only classifiers."""
    return cast(Classifier, pl_module)


def _predictions(
    validated: list[tuple[Tensor, Tensor]], data: ImageDataModule
) -> Predictions | None:
    """The predictions for the validation images, in their order; None without a batch."""
    if not validated:
        return None
    logits, labels = (torch.cat(parts).cpu() for parts in zip(*validated, strict=True))
    indices = torch.arange(len(labels))
    return Predictions.of(logits.float(), labels, indices, list(data.class_names))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of ``count`` indices, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _pixels(
    dataset: Images, rows: NDArray[np.int64], data: ImageDataModule
) -> tuple[NDArray[np.uint8], Tensor]:
    """Pixels, uint8 (N, C, H, W), and labels of some images of a data set."""
    images, labels = dataset.__getitems__(rows.tolist())
    return as_pixels(images, data.preprocessing), labels


def _columns(
    head: nn.Module, data: ImageDataModule, features: Tensor, labels: Tensor
) -> dict[str, list[str]]:
    """Label and predicted class of each image."""
    training = head.training
    head.eval()
    with torch.no_grad():
        weights = next(head.parameters())  # which trainer.precision may have made double or half
        predicted = head(features.to(weights.device, weights.dtype)).argmax(dim=1).cpu()
    head.train(training)
    names = data.class_names
    numbers = {"label": labels.tolist(), "predicted": predicted.tolist()}
    return {column: [names[number] for number in each] for column, each in numbers.items()}
