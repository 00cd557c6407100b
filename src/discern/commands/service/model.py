"""A saved model as the service uses it: from a file's bytes to class probabilities."""

from __future__ import annotations

import math
import time
from typing import IO

import numpy as np
from numpy.typing import NDArray
from torch import nn

from discern.commands.predict import (
    as_exported,
    batch_size,
    preparation,
    probabilities_of,
    ranked,
    to_invert,
)
from discern.commands.service.batches import Answer
from discern.data.pictures import PictureError
from discern.errors import DiscernError
from discern.exports.running import preprocessing_of
from discern.models.card import Card
from discern.models.combined import Model
from discern.models.saved import model_name

Entry = dict[str, object]
"""What an answer says of a picture."""

DIGITS = 7
"""Significant digits of a probability, as in predictions.csv: what a float32 has."""

MAX_BATCH, MEASURED, ENOUGH = 64, 4, 1.1
"""The largest batch that is measured, how often each is, and how many times as fast a batch must be
to be preferred to a smaller one."""


class ServedModel:
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
        self._model = Model(network, card)
        self._exported = as_exported(network)
        self._invert = invert
        self._prepare = preparation(card)
        cuts = self._exported is not None and card.preprocessing.resize is not None
        self._photographs = preprocessing_of(card) if cuts else None

    def read(self, file: IO[bytes]) -> NDArray[np.uint8] | Answer:
        """The pixels of a picture in an open file, uint8 (C, H, W), for a batch.

        An exported model of photographs takes whole ones, of any size, and answers here.

        Raises:
            PictureError: it cannot be read.
        """
        if self._photographs is None or self._exported is None:
            return self._prepare(file)
        picture, inverted = self._photographs.picture(file), self._invert is True
        try:
            found = self._exported.of_pictures([255 - picture if inverted else picture])
        except DiscernError as error:  # it names the model's file
            raise PictureError("the model cannot be run on it") from error
        return Answer(inverted, found[0], ranked(found)[0])

    def classify(self, pixels: NDArray[np.uint8]) -> list[Answer]:
        """The answers to M pictures, uint8 (M, C, H, W)."""
        inverted = to_invert(pixels, self._invert)
        pixels[inverted] = 255 - pixels[inverted]
        found = probabilities_of(self._model, pixels)
        return [Answer(*each) for each in zip(inverted.tolist(), *found, strict=True)]

    def fast_batch(self) -> int:
        """The smallest batch that is about as fast as larger ones, an image, as measured now.

        A network on one image a thread gains nothing from more, and its clients wait longer.
        """
        if self._photographs is not None:
            return 1
        best, least, most = 1, math.inf, min(MAX_BATCH, batch_size(self._model.network, self.card))
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
        first = answer.ranking.tolist()
        others = np.argsort(-answer.probabilities, kind="stable").tolist()
        order = [*first, *(each for each in others if each not in first)][:top]
        return {
            "label": names[order[0]],
            "probability": rounded[order[0]],
            "top": [{"label": names[each], "probability": rounded[each]} for each in order],
            "probabilities": dict(zip(names, rounded, strict=True)),
            "inverted": answer.inverted,
        }
