"""The metrics of one split over one epoch, cheap enough to keep at every step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, cat, nn, stack
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassPrecision,
    MulticlassRecall,
)

STEP_LOSS = "train/step_loss"
"""The loss of single steps, for TensorBoard's curve; every other metric is one an epoch."""

TOP5 = "top5_accuracy"
"""What torchmetrics counts; what is shown is its complement, the top-5 error."""

ROWS_AT_ONCE = 16_384
"""Images whose logits wait before they are counted: 66 MB of float32 for 1,000 classes."""


@dataclass
class _Waiting:
    """Batches that have not been counted, outside of the module, whose attributes cost 3 us."""

    losses: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    rows: int = 0


class EpochMetrics(nn.Module):
    """Mean loss and accuracy, and for evaluation macro precision, recall and top-5 error.

    A torchmetrics update takes longer than a small network's training step, so batches are kept and
    counted many at a time; the result is the same. Torchmetrics adds the counts of several
    processes up.

    Args:
        num_classes: the number of logits.
        full: also precision, recall and (with more than five classes) top-5 error.
    """

    def __init__(self, num_classes: int, full: bool) -> None:
        super().__init__()
        metrics: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(num_classes=num_classes, average="micro")
        }
        if full:
            metrics["precision"] = MulticlassPrecision(num_classes=num_classes, average="macro")
            metrics["recall"] = MulticlassRecall(num_classes=num_classes, average="macro")
            if num_classes > 5:
                metrics[TOP5] = MulticlassAccuracy(
                    num_classes=num_classes, average="micro", top_k=5
                )
        # Left alone, torchmetrics groups metrics whose counts agree after the first batch: after
        # one that is all right or all wrong, accuracy and top-5 accuracy would be one for ever.
        shared = ["precision", "recall"] if full else []
        alone = [[name] for name in metrics if name not in shared]
        groups = [*alone, shared] if shared else alone
        self.counts = MetricCollection(metrics, compute_groups=groups)
        # What is NaN is to stay NaN: left alone, torchmetrics leaves such losses out, and the mean
        # would look sound; with "disable" it leaves out the weights.
        self.loss = MeanMetric(nan_strategy=math.nan)
        self._waiting = _Waiting()

    @property
    def names(self) -> list[str]:
        """The names that :meth:`compute` returns."""
        return ["loss", *(_shown(str(name)) for name in self.counts)]

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
        result = {"loss": self.loss.compute()}
        for name, value in self.counts.compute().items():
            result[_shown(name)] = 1 - value if name == TOP5 else value
        self.loss.reset()
        self.counts.reset()
        return result

    def snapshot(self) -> dict[str, Any]:
        """The counts so far, for a checkpoint made in the middle of an epoch."""
        self._count()
        return {
            name: {"updates": metric._update_count, "states": dict(metric.metric_state)}
            for name, metric in self._parts()
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot."""
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
        self.loss.update(losses.where(sizes > 0, 0), sizes)  # the mean of no image is no number
        if waiting.rows:
            self.counts.update(cat(waiting.logits).float(), cat(waiting.labels))


def _shown(name: str) -> str:
    return "top5_error" if name == TOP5 else name
