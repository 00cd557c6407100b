"""The metrics of one split over one epoch, cheap enough to keep at every step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor, cat, nn, stack
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from discern.runs.metric_table import METRICS, Counts

STEP_LOSS = "train/step_loss"
"""The loss of single steps, for TensorBoard's curve; every other metric is one an epoch."""

ROWS_AT_ONCE = 16_384
"""Images whose logits wait before they are counted: 66 MB of float32 for 1,000 classes."""


class Counted(TypedDict):
    """What a metric has counted so far: how often it was updated, and its sums."""

    updates: int
    states: dict[str, Any]


@dataclass
class _Waiting:
    """Batches not counted yet. Kept outside the module, whose attributes cost 3 us."""

    losses: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    rows: int = 0


class EpochMetrics(nn.Module):
    """The metrics of one split.

    A torchmetrics update takes longer than a small network's training step, so batches are kept and
    counted many at a time; the result is the same. Torchmetrics adds the counts of several
    processes up.

    Args:
        num_classes: the number of logits.
        split: "train", "val" or "test".
    """

    def __init__(self, num_classes: int, split: str) -> None:
        super().__init__()
        self._measured = [
            metric
            for metric in METRICS
            if split in metric.splits and num_classes > metric.more_classes_than
        ]
        # To count by class takes longer, and an average over images needs the sums alone.
        by_class = any(metric.average == "macro" for metric in self._measured)
        counted: dict[str, Metric | MetricCollection] = {
            "by_class": MulticlassStatScores(num_classes, average=None if by_class else "micro")
        }
        if "top5_error" in self.names:
            counted["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
        # Left alone, torchmetrics groups metrics whose counts agree after the first batch: after
        # one that is all right or all wrong, these would be one for ever.
        self.counts = MetricCollection(counted, compute_groups=False)
        # What is NaN is to stay NaN: left alone, torchmetrics leaves such losses out, and the mean
        # would look sound; with "disable" it leaves out the weights.
        self.loss = MeanMetric(nan_strategy=math.nan)
        self._waiting = _Waiting()

    @property
    def names(self) -> list[str]:
        """The names that :meth:`compute` returns."""
        return [metric.name for metric in self._measured]

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch: its mean loss (), logits (N, K) and labels (N,) int64.

        Of several processes each takes in one at least, which may be empty (N = 0): they wait for
        each other in :meth:`compute`.
        """
        waiting = self._waiting
        waiting.losses.append(loss.detach())
        waiting.logits.append(logits.detach())
        waiting.labels.append(labels)
        waiting.rows += labels.shape[0]
        if waiting.rows >= ROWS_AT_ONCE:
            self._count()

    def compute(self) -> dict[str, Tensor]:
        """The epoch's metrics, each a scalar tensor; empty if there was no batch. Starts afresh."""
        self._count()
        if not self.loss.update_called:
            return {}
        counted = self.counts.compute()
        # A row a class, or one of all classes.
        correct, wrongly, _, _, support = counted["by_class"].reshape(-1, 5).T.cpu().numpy()
        counts = Counts(correct, support, correct + wrongly)
        result = {"loss": self.loss.compute()}
        for metric in self._measured:
            if metric.of_class is not None:
                result[metric.name] = result["loss"].new_tensor(metric.of(counts))
            elif metric.name == "top5_error":
                result[metric.name] = 1 - counted["top5"]
        self.loss.reset()
        self.counts.reset()
        return result

    def snapshot(self) -> dict[str, Counted]:
        """The counts so far, for a checkpoint made in the middle of an epoch."""
        self._count()
        return {
            name: {"updates": metric._update_count, "states": dict(metric.metric_state)}
            for name, metric in self._parts()
        }

    def restore(self, snapshot: dict[str, Counted]) -> None:
        """Restore a snapshot."""
        for name, metric in self._parts():
            metric._update_count = snapshot[name]["updates"]
            for state, value in snapshot[name]["states"].items():
                setattr(metric, state, value.to(metric.device))

    def _parts(self) -> Iterator[tuple[str, Metric]]:
        yield "loss", self.loss
        yield from self.counts.items(keep_base=True, copy_state=False)

    def _count(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        if not waiting.labels:
            return
        losses = stack(waiting.losses).float()
        sizes = losses.new_tensor([len(labels) for labels in waiting.labels])
        self.loss.update(losses.where(sizes > 0, 0), sizes)  # the mean of no image is not a number
        if waiting.rows:
            self.counts.update(cat(waiting.logits).float(), cat(waiting.labels))
