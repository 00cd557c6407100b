"""Checking a composed config.

Each error is one sentence with the setting, its value and what is allowed.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from discern.config.schema import (
    EXTRAS,
    GROUPS,
    IF_INSTALLED,
    PARTS,
    SCHEMAS,
    UNKNOWN,
    WITHOUT_SCHEMA,
    EvaluationSettings,
    InspectionSettings,
    PredictionSettings,
    RunSettings,
)
from discern.config.settle import leave_out, place_paths, read_interpolated
from discern.config.typed import AsTyped
from discern.config.user_config import conf_dir
from discern.config.values import NUMBERS, adapter_of, number_or_word, plain
from discern.errors import DiscernError, as_override, closest, did_you_mean, first_line
from discern.files.walk import find_files
from discern.redaction import remember
from discern.runs.folder import find_checkpoint
from discern.runs.metric_table import check_mode


def check(cfg: DictConfig, command: str = "train") -> None:
    """Raise for the first setting of a composed config that has a value which is not allowed.

    Args:
        cfg: the config.
        command: the one that it was composed for, a key of ``COMMANDS``.

    Raises:
        DiscernError: names the setting, its value, and what is allowed.
    """
    leave_out(cfg)
    if command == "train":
        _put_in_deleted_groups(cfg)
    try:
        read_interpolated(cfg, _validators(cfg, command))
        place_paths(cfg, as_typed_settings())
        # `hydra` is Hydra's own and checked by it.
        values: dict[Any, Any] = {
            str(key): "???" if OmegaConf.is_missing(cfg, key) else plain(cfg[key])
            for key in cfg
            if key != "hydra"
        }
    except OmegaConfBaseException as error:
        raise DiscernError(f"The config cannot be resolved: {first_line(error)}.") from error
    remember(values)
    settings, check_files = COMMANDS[command]
    _check_numbers(values, "")
    if command == "train":
        check_names(cfg)
    _check_part(settings, values, "")
    for name, schema in PARTS.items():
        if isinstance(values.get(name), dict):
            _check_part(schema, values[name], f"{name}.")
    _check_targets(values, "")
    check_files(values)


LARGEST = 2**63 - 1
"""A whole number of 64 bits: no library takes more."""


def _check_numbers(values: Any, path: str) -> None:
    entries = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in entries:
        here = f"{path}{key}"
        if isinstance(value, (dict, list)):
            _check_numbers(value, f"{here}.")
        elif isinstance(value, int) and not -LARGEST <= value <= LARGEST:
            raise DiscernError(f"{here}={value} is not allowed; {LARGEST} is the largest number.")


def _put_in_deleted_groups(cfg: DictConfig) -> None:
    """Have ``~logger``, ``~callbacks`` and ``~scheduler`` mean none, as people type them."""
    with open_dict(cfg), read_write(cfg):
        for group in ("logger", "callbacks", "scheduler"):
            if group not in cfg:
                cfg[group] = {"_target_": None} if group == "scheduler" else {}


def _validators(cfg: DictConfig, command: str) -> dict[str, Callable[[Any], Any]]:
    """Setting -> what raises ValueError for a value that it may not have."""
    schemas = {"": COMMANDS[command][0]}
    schemas |= {f"{name}.": schema for name, schema in PARTS.items() if name in cfg}
    schemas |= dict(_schemas_of_choices(cfg, ""))
    found: dict[str, Callable[[Any], Any]] = {}
    for prefix, schema in schemas.items():
        if issubclass(schema, NUMBERS):
            names = map(str, OmegaConf.select(cfg, prefix[:-1]))
            found |= {f"{prefix}{name}": number_or_word for name in names if name != "_target_"}
        for name in schema.model_fields:
            found[f"{prefix}{name}"] = adapter_of(schema, name).validate_python
    return found


def _schemas_of_choices(cfg: DictConfig, prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    for key in cfg:
        node = cfg._get_node(key)  # of a class that is a number, by the number
        if key == "hydra" or not isinstance(node, DictConfig) or not node:
            continue
        name = f"{prefix}{key!s}"
        schema = SCHEMAS.get(str(node._get_node("_target_", validate_access=False))) or UNKNOWN.get(
            name
        )
        if schema is not None:
            yield f"{name}.", schema
        yield from _schemas_of_choices(node, f"{name}.")


def check_names(cfg: DictConfig) -> None:
    """Raise for a name in a config of ``train`` that stands for nothing, as a mistyped one does.

    A setting of one's own that others may refer to is no such name, unless it looks like one.

    Raises:
        DiscernError: says which names there are.
    """
    known = RunSettings.model_fields
    for key in cfg:
        name = str(key)
        if name in known or name == "hydra":
            continue
        if (conf_dir() / name).is_dir():
            raise DiscernError(
                f"{name} is a group, not a setting; a file chooses from it by a line "
                f"'- override /{name}: CHOICE' among its defaults."
            )
        looks_wrong = OmegaConf.is_dict(cfg._get_node(key)) or closest(name, known)
        if looks_wrong and not _is_referred_to(name, cfg):
            raise DiscernError(f"{name} is not a setting; {did_you_mean(name, known)}")
    for group in ("callbacks", "logger"):
        parts = cfg.get(group)
        if not OmegaConf.is_dict(parts):  # which the settings' own check tells better
            continue
        built = [str(name) for name, part in parts.items() if _is_built(part)]
        for name, part in parts.items():
            if part is not None and not _is_built(part):
                others = did_you_mean(str(name), built) if built else "it needs one."
                raise DiscernError(f"{group}.{name} has no _target_; {others}")


def _is_built(part: Any) -> bool:
    return OmegaConf.is_dict(part) and part.get("_target_") is not None


def _is_referred_to(name: str, cfg: DictConfig) -> bool:
    settings = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    return re.search(rf"\$\{{{re.escape(name)}\b", OmegaConf.to_yaml(settings)) is not None


def _check_targets(values: dict[Any, Any], path: str) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            here = f"{path}{key}"
            schema = SCHEMAS.get(str(value.get("_target_"))) or UNKNOWN.get(here)
            settings = {name: part for name, part in value.items() if name != "_target_"}
            extra = EXTRAS.get(str(value.get("_target_")))
            if extra is not None and not settings.get(IF_INSTALLED):
                _check_installed(here, extra, extra)
            if schema is not None:
                _check_part(schema, settings, f"{here}.")
            if "mode" in (schema.model_fields if schema else ()) and settings.get("monitor"):
                check_mode(f"{here}.mode", settings.get("mode"), settings["monitor"])
            _check_targets(settings, f"{here}.")


def _check_installed(setting: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise DiscernError(
            f"{setting} needs the package {package}, which is not installed; "
            f"pip install 'discern[{extra}]' brings it."
        )


def _check_part(schema: type[BaseModel], values: dict[Any, Any], prefix: str) -> None:
    try:
        schema.model_validate(values)
    except ValidationError as error:
        raise DiscernError(_sentence(error.errors()[0], schema, values, prefix)) from error


def check_given(target: str, settings: dict[str, Any], prefix: str) -> None:
    """Check settings of a class that has a schema, of which some may be left to the class.

    Args:
        target: the class.
        settings: of it.
        prefix: what they are called by in the message.

    Raises:
        ValueError: one is none of its settings, or has a value that is not allowed.
    """
    fields = SCHEMAS[target].model_fields
    is_open = SCHEMAS[target].model_config.get("extra") == "allow"
    for name, value in settings.items():
        if name not in fields:
            if is_open:  # an argument of the class, which checks it
                continue
            raise ValueError(f"{prefix}.{name} is not a setting; {did_you_mean(name, fields)}")
        try:
            adapter_of(SCHEMAS[target], name).validate_python(value)
        except ValidationError as error:
            raise ValueError(
                f"{prefix}.{name}={as_override(value)[:100]} is not allowed; it must be "
                f"{allowed(fields[name])}"
            ) from error


def _sentence(
    error: ErrorDetails, schema: type[BaseModel], values: dict[Any, Any], prefix: str
) -> str:
    name = str(error["loc"][0])
    setting = f"{prefix}{name}"
    if error["type"] == "extra_forbidden":
        return f"{setting} is not a setting; {did_you_mean(name, schema.model_fields)}"
    may_be = allowed(schema.model_fields[name])
    if error["type"] == "missing":
        return f"{setting} is missing; it must be {may_be}."
    hint = error["msg"].removeprefix("Value error, ") if error["type"] == "value_error" else ""
    return f"{setting}={as_override(values[name])} is not allowed; it must be {may_be}{hint}."


def allowed(field: FieldInfo) -> str:
    """What a setting may be, as the end of a sentence."""
    if field.description:
        return field.description
    # `Annotated[int, Field(description=…)] | None`: the description is inside the union.
    metas = [meta for arg in get_args(field.annotation) for meta in get_args(arg)[1:]]
    parts = [meta.description for meta in metas if isinstance(meta, FieldInfo)]
    described = " or ".join(part for part in parts if part)
    return f"{described}, or null" if described else ""


def _check_files_of_train(values: dict[Any, Any]) -> None:
    if values["sweep"]["resume"] is not None:
        raise DiscernError(f"sweep.resume={values['sweep']['resume']} is for a sweep: add -m.")
    if values["ckpt_path"] is not None:
        find_checkpoint(values["ckpt_path"], goes_on=values["train"])
    elif not values["train"]:
        raise DiscernError(
            "train=false leaves nothing to do without a model: give ckpt_path=FILE as well."
        )
    _check_searches(values)


def _check_searches(values: dict[Any, Any]) -> None:
    """Nothing stands in the way of what is to be found before training."""
    searches = []
    if values["find_lr"]:
        searches.append(f"find_lr={as_override(values['find_lr'])}")
    if values["data"].get("batch_size") == "auto":
        searches.append("data.batch_size=auto")
    fast = values["trainer"].get("fast_dev_run")
    reasons = {
        "train=false": not values["train"] and "with it nothing is trained",
        "ckpt_path": values["ckpt_path"] and "a continued run keeps its own",
        f"trainer.fast_dev_run={as_override(fast)}": fast and "it trains on too few batches",
        "cache.shard": values["cache"].get("shard") and "with it nothing is trained",
    }
    for search in searches:
        for other, why in reasons.items():
            if why:
                raise DiscernError(f"{search} is not possible together with {other}: {why}.")
    lr = values["optimizer"].get("lr")
    if values["find_lr"] and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or lr <= 0):
        optimizer = str(values["optimizer"]["_target_"]).rpartition(".")[2]
        raise DiscernError(f"{searches[0]} needs optimizer.lr, and {optimizer} is given none here.")


def _check_files_of_evaluate(values: dict[Any, Any]) -> None:
    find_checkpoint(values["ckpt_path"])


def _check_files_of_predict(values: dict[Any, Any]) -> None:
    find_checkpoint(values["ckpt_path"])
    next(find_files(values["input"]))
    if values["explain"]:
        _check_installed("explain=true", "captum", "explain")


def _no_files(values: dict[Any, Any]) -> None:
    """What the data set needs is looked for when it is built."""


COMMANDS: dict[str, tuple[type[BaseModel], Callable[[dict[Any, Any]], None]]] = {
    "train": (RunSettings, _check_files_of_train),
    "evaluate": (EvaluationSettings, _check_files_of_evaluate),
    "inspect": (InspectionSettings, _no_files),
    "predict": (PredictionSettings, _check_files_of_predict),
}
"""Command -> what its settings outside of groups may be, and the check of the files they name."""


@functools.cache
def as_typed_settings() -> dict[str, AsTyped]:
    """Name -> mark of all settings whose text is taken as it was typed, of all commands."""
    schemas = [("", settings) for settings, _ in COMMANDS.values()]
    schemas += [(f"{name}.", schema) for name, schema in PARTS.items()]
    of_choices = {*SCHEMAS.values(), *UNKNOWN.values()}
    schemas += [
        (f"{group}.", schema)
        for group, bases in GROUPS.items()
        for schema in of_choices
        if issubclass(schema, bases)
    ]
    found = {
        f"{prefix}{name}": mark
        for prefix, schema in schemas
        for name, field in schema.model_fields.items()
        if (mark := _mark(field)) is not None
    }
    return {**found, **WITHOUT_SCHEMA}


def _mark(field: FieldInfo) -> AsTyped | None:
    """The mark of a setting, perhaps of one that may also be null."""
    inside = [meta for arg in get_args(field.annotation) for meta in get_args(arg)[1:]]
    return next((m for m in (*field.metadata, *inside) if isinstance(m, AsTyped)), None)
