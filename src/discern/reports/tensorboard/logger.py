"""The loggers for TensorBoard and Weights & Biases."""

import sys
from typing import TYPE_CHECKING

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from discern.redaction import redacted_setting

if TYPE_CHECKING:
    from tensorboard.compat.proto.graph_pb2 import GraphDef


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger without its hparams.yaml, as the run has its config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        FabricTensorBoardLogger.save(self)

    @rank_zero_only
    def log_graph_of(self, graph: "GraphDef") -> None:
        """Write a network's graph."""
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
        """Write the run's row in the HParams tab: its settings, these metrics and all it logged.

        Args:
            settings: flat name -> value.
            metrics: tag -> value.
            step: optimizer steps taken.
            ended: whether training ended.
        """
        from torch.utils.tensorboard.summary import hparams  # start-up time

        # The first event would define the table's columns, and TensorBoard takes those of whichever
        # run it reads first. Without it the columns come from all runs.
        _, begin, end = hparams(settings, metrics)  # type: ignore[no-untyped-call]
        self.log_metrics(metrics, step)
        writer = self.experiment._get_file_writer()
        for event in (begin, end) if ended else (begin,):
            writer.add_summary(event, step)
        # Lightning has closed the file after the fit and may not close this one.
        FabricTensorBoardLogger.finalize(self, "success")


class WeightsAndBiases(WandbLogger):
    """Lightning's WandbLogger without secrets in the command that it records."""

    @property
    @rank_zero_experiment
    def experiment(self) -> object:
        """The run of Weights & Biases."""
        arguments = sys.argv
        sys.argv = [redacted_setting(argument) for argument in arguments]
        try:
            return super().experiment
        finally:
            sys.argv = arguments
