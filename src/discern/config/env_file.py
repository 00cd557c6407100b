"""The file ``.env`` of the working directory: environment variables for discern's commands."""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

from discern.errors import DiscernError
from discern.files.reading import read_text

FILE = ".env"

MAX_BYTES = 1 << 16

OF_PROGRAMS = ("BASH_", "DYLD_", "GIT_", "LD_", "PYTHON")
"""Beginnings of variables that decide what other programs load or run; none of them is set."""


def read_env_file() -> None:
    """Set the variables of ``.env`` that the environment does not have.

    Raises:
        DiscernError: the file cannot be read.
    """
    path = Path(FILE)
    if not path.exists():
        return
    from dotenv.main import DotEnv  # start-up time

    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DiscernError(f"{FILE} cannot be read: {why}.") from error
    for name, value in DotEnv(None, StringIO(text), override=False).dict().items():
        if value is not None and "\0" not in value and not name.upper().startswith(OF_PROGRAMS):
            os.environ.setdefault(name, value)
