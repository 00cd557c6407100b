"""The predictions of a model for labelled images: the arrays, and predictions.csv."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from discern.files.csv_cells import csv_field, write_csv
from discern.files.writing import write_whole

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TOP = 5
"""The number of most probable classes that the top-5 error looks at."""

ROWS_AT_ONCE = 1000
"""Images whose probabilities are formatted at a time."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for N images of K classes.

    Attributes:
        class_names: K names.
        indices: int64 (N,), the images' indices in the part of the data set that they come from.
        labels: int64 (N,).
        predicted: int64 (N,), the most probable class.
        probabilities: float32 (N, K).
        losses: float32 (N,), cross-entropy in nats.
        in_top: bool (N,), whether the label is among the ``TOP`` most probable classes.
        files: N names of the images' files, or None where they have none.
    """

    class_names: list[str]
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    losses: NDArray[np.float32]
    in_top: NDArray[np.bool_]
    files: list[str] | None = None

    @classmethod
    def of(
        cls,
        logits: Tensor,
        labels: Tensor,
        indices: Tensor,
        class_names: list[str],
        files: list[str] | None = None,
        temperature: float | None = None,
    ) -> Predictions:
        """From logits (N, K) float32, with labels and indices int64 (N,).

        A temperature changes probabilities and losses. The classes are ranked by the logits, since
        rounding could make probabilities equal whose logits are not.
        """
        from torch.nn.functional import cross_entropy  # start-up time

        scaled = logits if temperature is None else tempered(logits, temperature)
        top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
        return cls(
            class_names,
            indices=indices.numpy(),
            labels=labels.numpy(),
            predicted=logits.argmax(dim=1).numpy(),
            probabilities=scaled.softmax(dim=1).float().numpy(),
            losses=cross_entropy(scaled, labels, reduction="none").float().numpy(),
            in_top=(top == labels[:, None]).any(dim=1).numpy(),
            files=files,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def confidences(self) -> NDArray[np.float32]:
        """The probability of the predicted class, (N,)."""
        return np.take_along_axis(self.probabilities, self.predicted[:, None], axis=1)[:, 0]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the label, (N,)."""
        correct: NDArray[np.bool_] = self.predicted == self.labels
        return correct

    @property
    def margins(self) -> NDArray[np.float32]:
        """The probability of the predicted class minus that of the next, (N,); 1 for one class."""
        if self.probabilities.shape[1] < 2:
            return np.ones(len(self), np.float32)
        two = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        margins: NDArray[np.float32] = two[:, 1] - two[:, 0]
        return margins

    @property
    def undefined(self) -> int:
        """The number of images with probabilities that are not finite."""
        return int((~np.isfinite(self.probabilities)).any(axis=1).sum())

    def least_certain(self, count: int) -> NDArray[np.int64]:
        """Rows with the smallest margins, the smallest first."""
        return np.argsort(self.margins, kind="stable")[:count]

    def worst(self, count: int) -> NDArray[np.int64]:
        """Rows with the highest losses, NaN first, then the highest."""
        return np.argsort(-np.nan_to_num(self.losses, nan=np.inf), kind="stable")[:count]


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits (N, K) divided by a temperature, float64, the highest of each row at 0."""
    exact = logits.double()
    # The difference first: the quotient of a large logit and a low temperature may be infinite.
    return (exact - exact.amax(dim=1, keepdim=True)) / temperature


def warn_of_undefined(undefined: int, images: int) -> None:
    """Warn if the outputs for some images are not finite."""
    if undefined:
        log.warning(
            "The model's outputs are not finite for %s of %s images, as after training that "
            "diverged: their predictions are meaningless, and so are metrics that count them.",
            f"{undefined:,}",
            f"{images:,}",
        )


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write a row per image: index, file, label, predicted, and the probability of each class.

    The file is empty for images that have none.
    """
    columns = (f"probability_{name}" for name in predictions.class_names)
    with write_whole(path) as file:
        write_csv(file, [["index", "file", "label", "predicted", *columns]])
        for start in range(0, len(predictions), ROWS_AT_ONCE):
            file.write(_rows(predictions, slice(start, start + ROWS_AT_ONCE)))


def _rows(predictions: Predictions, part: slice) -> str:
    """Lines of the file.

    Formatting all numbers at once is three times as fast as the csv module, and numbers need no
    quotes. A list per row would trigger the garbage collector, which takes a tenth of a second
    once torch and lightning are imported.
    """
    cells = [*map(csv_field, predictions.class_names)]
    files = map(csv_field, (predictions.files or [""] * len(predictions))[part])
    indices, labels = predictions.indices[part].tolist(), predictions.labels[part].tolist()
    predicted = predictions.predicted[part].tolist()
    # Seven digits, which is what a float32 has.
    row = ",".join(["%.7g"] * len(cells)) + "\n"
    numbers = row * len(labels) % tuple(predictions.probabilities[part].ravel().tolist())
    return "".join(
        f"{index},{file},{cells[label]},{cells[guess]},{probabilities}"
        for index, file, label, guess, probabilities in zip(
            indices, files, labels, predicted, numbers.splitlines(keepends=True), strict=True
        )
    )
