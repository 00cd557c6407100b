"""Values of settings: as plain Python has them, and numbers where numbers are meant."""

from __future__ import annotations

import functools
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from discern.config.schema import (
    SCHEMAS,
    EarlyStoppingSettings,
    OptimizerSettings,
    SchedulerSettings,
)
from discern.config.settle import read_interpolated


def with_floats(target: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which a whole number is a float where a float is meant.

    People type ``optimizer.betas=[0,0]``, which torch refuses.
    """
    schema = SCHEMAS.get(str(target))
    if schema is None:
        return settings
    known = settings.keys() & schema.model_fields.keys()
    return {**settings, **{name: _as_meant(schema, name, settings[name]) for name in known}}


def _as_meant(schema: type[BaseModel], name: str, value: Any) -> Any:
    try:
        return adapter_of(schema, name).validate_python(value)
    except ValidationError:  # of a config that was not checked: building it tells better
        return value


@functools.cache
def adapter_of(schema: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """What validates one setting of a schema."""
    annotation = schema.model_fields[name].rebuild_annotation()
    return TypeAdapter(annotation, config=ConfigDict(strict=True))


NUMBERS = (OptimizerSettings, SchedulerSettings, EarlyStoppingSettings)
"""Schemas of classes whose further arguments are numbers, true or false."""


NUMBERS_OF_HYDRA = (
    "hydra.launcher.n_jobs",
    "hydra.sweeper.max_batch_size",
    "hydra.sweeper.n_jobs",
    "hydra.sweeper.n_trials",
)
"""Settings of sweeps that are numbers, or words."""


def plain(node: Any) -> Any:
    """A config node as plain Python values, every interpolation resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


number_or_word = TypeAdapter(
    int | float | bool, config=ConfigDict(strict=True, defer_build=True)
).validate_python


def settle_sweep(cfg: DictConfig) -> None:
    """Read what interpolations hand out for the settings of a sweep itself."""
    read_interpolated(cfg, dict.fromkeys(NUMBERS_OF_HYDRA, number_or_word))
