"""The loggers for TensorBoard and Weights & Biases."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from discern.errors import DiscernError
from discern.files.writing import write_whole
from discern.redaction import redacted_setting
from discern.reports.tensorboard.events import EventWriter

if TYPE_CHECKING:
    from tensorboard.compat.proto.graph_pb2 import GraphDef


RESULT = "train-result"
"""Group of single values: of the best checkpoint and of the test.

TensorBoard sorts groups by name, and this one after ``train``, so that it opens on curves. The
columns of its HParams tab it sorts by the whole tag, where this comes before ``train/``.
"""


def step_of(trainer: Trainer) -> int:
    """The step of the scalars that Lightning logs now, in which it counts from 0."""
    loop = trainer.fit_loop.epoch_loop
    begun = loop.automatic_optimization.optim_progress.optimizer.zero_grad.total.completed
    return max(0, logged_steps(loop._batches_that_stepped, trainer.global_step, begun) - 1)


def logged_steps(counted: int, taken: int, begun: int) -> int:
    """Optimizer steps as loggers count them: with those that were left out (``on_nan=skip``).

    Args:
        counted: Lightning's count, which lacks a step until the validation after it is over.
        taken: steps that changed the weights.
        begun: steps for which gradients were set to zero.
    """
    return counted if counted in (taken, begun) else counted + 1


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger without its hparams.yaml, as the run has its config.yaml.

    It leaves out ``epoch``, which is no metric, and groups the test's with other single values. A
    full disk ends the events, and not the run.
    """

    _kept: frozenset[tuple[str, int]] = frozenset()

    @rank_zero_only
    def go_on_from(self, steps: int) -> None:
        """Take back what the folder's events hold of later steps, before this run writes any.

        Args:
            steps: optimizer steps of the run that is continued; 0 for a run that starts anew.
        """
        self._kept = frozenset(keep_events(Path(self.log_dir), steps))

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """What writes the events.

        Raises:
            DiscernError: the logger was given settings that would have no effect.
        """
        if self._experiment is None:
            if idle := sorted({"flush_secs", "max_queue"} & self._kwargs.keys()):
                raise DiscernError(
                    f"logger: {' and '.join(idle)} cannot be set, as each event is written at once."
                )
            self._experiment = EventWriter(log_dir=self.log_dir, **self._kwargs)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars, but those that the events of the continued run hold."""
        tags = {
            f"{RESULT}/{name}" if name.startswith("test/") else name: value
            for name, value in metrics.items()
            if name != "epoch"
        }
        new = {tag: value for tag, value in tags.items() if (tag, step) not in self._kept}
        super().log_metrics(new, step)

    @rank_zero_only
    def save(self) -> None:
        """Flush the events."""
        FabricTensorBoardLogger.save(self)

    @rank_zero_only
    def take_back(self, step: int) -> None:
        """Have readers leave out what was written for this step and those after it.

        The file must have been closed, as it is after a fit; the next one begins with the request.
        """
        self.experiment.purge_step = step

    @rank_zero_only
    def log_graph_of(self, graph: "GraphDef") -> None:
        """Write a network's graph."""
        from tensorboard.compat.proto.event_pb2 import Event

        writer = self.experiment._get_file_writer()
        writer.add_event(Event(graph_def=graph.SerializeToString()))

    @rank_zero_only
    def log_row(
        self,
        name: str,
        settings: dict[str, float | str],
        metrics: dict[str, float],
        step: int,
        ended: bool,
    ) -> None:
        """Write the run's row in the HParams tab: its settings, these metrics and all it logged.

        Args:
            name: what the tab calls its Trial ID, another for each run.
            settings: flat name -> value.
            metrics: tag -> value.
            step: of the scalars that were logged last.
            ended: whether training ended.
        """
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # start-up time
        from torch.utils.tensorboard.summary import hparams

        # The first event would define the table's columns, and TensorBoard takes those of whichever
        # run it reads first. Without it the columns come from all runs.
        _, begin, end = hparams(settings, metrics)  # type: ignore[no-untyped-call]
        plugin_data = begin.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin_data.content)
        content.session_start_info.group_name = name
        plugin_data.content = content.SerializeToString()
        self.log_metrics(metrics, step)
        writer = self.experiment._get_file_writer()
        for event in (begin, end) if ended else (begin,):
            writer.add_summary(event, step)
        # Lightning has closed the file after the fit and may not close this one.
        FabricTensorBoardLogger.finalize(self, "success")


def keep_events(folder: Path, steps: int) -> Iterator[tuple[str, int]]:
    """Take back what the event files of a folder hold of later steps.

    What each part of a run writes anew is left out as well: the settings, the graph, the layout of
    charts, the row of the HParams tab. A file that is damaged is kept up to there.

    Args:
        folder: with the event files.
        steps: optimizer steps that count; events count from 0, and the last of them is one less.

    Yields:
        Tag and step of each value of the last step that is kept.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    for file in sorted(folder.glob("events.out.tfevents.*")):
        kept = []
        for record in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(record)
            values = [each for each in event.summary.value if not each.tag.startswith(WRITTEN_ANEW)]
            of_a_step = bool(values) and event.step < steps
            if of_a_step:
                del event.summary.value[:]
                event.summary.value.extend(values)
                if event.step == steps - 1:
                    yield from ((value.tag, event.step) for value in values)
            if of_a_step or event.HasField("file_version"):
                kept.append(event.SerializeToString())
        if len(kept) < 2:
            file.unlink()
            continue
        with write_whole(file, "wb") as new:
            writer = RecordWriter(new)
            for record in kept:
                writer.write(record)


WRITTEN_ANEW = (f"{RESULT}/", "_hparams_/", "settings/", "custom_scalars__config__")
"""Beginnings of the tags of what each part of a run writes."""


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
