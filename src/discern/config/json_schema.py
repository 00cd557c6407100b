"""The checks of settings as JSON Schema, with which editors complete and check YAML files.

A schema is of one file in ``conf``, before composition: no setting is required, and an
interpolation may stand for any value. Which class a setting belongs to follows from ``_target_`` or
from the choices in the file's defaults list.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from discern.config.check import COMMANDS
from discern.config.schema import PARTS, SCHEMAS
from discern.config.settle import LEFT_OUT
from discern.config.user_config import GLOBAL, choice_settings, choices, conf_dir

JSON = dict[str, Any]

OF_ONE = ("model", "data", "optimizer", "scheduler", "trainer")
"""Groups whose choice is one class with its settings."""

OF_MANY = ("callbacks", "logger")
"""Groups whose choice is several named classes."""

TRAINER = "lightning.pytorch.Trainer"

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The version that the YAML extension of VS Code reads."""

_ANYWHERE: JSON = {
    "type": ["string", "null"],
    "pattern": rf"\$\{{|^\?\?\?$|^{LEFT_OUT}$",
}
"""An interpolation, and what stands for a value that is to come or is left out."""

_DEFAULTS: JSON = {"type": "array", "description": "the choices that this file builds on"}


def schemas() -> dict[str, JSON]:
    """Name of a file of schemas -> the schema."""
    found = {group: _of_one(group) for group in OF_ONE}
    found["accelerator"] = _of_target(TRAINER)
    found |= {group: _of_many(group) for group in OF_MANY}
    found |= {command: _global(settings) for command, (settings, _) in COMMANDS.items()}
    definitions = _definitions()
    return {
        name: {"$schema": DRAFT, **schema, "definitions": definitions}
        for name, schema in found.items()
    }


def files_of(name: str) -> list[str]:
    """Patterns of the files, from the working directory, that a schema is for."""
    if name not in COMMANDS:
        return [f"conf/{name}/*.yaml"]
    sets_all = [f"conf/{group}/*.yaml" for group in GLOBAL] if name == "train" else []
    return [f"conf/{name}.yaml", *sets_all]


# Settings of one class


@functools.cache
def _settings(schema: type[BaseModel]) -> JSON:
    """The settings of a class, all of them optional."""
    made = schema.model_json_schema()
    return {
        "type": "object",
        "properties": {name: _or_reference(part) for name, part in made["properties"].items()},
        "additionalProperties": made.get("additionalProperties", True),
    }


def _or_reference(schema: JSON) -> JSON:
    """A setting's schema, or an interpolation in its place."""
    plain = {key: part for key, part in schema.items() if key not in ("title", "default")}
    description = plain.pop("description", None)
    described = {} if description is None else {"description": description}
    return {"anyOf": [_with_references_inside(plain), _ANYWHERE], **described}


def _with_references_inside(schema: JSON) -> JSON:
    """The same for the items of lists."""
    changed = dict(schema)
    for key in ("anyOf", "oneOf"):
        if key in changed:
            changed[key] = [_with_references_inside(part) for part in changed[key]]
    if isinstance(changed.get("items"), dict):
        changed["items"] = {"anyOf": [_with_references_inside(changed["items"]), _ANYWHERE]}
    return changed


def _file(settings: JSON) -> JSON:
    """Settings of a class with what else a file, or a part of one, may hold."""
    target = {"type": ["string", "null"], "description": "the class, as module.Class"}
    hydras: JSON = {name: {} for name in ("_partial_", "_recursive_", "_convert_", "_args_")}
    own = {"_target_": target, "defaults": _DEFAULTS, **hydras}
    return {**settings, "properties": {**own, **settings.get("properties", {})}}


_FREE: JSON = {"type": "object"}


def _of_target(target: object) -> JSON:
    """The settings of a class; anything for one that has no schema."""
    schema = SCHEMAS.get(str(target))
    return _FREE if schema is None else {"$ref": f"#/definitions/{schema.__name__}"}


_BY_TARGET: JSON = {"$ref": "#/definitions/by_target"}
"""A part that is checked by the class that it names itself."""


def _definitions() -> JSON:
    """What schemas refer to: the settings of each class, and the rules for those that name one."""
    used = {schema.__name__: _file(_settings(schema)) for schema in SCHEMAS.values()}
    rules = [
        {"if": _has({"_target_": {"const": target}}), "then": _of_target(target)}
        for target in SCHEMAS
    ]
    return {**used, "by_target": {"type": "object", "allOf": rules}}


