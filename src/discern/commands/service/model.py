"""A saved model as the service uses it: from a file's bytes to class probabilities."""

from __future__ import annotations

import io

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


class Model:
    """A network with what is known of its images.

    Args:
        network: from normalised images to logits, in eval mode.
        card: of its checkpoint.
        invert: whether pictures are inverted, see conf/predict.yaml.

    Attributes:
        name: in titles.
        batch_size: the most pictures that are classified at a time.
    """

    def __init__(self, network: nn.Module, card: Card, invert: bool | str) -> None:
        self.card = card
        self.name = model_name(card)
        self.batch_size = batch_size(network, card)
        self._network = network
        self._invert = invert
        self._prepare = preparation(card)

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """The pixels of a picture in a file, uint8 (C, H, W).

        Raises:
            PictureError: it cannot be read.
        """
        return self._prepare(io.BytesIO(content))

    def classify(self, pixels: NDArray[np.uint8]) -> list[Answer]:
        """The answers to M pictures, uint8 (M, C, H, W)."""
        inverted = to_invert(pixels, self._invert)
        pixels[inverted] = 255 - pixels[inverted]
        probabilities = probabilities_of(self._network, self.card, pixels)
        return [*map(Answer, inverted.tolist(), probabilities)]

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
