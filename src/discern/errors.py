"""The exception for mistakes that a user can correct, and the messages about them."""

import difflib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from discern.redaction import redacted_text
from discern.text import visible

# Read once: the entry point sets the variable itself so that Hydra hands its exceptions on.
FULL_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


class DiscernError(Exception):
    """A mistake in a setting, a file or the environment: one sentence, without secrets.

    Of several mistakes that are found together it is a sentence on each line.
    """

    def __init__(self, message: object) -> None:
        super().__init__(redacted_text(str(message)))


def raise_all(sentences: Iterable[str]) -> None:
    """Raise a DiscernError that says all of these, if there are any, each once."""
    said = "\n".join(dict.fromkeys(sentences))
    if said:
        raise DiscernError(said)


def not_installed(setting: str, package: str, extra: str) -> DiscernError:
    """The error for a setting that needs an optional package."""
    return DiscernError(
        f"{setting} needs the package {package}, which is not installed; "
        f"pip install 'discern[{extra}]' brings it."
    )


def refuse(error: DiscernError) -> NoReturn:
    """Print the sentences and exit with status 1 (``HYDRA_FULL_ERROR=1``: a traceback too)."""
    if FULL_TRACEBACK:
        print(redacted_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    raise SystemExit(said(error)) from error


REFUSED = "Error: "
"""The beginning of each of these lines."""


def said(error: DiscernError) -> str:
    """What a terminal is told of an error, a line for each sentence."""
    return "\n".join(f"{REFUSED}{line}" for line in sanitize_message(error).split("\n"))


MAX_LINE_LENGTH = 500
"""Characters of a line of an error or a warning: a text from a file may have a million."""

_END_LENGTH = 120


def sanitize_message(message: object) -> str:
    """A message without control characters and long lines.

    A long line loses its middle: it begins with what is wrong and ends with what is allowed.
    """
    first = MAX_LINE_LENGTH - _END_LENGTH - 3
    return "\n".join(
        line if len(line) <= MAX_LINE_LENGTH else f"{line[:first]} … {line[-_END_LENGTH:]}"
        for line in visible(str(message), lines=True).split("\n")
    )


@contextmanager
def about(setting: str) -> Iterator[None]:
    """Put the setting before errors that begin with its value: ``setting=value …``."""
    try:
        yield
    except DiscernError as error:
        raise DiscernError(f"{setting}={error}") from error


@contextmanager
def refusals_of(setting: str | None = None) -> Iterator[None]:
    """Turn an error of a library into a sentence that names the setting.

    Args:
        setting: None for the group of the optimizer, callback or other part of a library that
            raised the error; errors of a user's own network or callback then stay as they are.

    Raises:
        DiscernError: the library raised an error.
    """
    try:
        yield
    except DiscernError:
        raise
    except Exception as error:
        named = setting or _group_of(error)
        if named is None:
            raise
        raise DiscernError(f"{named}: {first_line(error)}.") from error


@contextmanager
def file_errors(problem: str) -> Iterator[None]:
    """Turn what the system or a decoder of text says of a file into ``PROBLEM: REASON.``

    Raises:
        DiscernError: an OSError or a UnicodeDecodeError was raised.
    """
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DiscernError(f"{problem}: {reason}.") from error


@contextmanager
def refusals_of_files() -> Iterator[None]:
    """Turn an error of the system, such as a full disk, into a sentence.

    Raises:
        DiscernError: names the file and the reason.
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
"""Prefix of a module's name -> the group whose choices are its classes."""

_BELOW = ("torch.", "lightning.", "lightning_utilities.", "torchmetrics.", "_", "contextlib")
"""Prefixes of modules that only work for their caller, where the mistake is then looked for."""


def _group_of(error: BaseException) -> str | None:
    """The group of the part that raised an error: that of its innermost frame in a part."""
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
    """The first line of an exception's message without its full stop; its type if it has none.

    A line that ends in a colon continues on the next. Secrets are left out.
    """
    text = redacted_text(str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".")


def shortened(items: Sequence[str], most: int = 20) -> str:
    """Items on one line; of more than ``most``, the first ones and the count."""
    more = f", … ({len(items):,} in all)" if len(items) > most else ""
    return ", ".join(map(visible, items[:most])) + more


MAX_LISTED = 12
"""Up to so many names are all listed beside the closest one."""


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``wrong``, if any is.

    Of names of the same group, such as ``optimizer.lr``, what follows the group's name is compared.
    """
    group, dot, name = wrong.rpartition(".")
    beginning = f"{group}{dot}"
    rests = {each.removeprefix(beginning): each for each in sorted(known)}
    similar = difflib.get_close_matches(name, rests, n=5, cutoff=0.6)
    near = next((other for other in similar if _is_near(name, other)), None)
    return None if near is None else rests[near]


def _is_near(wrong: str, known: str) -> bool:
    """Whether a name is one that is mistyped, shortened or lengthened; as are few that only share
    letters with it: ``restart`` is not ``report``."""
    if min(len(wrong), len(known)) >= 3 and (wrong.startswith(known) or known.startswith(wrong)):
        return True
    block = difflib.SequenceMatcher(None, wrong, known).find_longest_match()
    return block.size >= 5 or _mistakes(wrong, known) <= (len(wrong) + 3) // 4


def _mistakes(wrong: str, known: str) -> int:
    """Letters left out, added or exchanged, and neighbours swapped, from one text to the other."""
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, letter in enumerate(wrong, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(known, 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == known[j - 2] and other == wrong[i - 2]:
                least = min(least, older[j - 2] + 1)
            row.append(least)
    return row[-1]


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """'did you mean NAME?' for the closest known name, and the list of names unless it is long."""
    names = sorted(known)
    close = closest(wrong, names)
    if close is None:
        return f"there are {shortened(names)}." if names else "there are none."
    choice = f" (there are {', '.join(names)})" if 1 < len(names) <= MAX_LISTED else ""
    return f"did you mean {close}{choice}?"


def as_override(value: object) -> str:
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
