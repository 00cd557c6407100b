"""Where discern keeps what it need not compute twice."""

import os
from pathlib import Path

import platformdirs

from discern.places import placed


def cache_dir() -> Path:
    """``$DISCERN_CACHE_DIR``, else the folder for discern in the user's cache folder."""
    chosen = os.environ.get("DISCERN_CACHE_DIR")
    return placed(chosen) if chosen else Path(platformdirs.user_cache_dir("discern"))
