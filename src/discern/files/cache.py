"""Where discern keeps what it need not compute twice."""

import functools
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

from discern.files.places import placed

log = logging.getLogger(__name__)

PRIVATE = 0o700
"""Only its owner may use the cache, since what is in it is used as it is found."""


def cache_dir(make: bool = True) -> Path:
    """``$DISCERN_CACHE_DIR``, else the folder for discern in the user's cache folder.

    A cache that others can write to gets a warning.

    Args:
        make: make it, for its owner alone, where it is not there.
    """
    chosen = os.environ.get("DISCERN_CACHE_DIR")
    folder = placed(chosen) if chosen else Path(platformdirs.user_cache_dir("discern"))
    with suppress(OSError):  # whoever writes to it says what is wrong
        if make:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(PRIVATE, exist_ok=True)
        _warn_of_others(folder)
    return folder


@functools.cache
def _warn_of_others(folder: Path) -> None:
    """Warn once if other users can write to the cache."""
    found = folder.stat()
    others = found.st_uid not in (0, os.geteuid())
    if others or found.st_mode & stat.S_IWOTH:
        who = f"user {found.st_uid}" if others else "everybody"
        log.warning(
            "The cache %s can be written to by %s, and what is in it is used; another one, by "
            "DISCERN_CACHE_DIR=FOLDER, is safe from that.",
            folder,
            who,
        )
