"""Writing a model in a format of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from discern.data.known import KnownImages
from discern.errors import DiscernError
from discern.exports.about import describe
from discern.exports.bundle import Bundle
from discern.exports.formats import format_of
from discern.exports.running import Run
from discern.models.card import Card

MAX_DIFFERENCE = 1e-3
"""In a probability, between a file and the network that it was made from."""

READ_BACK = ("onnx", "web")
"""Formats whose file ``discern evaluate`` takes, and which say what their run trained on."""


@dataclass(frozen=True)
class Exported:
    """A model that was exported.

    Attributes:
        path: the file; others may stand beside it.
        format: a key of :data:`discern.exports.formats.FORMATS`.
        about: the facts in it.
        bundle: what was exported.
        run: runs the file itself.
    """

    path: Path
    format: str
    about: dict[str, str]
    bundle: Bundle
    run: Run

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""
        return self.bundle.temperature


def export(
    network: nn.Module,
    folder: Path,
    *,
    format: str = "onnx",  # noqa: A002 - the setting's name
    temperature: float = 1.0,
    sha256: str = "",
    known: KnownImages | None = None,
) -> Exported:
    """Write a model into a folder.

    Args:
        network: as :func:`discern.load` returns it: in eval mode, on the CPU, with its card.
        folder: it is made if it does not exist.
        format: one of :data:`discern.exports.formats.FORMATS`.
        temperature: that the logits are divided by.
        sha256: of the checkpoint.
        known: the images of its run.

    Raises:
        DiscernError: there is no such format, it needs a package that is not installed, or it
            cannot hold this network.
    """
    chosen = format_of(format)
    card: Card = network.card  # type: ignore[assignment]
    bundle = Bundle(network, temperature)
    about = describe(network, sha256, known if format in READ_BACK else None, temperature)
    folder.mkdir(parents=True, exist_ok=True)
    path = chosen.write(bundle, card, about, folder)
    run = chosen.run(path, bundle)
    _check_graph(run, bundle, card, format)
    return Exported(path, format, about, bundle, run)


def _check_graph(run: Run, bundle: Bundle, card: Card, name: str) -> None:
    """Refuse a file that is not the network for other pictures than those it was made with.

    A graph keeps the way that those took through a network's ``if`` and loops.

    Raises:
        DiscernError: black, white or random pictures, alone or three at once, have other
            probabilities in the file.
    """
    channels, height, width = card.input_shape
    pixels = np.zeros((3, height + 9, width + 5, channels), np.uint8)
    pixels[1] = 255
    pixels[2] = np.random.default_rng(0).integers(0, 256, pixels[2].shape)
    for batch in (pixels[:1], pixels):
        with torch.inference_mode():
            expected = bundle(torch.from_numpy(batch)).numpy()
        try:
            gaps = np.subtract(run(batch), expected, dtype=np.float64)
        except (DiscernError, RuntimeError, ValueError, AssertionError):  # another shape
            gaps = np.full(1, np.inf)
        alike = gaps.shape == expected.shape and not (np.abs(gaps) > MAX_DIFFERENCE).any()
        if not alike:
            raise DiscernError(
                f"format={name} is not possible for this model: for {len(batch)} of black, white "
                "and random pictures its graph does not give the model's probabilities. The way "
                "through the network may depend on the pictures or their number (if, for, "
                "int(images.shape[0])) or on chance, or an operator be computed in another way."
            )
