"""Where relative paths begin, and what ``~`` stands for."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def expanded(text: str | Path) -> Path:
    """The path with ``~`` and ``~user`` at its beginning replaced by that home.

    Without such a user the text stays as it is.
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises there


def is_there(path: str | Path) -> bool:
    """Whether a file or folder is there; not under a name that is too long, or in a closed folder.

    Path.exists and the like raise an OSError for these, up to Python 3.13.
    """
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: str | Path) -> bool:
    """Whether a file is there, as :func:`is_there` says it."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there, as :func:`is_there` says it."""
    return os.path.isdir(path)  # noqa: PTH112


def started_in() -> Path:
    """The folder in which the command was started.

    With ``hydra.job.chdir=true`` Hydra runs a job in the job's own folder.
    """
    hydra_config = sys.modules.get("hydra.core.hydra_config")
    here = _working_directory()
    if hydra_config is None or hydra_config.HydraConfig.instance().cfg is None:
        return here
    hydra = hydra_config.HydraConfig.get()
    folder = None if not hydra.job.get("chdir") else hydra.runtime.get("output_dir")
    # Whoever has gone elsewhere since, or composes in a notebook, is where he is.
    inside = folder is not None and Path(folder).resolve() == here.resolve()
    return Path(hydra.runtime.cwd) if inside else here


def placed(text: str | Path) -> Path:
    """The path that a user means: from where the command was started, with ``~`` replaced.

    It stays relative as long as that folder is the working directory.
    """
    path, start = expanded(text), started_in()
    return path if is_there(start) and start == _working_directory() else start / path


def _working_directory() -> Path:
    """The working directory; where it has been removed since, the path that a shell had for it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.environ.get("PWD") or os.sep)


def hub_dir() -> Path:
    """The folder in which torch.hub keeps published weights."""
    return expanded(os.environ.get("TORCH_HOME", f"{_cache()}/torch")) / "hub" / "checkpoints"


def hugging_face_dir() -> Path:
    """The folder in which the Hugging Face hub keeps the weights of timm's models."""
    return expanded(os.environ.get("HF_HOME", f"{_cache()}/huggingface")) / "hub"


def _cache() -> str:
    return os.environ.get("XDG_CACHE_HOME", "~/.cache")


def identity(path: Path) -> tuple[int, int] | None:
    """The numbers of a file system and of a file or folder on it; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
