"""A composed config, put into the form that it is used in.

What files, environment variables and interpolations say is read as it would be if it were typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from discern.config.typed import AsTyped, as_value, parsed
from discern.files.places import expanded, placed

LEFT_OUT = "<left out>"
"""The value of a setting that is not to be there: what ``~SETTING`` is on the command line."""


def leave_out(cfg: DictConfig) -> None:
    """Remove the settings that a file says are left out."""
    for key in list(cfg):
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            leave_out(node)
        elif not OmegaConf.is_config(node) and node._value() == LEFT_OUT:  # type: ignore[union-attr]
            with flag_override(cfg, ["struct", "readonly"], [False, False]):
                del cfg[key]


def place_paths(cfg: DictConfig, settings: Mapping[str, AsTyped]) -> None:
    """Have paths begin where the user sees them begin: at his home, or where he has started."""
    for name, setting in settings.items():
        value = _value(cfg, name)
        if isinstance(value, str) and value not in ("", *setting.words):
            meant = _placed(value, setting)
            if meant != value:
                _set(cfg, name, meant)


def _placed(value: str, setting: AsTyped) -> str:
    if not setting.is_path:
        # MLflow's address of a folder.
        scheme, _, folder = value.partition("file:")
        is_relative = not scheme and folder and not folder.startswith("/")
        return f"file:{placed(folder)}" if is_relative else value
    path = placed(value) if setting.from_start else expanded(value)
    return value if path == Path(value) else str(path)


def read_interpolated(cfg: DictConfig, validators: Mapping[str, Callable[[Any], Any]]) -> None:
    """Read what interpolations hand out as it would be read if it were typed.

    An environment variable is a text; ``optimizer.lr=${oc.env:LR}`` means the number in it.

    Args:
        cfg: the config.
        validators: setting -> what raises ValueError for a value that it may not have.
    """
    found = [name for name in validators if _node(cfg, name) is not None]
    # What refers to another setting has a number once that has.
    for name in sorted(found, key=lambda name: ":" not in str(_node(cfg, name))):
        value = _value(cfg, name)
        meant = _meant(value, _node(cfg, name))
        if repr(meant) == repr(value):
            continue
        try:
            validators[name](meant)
        except ValueError:
            continue
        _set(cfg, name, meant)


def _node(cfg: DictConfig, name: str) -> Any:
    """What stands at a setting, if there is an interpolation in it."""
    parent, _, key = name.rpartition(".")
    above = OmegaConf.select(cfg, parent, throw_on_missing=False) if parent else cfg
    if not isinstance(above, DictConfig) or above._is_none():
        return None
    node = above._get_node(key, validate_access=False)
    return node if any(_interpolations(node)) else None


def _interpolations(node: Any) -> Iterator[bool]:
    """Of a value and the items of a list whether they are interpolations."""
    if node is None or isinstance(node, DictConfig):
        return
    yield node._is_interpolation()
    if isinstance(node, ListConfig) and not node._is_interpolation() and not node._is_none():
        for index in range(len(node)):
            yield from _interpolations(node._get_node(index))


def _meant(value: Any, node: Any) -> Any:
    """A value in which the texts of interpolations are read as if they were typed."""
    if isinstance(value, list) and isinstance(node, ListConfig) and not node._is_interpolation():
        return [_meant(item, node._get_node(index)) for index, item in enumerate(value)]
    if not isinstance(value, str) or not node._is_interpolation():
        return value
    override = parsed(f"x={value}")
    return value if override is None or override.is_sweep_override() else override.value()


def _value(cfg: DictConfig, name: str) -> Any:
    """A setting's value, resolved; None where there is none."""
    try:
        value = OmegaConf.select(cfg, name, throw_on_missing=False)
    except OmegaConfBaseException:  # what cannot be resolved is told of by the check
        return None
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _set(cfg: DictConfig, name: str, value: Any) -> None:
    above, _, key = name.rpartition(".")
    parent: Any = OmegaConf.select(cfg, above) if above else cfg
    with flag_override(parent, ["struct", "readonly"], [False, False]):
        parent[key] = as_value(value) if isinstance(value, str) else value
