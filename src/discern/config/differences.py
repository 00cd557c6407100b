"""How a run differs from ``python train.py``: other choices, and changed settings."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from discern.config.user_config import (
    GLOBAL,
    choice_settings,
    choices,
    conf_dir,
    user_conf_dir,
)

Differences = dict[str, tuple[object, object]]
"""Flat dotted name -> (default, value), in the order of the config; choices come first."""

PACKAGES = {"accelerator": "trainer"}
"""Groups whose settings are not below their own name."""

IGNORED = ("folder", "sweep", "hydra", "data.dir", "cache.dir", "print_config")
"""Where a run is and reads, and what a sweep sets for its jobs."""


def differences(cfg: DictConfig, chosen: Mapping[str, object]) -> Differences:
    """The choices that differ from the defaults, and the settings that differ from their choice's.

    A setting that refers to another one is compared as it is written, so that a change is listed
    once. One that is there on one side only is None on the other.

    Args:
        cfg: conf/train.yaml, composed, as it was when the run began.
        chosen: Hydra's groups and the choices from them; the defaults where they are not known.
    """
    usual = _default_choices()
    made = {group: chosen.get(group, choice) for group, choice in usual.items()}
    found: Differences = {g: (usual[g], made[g]) for g in usual if made[g] != usual[g]}
    # What a choice of a group in GLOBAL changes is listed setting by setting.
    known = tuple((group, made[group]) for group in usual if group not in GLOBAL)
    default, unknown = _defaults(known, user_conf_dir())
    values = dict(_flat(OmegaConf.to_container(cfg)))
    for name in dict.fromkeys((*values, *default)):
        is_left_out = any(f"{name}.".startswith(f"{part}.") for part in (*IGNORED, *unknown))
        if not is_left_out and default.get(name) != values.get(name):
            found[name] = default.get(name), values.get(name)
    return found


def as_facts(found: Differences) -> dict[str, dict[str, object]]:
    """Differences as summary.json has them: name -> ``default`` and ``value``."""
    return {name: {"default": one, "value": other} for name, (one, other) in found.items()}


@functools.cache
def _default_choices() -> dict[str, object]:
    """Group -> choice, from the defaults list of conf/train.yaml."""
    config = OmegaConf.load(conf_dir() / "train.yaml")
    entries = [entry for entry in config.defaults if isinstance(entry, DictConfig)]
    pairs = [(str(group), choice) for entry in entries for group, choice in entry.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override ")}


@functools.lru_cache(maxsize=64)
def _defaults(
    made: tuple[tuple[str, object], ...], place: Path | None
) -> tuple[dict[str, object], tuple[str, ...]]:
    """The flat settings of some choices as their files have them, and the groups without a file.

    Hydra takes a fifth of a second for it. The jobs of a sweep share the result as long as the
    user's own files are in the same ``place``.
    """
    parts, unknown = [choice_settings(conf_dir() / "train.yaml", {})], []
    for group, choice in made:
        package, files = PACKAGES.get(group, group), choices(group)
        if str(choice) in files:
            parts.append({package: choice_settings(files[str(choice)], files)})
        else:  # from a folder that --config-dir adds
            unknown.append(package)
    return dict(_flat(OmegaConf.to_container(OmegaConf.merge(*parts)))), tuple(unknown)


def _flat(settings: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value != {}:
            yield f"{prefix}{key}", value
