"""The one exception for what a user can put right, and how it ends the process."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Read once: the entry point sets the variable itself so that Hydra hands its exceptions on.
FULL_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


class DiscernError(Exception):
    """A mistake in a setting, a file or the environment, told in one sentence."""


def refuse(error: DiscernError) -> NoReturn:
    """End the process with status 1 and the sentence (``HYDRA_FULL_ERROR=1``: a traceback too)."""
    if FULL_TRACEBACK:
        traceback.print_exception(error)
    raise SystemExit(f"Error: {error}") from error


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


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop; its type if it has none.

    A line that ends in a colon goes on in the next.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".")
