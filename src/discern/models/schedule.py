"""When and how the learning rate changes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Schedule:
    """A learning-rate scheduler, before the optimizer and the length of the run are known.

    Attributes:
        build: takes the optimizer and keyword arguments, as the classes of
            ``torch.optim.lr_scheduler`` do.
        interval: when the rate changes.
        monitor: the metric that ``ReduceLROnPlateau`` watches.
        total_as: the keyword argument of ``build`` that receives the run's number of intervals.
    """

    build: Callable[..., LRScheduler]
    interval: Literal["step", "epoch"] = "epoch"
    monitor: str | None = None
    total_as: str | None = None

    def total(self, steps: int, epochs: int) -> dict[str, int]:
        """The keyword argument of ``build`` for the run's length, if it takes one."""
        length = steps if self.interval == "step" else epochs
        return {self.total_as: length} if self.total_as else {}

    def for_run(self, optimizer: Optimizer, steps: int, epochs: int) -> LRSchedulerConfigType:
        """Lightning's ``lr_scheduler`` entry for a run of so many optimizer steps and epochs."""
        scheduler = self.build(optimizer, **self._peaks(optimizer), **self.total(steps, epochs))
        entry: LRSchedulerConfigType = {"scheduler": scheduler, "interval": self.interval}
        if self.monitor:
            entry["monitor"] = self.monitor
        return entry

    def _peaks(self, optimizer: Optimizer) -> dict[str, list[float]]:
        """The highest rate of each parameter group, where the scheduler has one for all."""
        peak = getattr(self.build, "keywords", {}).get("max_lr")
        if not isinstance(peak, (int, float)):
            return {}
        return {"max_lr": [peak * group.get("factor", 1.0) for group in optimizer.param_groups]}
