"""What a sweep ends in: a ranking, a picture, the best run and how to have it again."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from discern.config.check import as_typed_settings
from discern.config.experiment_file import SUFFIX, find_file, is_path
from discern.config.foreign import SETTING, to_be_allowed
from discern.config.settle import LEFT_OUT
from discern.config.typed import as_text, as_value, command_line, is_interpolated
from discern.config.user_config import conf_dir
from discern.errors import first_line
from discern.files.places import expanded
from discern.files.removing import remove_tree
from discern.files.writing import write_whole
from discern.files.yaml_file import dumper
from discern.reports.curves import draw_curves_of
from discern.reports.run_page import write_run_page
from discern.runs.folder import BEST, REPORT, is_run, read_run
from discern.runs.summary import metric_cells
from discern.sweeps.ledger import Job, Ledger
from discern.sweeps.page import write_sweep_page
from discern.sweeps.picture import draw_sweep
from discern.sweeps.ranking import (
    Group,
    Spread,
    best_group,
    best_row,
    described,
    group_rows,
    has_folds,
    has_seeds,
    repetitions,
    varied,
    verdict,
)
from discern.sweeps.results import mean_and_sd, results_table, write_results
from discern.sweeps.rows import Row
from discern.training.job import relative

log = logging.getLogger(__name__)

Tester = Callable[[Ledger, Row], dict[str, float]]
"""Measures a job's model on the test split."""

BEST_FILE = "best.yaml"
"""In a sweep's folder: the settings of its best job, as an experiment."""

EVENTS = "events.out.tfevents"
"""How the names of TensorBoard's files begin."""

MERGED = ("experiment", "debug")
"""Groups whose choices change any settings, and win over what stands before them."""

FOLDS = ("data.fold", "data.folds")
"""Settings that say how a setting was estimated, and not which it is."""

NOT_THE_MODEL = ("hparams_search", "test", "train", "ckpt_path", "tags", "objective")
"""Settings that say nothing of how a model is trained."""


def conclude(ledger: Ledger, test: Tester | None, extra: Mapping[str, Any]) -> list[Row]:
    """Tell what the jobs came to, and write it into the sweep's folder.

    Args:
        ledger: of the sweep.
        test: measures the best; None for a sweep that was stopped.
        extra: what results.json is to have besides.

    Returns:
        A row a job.
    """
    rows, objectives, folder = ledger.rows(), ledger.objectives, ledger.folder
    best = _best(ledger, rows)
    facts = dict(extra)
    if has_folds(rows):
        if (setting := best_group(group_rows(rows, objectives), objectives)) is not None:
            facts["best"] = _keep_setting(ledger, setting)
    elif best is not None:
        job = ledger.jobs[best.number]
        facts["best"] = {"folder": job.name, "command": f"{command(job)}{_allowing({})}"}
        _link(folder / BEST, job.name)
        _write_best(folder, job)
        if test is not None:
            facts["best"]["test"] = test(ledger, best)
            # Its test is there now. Before it too: the test may be interrupted.
            _link(folder / BEST, job.name)
    write_results(folder, rows, objectives, facts)
    title = f"{objectives[0].metric} of {len(rows)} jobs"
    draw_sweep(rows, objectives[0], title, folder / "sweep.png")
    if best is not None:
        # Now that its test is known.
        write_job_report(best.folder)
    runs = [row.folder for row in rows if is_run(row.folder)]
    if not runs or any(map(_reports, runs)):
        write_sweep_report(folder)
    log.info("\n%s\n", results_table(rows, objectives))
    groups = group_rows(rows, objectives)
    if "best" in facts and repetitions(rows) and (varied(rows) or not has_folds(rows)):
        log.info("%s", verdict(groups, objectives[0]))
    if "best" not in facts:
        _say_what_was_logged(ledger)
    else:
        _tell(facts["best"], folder)
    log.info("Results: %s", relative(folder))
    if (folder / REPORT).exists():
        log.info("Report: %s", relative(folder / REPORT))
    return rows


