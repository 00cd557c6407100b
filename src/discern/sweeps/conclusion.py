"""Conclusion of a sweep: ranking, figures, and the best job with the command that trains it."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from discern.config.check import as_typed_settings
from discern.config.experiment_file import SUFFIX, find_file, is_path
from discern.config.foreign import SETTING, to_be_allowed
from discern.config.settle import LEFT_OUT
from discern.config.typed import as_text, as_value, command_line, is_interpolated
from discern.config.user_config import conf_dir
from discern.errors import first_line
from discern.files.places import expanded, is_file, is_folder, is_there
from discern.files.removing import remove_tree
from discern.files.writing import is_unfinished, write_whole
from discern.files.yaml_file import dumper
from discern.reports.curves import draw_curves_of
from discern.reports.run_page import write_run_page
from discern.runs.folder import BEST, FOLD, REPORT, is_run, read_run
from discern.runs.summary import metric_cells
from discern.sweeps.ledger import Ledger
from discern.sweeps.page import write_sweep_page
from discern.sweeps.picture import draw_sweep
from discern.sweeps.ranking import (
    Group,
    best_group,
    best_job,
    described,
    group_rows,
    has_parts,
    repetitions,
    varied,
    verdict,
)
from discern.sweeps.results import mean_and_sd, results_table, write_results
from discern.sweeps.rows import PARTS, Job, Row
from discern.training.job import relative

log = logging.getLogger(__name__)

Tester = Callable[[Ledger, Row], dict[str, float]]
"""Measures a job's model on the test split."""

BEST_FILE = "best.yaml"
"""File of the best job's settings, an experiment, in the folder of its sweep."""

EVENTS = "events.out.tfevents"
"""Prefix of TensorBoard's files."""

MERGED = ("experiment", "debug")
"""Groups whose choices may change any setting and override those before them."""

NOT_THE_MODEL = ("hparams_search", "test", "train", "ckpt_path", "tags", "objective")
"""Settings without influence on how a model is trained."""


@dataclass(frozen=True)
class _Best:
    """What a sweep has found.

    Attributes:
        job: the best one; of folds or splits, the best setting as a job without its own.
        row: the outcome of the job; None of folds or splits.
        setting: the jobs of the setting, of folds or splits; None otherwise.
    """

    job: Job
    row: Row | None
    setting: Group | None


def conclude(ledger: Ledger, test: Tester | None, extra: Mapping[str, object]) -> list[Row]:
    """Rank the jobs, write the results into the sweep's folder, and print them.

    The ranking is written and printed also where the test fails or is interrupted.

    Args:
        ledger: of the sweep.
        test: measures the best job on the test split; None where the sweep could not go on.
        extra: further entries of results.json.

    Returns:
        One row per job.
    """
    rows, folder = ledger.rows(), ledger.folder
    best = _best_of(ledger, rows)
    tested: dict[str, float] = {}
    _write(ledger, rows, best, tested, extra)
    try:
        if test is not None and best is not None and best.row is not None:
            tested = test(ledger, best.row)
            _write(ledger, rows, best, tested, extra)
    finally:
        _print(ledger, rows, best, tested)
        _draw(ledger, rows, best)
        log.info("Results: %s", relative(folder))
        if is_there(folder / REPORT):
            log.info("Report: %s", relative(folder / REPORT))
    return rows


def _best_of(ledger: Ledger, rows: Sequence[Row]) -> _Best | None:
    if has_parts(rows):
        setting = best_group(rows, ledger.ranked_by)
        if setting is None:
            return None
        job = ledger.jobs[setting.rows[0].number]
        parts = {name for name in ledger.settings if name.lstrip("+") in PARTS}
        if any(name.lstrip("+") == FOLD for name in parts):
            parts |= {name for name in job.overrides if name.lstrip("+") == "data.folds"}
        kept = {name: value for name, value in job.overrides.items() if name not in parts}
        return _Best(Job(job.number, job.name, kept), None, setting)
    row = best_job(rows, ledger.ranked_by)
    return None if row is None else _Best(ledger.jobs[row.number], row, None)


def _write(
    ledger: Ledger,
    rows: Sequence[Row],
    best: _Best | None,
    tested: Mapping[str, float],
    extra: Mapping[str, object],
) -> None:
    """Write the results, best.yaml, and the links to the files of the best job."""
    facts = {} if best is None else {"best": _best_facts(best, tested)}
    write_results(ledger.folder, rows, ledger.ranked_by, {**extra, **facts})
    if best is not None:
        _keep(ledger.folder, best)


