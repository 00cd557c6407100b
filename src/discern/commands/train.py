"""``discern train`` within Hydra: one run in the folder that Hydra made."""

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from discern.config.experiment_file import name_of
from discern.errors import refusals_of_files
from discern.files.yaml_file import write_config
from discern.run import train
from discern.runs.state import State
from discern.runs.summary import Summary
from discern.training.job import as_job
from discern.training.record import failed
from discern.training.result import Result

HYDRA = "hydra.yaml"
"""Hydra's own settings beside config.yaml: choices, launcher, folders."""


def job(cfg: DictConfig, import_seconds: float) -> Any:
    """Hydra's task: one run in the folder that Hydra made. Returns the objective."""
    hydra: Any = HydraConfig.get()
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes of the run: the first one speaks for all.
        logging.getLogger().setLevel(logging.ERROR)
    cfg.folder, choices = hydra.runtime.output_dir, hydra.runtime.choices
    if hydra.mode == RunMode.RUN and not getattr(rank_zero_only, "rank", 0):
        parts = [name for name in hydra if name not in ("help", "hydra_help")]
        with refusals_of_files():
            write_config(OmegaConf.masked_copy(hydra, parts), Path(cfg.folder) / HYDRA, False)
    identity = {
        # Of several experiments, a list, Hydra knows no choice.
        "name": name_of(choices.get("experiment") or choices.model),
        "overrides": list(hydra.overrides.task),
        "seconds": {"import": import_seconds},
    }
    try:
        with as_job():
            result = train(cfg, identity, choices)
    except Exception as error:
        # A job of a sweep, whose settings are checked only now.
        summary = Summary(Path(cfg.folder) / "summary.json", **identity)
        with suppress(OSError):
            if not summary.path.exists():
                summary.write(failed(error))
        raise
    if result.state is State.DIVERGED and hydra.mode == RunMode.MULTIRUN:
        # A sweep goes on with its other jobs.
        return math.nan if isinstance(cfg.objective, str) else [math.nan for _ in cfg.objective]
    if result.ended.status:
        raise SystemExit(result.ended.status)
    return objective_of(cfg.objective, result)


def objective_of(setting: str | list[str], result: Result) -> Any:
    """What a sweeper of Hydra's is told: the objective of the model that was kept, or several."""
    if not isinstance(setting, str):
        return [objective_of(metric, result) for metric in setting]
    split, _, name = setting.partition("/")
    return result.metrics.get(split, {}).get(name)
