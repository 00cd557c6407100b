"""Where metrics go: one row an epoch in metrics.csv, and TensorBoard."""

import sys
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from discern.redaction import redacted_setting


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
