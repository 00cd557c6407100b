"""What the files of a choice of a group say, without composing a whole config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def settings_of(path: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The settings of a choice's file, with those of the choices that it builds on; unresolved.

    Args:
        path: the file; one that holds no settings, as another program's may, has none.
        files: choice -> file, of its group.
    """
    node: Any = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(node, dict):
        return {}
    names = [name for name in node.pop("defaults", ()) if isinstance(name, str) and name in files]
    return merged(*(settings_of(files[name], files) for name in names), node)


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Mappings in one, mappings in them too; of two values the later one counts."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            before = result.get(key)
            both = isinstance(before, dict) and isinstance(value, dict)
            result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result
