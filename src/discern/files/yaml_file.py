"""Files of settings: how a run's are written, and how a stranger's are read."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException

from discern.errors import first_line
from discern.files.reading import MAX_PARTS, check_plain, read_text
from discern.files.writing import write_whole
from discern.redaction import redacted

MAX_YAML = 1 << 19
"""Bytes of a file of settings: the weights of 20,000 classes, read in a second or two."""

MAX_WORD_LENGTH = 10_000
"""Letters of a text without quotes: YAML takes time by the square of a number's length."""

MAX_YAML_DEPTH = 50
"""Lists in lists; libyaml ends the whole process where they are some thousands deep."""


def read_settings(path: Path, within: Path | None = None) -> Any:
    """The plain values in a YAML file that may be a stranger's.

    Args:
        path: the file.
        within: the folder that it has to lie in; see :func:`discern.files.reading.read_bytes`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML of plain values.
    """
    text = read_text(path, MAX_YAML, within)
    with yaml_errors():
        check_yaml(text)
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    check_plain(content)
    return content


@contextmanager
def yaml_errors() -> Iterator[None]:
    """Turn whatever is raised for a text that is not YAML of plain values into a ValueError.

    PyYAML's readers of single values raise errors of many types, and OmegaConf has its own.
    """
    try:
        yield
    except OSError:
        raise
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ValueError(first_line(error).rstrip(".")) from error
    except Exception as error:
        raise ValueError("it holds a value that is not of its type") from error


def check_yaml(text: str, most: int = MAX_PARTS, loader: Any = None) -> None:
    """Check that a YAML text is small after expanding its references, and not nested too deep.

    Raises:
        ValueError: it is not.
        yaml.YAMLError: it is not YAML.
    """
    sizes, named, names = [0], dict[str, int](), list[str | None]()
    for event in yaml.parse(text, loader or getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        sizes[-1] += 1
        if isinstance(event, yaml.AliasEvent):
            sizes[-1] += named.get(str(event.anchor), most)  # of one that contains itself
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                named[event.anchor] = 1
            is_text = not event.implicit[0] and event.tag in (None, "!")  # in quotes
            if not is_text and len(event.value) > MAX_WORD_LENGTH:
                raise ValueError("it holds a word that is too long")
            if event.tag == "tag:yaml.org,2002:binary":
                raise ValueError("it holds bytes, which are neither text nor number")
            if any("\ud800" <= letter <= "\udfff" for letter in event.value):
                raise ValueError("it holds half of a character")
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            names.append(event.anchor)
            if len(names) > MAX_YAML_DEPTH:
                raise ValueError("it nests too deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
            sizes[-1] += size
            if name:
                named[name] = size
        if sizes[-1] > most:
            raise ValueError("it holds too many values")


def write_config(cfg: Any, path: Path, resolve: bool = True) -> None:
    """Write a config in the words of ``OmegaConf.to_yaml``; what may be secret is left out.

    Args:
        cfg: the config.
        path: the file.
        resolve: replace interpolations by their values.
    """
    values = redacted(OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True))
    with write_whole(path) as file:
        yaml.dump(
            values,
            file,
            Dumper=dumper(),
            default_flow_style=False,
            allow_unicode=True,
            sort_keys=False,
        )


@functools.cache
def dumper() -> type[Any]:
    """OmegaConf's, which quotes what its loader would not read as a text.

    It is four times as fast where PyYAML has libyaml.
    """
    plain: type[Any] = get_omega_conf_dumper()
    if not hasattr(yaml, "CDumper"):
        return plain

    class Dumper(yaml.CDumper):
        yaml_representers = plain.yaml_representers

    return Dumper
