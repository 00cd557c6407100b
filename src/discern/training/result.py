"""The result of a run, as ``discern.train`` returns it."""

from dataclasses import dataclass
from pathlib import Path

from discern.models.classifier import Classifier
from discern.runs.metric_table import DRAWN
from discern.runs.state import Ended, State


@dataclass(frozen=True, repr=False)
class Result:
    """The outcome of a run.

    Attributes:
        metrics: split ("train", "val", "test") -> metric -> value, of the best checkpoint.
        model: the classifier with that checkpoint's weights, in eval mode.
        folder: the run's folder.
        ended: how training ended, and why.

    In a notebook it shows itself with its curves.
    """

    metrics: dict[str, dict[str, float]]
    model: Classifier
    folder: Path
    ended: Ended

    @property
    def state(self) -> State:
        """How the run stands: done, pruned, diverged or interrupted."""
        return self.ended.state

    @property
    def reason(self) -> str:
        """Why training ended, for people."""
        return self.ended.reason

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{split} {each.title} {each.text(part[each.name])}"
            for split, part in self.metrics.items()
            for each in DRAWN
            if each.name in part
        )
        return f"<Result: {measured or 'nothing measured'}; {self.ended}; {self.folder}>"

    def _repr_html_(self) -> str:
        from discern.reports.notebook import result_html  # start-up time: notebooks alone

        return result_html(self.metrics, self.ended, self.folder)
