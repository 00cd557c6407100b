"""What an exported file says of itself, whatever its format.

The facts stand in the file as texts under the keys of :class:`About`. A file may be a stranger's:
what it says is checked against limits and is then compared and shown, nothing more.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from discern.data.known import KnownImages
from discern.errors import DiscernError
from discern.models.card import MAX_CLASSES, MAX_NAME_LENGTH, Card
from discern.schema import Strict, first_fault
from discern.version import __version__

FORMAT = 1
"""Of exported files; raised where what they take, give or say changes."""

PIXELS, PROBABILITIES = "pixels", "probabilities"
"""Names of the input and the output."""

MAX_TEXT = 2**25
"""Characters of one fact."""

MAX_IMAGES_TEXT, MAX_IMAGES_BYTES = 2**29, 2**29
"""Characters of the images of a run, and their bytes when unpacked: those of 25 million images."""

NOT_STATED = "not stated"

_LICENCES = {"torchvision": "BSD-3-Clause", "efficientnet_lite": "Apache-2.0"}

_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Digest = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]
_Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH)]


class About(Strict):
    """The facts of an exported model, each a text.

    Attributes:
        discern_format: the version of this list and of the graph's input and output.
        discern_version: of the program that exported it.
        class_names: a JSON list, in the order of the probabilities.
        card: the checkpoint's, in JSON.
        temperature: that the logits are divided by.
        data_title, data_fingerprint: of the data set that it was trained on, or empty.
        checkpoint_sha256: of the file that it was exported from.
        weights_licence: an SPDX identifier, or ``not stated``.
        known_images: which images its run had, and on which side each was; or empty.
    """

    discern_format: Annotated[str, Field(pattern="^[0-9]{1,9}$")]
    discern_version: _Name
    class_names: _Text
    card: _Text
    temperature: Annotated[str, Field(pattern=r"^[0-9.e+-]{1,40}$")]
    data_title: _Name
    data_fingerprint: _Name
    checkpoint_sha256: _Digest
    weights_licence: _Name
    known_images: Annotated[str, Field(max_length=MAX_IMAGES_TEXT)] = ""


@dataclass(frozen=True)
class Facts:
    """What was read of a file's facts."""

    card: Card
    temperature: float
    checkpoint_sha256: str
    known: KnownImages | None


def describe(
    network: nn.Module, sha256: str, known: KnownImages | None, temperature: float
) -> dict[str, str]:
    """The facts of a model.

    Args:
        network: as :func:`discern.load` returns it.
        sha256: of its checkpoint.
        known: the images of its run.
        temperature: that the logits are divided by.
    """
    card: Card = network.card  # type: ignore[assignment]
    about = About(
        discern_format=str(FORMAT),
        discern_version=__version__,
        class_names=json.dumps(card.class_names, ensure_ascii=False),
        card=card.model_dump_json(),
        temperature=repr(float(temperature)),
        data_title=card.data.get("title", ""),
        data_fingerprint=card.data.get("fingerprint", ""),
        checkpoint_sha256=sha256,
        weights_licence=licence_of(card),
        known_images=_packed(known),
    )
    return {key: value for key, value in about.model_dump().items() if value}


def licence_of(card: Card) -> str:
    """The licence of the published weights that a model is built on; ``not stated`` without any."""
    backbone = card.backbone
    if backbone is None or backbone.weights != "default":
        return NOT_STATED
    if backbone.library == "timm":
        import timm

        config = timm.get_pretrained_cfg(backbone.name)
        return str((config and config.license) or NOT_STATED)
    return _LICENCES.get(backbone.library, NOT_STATED)


def read_about(values: Mapping[str, str], path: Path) -> Facts:
    """The facts that a file holds.

    Raises:
        DiscernError: one is missing, unknown, or not of the form that is written.
    """
    wrong = f"{path} is not a model that discern exported"
    if "discern_format" not in values:
        raise DiscernError(f"{wrong}: it does not say what model it is.")
    if values["discern_format"] != str(FORMAT):
        raise DiscernError(
            f"{path} is of format {values['discern_format'][:20]}, and this version of discern "
            f"reads format {FORMAT}."
        )
    blank = dict.fromkeys(("data_title", "data_fingerprint", "checkpoint_sha256"), "")
    try:
        about = About.model_validate({**blank, **values})
        card = Card.model_validate_json(about.card)
        temperature, names = float(about.temperature), json.loads(about.class_names)
    except ValidationError as error:
        raise DiscernError(f"{wrong}: {first_fault(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise DiscernError(f"{wrong}: its description is not JSON.") from error
    if names != card.class_names or not 1 <= len(names) <= MAX_CLASSES:
        raise DiscernError(f"{wrong}: it has two different lists of classes.")
    if not 0 < temperature < float("inf"):
        raise DiscernError(f"{wrong}: its temperature is not a number above 0.")
    return Facts(card, temperature, about.checkpoint_sha256, _unpacked(about, card, path))


# The images of a run decide which of them are tested, and which were trained on.


def _packed(known: KnownImages | None) -> str:
    if known is None or known.rule is None:
        return ""
    return base64.b64encode(zlib.compress(save(known.tensors()))).decode()


def _unpacked(about: About, card: Card, path: Path) -> KnownImages | None:
    from discern.data.known import from_tensors

    if not about.known_images or card.split is None:
        return None
    try:
        packed = base64.b64decode(about.known_images, validate=True)
        tensors = load(zlib.decompressobj().decompress(packed, MAX_IMAGES_BYTES))
    except (ValueError, zlib.error, SafetensorError) as error:
        raise DiscernError(f"{path} does not record its training images as expected.") from error
    fingerprint = card.data.get("fingerprint")
    return from_tensors(tensors, card.split, card.class_names, fingerprint, path)
