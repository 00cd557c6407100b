"""Where discern keeps what it need not compute twice."""

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """``$DISCERN_CACHE_DIR``, else the folder for discern in the user's cache folder."""
    chosen = os.environ.get("DISCERN_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("discern"))