def _has(properties: JSON) -> JSON:
    return {"type": "object", "properties": properties, "required": list(properties)}


# Files of groups


@functools.cache
def _choice(path: Path) -> JSON:
    """The settings in a choice's file and those that it builds on."""
    return choice_settings(path, choices(path.parent.name))


def _target_of(path: Path) -> object:
    return _choice(path).get("_target_")


def _of_one(group: str) -> JSON:
    """A file that has the settings of a class, or changes those of another choice."""
    without = {"not": {"required": ["_target_"]}}
    rules: list[JSON] = []
    for name, path in choices(group).items():
        builds_on = _has({"defaults": {"contains": {"const": name}}})
        rules.append(
            {
                "if": {"allOf": [without, builds_on]},
                "then": _of_target(_target_of(path)),
            }
        )
    return {"allOf": [_BY_TARGET, *rules]}


def _of_many(group: str) -> JSON:
    """A file that has several classes under names of their own."""
    entries = _entries(group)
    return {**entries, "properties": {"defaults": _DEFAULTS, **entries["properties"]}}


def _entries(group: str) -> JSON:
    """Names -> classes; a name that a choice of discern's has may come without its class."""
    known: dict[str, object] = {}
    for path in choices(group).values():
        for name, node in _choice(path).items():
            if isinstance(node, dict):
                known[name] = node.get("_target_")
    named = {
        name: {
            "anyOf": [_ANYWHERE, _FREE],
            "if": {"anyOf": [_has({"_target_": {"const": target}}), _WITHOUT_TARGET]},
            "then": _of_target(target),
            "else": _ENTRY,
        }
        for name, target in known.items()
        if str(target) in SCHEMAS
    }
    return {"type": ["object", "null"], "properties": named, "additionalProperties": _ENTRY}


_WITHOUT_TARGET: JSON = {"type": "object", "not": {"required": ["_target_"]}}


_ENTRY: JSON = {
    "if": {"type": "object"},
    "then": _BY_TARGET,
    "else": _ANYWHERE,
}


# Files of settings of all groups


def _global(settings: type[BaseModel]) -> JSON:
    """A command's own file, or one such as an experiment that sets what belongs to groups."""
    properties = dict(_settings(settings)["properties"])
    groups = [name for name in (*OF_ONE, *OF_MANY) if name in properties]
    for group in groups:
        properties[group] = _entries(group) if group in OF_MANY else _ONE
    properties |= {name: _settings(PARTS[name]) for name in PARTS if name in properties}
    return {
        "type": "object",
        "properties": {"defaults": _choosing(), "hydra": _FREE, **properties},
        # One's own settings, to which others refer; a group that is mistyped is none.
        "additionalProperties": {"not": {"type": "object"}},
        "allOf": [_FREE, *(rule for g in groups if g in OF_ONE for rule in _by_choice(g))],
    }


_ONE: JSON = {"if": {"type": "object"}, "then": _BY_TARGET}


def _choosing() -> JSON:
    """A defaults list, whose entries choose what there is."""
    names = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    entries: JSON = {}
    for group in (name for name in names if name != "hydra"):
        known = {"enum": [*choices(group), None]}
        choice = {"anyOf": [known, {"type": "array", "items": known}, _ANYWHERE]}
        if group == "experiment":  # a file's path, too
            choice = {"anyOf": [*choice["anyOf"], {"type": "string", "pattern": "/|[.]yaml$"}]}
        entries |= dict.fromkeys(_keys(group), choice)
    object_of = {"type": "object", "properties": entries}
    return {**_DEFAULTS, "items": {"anyOf": [{"type": "string"}, object_of]}}


def _keys(group: str) -> list[str]:
    """The ways to name a group in a defaults list."""
    return [f"{begin}{group}" for begin in ("", "/", "override /", "override ")]


def _by_choice(group: str) -> list[JSON]:
    """Rules that check the settings of a group by the choice in the defaults list."""
    rules = []
    for name, path in choices(group).items():
        chosen = {"contains": {"anyOf": [_has({key: {"const": name}}) for key in _keys(group)]}}
        target = _target_of(path)
        unless_named = {"if": _WITHOUT_TARGET, "then": _of_target(target)}
        rules.append(
            {"if": _has({"defaults": chosen}), "then": {"properties": {group: unless_named}}}
        )
    return rules
