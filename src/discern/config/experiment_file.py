"""``experiment=FILE``: a YAML file of the user's in the place of a choice of conf/experiment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from discern.errors import DiscernError, closest, did_you_mean
from discern.files.places import expanded, is_file
from discern.files.reading import read_text
from discern.files.yaml_file import MAX_YAML, check_yaml, yaml_errors

SUFFIX = ".yaml"

MAX_VALUES = 50_000
"""Of a file, with its references written out."""


def is_path(choice: str) -> bool:
    """Whether a choice is written as a path, and so means a file even if a recipe has its name."""
    return "/" in choice or choice.endswith(SUFFIX)


def name_of(choice: str) -> str:
    """What a run is called by its experiment: the recipe's name, or the file's."""
    return Path(choice).name.removesuffix(SUFFIX)


def find_file(choice: str) -> Path | None:
    """The file that a choice names, with or without its ending."""
    candidates = (expanded(choice), expanded(f"{choice}{SUFFIX}"))
    return next((path for path in candidates if is_file(path)), None)


def not_found(choice: str, choices: Iterable[str]) -> str:
    """The sentence for a choice that is neither a recipe nor a file."""
    way_out = did_you_mean(choice, choices)
    if is_path(choice):
        files = [path for path in Path(choice).parent.glob(f"*{SUFFIX}") if is_file(path)]
        beside = {path.stem: path for path in files}
        close = closest(name_of(choice), beside)
        if close is not None:
            way_out = f"did you mean {beside[close]}?"
    return f"experiment={choice} is neither a choice nor a file; {way_out}"


def read_settings(path: Path, source: str) -> tuple[str, DictConfig]:
    """The text of a file of settings given by its path, and the settings in it.

    Args:
        path: the file.
        source: the beginning of a message about it, such as ``experiment=mine.yaml``.

    Raises:
        DiscernError: it cannot be read, or holds no settings.
    """
    try:
        text = read_text(path, MAX_YAML, path.parent)  # a stranger's may be a link to elsewhere
        with yaml_errors():
            # The loader of OmegaConf is the slow one, which reads what the fast one would refuse.
            check_yaml(text, MAX_VALUES, yaml.SafeLoader)
            root = yaml.compose(text, yaml.SafeLoader)
            is_mapping = root is None or isinstance(root, yaml.MappingNode)
            settings = OmegaConf.create(text) if root and is_mapping else OmegaConf.create({})
    except OSError as error:
        raise DiscernError(f"{source} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DiscernError(f"{source} is not a YAML file: {error}.") from error
    if not is_mapping:
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise DiscernError(
            f"{source} holds {kind}; it must hold settings, as the files in conf/experiment do."
        )
    assert isinstance(settings, DictConfig)
    return text, settings
