"""The metrics of one split over one epoch, cheap enough to keep at every step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress
from typing import TypedDict

from torch import Tensor, cat, int64, nn, stack, tensor, zeros
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassStatScores

from discern.runs.metric_table import METRICS, ClassCounts, Sums

STEP_LOSS = "train/step_loss"
"""The loss of single steps, for TensorBoard's curve; every other metric is one an epoch."""

WAITING = "waiting"
"""The part of a snapshot with the losses of batches that are not summed yet: ``losses`` float32 and
``sizes`` int64, both (N,)."""

ROWS_AT_ONCE = 16_384
"""Images whose logits wait before they are counted: 66 MB of float32 for 1,000 classes."""


class Snapshot(TypedDict):
    """The state of one torchmetrics metric: whether it was updated (1) or not (0), its tensors.

    How often depends on the checkpoints made on the way.
    """

    updates: int
    states: dict[str, Tensor]


@dataclass
class _Waiting:
    """Batches not counted yet. Kept outside the module, whose attributes cost 3 us."""

    losses: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    rows: int = 0


class EpochMetrics(nn.Module):
    """The metrics of :data:`METRICS` that are measured in a split.

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
        scores = MulticlassStatScores(num_classes, average=None if by_class else "micro")
        counted: dict[str, Metric | MetricCollection] = {"by_class": scores}
        if "top5_error" in self.names:
            counted["top5"] = MulticlassStatScores(num_classes, top_k=5, average="micro")
        # Left alone, torchmetrics groups metrics whose counts agree after the first batch: after
        # one that is all right or all wrong, these would be one for ever.
        self.counts = MetricCollection(counted, compute_groups=False)
        # By default torchmetrics leaves NaN losses out, and the mean would look sound.
        self.loss = SumMetric(nan_strategy=math.nan)
        self.class_accuracy: dict[int, float] = {}
        """Class -> share of its images that are predicted as it, of the last epoch that was
        computed; empty in a split that is not counted by class."""
        self.omits_non_finite = False
        """Whether batches whose loss is not finite are left out, as where no step is taken for
        them."""
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
        waiting.sizes.append(labels.shape[0])
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
        loss = self.loss.compute()
        # Columns: true positives, false positives, true negatives, false negatives, support.
        counted = {name: each.cpu().double() for name, each in self.counts.compute().items()}
        # A row per class, or one for all classes.
        correct, wrongly, _, _, support = counted["by_class"].reshape(-1, 5).T.numpy()
        if len(support) > 1:
            self.class_accuracy = {
                number: float(right / images)
                for number, (right, images) in enumerate(zip(correct, support, strict=True))
                if images
            }
        images = support.sum()
        sums = Sums(
            ClassCounts(correct, support, correct + wrongly),
            images=images,
            loss=loss.cpu().double().numpy(),
            not_in_top5=images - counted["top5"][0].numpy() if "top5" in counted else images,
        )
        result = {metric.name: loss.new_tensor(metric.of(sums)) for metric in self._measured}
        self.loss.reset()
        self.counts.reset()
        return result

    def snapshot(self) -> dict[str, Snapshot]:
        """The counts so far, for a checkpoint made in the middle of an epoch."""
        self._count_labels()
        parts: dict[str, Snapshot] = {
            name: {"updates": min(1, metric._update_count), "states": _tensors(metric)}
            for name, metric in self._parts()
        }
        # Losses that wait are not summed for it: in float32 another order is another sum.
        losses, sizes = self._waiting.losses, self._waiting.sizes
        states = {
            "losses": stack(losses).float() if losses else zeros(0),
            "sizes": tensor(sizes, dtype=int64),
        }
        return {**parts, WAITING: {"updates": 0, "states": states}}

    def restore(self, snapshot: dict[str, Snapshot]) -> None:
        """Go on from a snapshot."""
        for name, metric in self._parts():
            metric._update_count = snapshot[name]["updates"]
            for state, value in snapshot[name]["states"].items():
                setattr(metric, state, value.to(metric.device))
        if WAITING in snapshot:
            states = snapshot[WAITING]["states"]
            losses = [*states["losses"].to(self.loss.device).unbind()]
            sizes = states["sizes"].tolist()
            self._waiting = _Waiting(losses, sizes, rows=sum(sizes))

    def _parts(self) -> Iterator[tuple[str, Metric]]:
        yield "loss", self.loss
        yield from self.counts.items(keep_base=True, copy_state=False)

    def _count(self) -> None:
        self._count_labels()
        waiting, self._waiting = self._waiting, _Waiting()
        if not waiting.losses:
            return
        losses = stack(waiting.losses).float()
        sizes = losses.new_tensor(waiting.sizes)
        kept = sizes > 0  # the mean over no image is NaN
        if self.omits_non_finite:
            kept &= losses.isfinite()
        self.loss.update(losses.where(kept, 0) * sizes)

    def _count_labels(self) -> None:
        """Count the images of waiting batches: sums of whole numbers, in any order the same."""
        waiting = self._waiting
        logits, labels, waiting.logits, waiting.labels = waiting.logits, waiting.labels, [], []
        if self.omits_non_finite and logits:
            chosen = stack(waiting.losses[-len(logits) :]).isfinite().tolist()
            logits, labels = list(compress(logits, chosen)), list(compress(labels, chosen))
        if sum(map(len, labels)):
            self.counts.update(cat(logits).float(), cat(labels))


def _tensors(metric: Metric) -> dict[str, Tensor]:
    return {name: value for name, value in metric.metric_state.items() if isinstance(value, Tensor)}
