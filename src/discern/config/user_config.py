"""A user's own models and data sets: files in ``./conf``, and the classes that they name.

The files in the folder ``conf`` of the working directory are choices beside discern's own. A class
is imported because the user's file names it; a checkpoint only names the file.
"""

import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from discern.files.places import is_file, is_folder, started_in
from discern.files.yaml_file import read_settings, yaml_errors

log = logging.getLogger(__name__)

FOLDER = "conf"
"""The name of the user's folder of choices, in the working directory."""

GLOBAL = ("experiment", "debug", "hparams_search")
"""Groups whose choices change settings all over the config."""


def user_conf_dir() -> Path | None:
    """The user's folder of choices; None where it does not exist or is discern's own."""
    folder = started_in() / FOLDER
    return folder if is_folder(folder) and folder.resolve() != conf_dir().resolve() else None


def choices(group: str) -> dict[str, Path]:
    """Name -> file of each choice of a group; discern's own win over a user's of the same name."""
    found: dict[str, Path] = {}
    for place in (conf_dir(), user_conf_dir()):
        for path in sorted((place / group).glob("*.yaml")) if place else ():
            found.setdefault(path.stem, path)
    return found


def warn_of_unused(chosen: Mapping[str, object]) -> None:
    """Warn of files of the user's that a choice of discern's own hides by having their name.

    Args:
        chosen: group -> choice.
    """
    folder = user_conf_dir()
    for group, choice in chosen.items():
        name = f"{group}/{choice}.yaml"
        if folder and is_file(folder / name) and is_file(conf_dir() / name):
            log.warning(
                "%s is not used: %s=%s is a choice of discern's own; give the file another name.",
                Path(FOLDER, name),
                group,
                choice,
            )


def target_of(path: Path) -> str | None:
    """The class in a choice's file; None where it builds on another choice's.

    A file that cannot be read names none: it may be another program's, and choosing it reports why.
    """
    try:
        node = read_settings(path)
    except (OSError, ValueError):
        return None
    target = node.get("_target_") if isinstance(node, dict) else None
    return target if isinstance(target, str) else None


def make_importable(target: str) -> None:
    """Make a class in a module of the working directory importable.

    The folder goes to the end of Python's path, and only if the module is nowhere else.
    """
    module, here = target.partition(".")[0], started_in()
    if not module.isidentifier() or module in sys.modules or str(here) in sys.path:
        return
    is_here = is_file(here / f"{module}.py") or is_folder(here / module)
    if is_here and importlib.util.find_spec(module) is None:
        sys.path.append(str(here))


def conf_dir() -> Path:
    """discern's own folder of choices: the installed package's, else the repository's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if is_folder(installed) else package.parents[1] / "conf"


def choice_settings(path: Path, files: Mapping[str, Path]) -> dict[str, object]:
    """The settings of a choice's file, with those of the choices that it builds on; unresolved.

    Args:
        path: the file; one that holds no settings or cannot be read, as another program's may be,
            has none.
        files: choice -> file, of its group.
    """
    settings: Any = OmegaConf.to_container(_with_bases(path, files))
    return dict(settings)


def _with_bases(path: Path, files: Mapping[str, Path]) -> DictConfig | ListConfig:
    try:
        with yaml_errors():
            own = OmegaConf.load(path)
    except (OSError, ValueError):
        return OmegaConf.create({})
    if not isinstance(own, DictConfig):
        return OmegaConf.create({})
    names = [name for name in own.pop("defaults", ()) if isinstance(name, str) and name in files]
    return OmegaConf.merge(*(_with_bases(files[name], files) for name in names), own)
