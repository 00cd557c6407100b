"""A saved model as the service uses it: from a file's bytes to class probabilities."""

from __future__ import annotations

import math
import time
from typing import IO

import numpy as np
from numpy.typing import NDArray
from torch import nn

from discern.commands.predict import batch_size, preparation, probabilities_of, to_invert
from discern.commands.service.batches import Answer
from discern.models.card import Card
from discern.models.saved import model_name

Entry = dict[str, object]
"""What an answer says of a picture."""

DIGITS = 7
"""Significant digits of a probability, as in predictions.csv: what a float32 has."""

MAX_BATCH, MEASURED, ENOUGH = 64, 4, 1.1
"""The largest batch that is measured, how often each is, and how many times as fast a batch must be
to be preferred to a smaller one."""


class Model:
    """A network with what is known of its images.

    Args:
        network: from normalised images to logits, in eval mode.
        card: of its checkpoint.
        invert: whether pictures are inverted, see conf/predict.yaml.

    Attributes:
        name: in titles.
    """

    def __init__(self, network: nn.Module, card: Card, invert: bool | str) -> None:
        self.card = card
        self.name = model_name(card)
        self._network = network
        self._invert = invert
        self._prepare = preparation(card)

    def decode(self, content: IO[bytes]) -> NDArray[np.uint8]:
        """The pixels of a picture in an open file, uint8 (C, H, W).

        Raises:
            PictureError: it cannot be read.
        """
        return self._prepare(content)

    def classify(self, pixels: NDArray[np.uint8]) -> list[Answer]:
        """The answers to M pictures, uint8 (M, C, H, W)."""
        inverted = to_invert(pixels, self._invert)
        pixels[inverted] = 255 - pixels[inverted]
        probabilities = probabilities_of(self._network, self.card, pixels)
        return [*map(Answer, inverted.tolist(), probabilities)]

    def fast_batch(self) -> int:
        """The smallest batch that is about as fast as larger ones, an image, as measured now.

        A network on one image a thread gains nothing from more, and its clients wait longer.
        """
        best, least, most = 1, math.inf, min(MAX_BATCH, batch_size(self._network, self.card))
        size, none_better = 1, 0
        while size <= most and none_better < 2:
            took = self._seconds(size) / size
            if took * ENOUGH < least:
                best, least, none_better = size, took, 0
            else:
                none_better += 1
            size *= 2
        return best

    def _seconds(self, images: int) -> float:
        """The least that a batch takes of several."""
        pixels, times = np.zeros((images, *self.card.input_shape), np.uint8), []
        for _ in range(MEASURED):
            begun = time.perf_counter()
            self.classify(pixels)
            times.append(time.perf_counter() - begun)
        return min(times)

    def entry(self, answer: Answer, top: int) -> Entry | None:
        """What is said of a picture, with its ``top`` most probable classes.

        None if the outputs are not finite.
        """
        if not np.isfinite(answer.probabilities).all():
            return None
        names = self.card.class_names
        rounded = [float(f"{each:.{DIGITS}g}") for each in answer.probabilities.tolist()]
        order = np.argsort(-answer.probabilities, kind="stable")[:top].tolist()
        return {
            "label": names[order[0]],
            "probability": rounded[order[0]],
            "top": [{"label": names[each], "probability": rounded[each]} for each in order],
            "probabilities": dict(zip(names, rounded, strict=True)),
            "inverted": answer.inverted,
        }
