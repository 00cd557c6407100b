"""The result of an evaluation, as ``discern.evaluate`` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from discern.reports.confusion import confusion_matrix
from discern.reports.intervals import Estimate
from discern.runs.metric_table import DRAWN
from discern.runs.predictions import Predictions

CONFUSION = "confusion_matrix.png"
"""Picture of the confusion matrix, in the evaluation's folder."""


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A model measured on a split of a data set.

    Attributes:
        title: the model, the data and the split.
        split: "test", "val" or "train".
        metrics: metric -> value with its 95 % confidence interval.
        predictions: for each image of the split: label, probabilities, loss.
        folder: the folder with the tables and pictures.

    In a notebook it shows itself with its confusion matrix.
    """

    title: str
    split: str
    metrics: Mapping[str, Estimate]
    predictions: Predictions
    folder: Path

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Images with label i that were predicted as j, at [i, j], (K, K)."""
        found = self.predictions
        return confusion_matrix(found.labels, found.predicted, len(found.class_names))

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{each.title} {each.text(one.value)} ({one.ends(each.name)})"
            for each in DRAWN
            if (one := self.metrics.get(each.name)) is not None
        )
        return f"<Evaluation of {self.title}: {measured}; {self.folder}>"

    def _repr_html_(self) -> str:
        from discern.reports.notebook import evaluation_html  # start-up time: notebooks alone

        return evaluation_html(
            self.title, len(self.predictions), self.metrics, self.folder, CONFUSION
        )