def _best_facts(best: _Best, tested: Mapping[str, float]) -> dict[str, object]:
    """The entry of results.json."""
    if best.setting is None:
        return {"folder": best.job.name, "command": _command(best.job), "test": tested}
    metrics = {
        metric: {**asdict(spread), "counted": best.setting.counted(metric)}
        for metric, spread in best.setting.spreads.items()
    }
    return {
        "setting": best.setting.overrides, "values": metrics, "command": _command(best.job)
    }  # fmt: skip


def _keep(folder: Path, best: _Best) -> None:
    """Write best.yaml, and the links to the files of the best job."""
    kind = "best job of a sweep"
    if best.setting is None:
        _link(folder / BEST, best.job.name)
    else:
        # Left by a sweep whose jobs were no folds or splits when it was begun.
        _remove_links(folder / BEST)
        kind = f"{'best setting' if best.setting.overrides else 'settings'} of a cross-validation"
    with write_whole(folder / BEST_FILE) as file:
        file.write(as_experiment(best.job, kind))


def _draw(ledger: Ledger, rows: Sequence[Row], best: _Best | None) -> None:
    """Draw sweep.png, and write the reports of the best job and of the sweep."""
    objectives, folder = ledger.ranked_by, ledger.folder
    title = f"{objectives[0].metric} of {len(rows)} jobs"
    if varied(rows) and (over := repetitions(rows)):
        title += f": mean ± standard deviation over {over}"
    with _failures_logged("sweep.png was not drawn"):
        draw_sweep(rows, objectives[0], title, folder / "sweep.png")
    if best is not None and best.row is not None:
        write_job_report(best.row.folder)  # with the results of the test
    runs = [row.folder for row in rows if is_run(row.folder)]
    if not runs or any(map(_reports, runs)):
        with _failures_logged("The report of the sweep was not written"):
            write_sweep_page(folder)


def write_job_report(folder: Path) -> None:
    """Draw a job's curves, and write its report unless report=false; a failure is logged."""
    if is_run(folder):
        with _failures_logged(f"The figures of {relative(folder)} were not drawn"):
            draw_curves_of(folder)
            if _reports(folder):
                write_run_page(folder)


@contextmanager
def _failures_logged(what: str) -> Iterator[None]:
    """Log a failure to draw what can be drawn later, by ``discern report``."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s", what, first_line(error))
        log.debug("Why:", exc_info=True)


def _reports(folder: Path) -> bool:
    """Whether a run has a report (``report=true``)."""
    return read_run(folder).config.get("report", True) is not False


def _allowing(settings: Mapping[str, object]) -> str:
    """The ``allow_targets`` to type for a file of settings outside ``./conf``."""
    entries = to_be_allowed(settings)
    words = f"{SETTING}=[{','.join(entries)}]"
    return f" {shlex.quote(words)}" if entries else ""


def _print(
    ledger: Ledger, rows: Sequence[Row], best: _Best | None, tested: Mapping[str, float]
) -> None:
    """Print the ranking, and the command that trains the best job."""
    objectives, folder = ledger.ranked_by, ledger.folder
    if objectives != ledger.objectives:
        metrics = ", ".join(objective.metric for objective in objectives)
        log.info("No validation: jobs are ranked by %s.", metrics)
    log.info("\n%s\n", results_table(rows, objectives))
    if best is None:
        _log_metrics(ledger)
        return
    over = repetitions(rows)
    if over and (varied(rows) or not has_parts(rows)):
        log.info("%s", verdict(group_rows(rows, objectives), objectives[0]))
    if best.setting is not None and best.setting.overrides:
        name = described(best.setting.overrides)
        for metric, spread in best.setting.spreads.items():
            mean, counted = mean_and_sd(spread), best.setting.counted(metric)
            log.info("Best setting: %s, %s %s over %s %s", name, metric, mean, counted, over)
    if tested:
        names, ((_, *values),) = metric_cells({"test": tested})
        pairs = ", ".join(map(" ".join, zip(names, values, strict=True)))
        log.info("Test metrics of the best job: %s", pairs)
    log.info("Train it again: %s", _command(best.job))
    file = folder / BEST_FILE
    allowing = _allowing(yaml.safe_load(file.read_text(encoding="utf-8")))
    log.info("  or: python train.py experiment=%s%s", shlex.quote(str(relative(file))), allowing)


def _log_metrics(ledger: Ledger) -> None:
    logged, metric = ledger.logged(), ledger.ranked_by[0].metric
    if logged and metric not in logged:
        log.error("objective=%s is not logged by any job; they log %s.", metric, ", ".join(logged))


def _command(job: Job) -> str:
    return f"{command(job)}{_allowing({})}"


def command(job: Job) -> str:
    """The shell command that trains a job's model again."""
    overrides = [
        # Hydra gives a deletion the value null.
        key if key.startswith("~") and value == "null" else f"{key}={value}"
        for key, value in _of_the_model(job).items()
    ]
    return command_line(overrides, as_typed_settings())


