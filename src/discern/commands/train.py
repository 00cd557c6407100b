"""``discern train`` within Hydra: one run in the folder that Hydra made."""

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from discern.config.experiment_file import name_of
from discern.errors import DiscernError, refusals_of_files
from discern.files.yaml_file import write_config
from discern.run import train
from discern.runs.folder import HYDRA, SUMMARY
from discern.runs.state import State
from discern.runs.summary import Summary
from discern.training.job import as_job
from discern.training.record import failed
from discern.training.result import Result

Objective = float | None | list[float | None]


def job(cfg: DictConfig, import_seconds: float) -> Objective:
    """Train in ``cfg.folder`` and return the objective."""
    hydra = HydraConfig.get()
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes of the run: only the first one logs.
        logging.getLogger().setLevel(logging.ERROR)
    choices = hydra.runtime.choices
    identity = {
        # A list of several experiments has no entry in Hydra's choices.
        "name": name_of(choices.get("experiment") or choices["model"]),
        "overrides": list(hydra.overrides.task),
        "seconds": {"import": import_seconds},
    }
    summary = Summary(Path(cfg.folder) / SUMMARY, **identity)
    try:
        with as_job():
            if not getattr(rank_zero_only, "rank", 0) and hydra.mode == RunMode.RUN:
                _write_hydra_settings(Path(cfg.folder) / HYDRA)
            result = train(cfg, identity, choices)
    except Exception as error:
        # The settings of a sweep's job are checked only here.
        with suppress(OSError, DiscernError):
            if not summary.path.exists():
                summary.write(failed(error))
        raise
    if result.state is State.DIVERGED and hydra.mode == RunMode.MULTIRUN:
        # The sweep continues with its other jobs.
        return math.nan if isinstance(cfg.objective, str) else [math.nan for _ in cfg.objective]
    if result.ended.status:
        raise SystemExit(result.ended.status)
    return objective_of(cfg.objective, result)


def _write_hydra_settings(path: Path) -> None:
    settings = cast(DictConfig, HydraConfig.get())
    parts = [str(name) for name in settings if name not in ("help", "hydra_help")]
    with refusals_of_files():
        write_config(OmegaConf.masked_copy(settings, parts), path, False)


def objective_of(setting: str | list[str], result: Result) -> Objective:
    """The objective for Hydra's sweeper: a metric of the best checkpoint, or several of them."""
    if not isinstance(setting, str):
        return [_metric(metric, result) for metric in setting]
    return _metric(setting, result)


def _metric(name: str, result: Result) -> float | None:
    split, _, metric = name.partition("/")
    return result.metrics.get(split, {}).get(metric)
