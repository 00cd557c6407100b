"""Values of settings: as plain Python has them, and numbers where numbers are meant."""

from __future__ import annotations

import functools
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter, ValidationError

from discern.config.allowed import adapter
from discern.config.schema import SCHEMAS


def plain(node: object, resolve: bool = True) -> Any:
    """A config node as plain Python values, with its interpolations resolved or as they are."""
    return OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node


def with_floats(target: str, settings: dict[str, object]) -> dict[str, object]:
    """Settings in which a whole number is a float where a float is meant.

    People type ``optimizer.betas=[0,0]``, which torch refuses.
    """
    schema, floats = SCHEMAS.get(target, BaseModel), dict(settings)
    for name in settings.keys() & schema.model_fields.keys():
        try:
            floats[name] = adapter_of(schema, name).validate_python(settings[name])
        except ValidationError:  # the config was not checked: building it gives a better message
            continue
    return floats


@functools.cache
def adapter_of(schema: type[BaseModel], name: str) -> TypeAdapter[object]:
    """What validates one setting of a schema."""
    return adapter(schema.model_fields[name].rebuild_annotation())
