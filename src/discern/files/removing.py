"""Removing a folder, however deep, and nothing that its links lead to."""

import errno
import os
import shutil
from pathlib import Path

from discern.files.reading import WITHOUT_WAITING


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it, however deep; links are removed and not followed.

    Raises:
        OSError: something in it cannot be removed, or it is itself no folder but a link to one.
    """
    try:
        shutil.rmtree(folder)
    except (RecursionError, OSError) as error:
        # It calls itself, and has a file open, for each folder in a folder.
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            raise
        _remove_deep(folder)


def _remove_deep(folder: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | WITHOUT_WAITING
    here = os.open(folder, flags)
    entered: list[tuple[str, list[str]]] = []
    try:
        left = _emptied(here)
        while left or entered:
            name = left.pop() if left else None
            there = os.open(name or "..", flags, dir_fd=here)
            os.close(here)
            here = there
            if name:
                entered.append((name, left))
                left = _emptied(here)
            else:
                name, left = entered.pop()
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)
    folder.rmdir()


def _emptied(folder: int) -> list[str]:
    """Remove what is in a folder but its folders; the names of these."""
    left = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return left
