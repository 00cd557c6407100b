"""What a run writes: its settings, summary, curves and report."""

import functools
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from discern.config.differences import as_facts, differences
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, first_line, refusals_of, refusals_of_files
from discern.files.places import started_in
from discern.files.writing import dispensable
from discern.files.yaml_file import write_config
from discern.models.classifier import Classifier
from discern.models.layers import count_parameters, layer_table
from discern.models.saved import Content, card_and_state, epoch_of
from discern.redaction import redacted_text
from discern.reports.curves import draw_curves
from discern.runs.folder import SUMMARY
from discern.runs.metric_table import METRICS
from discern.runs.signals import BY_CTRL_C, BY_SIGNAL
from discern.runs.state import Ended, State
from discern.runs.summary import Summary, git_state, machine, versions
from discern.runs.sweep_job import sweep_draws
from discern.training.history import History
from discern.training.terminal import gpu_memory_used, way_on

log = logging.getLogger(__name__)

MAX_TRACEBACK = 20_000
"""Characters of the traceback of a failed run that its summary keeps."""


@contextmanager
def recorded(
    cfg: DictConfig, identity: Mapping[str, object], choices: Mapping[str, object]
) -> Iterator[Summary]:
    """The summary of a run, written however the run ends.

    Args:
        cfg: the composed config.
        identity: what the summary says of the run besides.
        choices: Hydra's groups and what was chosen of each.
    """
    summary = Summary(
        Path(cfg.folder) / SUMMARY,
        **{"name": cfg.model._target_.rpartition(".")[2].lower(), "overrides": [], **identity},
        tags=list(cfg.tags),
        seed=cfg.seed,
        changed=as_facts(differences(cfg, choices)),
        git=git_state_once(started_in()),
        versions=versions(),
        machine=machine(),
    )
    try:
        with refusals_of_files(), refusals_of():
            yield summary
    except KeyboardInterrupt:
        _end_early(summary, BY_CTRL_C, cfg)
        raise
    except SystemExit as end:
        ended = Ended(State.FAILED, f"it ended with status {end.code}")
        for each in BY_SIGNAL.values():
            if each.status == end.code:
                ended = each
                log.warning("Interrupted %s.", ended.reason)
        _end_early(summary, ended, cfg)
        raise
    except BaseException as error:
        if not isinstance(error, DiscernError):  # a sentence that needs none
            summary.facts["traceback"] = _traceback(error)
        _end_early(summary, failed(error), cfg)
        raise


def _end_early(summary: Summary, ended: Ended, cfg: DictConfig) -> None:
    try:
        write_summary(summary, ended, cfg)
    except (OSError, DiscernError) as error:
        # A run that failed has said why already, a full disk for example.
        level = logging.DEBUG if ended.state is State.FAILED else logging.WARNING
        log.log(level, "%s was not written: %s", SUMMARY, first_line(error))
    command = way_on(summary.facts, summary.path.parent)
    if command is not None:
        log.info("The last checkpoint is kept. Continue: %s", command)


def failed(error: BaseException) -> Ended:
    """The end of a run that raised an error."""
    return Ended(State.FAILED, first_line(error))


def _traceback(error: BaseException) -> str:
    """The last part of an error's traceback, without secrets."""
    text = "".join(traceback.format_exception(error))
    return redacted_text(text)[-MAX_TRACEBACK:]


# The state of the code that this process has imported, whatever becomes of the files.
git_state_once = functools.cache(git_state)


@rank_zero_only
def save_config(cfg: DictConfig, overrides: list[str]) -> None:
    """Write config.yaml (every interpolation resolved) and overrides.yaml (what was typed).

    The summary of an earlier part of the run would say how that one ended, and goes.
    """
    Path(cfg.folder, SUMMARY).unlink(missing_ok=True)
    for name, content in (("config", cfg), ("overrides", OmegaConf.create(overrides))):
        write_config(content, Path(cfg.folder) / f"{name}.yaml")


def describe(model: Classifier, data: ImageDataModule) -> dict[str, Any]:
    """The facts about the data and the model, for the summary."""
    backbone = model.card and model.card["backbone"]
    return {
        "parameters": count_parameters(model.network),
        "layers": layer_table(model.network, data.input_shape),
        **({"backbone": backbone} if backbone else {}),
        "data": {
            "title": data.title,
            "source": data.source_used,
            "fingerprint": data.fingerprint,
            "images": data.num_images,
            "classes": data.class_names,
        },
    }


def record_fit(
    summary: Summary, history: History, trainer: Trainer, best: Path | None, content: Content | None
) -> None:
    """Add the metrics of the best checkpoint, or else of the last epoch, to the summary."""
    facts, row = summary.facts, history.rows[-1] if history.rows else {}
    facts["best_epoch"] = None
    if best is not None and content is not None:
        facts["best_epoch"] = epoch_of(content)
        rows = [row for row in history.rows if row["epoch"] == facts["best_epoch"]]
        # Of several validations in its epoch, the checkpoint knows the one that it was best in.
        metrics = card_and_state(best, content)[0].metrics
        validated = {name: value for name, value in metrics.items() if name.startswith("val/")}
        row = {**(rows[0] if rows else {}), **validated}
    for split in ("train", "val"):
        names = {each.name: f"{split}/{each.name}" for each in METRICS}
        if known := {name: row[logged] for name, logged in names.items() if logged in row}:
            facts["metrics"][split] = known
    facts["machine"] |= gpu_memory_used(trainer)
    facts["epochs"], facts["steps"] = len(history.rows), trainer.global_step
    facts["seconds"]["validation"] = history.validation_seconds
    facts["seconds"]["fit"] -= history.validation_seconds
    totals = history.totals
    facts["images_per_second"] = totals.images / totals.fit_seconds if totals.fit_seconds else None
    facts["images_counted"] = {
        "all": totals.images,
        "features_read": totals.features_read,
        "features_computed": totals.features_computed,
    }


@rank_zero_only
def draw(history: History, facts: dict[str, Any], folder: Path) -> None:
    """Draw curves.png; nothing without an epoch, as of a run that diverged in its first."""
    if history.rows:
        with dispensable("curves.png"):
            draw_curves(history.rows, facts["best_epoch"], facts["title"], folder / "curves.png")


@rank_zero_only
def write_summary(summary: Summary, ended: Ended, cfg: DictConfig) -> None:
    """Write summary.json and then report.html."""
    summary.write(ended)
    if cfg.report and not sweep_draws():
        try:
            from discern.reports.run_page import write_run_page  # start-up time: when it ends

            write_run_page(summary.path.parent)
        except Exception as error:  # the run has been made, and its report can be made again
            log.warning("report.html was not written: %s", first_line(error))
            log.debug("Why:", exc_info=True)
