"""Whether a run's folder is still the one that it began in."""

from __future__ import annotations

from pathlib import Path

from discern.errors import DiscernError
from discern.files.places import identity


class Place:
    """The folder in which a run began.

    Args:
        folder: the run's; one that is not there yet is never called another one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._identity = identity(self._folder)

    def check(self) -> None:
        """Raise a DiscernError if the folder was moved, removed or replaced.

        Writing would create it again, and each of the two would have half of the run.
        """
        if self._identity is not None and identity(self._folder) != self._identity:
            raise DiscernError(
                f"{self._folder}, the run's folder, was moved, removed or replaced while the run "
                "was going on; continue from the last checkpoint, where it is now (ckpt_path=FILE)."
            )
