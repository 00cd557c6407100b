"""The card of a checkpoint, which describes the saved model, and its limits.

A card may be a stranger's. Its values are of the very types that are written, each within limits;
they are compared, counted and shown. None of them is instantiated, resolved, opened or fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from discern.config.check import LARGEST, check_given
from discern.config.schema import MAX_RESIZE, SCHEMAS
from discern.data.known import Rule
from discern.errors import DiscernError
from discern.files.reading import check_format
from discern.models.registry import MODELS
from discern.schema import Strict, first_fault

CARD = "discern"
"""The key of the card in a checkpoint."""

FORMAT = 1
"""Of the card; raised where a checkpoint says something else, or says it in another way."""

MAX_IMAGE = 3 * 2048 * 2048
"""Numbers of an image. Backbones see 224 to 600 pixels a side, photographs in medicine up to 1,500;
at 2,048 a backbone's first layers take most of 1 GB for one image, whatever the file's size."""

MAX_CLASSES = 2**20

MAX_NAME_LENGTH, MAX_TEXT_LENGTH = 1000, 10_000
"""Characters of a class's name, which may be a sentence, and of a text among the settings."""

MAX_SETTING_DEPTH = 8
"""Lists and mappings within each other, in a setting."""

MAX_LIST_LENGTH = 1000
"""Values in a list of a model's settings: a million layers would take a minute to build."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
"""Of a card; networks that were trained with cross-entropy have 0.5 to 5."""

Settings = dict[str, Any]

_Name = Annotated[str, Field(max_length=MAX_NAME_LENGTH)]
_Side = Annotated[int, Field(ge=1, le=MAX_IMAGE)]
_Shift = Annotated[float, Field(allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def check_setting(value: object, place: str, depth: int = 0) -> None:
    """Raise a ValueError unless a setting is plain and means nothing to Hydra or OmegaConf.

    Args:
        value: a number, a text, None, or lists and mappings of these.
        place: of it, for the message.
        depth: how many lists and mappings it is in.
    """
    wrong = f"it has a {place} that is not a plain value"
    if depth > MAX_SETTING_DEPTH:
        raise ValueError(f"{wrong}: it is nested too deeply")
    if isinstance(value, list | tuple):
        for part in value:
            check_setting(part, place, depth + 1)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            named = isinstance(key, str) and key != TARGET and len(key) <= MAX_NAME_LENGTH
            if not named and type(key) is not int:
                raise ValueError(f"{wrong}: it has a key that is not the name of a setting")
            check_setting(part, f"{place}.{key}", depth + 1)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT_LENGTH:
            raise ValueError(f"{wrong}: it has more than {MAX_TEXT_LENGTH:,} characters")
        if "${" in value:
            raise ValueError(f"{wrong}: it has an interpolation")
    elif isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{wrong}: {LARGEST} is the largest number")
    elif value is not None and not isinstance(value, float):
        raise ValueError(f"{wrong}: it is a {type(value).__name__}")


TARGET = "_target_"
"""The setting that names a class."""


def _model_settings(settings: Settings) -> Settings:
    check_setting(settings, "model.settings")
    for name, value in settings.items():
        if isinstance(value, list) and len(value) > MAX_LIST_LENGTH:
            raise ValueError(f"model.settings.{name} has more than {MAX_LIST_LENGTH:,} values")
    return settings


def _config(config: Settings) -> Settings:
    for group, settings in config.items():
        if group == "seed":
            if type(settings) is not int or not 0 <= settings < 2**32:
                raise ValueError("config.seed is not a whole number from 0 to 4294967295")
        elif group not in _GROUPS or not isinstance(settings, dict):
            raise ValueError(f"config.{str(group)[:40]} is not a group of settings")
        else:
            target = settings.get(TARGET)
            if target is not None and not (type(target) is str and _CLASS.fullmatch(target)):
                raise ValueError(f"config.{group}._target_ is not the name of a class")
            check_setting(without_target(settings), f"config.{group}")
            if group in ("optimizer", "scheduler") and target in SCHEMAS:
                check_given(target, without_target(settings), f"config.{group}")
    return config


_GROUPS = ("model", "data", "optimizer", "scheduler")
_CLASS = re.compile(r"[^\W\d][\w.]{0,300}")


class ModelCard(Strict):
    """A registered model and the settings it was built with."""

    name: _Name
    settings: Annotated[
        dict[str, Any], Field(max_length=MAX_LIST_LENGTH), AfterValidator(_model_settings)
    ]

    @model_validator(mode="after")
    def _is_what_the_model_takes(self) -> ModelCard:
        target = MODELS.get(self.name)
        if target is not None:
            check_given(target, self.settings, "model.settings")
        if target == MODELS["transfer"] and self.settings.get("weights") not in (None, "default"):
            raise ValueError("model.settings.weights is neither default nor null")
        return self


class Preprocessing(Strict):
    """How a picture became the network's input: ``(x / 255 - mean) / std`` of its pixels.

    Photographs were scaled before, their shorter side to ``resize`` pixels, and a square of the
    network's input size was cut from the centre.
    """

    mean: _Shift | list[_Shift]
    std: _Scale | list[_Scale]
    resize: Annotated[int, Field(ge=1, le=MAX_RESIZE)] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None


class Provenance(Strict):
    """Where a backbone comes from.

    Attributes:
        library: a key of :data:`discern.models.libraries.LIBRARIES`.
        name: the library's, of the architecture.
        weights: ``default`` for the published ones, the name of a file, None for random ones.
        file_sha256: of the file that the weights were read from, None for random ones.
    """

    library: _Name
    name: _Name
    weights: _Name | None
    file_sha256: _Digest | None


class BackboneCard(Provenance):
    """Where a model's backbone comes from, for checkpoints that do not hold it.

    Attributes:
        digest: of the weights themselves, whatever file they are in.
    """

    digest: _Digest


class Card(Strict):
    """What a checkpoint says of its model.

    Attributes:
        model: the registered name and the settings; the name is empty for a class of a user's own
            that is not registered.
        class_names: in the order of the logits; any text, as a folder may have any name.
        input_shape: (C, H, W) of an image.
        preprocessing: of an image for evaluation.
        backbone: of a model that has one, as it was before any training.
        data: title and fingerprint of the data set.
        split: how its images were divided, for whoever meets new ones.
        temperature: what the logits are divided by for calibrated probabilities, fitted on the
            validation images when the run ended; None where it has none.
        metrics: the latest when the checkpoint was written.
        versions: of the packages that wrote it.
        config: the run's settings, without its paths.
    """

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    model: ModelCard
    class_names: Annotated[list[_Name], Field(min_length=1, max_length=MAX_CLASSES)]
    input_shape: Annotated[tuple[_Side, _Side, _Side], Field(strict=False)]
    preprocessing: Preprocessing
    backbone: BackboneCard | None = None
    data: Annotated[dict[_Name, _Name], Field(max_length=100)]
    split: Rule | None = None
    temperature: Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)] | None = None
    metrics: dict[_Name, float] = Field({}, max_length=MAX_LIST_LENGTH)
    versions: dict[_Name, _Name] = Field({}, max_length=MAX_LIST_LENGTH)
    config: Annotated[dict[str, Any], AfterValidator(_config)] = Field({})

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        channels, size = self.input_shape[0], math.prod(self.input_shape)
        if size > MAX_IMAGE:
            raise ValueError(f"input_shape is of {size:,} numbers, more than {MAX_IMAGE:,}")
        for name, values in (("mean", self.preprocessing.mean), ("std", self.preprocessing.std)):
            if isinstance(values, list) and len(values) not in (1, channels):
                raise ValueError(
                    f"preprocessing.{name} has {len(values)} numbers for {channels} channels"
                )
        if self.backbone is not None and self.model.name == "transfer":
            # As the class has them by itself.
            usual = {"library": "torchvision", "backbone": "densenet121"} | self.model.settings
            if (self.backbone.library, self.backbone.name) != (usual["library"], usual["backbone"]):
                raise ValueError("backbone is another one than the model's")
        return self


def parsed(value: object, path: Path) -> Card:
    """The card that a file holds.

    Raises:
        DiscernError: it is not a valid card; names the first fault, or another version's format.
    """
    if isinstance(value, Mapping) and "format" in value:
        check_format(path, value["format"], FORMAT)
    try:
        return Card.model_validate(value)
    except ValidationError as error:
        raise DiscernError(f"{path} does not describe a model: {first_fault(error)}.") from error


def written(**parts: object) -> Card:
    """The card of a run, from facts about its data and model, converted if necessary.

    Raises:
        DiscernError: a checkpoint could not be read again with it; names what is wrong.
    """
    try:
        return Card.model_validate(parts, strict=False)
    except ValidationError as error:
        raise DiscernError(
            f"No checkpoint can describe this model: {first_fault(error)}."
        ) from error


def without_target(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Settings without ``_target_``."""
    return {name: value for name, value in settings.items() if name != TARGET}


def portable_settings(settings: Any) -> Any:
    """Settings in the form that a card allows.

    A class that is named within them stands under another key, and texts that mean something to
    OmegaConf are left out, for a card with either is refused.
    """
    if isinstance(settings, Mapping):
        return {
            "target" if key == TARGET else key: portable_settings(value)
            for key, value in settings.items()
            if not _is_interpolation(value)
        }
    if isinstance(settings, list | tuple):
        return [portable_settings(value) for value in settings if not _is_interpolation(value)]
    return settings


def _is_interpolation(value: object) -> bool:
    return isinstance(value, str) and "${" in value
