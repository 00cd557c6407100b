"""Parses the arguments of commands that Hydra does not compose, mostly ``name=value``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints

from discern.console import for_terminal
from discern.errors import DiscernError, did_you_mean
from discern.files.places import expanded, is_folder

T = TypeVar("T")


def settings_of(shape: type) -> dict[str, Callable[[str, str], object]]:
    """Setting -> its reader, a function of the setting's name and value.

    Args:
        shape: a dataclass; its fields ``Annotated[type, reader]`` are settings.
    """
    hints = get_type_hints(shape, include_extras=True).items()
    return {name: hint.__metadata__[0] for name, hint in hints if hasattr(hint, "__metadata__")}


def read(shape: type[T], words: Iterable[str]) -> tuple[T, list[str]]:
    """The settings among words, and the other words; of a repeated setting the last counts.

    Raises:
        DiscernError: a value is not allowed.
    """
    readers, found, others = settings_of(shape), {}, []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in readers:
            found[name] = readers[name](name, value)
        else:
            others.append(word)
    return shape(**found), others


def read_all(shape: type[T], words: Iterable[str], command: str) -> T:
    """Like :func:`read`, but any other word is an error."""
    settings, others = read(shape, words)
    for word in others:
        raise unknown(word, command, settings_of(shape))
    return settings


def unknown(word: str, command: str, known: Iterable[str]) -> DiscernError:
    """The error for a word that is not a setting of a command."""
    names = did_you_mean(word.partition("=")[0], known)
    return DiscernError(f"{for_terminal(word)} is not a setting of {command}; {names}")


def starting(begun: str, names: Iterable[str], *others: str) -> list[str]:
    """Completions of the beginning of a word: settings by name, and other words."""
    words = [*(f"{name}=" for name in names), *others]
    return [word for word in words if word.startswith(begun)]


def text(name: str, value: str) -> str:
    """A text that is not empty."""
    if not value:
        raise DiscernError(f"{name}= must not be empty.")
    return value


def path(name: str, value: str) -> Path:
    """A folder, whether it exists or not."""
    if not value:
        raise DiscernError(f"{name}= must be a folder.")
    return expanded(value)


def folder(name: str, value: str) -> Path:
    """A folder that exists."""
    if not value or not is_folder(expanded(value)):
        raise DiscernError(f"{name}={for_terminal(value)} must be a folder that exists.")
    return expanded(value)


def count(name: str, value: str) -> int:
    """A whole number."""
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise DiscernError(f"{name}={for_terminal(value)} must be a whole number, 0 or above.")
    return int(value)


def between(least: int, most: int) -> Callable[[str, str], int]:
    """The reader of a whole number within bounds."""

    def read(name: str, value: str) -> int:
        is_number = value.isascii() and value.isdigit() and len(value) <= 10
        if not (is_number and least <= int(value) <= most):
            raise DiscernError(
                f"{name}={for_terminal(value)} must be a whole number from {least} to {most:,}."
            )
        return int(value)

    return read


def switch(name: str, value: str) -> bool:
    """True or false."""
    if value not in ("true", "false"):
        raise DiscernError(f"{name}={for_terminal(value)} must be true or false.")
    return value == "true"


Folder = Annotated[Path, folder]
