"""The steps between composing a config and running it: the check, and a new folder."""

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from discern.config.missing import check_all
from discern.config.settle import settle_sweep
from discern.config.typed import as_value, is_typed, quoted
from discern.config.user_config import warn_of_unused
from discern.errors import DiscernError, refuse
from discern.files.places import expanded
from discern.runs.folder import find_checkpoint, find_sweep


class Preflight(Callback):
    """Hydra calls this after composition, before it creates a folder or a log file.

    A wrong config therefore leaves no files. Errors are raised as :class:`SystemExit`, since Hydra
    turns any other exception of a callback into a warning.
    """

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check the config and the machine, and create a folder for the run."""
        # The folder's name refers to Hydra's own settings, which Hydra sets only later.
        HydraConfig.instance().set_config(config)
        try:
            command = config.hydra.job.config_name
            check_all(config, command)
            warn_of_unused(config.hydra.runtime.choices)
            with read_write(config.hydra.run):
                config.hydra.run.dir = as_value(str(_claim_for(command, config)))
        except DiscernError as error:
            refuse(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Create a folder for the sweep; each job checks its own config."""
        HydraConfig.instance().set_config(config)
        try:
            settle_sweep(config)
            resumed = config.get("sweep") and config.sweep.resume
            folder = find_sweep(resumed) if resumed else _claim(config, "sweep")
            # Hydra composes each job's config from the overrides, so that the folder must be one.
            with read_write(config.hydra):
                config.hydra.sweep.dir = as_value(str(folder))
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
        except DiscernError as error:
            refuse(error)


def _claim_for(command: str, config: DictConfig) -> Path:
    """The folder of one run of a command."""
    if command in ("predict", "export") and is_typed("out", config.hydra.overrides.task):
        return claim_folder(expanded(config.hydra.run.dir), "out", shared=command == "predict")
    return _claim(config, "run", config.ckpt_path if command == "train" else None)


def _claim(config: DictConfig, kind: str, ckpt_path: str | None = None) -> Path:
    setting = f"hydra.{kind}.dir"
    named = is_typed(setting, config.hydra.overrides.hydra)
    return claim_folder(expanded(config.hydra[kind].dir), setting if named else None, ckpt_path)


def claim_folder(
    folder: Path,
    named_by: str | None = None,
    ckpt_path: str | None = None,
    shared: bool = False,
) -> Path:
    """Create a new folder, adding a number to its name if it exists, and return its path.

    Args:
        folder: the preferred path.
        named_by: the setting with which the user named the folder; no number is added then.
        ckpt_path: a run that continues a checkpoint in ``folder`` may share it.
        shared: whether a folder that the user named need not be empty.

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
                    return _share(folder, named_by, ckpt_path, shared)
                number += 1
                candidate = folder.with_name(f"{folder.name}_{number}")
    except OSError as error:
        raise DiscernError(
            f"The output folder {folder} cannot be written ({error.strerror}); "
            "choose another with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for a sweep)."
        ) from error


def _share(folder: Path, setting: str, ckpt_path: str | None, shared: bool) -> Path:
    if not folder.is_dir():
        raise DiscernError(f"{setting}={folder} is a file; it must be a folder.")
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        return folder  # another process of the run that created it
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiscernError(f"{setting}={folder} cannot be written; choose another folder.")
    continues = ckpt_path and folder.resolve() in find_checkpoint(ckpt_path).resolve().parents
    if any(folder.iterdir()) and not (continues or shared):
        more = (
            ""
            if setting == "out"
            else (", or continue the run in it with discern train ckpt_path=FILE")
        )
        raise DiscernError(f"{setting}={folder} is not empty; name a new folder{more}.")
    return folder
