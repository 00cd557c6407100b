"""Writing a model in a format of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from discern.data.known import KnownImages
from discern.exports.about import describe
from discern.exports.bundle import Bundle
from discern.exports.formats import format_of
from discern.exports.running import Run
from discern.models.card import Card

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
    return Exported(path, format, about, bundle, chosen.run(path, bundle))
