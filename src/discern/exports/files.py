"""Which files are exported models, and how those of an export come into its folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from discern.files.writing import sync_folder

SUFFIX = ".onnx"

UNPROVEN = ".unproven-"
"""What the name of the folder begins with that an export writes to until it is proven."""


def is_exported(path: Path) -> bool:
    """Whether a file is an exported model by its name."""
    return path.suffix.lower() == SUFFIX


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """A folder to write to; its files move to ``folder`` if the block ends without an exception.

    With one, none of them stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNPROVEN) as temporary:
        begun = Path(temporary)
        yield begun
        for path in sorted(begun.iterdir()):
            path.rename(folder / path.name)
        sync_folder(folder)
