"""Files that come into a folder together, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discern.files.writing import sync_folder
from discern.runs.holding import INCOMPLETE, held


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """A folder to write to; its files move to ``folder`` if the block ends without an exception.

    With one, none of them stays. What a killed process has left of them is removed.

    Raises:
        DiscernError: another process is at work in ``folder``.
        OSError: it cannot be written.
    """
    with held(folder):
        begun = folder / INCOMPLETE
        if begun.is_dir():
            shutil.rmtree(begun)
        begun.mkdir()
        try:
            yield begun
            for path in sorted(begun.iterdir()):
                path.rename(folder / path.name)
            sync_folder(folder)
        finally:
            shutil.rmtree(begun)