def as_experiment(job: Job, kind: str = "best job of a sweep") -> str:
    """A job's settings as a file of the group ``experiment``."""
    merged: dict[str, object] = {}
    chosen: dict[str, object] = {}
    settings: dict[str, object] = {}
    for key, text in _of_the_model(job).items():
        (override,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
        name = override.key_or_group
        value: object = override.value()
        if is_folder(conf_dir() / name) and not isinstance(value, dict):
            choices = merged if name in MERGED else chosen
            if override.is_delete() or (name in choices and choices[name] is None):
                choices[name] = None  # whatever else is chosen of the group
            else:
                choices[name] = _absolute_experiment(value) if name == "experiment" else value
        elif override.is_delete():
            _put(settings, name.split("."), LEFT_OUT)
        else:
            mark = as_typed_settings().get(name)
            if mark is not None and mark.is_path and mark.from_start:
                value = _absolute(value, mark.words)
            _put(settings, name.split("."), value)
    # In the order of train.yaml; Hydra requires overriding choices after the others.
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


def _absolute(value: object, words: tuple[str, ...]) -> object:
    """An existing path made absolute; any other value unchanged."""
    if not isinstance(value, str) or value in words or is_interpolated(value):
        return value
    path = expanded(as_text(value))
    return as_value(str(path.resolve())) if is_there(path) else value


def _absolute_experiment(choice: object) -> object:
    """The chosen experiment, or list of them, with absolute paths of files."""
    if isinstance(choice, list):
        return [_absolute_experiment(each) for each in choice]
    if not isinstance(choice, str):
        return choice
    is_recipe = not is_path(choice) and is_file(conf_dir() / "experiment" / f"{choice}{SUFFIX}")
    path = None if is_recipe else find_file(choice)
    return choice if path is None else str(path.resolve())


def _of_the_model(job: Job) -> dict[str, str]:
    return {k: value for k, value in job.shown.items() if k.lstrip("+~") not in NOT_THE_MODEL}


def _put(settings: dict[str, object], path: Sequence[str], value: object) -> None:
    """Set a value as Hydra does: a mapping is merged into another, anything else replaces."""
    name, *rest = path
    if not rest and not isinstance(value, dict):
        settings[name] = value
        return
    before = settings.get(name)
    inside = settings[name] = before if isinstance(before, dict) else {}
    if rest:
        _put(inside, rest, value)
    elif isinstance(value, dict):
        for key, part in value.items():
            _put(inside, [str(key)], part)


def _link(folder: Path, name: str) -> None:
    """Make a folder of links to the files of a job; of copies, where links are not supported.

    Event files are left out: TensorBoard follows links and would show the job twice.
    """
    if not _remove_links(folder):
        return
    folder.mkdir()
    for path in sorted((folder.parent / name).iterdir()):
        if path.name.startswith(EVENTS) or path.is_symlink() or is_unfinished(path.name):
            continue
        try:
            (folder / path.name).symlink_to(Path("..") / name / path.name)
        except OSError:
            (shutil.copytree if is_folder(path) else shutil.copy2)(path, folder / path.name)


def _remove_links(folder: Path) -> bool:
    """Remove the folder of :func:`_link`, unless it holds other files; whether it is gone."""
    if not os.path.lexists(folder):
        return True
    known = is_folder(folder) and not folder.is_symlink()
    if not known or not (is_run(folder) or all(path.is_symlink() for path in folder.iterdir())):
        log.warning("%s is not replaced: it does not hold a best job.", relative(folder))
        return False
    remove_tree(folder)
    return True
