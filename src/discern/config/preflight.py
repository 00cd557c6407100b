"""The steps between composing a config and running it: the check, and a new folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from discern.config.check import check_sweep
from discern.config.missing import check_all
from discern.config.settle import settle_sweep
from discern.config.typed import as_value, is_typed, quoted
from discern.config.user_config import warn_of_unused
from discern.config.values import plain
from discern.errors import DiscernError, as_override, refusals_of_files, refuse
from discern.files.places import expanded, is_file
from discern.redaction import redacted_setting
from discern.runs.claim import claim_folder, take_folder
from discern.runs.folder import HYDRA, Run, find_sweep, glance, is_run, is_sweep
from discern.runs.state import State
from discern.text import decoded, visible


class Preflight(Callback):
    """Hydra calls this after composition, before it creates a folder or a log file.

    A wrong config therefore leaves no files. Errors are raised as :class:`SystemExit`, since Hydra
    turns any other exception of a callback into a warning.
    """

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check the config and the machine, and create a folder for the run."""
        # The folder's name refers to Hydra's own settings, which Hydra sets only later.
        HydraConfig.instance().set_config(config)
        with _refusals():
            command = config.hydra.job.config_name
            check_all(config, command)
            warn_of_unused(config.hydra.runtime.choices)
            with read_write(config.hydra.run):
                config.hydra.run.dir = as_value(str(_claim_for(command, config)))

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Create a folder for the sweep; each job checks its own config."""
        HydraConfig.instance().set_config(config)
        with _refusals():
            settle_sweep(config)
            if "sweep" in config:
                check_sweep(config)
            resumed = config.get("sweep") and (config.sweep.resume or _sweep_there(config))
            folder = find_sweep(resumed) if resumed else _claim(config, "sweep")
            # Hydra composes each job's config from the overrides, so that the folder must be one.
            with read_write(config), read_write(config.hydra):
                config.hydra.sweep.dir = as_value(str(folder))
                if resumed:
                    config.sweep.resume = as_value(str(resumed))
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")


@contextmanager
def _refusals() -> Iterator[None]:
    """End the process with the sentence for an error of the user's or of the system."""
    try:
        with refusals_of_files():
            yield
    except DiscernError as error:
        refuse(error)


def _claim_for(command: str, config: DictConfig) -> Path:
    """The folder of one run of a command."""
    if command in ("predict", "export") and is_typed("out", config.hydra.overrides.task):
        folder = expanded(config.hydra.run.dir)
        if command == "predict":
            return claim_folder(folder, "out", shared=True)
        # An export that failed has left its log alone: it may be tried again as it was typed.
        return take_folder(folder, "out", leftover=f"{config.hydra.job.name}.log")
    if command == "train" and config.auto_resume:
        return _claim_again(config)
    return _claim(config, "run", config.ckpt_path if command == "train" else None)


def _claim_again(config: DictConfig) -> Path:
    """The folder of a run that may have begun in it before; ends the process if it is finished.

    Raises:
        DiscernError: the command names no folder, or that of something else.
    """
    _check_is_named(config, "run")
    folder = expanded(config.hydra.run.dir)
    begun = is_run(folder) or is_file(folder / HYDRA)
    claimed = take_folder(folder, "hydra.run.dir", shared=begun)
    run = glance(claimed)
    if run.state.is_settled:
        done = run.state is not State.DIVERGED
        print(
            f"The run in {decoded(claimed)} is finished, and auto_resume=true has nothing to do: "
            f"{run.ended}.{_on_other_settings(run, config.hydra.overrides.task)}"
        )
        raise SystemExit(0 if done else 1)
    return claimed


def _on_other_settings(run: Run, typed: Sequence[str]) -> str:
    """A sentence on settings that a finished run was not begun with; empty where there are none."""
    begin = ("auto_resume=", "ckpt_path=")
    others = [each for each in map(redacted_setting, typed) if each not in run.overrides]
    others = [visible(each) for each in others if not each.startswith(begin)]
    if not others:
        return ""
    start = as_override(decoded(run.folder))
    return f" It ran without {' '.join(others)}; ckpt_path={start} goes on with other settings."


def _sweep_there(config: DictConfig) -> str | None:
    """The folder of the sweep that ``auto_resume`` goes on with; None where it begins."""
    if not config.get("auto_resume"):
        return None
    _check_is_named(config, "sweep")
    folder = expanded(config.hydra.sweep.dir)
    return str(folder) if is_sweep(folder) else None


def _check_is_named(config: DictConfig, kind: str) -> None:
    written = plain(config.hydra[kind], resolve=False)["dir"]
    if "${now:" in str(written):
        raise DiscernError(
            f"auto_resume=true needs hydra.{kind}.dir=FOLDER, the same each time; without it each "
            f"{kind} has a new folder, named after the time."
        )


def _claim(config: DictConfig, kind: str, ckpt_path: str | None = None) -> Path:
    setting = f"hydra.{kind}.dir"
    named = is_typed(setting, config.hydra.overrides.hydra)
    return take_folder(expanded(config.hydra[kind].dir), setting if named else None, ckpt_path)
