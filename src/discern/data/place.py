"""The folder ``data.dir``: whether it can be read, and the names in it."""

from __future__ import annotations

import os
from pathlib import Path

from discern.errors import DiscernError, file_errors
from discern.files.places import is_folder, is_there
from discern.files.walk import JUNK


def check_folder(folder: Path) -> None:
    """Raise a DiscernError unless ``data.dir`` is a folder that can be listed."""
    if not is_folder(folder):
        what = "is a file" if is_there(folder) else "does not exist"
        raise DiscernError(f"data.dir={folder} {what}; it must be a folder of pictures.")
    visible_names(folder)


def visible_names(folder: Path) -> list[str]:
    """Names in a folder that are not hidden, sorted."""
    with file_errors(f"data.dir: {folder} cannot be read"):
        names = os.listdir(folder)  # noqa: PTH208 - names are wanted
    return sorted(name for name in names if not name.startswith(".") and name not in JUNK)
