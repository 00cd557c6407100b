"""What of a run is not as ``python train.py`` has it: other choices, and settings of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from discern.config.user_config import choices, conf_dir, merged, settings_of, user_conf_dir

Differences = dict[str, tuple[Any, Any]]
"""Flat dotted name -> (default, value), in the order of the config; choices come first."""

SEVERAL = ("experiment", "debug", "hparams_search")
"""Groups whose choices stand for settings all over the config: each of these is told by itself."""

PACKAGES = {"accelerator": "trainer"}
"""Groups whose settings are not below their own name."""

LEFT_OUT = ("folder", "sweep", "hydra", "data.dir", "cache.dir", "print_config")
"""Where a run is and reads, and what a sweep tells its jobs."""


def differences(cfg: DictConfig, chosen: Mapping[str, Any]) -> Differences:
    """What differs from the defaults: choices, and settings from those of the choices made.

    A setting that refers to another one is compared as it is written, so that a change is told
    once. One that is there on one side only is None on the other.

    Args:
        cfg: conf/train.yaml, composed, as it was when the run began.
        chosen: Hydra's groups and what was chosen of each; the defaults where they are not known.
    """
    usual = _usual_choices()
    made = {group: chosen.get(group, choice) for group, choice in usual.items()}
    found: Differences = {g: (usual[g], made[g]) for g in usual if made[g] != usual[g]}
    known = tuple((group, made[group]) for group in usual if group not in SEVERAL)
    default, unknown = _defaults(known, user_conf_dir())
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    one, other = dict(_flat(default)), dict(_flat(values))
    for name in dict.fromkeys((*other, *one)):
        if _below(name, (*LEFT_OUT, *unknown)):
            continue
        if one.get(name) != other.get(name):
            found[name] = one.get(name), other.get(name)
    return found


def as_facts(found: Differences) -> dict[str, dict[str, Any]]:
    """Differences as summary.json has them: name -> ``default`` and ``value``."""
    return {name: {"default": one, "value": other} for name, (one, other) in found.items()}


@functools.cache
def _usual_choices() -> dict[str, Any]:
    """Group -> choice, as the defaults list of conf/train.yaml has them."""
    config: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"))
    entries = [entry for entry in config["defaults"] if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override ")}


@functools.lru_cache(maxsize=64)
def _defaults(
    made: tuple[tuple[str, Any], ...], place: Path | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of some choices as their files have it, and the groups of which there are none.

    Hydra takes a fifth of a second for it. The jobs of a sweep share what is read here once, as
    long as the user's own files are in the same ``place``.
    """
    own: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"))
    del own["defaults"]
    parts, unknown = [own], []
    for group, choice in made:
        package, files = PACKAGES.get(group, group), choices(group)
        if choice in files:
            parts.append({package: settings_of(files[choice], files)})
        else:  # from a folder that Hydra was told of
            unknown.append(package)
    return merged(*parts), tuple(unknown)


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value != {}:
            yield f"{prefix}{key}", value


def _below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)
