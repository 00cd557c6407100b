"""The proof: an exported file and the checkpoint on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from discern.data.images import Images, labels_of
from discern.exports.running import Floats, Run, run_pictures
from discern.models.card import Card
from discern.reports.paired import mcnemar
from discern.text import printable

BATCH, PHOTOGRAPHS = 256, 8
"""Images in memory at a time; of files, each of which may have many megapixels."""

MAX_FLIPPED = 0.001
"""The share of labels that an export in float32 may change."""

MAX_LISTED = 100
"""Images whose labels differ that are listed."""


@dataclass(frozen=True)
class Difference:
    """An image whose label differs.

    Attributes:
        index: the image's, in the split.
        file: its file; None without one.
        label, before, after: the true class, that of the checkpoint, and that of the file.
        probability_before, probability_after: of these two.
    """

    index: int
    file: str | None
    label: str
    before: str
    after: str
    probability_before: float
    probability_after: float


@dataclass(frozen=True)
class Proof:
    """A model in a file against the checkpoint, on the same images.

    Attributes:
        images: their number.
        flipped: labels that differ.
        difference: the largest difference in a probability.
        accuracy_before, accuracy_after: of the checkpoint and of the file.
        only_before, only_after: images that only that one classifies correctly.
        p: of McNemar's test.
        differences: the first images whose labels differ.
    """

    images: int
    flipped: int
    difference: float
    accuracy_before: float
    accuracy_after: float
    only_before: int
    only_after: int
    p: float
    differences: list[Difference]

    @property
    def holds(self) -> bool:
        """Whether few enough labels differ for an export in float32."""
        return self.flipped <= MAX_FLIPPED * self.images

    @property
    def loses(self) -> bool:
        """Whether McNemar's test finds the file less accurate, at 0.05."""
        return self.p < 0.05 and self.only_after < self.only_before


def prove(
    network: nn.Module, temperature: float, run: Run, images: Images, most: int | None = None
) -> Proof:
    """Compare a file with the checkpoint.

    Args:
        network: the checkpoint's.
        temperature: that its logits are divided by.
        run: runs the file.
        images: what both classify.
        most: images to look at, evenly spaced, since files are sorted by class; None for all.

    Raises:
        DiscernError: the images cannot be had as they were before preprocessing.
    """
    count = len(images) if most is None else min(most, len(images))
    chosen = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    parts = [
        (before, run_pictures(run, images.pictures(rows)))
        for rows, before in _classified(network, temperature, images, chosen)
    ]
    before, after = (np.concatenate(each) for each in zip(*parts, strict=True))
    card: Card = network.card  # type: ignore[assignment]
    return _compared(before, after, images, chosen, card.class_names)


def _classified(
    network: nn.Module, temperature: float, images: Images, chosen: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Rows of the images and the checkpoint's probabilities for them, as of `discern predict`."""
    batch = BATCH if images.names() is None else PHOTOGRAPHS
    for start in range(0, len(chosen), batch):
        rows = chosen[start : start + batch]
        seen, _ = images.__getitems__(rows.tolist())
        with torch.inference_mode():
            logits = network(seen)
            # 1 is no division: the numbers are those of `discern predict` to the bit.
            scaled = logits if temperature == 1 else logits / temperature
            yield rows, scaled.softmax(1).numpy()


def _compared(
    before: Floats,
    after: Floats,
    images: Images,
    chosen: NDArray[np.int64],
    names: Sequence[str],
) -> Proof:
    """The proof of probabilities (N, K) of the chosen images, rows (N,)."""
    labels: NDArray[np.int64] = labels_of(images)[torch.from_numpy(chosen)].numpy()
    one, other = before.argmax(1), after.argmax(1)
    right, still = one == labels, other == labels
    only_before, only_after = int((right & ~still).sum()), int((still & ~right).sum())
    differ = np.flatnonzero(one != other)
    gaps = np.abs(before.astype(np.float64) - after)
    # Where one is NaN and the other is not, nothing is alike.
    gaps = np.where(np.isnan(before) & np.isnan(after), 0.0, np.nan_to_num(gaps, nan=1.0))
    return Proof(
        len(chosen), len(differ), float(gaps.max()), float(right.mean()), float(still.mean()),
        only_before, only_after, mcnemar(only_before, only_after),
        list(_listed(before, after, images, chosen, names, differ[:MAX_LISTED])),
    )  # fmt: skip


def _listed(
    before: Floats,
    after: Floats,
    images: Images,
    chosen: NDArray[np.int64],
    names: Sequence[str],
    places: NDArray[np.int64],
) -> Iterator[Difference]:
    """The images at these places among the chosen ones."""
    if not len(places):
        return
    files, labels = images.names(), labels_of(images)
    for place in places.tolist():
        row, one, other = int(chosen[place]), *(int(p[place].argmax()) for p in (before, after))
        yield Difference(
            row, None if files is None else printable(Path(files[row])), names[int(labels[row])],
            names[one], names[other], float(before[place, one]), float(after[place, other]),
        )  # fmt: skip
