"""A folder for what a command writes: a new one, or one that the user named and that is unused."""

from __future__ import annotations

import os
import time
from pathlib import Path

from discern.errors import DiscernError
from discern.files.places import is_folder
from discern.runs.folder import find_checkpoint
from discern.runs.holding import INCOMPLETE, LOCKS, hold, is_first_process, is_in_use

BY_HYDRA = "hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for a sweep)"
"""The settings that name the folder of what Hydra starts."""


def take_folder(
    folder: Path,
    named_by: str | None,
    ckpt_path: str | None = None,
    shared: bool = False,
    leftover: str | None = None,
) -> Path:
    """Create a folder as :func:`claim_folder` does, and hold it until this process ends.

    Raises:
        DiscernError: as there, or another process is at work in it.
    """
    folder = claim_folder(folder, named_by, ckpt_path, shared, leftover)
    hold(folder, named_by or "folder")
    if named_by:  # another process may have had it, and have ended, in between
        claim_folder(folder, named_by, ckpt_path, shared, leftover)
    return folder


def new_folder(outputs: Path, command: str) -> Path:
    """A new folder for a command that Hydra does not start: OUTPUTS/DATE/TIME_COMMAND.

    Raises:
        DiscernError: it cannot be created.
    """
    folder = outputs / time.strftime(f"%Y-%m-%d/%H-%M-%S_{command}")
    return claim_folder(folder, settings="out=FOLDER")


def claim_folder(
    folder: Path,
    named_by: str | None = None,
    ckpt_path: str | None = None,
    shared: bool = False,
    leftover: str | None = None,
    settings: str = BY_HYDRA,
) -> Path:
    """Create a new folder, adding a number to its name if it exists, and return its path.

    Args:
        folder: the preferred path.
        named_by: the setting with which the user named the folder; no number is added then.
        ckpt_path: a run that continues a checkpoint in ``folder`` may share it.
        shared: whether a folder that the user named need not be empty.
        leftover: the name of a file that does not make it one that has been used.
        settings: by which the user could have named it.

    Raises:
        DiscernError: the folder cannot be created, or was named and is not empty.
    """
    candidate, number = folder, 1
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                candidate.mkdir()
                return candidate
            except FileExistsError:
                if named_by:
                    return _share(folder, named_by, ckpt_path, shared, leftover)
                number += 1
                candidate = folder.with_name(f"{folder.name}_{number}")
    except OSError as error:
        raise DiscernError(
            f"The output folder {folder} cannot be written ({error.strerror}); choose another "
            f"with {f'{named_by}=FOLDER' if named_by else settings}."
        ) from error


def _share(
    folder: Path, setting: str, ckpt_path: str | None, shared: bool, leftover: str | None
) -> Path:
    if not is_folder(folder):
        raise DiscernError(f"{setting}={folder} is a file; it must be a folder.")
    if not is_first_process():
        return folder  # the first one's, who has written in it
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiscernError(f"{setting}={folder} cannot be written; choose another folder.")
    continues = ckpt_path and folder.resolve() in find_checkpoint(ckpt_path).resolve().parents
    is_used = any(path.name not in (*LOCKS, INCOMPLETE, leftover) for path in folder.iterdir())
    if is_used and not (continues or shared):
        if is_in_use(folder):
            hold(folder, setting)  # says who has it
        more = (
            ""
            if setting == "out"
            else (", or continue the run in it with discern train ckpt_path=FILE")
        )
        raise DiscernError(f"{setting}={folder} is not empty; name a new folder{more}.")
    return folder
