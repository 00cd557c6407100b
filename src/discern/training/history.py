"""What a run measured, epoch by epoch, and the time that training and validation took."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import STEP_OUTPUT
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from discern.files.csv_cells import csv_cell
from discern.files.writing import dispensable, write_whole
from discern.models.classifier import Batch
from discern.models.metrics import STEP_LOSS, EpochMetrics
from discern.reports.speed import how_counted
from discern.runs.metric_table import CLASS_ACCURACY, DRAWN, MAX_CLASS_CURVES
from discern.schema import Strict
from discern.tables import terminal_width
from discern.training.seam import settings_of
from discern.training.states import MAX_COUNT, check_count

if TYPE_CHECKING:  # start-up time: a frozen backbone alone has features
    from discern.features.source import FeatureSource

log = logging.getLogger(__name__)

NORM_EVERY = 50
"""Optimizer steps from one measured gradient norm to the next, of which an epoch logs the mean."""

ROWS_AT_ONCE = 100
"""Up to so many rows, metrics.csv is written after each epoch."""

SHARE_OF_TIME = 0.01
"""The most that writing a longer metrics.csv takes of a run."""

Row = dict[str, float]
"""Name -> value of the metrics of an epoch, and its ``epoch`` (from 1) and ``step``."""

_Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
_Seconds = Annotated[float, Field(ge=0, le=MAX_COUNT)]


class Totals(Strict):
    """Sums over all epochs of a run: images with repeats, seconds of training and of validation.

    Of the images, those whose features were read from the cache, and those whose features were
    computed for it meanwhile; the network saw the others itself.
    """

    images: _Count = 0
    features_read: _Count = 0
    features_computed: _Count = 0
    fit_seconds: _Seconds = 0.0
    validation_seconds: _Seconds = 0.0


class Epoch(Strict):
    """The current epoch: its initial learning rate, what it has seen, whether it is over.

    ``served``: it trains on features, of which ``computed`` were computed during the epoch.
    ``norms`` is the number of gradient norms measured so far, ``norm_sum`` their sum, and
    ``by_class`` the validation's accuracy for each class, by its column.
    """

    number: Annotated[int, Field(ge=0, lt=2**31)]
    lr: float
    images: _Count = 0
    fit_seconds: _Seconds = 0.0
    validated: bool = False
    over: bool = False
    served: bool = False
    computed: _Count = 0
    steps: _Count = 0
    norms: _Count = 0
    norm_sum: float = 0.0
    by_class: dict[str, float] = Field(default_factory=dict, max_length=MAX_CLASS_CURVES)

    @property
    def counted(self) -> dict[str, int]:
        """Images by the origin of their features, as in :class:`Totals`."""
        if not self.served:
            return {"features_read": 0, "features_computed": 0}
        computed = min(self.computed, self.images)
        return {"features_read": self.images - computed, "features_computed": computed}


def _check_row(row: Row) -> Row:
    for name in ("epoch", "step"):
        check_count(row.get(name), name)
    return row


class HistoryState(Strict):
    """What a checkpoint holds of a :class:`History`."""

    rows: list[
        Annotated[
            dict[Annotated[str, Field(max_length=200)], int | float],
            Field(max_length=200),
            AfterValidator(_check_row),
        ]
    ]
    totals: Totals
    epoch: Epoch | None


class History(Callback):
    """Keeps a row of metrics per epoch, and logs a line about each.

    Its state is part of checkpoints: a continued run has the rows of its first part too, even if
    that part ended in the middle of an epoch.

    Attributes:
        rows: one an epoch: ``epoch`` (from 1), ``step`` (optimizer steps so far) and every metric
            logged in it.
        totals: sums over the epochs.
        validation_seconds: of these, what this process took, and not the run it continues.
    """

    def __init__(self, validation_seconds: float = 0.0) -> None:
        self.rows: list[Row] = []
        self.totals = Totals()
        self.validation_seconds = validation_seconds
        self._epoch: Epoch | None = None
        self._trainer: Trainer | None = None
        self._clock = 0.0
        self._source: FeatureSource | None = None
        self._known = 0
        self._norms: list[Tensor] = []
        self._is_written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the trainer for its metrics."""
        self._trainer = trainer

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; take out of metrics.csv what is not in the history."""
        self._clock = time.perf_counter()
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and logger.path.exists():
                logger.write(self.rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the previous epoch and open this one."""
        self._close_epoch()
        # Now, since at its end some schedules have moved on to the next epoch's rate.
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._epoch = Epoch(number=trainer.current_epoch, lr=rate)
        self._source = _source(trainer)
        self._clock, self._known = time.perf_counter(), self._computed()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure the norm of the gradient, before clipping, in some steps."""
        epoch = self._epoch
        if epoch is None:  # Lightning's search of a batch size
            return
        if all(p.grad is None for p in pl_module.parameters()):  # a step that is not taken
            return
        if epoch.steps % NORM_EVERY == 0:
            self._norms.append(gradient_norm(pl_module))
        epoch.steps += 1

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the images."""
        assert self._epoch is not None
        self._epoch.images += batch[1].shape[0]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop training's clock."""
        if self._epoch is not None:
            self._take(self._epoch, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop validation's clock."""
        if self._epoch is not None:
            seconds = self._lap()
            self.validation_seconds += seconds
            self.totals.validation_seconds += seconds
            self._epoch.validated = True
            self._epoch.by_class = _class_columns(pl_module)
            self._known = self._computed()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's speed and learning rate; the module logs its metrics after this."""
        epoch = self._epoch
        assert epoch is not None
        self._take(epoch, trainer)
        epoch.over = True
        self.totals.fit_seconds += epoch.fit_seconds
        self.totals.images += epoch.images
        self.totals.features_read += epoch.counted["features_read"]
        self.totals.features_computed += epoch.counted["features_computed"]
        pl_module.log("train/seconds", epoch.fit_seconds, sync_dist=True)
        speed = epoch.images * trainer.world_size / epoch.fit_seconds
        pl_module.log("train/images_per_second", speed, sync_dist=True)
        pl_module.log("train/lr", epoch.lr, sync_dist=True)
        self._add_norms()
        if epoch.norms:
            pl_module.log("train/grad_norm", epoch.norm_sum / epoch.norms, sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the last epoch."""
        self._close_epoch()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the last epoch if it is over, as when a loss diverged in its validation."""
        if self._epoch is not None and self._epoch.over:  # another goes into the checkpoint
            self._close_epoch()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the rows of a continued run in which nothing is left to train."""
        if stage == "fit" and self.rows and not self._is_written:
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the epoch under way, as plain values."""
        row = self._row()
        self._add_norms()
        epoch = None if self._epoch is None or self._epoch.over else self._epoch.model_dump()
        rows = [*self.rows, row] if row else list(self.rows)
        return {"rows": rows, "totals": self.totals.model_dump(), "epoch": epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history of the continued run."""
        state = HistoryState.model_validate(state_dict)
        self.rows, self.totals, self._epoch = state.rows, state.totals, state.epoch

    def _take(self, epoch: Epoch, trainer: Trainer) -> None:
        """Add the time and features since training last resumed."""
        epoch.fit_seconds += self._lap()
        # Not at the epoch's beginning: a callback may have unfrozen the backbone there.
        epoch.served = _source(trainer) is not None
        epoch.computed += self._computed() - self._known

    def _add_norms(self) -> None:
        """Add the latest gradient norms to the epoch's; asking for each would stop a GPU."""
        norms, self._norms = self._norms, []
        if self._epoch is not None:
            values = torch.stack(norms).tolist() if norms else []
            self._epoch.norms += len(values)
            for value in values:
                self._epoch.norm_sum += value

    def _computed(self) -> int:
        """Features that the source has computed so far."""
        return 0 if self._source is None else int(self._source.features_computed)

    def _lap(self) -> float:
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before

    def _row(self) -> Row | None:
        if self._trainer is None or self._epoch is None or not self._epoch.over:
            return None
        row: Row = {"epoch": self._epoch.number + 1, "step": self._trainer.global_step}
        for name, value in sorted(self._trainer.callback_metrics.items()):
            # Lightning keeps the last validation's metrics through epochs without one.
            kept = self._epoch.validated or not name.startswith("val/")
            if kept and name != STEP_LOSS:
                row[name] = float(value)
        return row | self._epoch.by_class

    def _close_epoch(self) -> None:
        if (row := self._row()) and self._epoch is not None and self._trainer is not None:
            self.rows.append(row)
            self._write(self._trainer)
            counted = how_counted(**self._epoch.counted)
            log.info(epoch_line(row, counted, terminal_width(10_000)))
        self._epoch = None

    def _write(self, trainer: Trainer) -> None:
        self._is_written = True
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.write(self.rows)


def gradient_norm(module: nn.Module, order: float = 2.0) -> Tensor:
    """The norm of all gradients of a module together, float32 (): L2, or that of another order."""
    grads = [p.grad.detach() for p in module.parameters() if p.grad is not None]
    dense = [grad.coalesce().values() if grad.is_sparse else grad for grad in grads]
    # In half precision the sum of squares may be infinite.
    return get_total_norm([grad.float() for grad in dense], order)


def _class_columns(module: LightningModule) -> dict[str, float]:
    """The last validation's accuracy for each class, as columns of a row."""
    metrics = getattr(module, "val_metrics", None)
    found = metrics.class_accuracy if isinstance(metrics, EpochMetrics) else {}
    few = len(found) <= MAX_CLASS_CURVES
    return {f"{CLASS_ACCURACY}{number}": value for number, value in found.items()} if few else {}


def _source(trainer: Trainer) -> FeatureSource | None:
    """The source of cached features, if training uses one."""
    return getattr(settings_of(trainer).datamodule, "features", None)


def epoch_line(row: Row, counted: str = "", width: int = 10_000) -> str:
    """The line logged for an epoch.

    Args:
        row: the epoch's metrics.
        counted: what images/s count, see :func:`how_counted`.
        width: characters of a line. If they are too few, images/s are left out, which metrics.csv
            has too; then each split has a line of its own.
    """
    parts = [f"epoch {row['epoch']:.0f}"]
    for split in ("train", "val"):
        values = [(each, row.get(f"{split}/{each.name}")) for each in DRAWN]
        shown = [f"{each.title} {each.text(x)}" for each, x in values if x is not None]
        if shown:
            parts.append(" ".join([split, *shown]))
    speed = []
    if "train/images_per_second" in row:
        of = f" ({counted})" if counted else ""
        speed = [f"{row['train/images_per_second']:,.0f} images/s{of}"]
    lines = ["   ".join([*parts, *speed]), "  ".join([*parts, *speed]), "  ".join(parts)]
    indent = "\n" + " " * (len(parts[0]) + 2)
    split_by_split = f"{parts[0]}  {indent.join(parts[1:])}"
    return next((line for line in lines if len(line) <= width), split_by_split)


class MetricsCSV(Logger):
    """Writes metrics.csv: one row an epoch with every metric of that epoch.

    Lightning's own CSVLogger writes a row a call, so that training and validation metrics of one
    epoch stand in different rows, each half empty. The rows are those of :class:`History`.

    A file of many rows is not written in each epoch, since all of it is written, but so often that
    this takes a hundredth of the time, and when training ends.

    Args:
        path: the file; it is replaced as a whole, so that a reader never sees half a row.

    Raises:
        OSError: its folder cannot be made.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        # Now: a path that never could be written is a mistake, a full disk later is bad luck.
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._unwritten: Sequence[Row] = ()
        self._next = 0.0

    @property
    def name(self) -> str:
        """What the logger is called."""
        return "csv"

    @property
    def version(self) -> str:
        """A run has one file, so there are no versions."""
        return ""

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        """Nothing: the settings stand in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing: the history has them too, a row an epoch."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows that were put off."""
        if self._unwritten:
            self._write(self._unwritten)

    @rank_zero_only
    def write(self, rows: Sequence[Row]) -> None:
        """Write the training and validation metrics of all epochs so far, at once or later."""
        begun = time.monotonic()
        if len(rows) > ROWS_AT_ONCE and begun < self._next:
            self._unwritten = rows
            return
        self._write(rows)
        now = time.monotonic()
        self._next = now + (now - begun) / SHARE_OF_TIME

    def _write(self, rows: Sequence[Row]) -> None:
        self._unwritten = ()
        logged = {name for row in rows for name in row if name.startswith(("train/", "val/"))}
        names = ["epoch", "step", *sorted(logged)]
        with dispensable(self.path.name), write_whole(self.path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(csv_cell, names))
            for row in rows:
                # float32 has seven digits; more are noise.
                cells = (row.get(name, "") for name in names)
                writer.writerow(float(f"{x:.7g}") if isinstance(x, float) else x for x in cells)