def write_job_report(folder: Path) -> None:
    """Draw a job's curves and write its report, if it is to have one; both can be made again."""
    if not is_run(folder):
        return
    try:
        draw_curves_of(folder)
        if _reports(folder):
            write_run_page(folder)
    except Exception as error:
        log.warning("The pictures of %s were not made: %s", relative(folder), first_line(error))
        log.debug("Why:", exc_info=True)


def _reports(folder: Path) -> bool:
    """Whether a run is to have a report."""
    return read_run(folder).config.get("report", True) is not False


def write_sweep_report(folder: Path) -> None:
    """Write the sweep's report; it can be made again."""
    try:
        write_sweep_page(folder)
    except Exception as error:
        log.warning("The report of the sweep was not written: %s", first_line(error))
        log.debug("Why:", exc_info=True)


def _best(ledger: Ledger, rows: list[Row]) -> Row | None:
    """The job to keep: with seeds the best of the settings that are best on average.

    None of folds: which of them comes out best is chance, and what was asked for is their mean.
    """
    objectives = ledger.objectives
    if has_folds(rows):
        return None
    if has_seeds(rows):
        group = best_group(group_rows(rows, objectives), objectives)
        return None if group is None else best_row(group.rows, objectives)
    return best_row(rows, objectives)


def _keep_setting(ledger: Ledger, setting: Group) -> dict[str, Any]:
    """Write best.yaml of the best setting over folds; what results.json says of it."""
    first = ledger.jobs[setting.rows[0].number]
    overrides = {k: v for k, v in first.overrides.items() if k.lstrip("+") not in FOLDS}
    job = Job(first.number, first.name, overrides)
    # Of a sweep before it had folds, if somebody has added them.
    _remove_links(ledger.folder / BEST)
    kind = "best setting" if setting.overrides else "settings"
    _write_best(ledger.folder, job, f"{kind} of a cross-validation")
    metrics = {
        objective.metric: {
            "mean": setting.spreads[objective.metric].mean,
            "sd": setting.spreads[objective.metric].sd,
            "counted": setting.counted(objective.metric),
        }
        for objective in ledger.objectives
    }
    again = f"{command(job)}{_allowing({})}"
    return {"setting": dict(setting.overrides), "folds": metrics, "command": again}


def _write_best(folder: Path, job: Job, kind: str = "best job of a sweep") -> None:
    with write_whole(folder / BEST_FILE) as file:
        file.write(as_experiment(job, kind))


def _allowing(settings: Mapping[str, Any]) -> str:
    """What has to be typed for a file of settings that the user may not have in ``./conf``."""
    entries = to_be_allowed(settings)
    words = f"{SETTING}=[{','.join(entries)}]"
    return f" {shlex.quote(words)}" if entries else ""


def _tell(best: Mapping[str, Any], folder: Path) -> None:
    again = "The best again"
    if "folds" in best:
        name = described(best["setting"])
        for metric, spread in best["folds"].items() if name else ():
            told = mean_and_sd(Spread(0, spread["mean"], spread["sd"]))
            log.info(
                "The best setting: %s, %s %s over %s folds", name, metric, told, spread["counted"]
            )
        again = "To train with it" if name else "To train with these settings"
    if best.get("test"):
        names, ((_, *values),) = metric_cells({"test": best["test"]})
        told = ", ".join(map(" ".join, zip(names, values, strict=True)))
        log.info("The best on the test split: %s", told)
    log.info("%s: %s", again, best["command"])
    file = folder / BEST_FILE
    allowing = _allowing(yaml.safe_load(file.read_text(encoding="utf-8")))
    log.info("  or: python train.py experiment=%s%s", shlex.quote(str(relative(file))), allowing)


def _say_what_was_logged(ledger: Ledger) -> None:
    logged, metric = ledger.logged(), ledger.objectives[0].metric
    if logged and metric not in logged:
        log.error("objective=%s is in no job; they have %s.", metric, ", ".join(logged))


