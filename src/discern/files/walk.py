"""Finding the files that a setting names: one file, all in a folder, or those a pattern matches."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from discern.errors import DiscernError
from discern.files.places import expanded, is_file, is_folder

JUNK = frozenset({"__MACOSX", "@eaDir"})
"""Folders that macOS and Synology leave beside pictures, with copies and thumbnails of them."""


def find_files(wanted: str) -> Iterator[Path]:
    """The files that the setting ``input`` means, in the order of their names, at least one.

    Args:
        wanted: a file's path; a folder's, for the files in it and its subfolders that are not
            hidden; or a pattern such as ``photos/**/*.jpg``.

    Raises:
        DiscernError: there are none.
    """
    path = expanded(wanted)
    if is_file(path):
        files = iter([path])
    elif is_folder(path):
        files = walk(path)
    else:
        matches = matching(path)
        files = (match for match in matches if is_file(match))
    first = next(files, None)
    if first is None:
        what = "is a folder without files" if is_folder(path) else "is not a file and matches none"
        raise DiscernError(
            f"input={wanted} {what}; it must be a picture, a folder of pictures, or a pattern "
            "such as 'photos/*.png'."
        )
    yield first
    yield from files


def matching(pattern: Path) -> list[Path]:
    """The matches of a pattern, sorted; parts that exist literally are taken literally."""
    found = Path()
    parts = []
    for part in pattern.parts:
        found /= part
        parts.append(glob.escape(part) if os.path.lexists(found) else part)
    # Path.glob knows no pattern that begins at the root.
    return sorted(map(Path, glob.glob(str(Path(*parts)), recursive=True)))  # noqa: PTH207


def walk(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Files below ``folder`` that are not hidden, in the order of their names.

    A folder that links lead to again is entered once: ``seen`` holds those already entered.
    """
    seen = set() if seen is None else seen
    # No function that calls itself: folders may be nested deeper than Python's calls.
    entered = [_entries(folder, seen)]
    while entered:
        path, is_folder = next(entered[-1], (None, False))
        if path is None:
            entered.pop()
        elif is_folder:
            entered.append(_entries(path, seen))
        else:
            yield path


def everything(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that is below a folder, hidden or not; links are not followed."""
    # No function that calls itself, as os.walk and rglob are before Python 3.12: see above.
    left: list[str | Path] = [folder]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError:  # it was removed meanwhile, or its path is too long
            continue
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)


def file_size(path: Path) -> int:
    """Bytes of a file; 0 if it is gone."""
    with suppress(OSError):
        return path.lstat().st_size
    return 0


def file_sizes(folder: Path) -> Iterator[int]:
    """The bytes of each file below a folder, hidden or not; links are not followed."""
    for entry in everything(folder):
        if not entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # it was removed meanwhile
                yield entry.stat(follow_symlinks=False).st_size


def _entries(folder: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, bool]]:
    """Files and folders in a folder, in the order of their names, and whether each is a folder."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # Reading it as a picture will say why it cannot be read.
        yield folder, False
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name in JUNK:
            continue
        if (is_folder := _is_folder(entry)) or entry.is_symlink() or entry.is_file():
            yield folder / entry.name, is_folder


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False
