"""Where metrics go: one row an epoch in metrics.csv, and TensorBoard."""

import csv
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from discern.files.csv_cells import csv_cell
from discern.files.writing import write_whole
from discern.models.metrics import STEP_LOSS
from discern.redaction import redacted_setting


class MetricsCSV(Logger):
    """Writes one row an epoch with every metric of that epoch.

    Lightning's own CSVLogger writes a row a call, so that training and validation metrics of one
    epoch stand in different rows, each half empty. Metrics of single steps go to TensorBoard only.

    Args:
        path: the file; it is replaced as a whole, so that a reader never sees half a row.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: dict[int, dict[str, float]] = {}

    @property
    def name(self) -> str:
        """What the logger is called."""
        return "csv"

    @property
    def version(self) -> str:
        """A run has one file, so there are no versions."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        """The logger itself."""
        return self

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the settings stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics of an epoch to its row, and write the file."""
        epoch_metrics = {
            name: value
            for name, value in metrics.items()
            if name.startswith(("train/", "val/")) and name != STEP_LOSS
        }
        if "epoch" not in metrics or not epoch_metrics:
            return
        # People count epochs from 1, as the terminal and the curves do; Lightning from 0.
        epoch = int(metrics["epoch"]) + 1
        row = self.rows.setdefault(epoch, {"epoch": epoch})
        # Lightning counts from 0 here; a row says how many optimizer steps were taken.
        row.update(step=0 if step is None else step + 1, **epoch_metrics)
        if any(name.startswith("train/") for name in epoch_metrics):
            self._write()

    def _write(self) -> None:
        metrics = {column for row in self.rows.values() for column in row} - {"epoch", "step"}
        with write_whole(self.path) as file:
            writer = csv.DictWriter(file, ["epoch", "step", *sorted(metrics)], lineterminator="\n")
            writer.writerow({name: csv_cell(name) for name in writer.fieldnames})
            for row in self.rows.values():
                # float32 has seven digits; more are noise.
                writer.writerow(
                    {
                        name: float(f"{value:.7g}") if isinstance(value, float) else value
                        for name, value in row.items()
                    }
                )


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger without its hparams.yaml, as the run has its config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        FabricTensorBoardLogger.save(self)

    @rank_zero_only
    def log_graph_of(self, graph: Any) -> None:
        """Write a network's graph, a GraphDef."""
        from tensorboard.compat.proto.event_pb2 import Event

        writer = self.experiment._get_file_writer()
        writer.add_event(Event(graph_def=graph.SerializeToString()))

    @rank_zero_only
    def log_row(
        self,
        settings: dict[str, float | str],
        metrics: dict[str, float],
        step: int,
        ended: bool,
    ) -> None:
        """Write what the HParams tab shows of the run: its settings, and these and all its metrics.

        Args:
            settings: flat name -> value.
            metrics: tag -> value.
            step: optimizer steps taken.
            ended: whether training came to its end.
        """
        from torch.utils.tensorboard.summary import hparams  # not paid for by other loggers

        # An experiment's description, which comes first, would say what columns the table has, and
        # TensorBoard believes that of whichever run it reads first. Without any it takes the
        # columns from all runs, whatever model or optimizer they have.
        _, begin, end = hparams(settings, metrics)  # type: ignore[no-untyped-call]
        self.log_metrics(metrics, step)
        writer = self.experiment._get_file_writer()
        for event in (begin, end) if ended else (begin,):
            writer.add_summary(event, step)
        # Lightning has closed the file after the fit, and need not come to close this one.
        FabricTensorBoardLogger.finalize(self, "success")


class WeightsAndBiases(WandbLogger):
    """Lightning's WandbLogger; of the command, which it keeps, it is told no secrets."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of Weights & Biases."""
        arguments = sys.argv
        sys.argv = [redacted_setting(argument) for argument in arguments]
        try:
            return super().experiment
        finally:
            sys.argv = arguments