def command(job: Job) -> str:
    """What trains a job's model again, for a shell."""
    overrides = [
        # Hydra has a value for what has none.
        key if key.startswith("~") and value == "null" else f"{key}={value}"
        for key, value in _of_the_model(job).items()
    ]
    return command_line(overrides, as_typed_settings())


def as_experiment(job: Job, kind: str = "best job of a sweep") -> str:
    """A job's settings as a file of the group ``experiment``."""
    merged: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, text in _of_the_model(job).items():
        (override,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
        name, value = override.key_or_group, override.value()
        if (conf_dir() / name).is_dir() and not isinstance(value, dict):
            choices = merged if name in MERGED else chosen
            if override.is_delete() or (name in choices and choices[name] is None):
                choices[name] = None  # whatever else is said of the group
            else:
                choices[name] = _absolute_experiment(value) if name == "experiment" else value
        elif override.is_delete():
            _put(settings, name.split("."), LEFT_OUT)
        else:
            mark = as_typed_settings().get(name)
            if mark is not None and mark.is_path and mark.from_start:
                value = _absolute(value, mark.words)
            _put(settings, name.split("."), value)
    # As train.yaml has them; Hydra wants what overrides a choice after what does not.
    defaults = [{f"/{name}@_global_": merged[name]} for name in MERGED if merged.get(name)]
    defaults += [{f"override /{name}": choice} for name, choice in chosen.items()]
    content = {"defaults": [*defaults, "_self_"]} if defaults else {}
    written = yaml.dump(
        {**content, **settings},
        Dumper=dumper(),
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )
    header = f"# The {kind}: python train.py experiment=FILE trains it again.\n"
    return f"# @package _global_\n{header}{written}"


def _absolute(value: Any, words: tuple[str, ...]) -> Any:
    """A path that exists as it is from any working directory; anything else as it is."""
    if not isinstance(value, str) or value in words or is_interpolated(value):
        return value
    path = expanded(as_text(value))
    return as_value(str(path.resolve())) if path.exists() else value


def _absolute_experiment(choice: Any) -> Any:
    """Experiments that are files, by paths that are the same from any working directory."""
    if not isinstance(choice, str):
        return [_absolute_experiment(each) for each in choice]
    is_recipe = not is_path(choice) and (conf_dir() / "experiment" / f"{choice}{SUFFIX}").is_file()
    path = None if is_recipe else find_file(choice)
    return choice if path is None else str(path.resolve())


def _of_the_model(job: Job) -> dict[str, str]:
    return {k: value for k, value in job.shown.items() if k.lstrip("+~") not in NOT_THE_MODEL}


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    """Put in a value, as Hydra does: one mapping into another, anything else in its place."""
    for part in path[:-1]:
        if not isinstance(settings.get(part), dict):
            settings[part] = {}
        settings = settings[part]
    before = settings.get(path[-1])
    if isinstance(before, dict) and isinstance(value, dict):
        for key, inside in value.items():
            _put(before, [str(key)], inside)
    else:
        settings[path[-1]] = value


def _link(folder: Path, name: str) -> None:
    """Make a folder of links to what a job's folder holds; where there are no links, of copies.

    TensorBoard follows links, and would show the job twice: its events are left out.
    """
    if not _remove_links(folder):
        return
    folder.mkdir()
    for path in sorted((folder.parent / name).iterdir()):
        if path.name.startswith(EVENTS) or path.is_symlink():
            continue
        try:
            (folder / path.name).symlink_to(Path("..") / name / path.name)
        except OSError:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)


def _remove_links(folder: Path) -> bool:
    """Remove the folder of links that :func:`_link` makes; whether none is there any more.

    One that holds something else, and is not the copy of a run either, stays.
    """
    if not os.path.lexists(folder):
        return True
    known = folder.is_dir() and not folder.is_symlink()
    if not known or not (is_run(folder) or all(path.is_symlink() for path in folder.iterdir())):
        log.warning("%s stays as it is: it does not hold the best job.", relative(folder))
        return False
    remove_tree(folder)
    return True
