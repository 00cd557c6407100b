"""The one exception for what a user can put right, and how it ends the process."""

import difflib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from discern.redaction import redacted_text
from discern.text import visible

# Read once: the entry point sets the variable itself so that Hydra hands its exceptions on.
FULL_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


class DiscernError(Exception):
    """A mistake in a setting, a file or the environment, told in one sentence without secrets."""

    def __init__(self, message: object) -> None:
        super().__init__(redacted_text(str(message)))


def refuse(error: DiscernError) -> NoReturn:
    """End the process with status 1 and the sentence (``HYDRA_FULL_ERROR=1``: a traceback too)."""
    if FULL_TRACEBACK:
        print(redacted_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    raise SystemExit(f"Error: {told(error)}") from error


MAX_LETTERS = 300
"""Of a line of an error or a warning: what a file says may be a megabyte long."""

_LAST_LETTERS = 120


def told(message: object) -> str:
    """A message as it leaves the program: nothing in it is obeyed by a terminal, no line is long.

    What is left out of a line is its middle: it begins with what is wrong and ends with what is
    allowed.
    """
    return "\n".join(map(_cut, visible(str(message), lines=True).split("\n")))


def _cut(line: str) -> str:
    if len(line) <= MAX_LETTERS:
        return line
    first = MAX_LETTERS - _LAST_LETTERS - 3
    return f"{line[:first]} … {line[-_LAST_LETTERS:]}"


@contextmanager
def about(setting: str) -> Iterator[None]:
    """Name the setting in errors that begin with its value, as ``setting=value …``."""
    try:
        yield
    except DiscernError as error:
        raise DiscernError(f"{setting}={error}") from error


@contextmanager
def refusals_of(setting: str) -> Iterator[None]:
    """Tell in a sentence that names the setting what a library refuses of it.

    Raises:
        DiscernError: the library raised an error of any kind.
    """
    try:
        yield
    except DiscernError:
        raise
    except Exception as error:
        raise DiscernError(f"{setting}: {first_line(error)}.") from error


@contextmanager
def refusals_of_files() -> Iterator[None]:
    """Tell in a sentence what the system refuses, such as a full disk or a folder of another's.

    Raises:
        DiscernError: names the file, and says why.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        file = f"{error.filename} cannot be used" if error.filename else "A file cannot be used"
        raise DiscernError(f"{file}: {error.strerror}.") from error


_PARTS = {
    "torch.optim.lr_scheduler": "scheduler",
    "torch.optim.": "optimizer",
    "lightning.pytorch.callbacks.": "callbacks",
    "lightning.pytorch.loggers.": "logger",
    "tensorboard.": "logger",
    "lightning.pytorch.profilers.": "trainer.profiler",
}
"""Beginning of a module's name -> the group whose choices are made of its classes."""

_BELOW = ("torch.", "lightning.", "lightning_utilities.", "torchmetrics.", "_", "contextlib")
"""Modules that do the work of others, who are to blame for what they have asked for."""


@contextmanager
def refusals_at_work() -> Iterator[None]:
    """Tell in a sentence what a library's optimizer, callback or other part refuses in training.

    What a network or a callback of a user's own raises stays as it is.

    Raises:
        DiscernError: names the group that the part is of.
    """
    try:
        yield
    except DiscernError:
        raise
    except Exception as error:
        group = _group_of(error)
        if group is None:
            raise
        raise DiscernError(f"{group}: {first_line(error)}.") from error


def _group_of(error: BaseException) -> str | None:
    """The group of what raised an error: the innermost of its frames that is of a part."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        module = str(frame.f_globals.get("__name__"))
        for beginning, group in _PARTS.items():
            if module.startswith(beginning):
                return group
        if not module.startswith(_BELOW):
            return None
    return None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop; its type if it has none.

    A line that ends in a colon goes on in the next. What may be secret is left out.
    """
    text = redacted_text(str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".")


def shortened(items: Sequence[str], most: int = 20) -> str:
    """Items in a row on one line, the last of many left out."""
    more = f", … ({len(items):,} in all)" if len(items) > most else ""
    return ", ".join(map(visible, items[:most])) + more


FEW = 12
"""So many names are all shown beside the closest."""


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``wrong``, if any is.

    Of names of the same group, such as ``optimizer.lr``, what follows the group's name is compared.
    """
    group, dot, name = wrong.rpartition(".")
    beginning = f"{group}{dot}"
    rests = {each.removeprefix(beginning): each for each in sorted(known)}
    found = difflib.get_close_matches(name, rests, n=1, cutoff=0.6)
    return rests[found[0]] if found else None


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """'did you mean NAME?' for the closest known name, and the list of names unless it is long."""
    names = sorted(known)
    close = closest(wrong, names)
    if close is None:
        return f"there are {shortened(names)}."
    choice = f" (there are {', '.join(names)})" if 1 < len(names) <= FEW else ""
    return f"did you mean {close}{choice}?"


def as_override(value: Any) -> str:
    """A plain value as one would type it in an override: ``[128,64]``, ``null``, ``true``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(as_override(item) for item in value)}]"
    if isinstance(value, dict):
        items = ",".join(f"{key}:{as_override(item)}" for key, item in value.items())
        return f"{{{items}}}"
    return str(value)
