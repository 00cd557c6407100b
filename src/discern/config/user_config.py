"""A user's own models and data sets: files in ``./conf``, and the classes that they name.

What is in the folder ``conf`` of the working directory stands beside discern's own choices. A class
is imported because the user's file names it; a checkpoint names no more than the file.
"""

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from discern.files.places import started_in

log = logging.getLogger(__name__)

FOLDER = "conf"
"""The name of the user's folder of choices, in the working directory."""


def user_conf_dir() -> Path | None:
    """The user's folder of choices; None where there is none but discern's."""
    folder = started_in() / FOLDER
    return folder if folder.is_dir() and folder.resolve() != conf_dir().resolve() else None


def choices(group: str) -> dict[str, Path]:
    """Name -> file of each choice of a group; discern's own win over a user's of the same name."""
    places = [conf_dir(), user_conf_dir()]
    found: dict[str, Path] = {}
    for place in places:
        files = sorted((place / group).glob("*.yaml")) if place else []
        found |= {path.stem: path for path in files if path.stem not in found}
    return found


def warn_of_unused(chosen: Mapping[str, Any]) -> None:
    """Say which files of the user's are not what was chosen, for they have the name of another.

    Args:
        chosen: group -> choice.
    """
    folder = user_conf_dir()
    for group, choice in chosen.items():
        if folder and isinstance(choice, str) and (conf_dir() / group / f"{choice}.yaml").is_file():
            path = folder / group / f"{choice}.yaml"
            if path.is_file():
                log.warning(
                    "%s is not used: %s=%s is a choice of discern's own; give the file another "
                    "name.",
                    path.relative_to(started_in()),
                    group,
                    choice,
                )


def target_of(path: Path) -> str | None:
    """The class that a choice's file names itself; None where it builds on another choice's.

    A file that cannot be read names none: it may be another program's, and who chooses it is told.
    """
    try:
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    target = node.get("_target_") if isinstance(node, dict) else None
    return target if isinstance(target, str) else None


def make_importable(target: str) -> None:
    """Let a class in a module of the working directory be imported.

    The folder is put at the end of Python's path, and only if the module is in it and nowhere else.
    """
    module, here = target.partition(".")[0], started_in()
    if not module.isidentifier() or module in sys.modules or str(here) in sys.path:
        return
    is_here = (here / f"{module}.py").is_file() or (here / module).is_dir()
    if is_here and importlib.util.find_spec(module) is None:
        sys.path.append(str(here))


def conf_dir() -> Path:
    """The folder of the config groups: the installed package's, else the repository's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


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
