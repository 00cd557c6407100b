"""What a run does, from top to bottom."""

import functools
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from discern.config.check import check
from discern.config.differences import as_facts, differences
from discern.config.experiment_file import name_of
from discern.config.values import plain
from discern.data.module import ImageDataModule
from discern.errors import (
    first_line,
    refusals_at_work,
    refusals_of_files,
)
from discern.files.places import started_in
from discern.files.yaml_file import write_config
from discern.models.classifier import Classifier, count_parameters
from discern.models.saved import (
    fill,
    read,
)
from discern.models.threads import use_threads
from discern.redaction import log_missing, missing
from discern.reports.curves import draw_curves
from discern.reports.tensorboard.hparams import log_row
from discern.reports.tensorboard.settings import log_settings
from discern.runs.metric_table import DRAWN, shown
from discern.runs.state import Ended, State
from discern.runs.summary import (
    Summary,
    git_state,
    machine,
    versions,
)
from discern.training import find as finders
from discern.training import serving as features
from discern.training.batches import (
    omit_single_images,
    say_what_is_omitted,
)
from discern.training.build import build_data, build_model, build_trainer
from discern.training.ending import Ending
from discern.training.fit import (
    best_checkpoint,
    check_monitors,
    check_validation_interval,
    divergence,
    fit,
    of_a_search,
    record_fit,
    take_some_batches,
    test,
    watched,
)
from discern.training.history import History
from discern.training.interrupt import BY_CTRL_C, BY_SIGTERM, GracefulStop
from discern.training.job import as_job, quiet_libraries
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import TestOutputs, keep_test, show_samples
from discern.training.overfit import judge
from discern.training.resume import Randomness
from discern.training.start import continue_from, find_checkpoints, known_of
from discern.training.terminal import announce, conclude, devices, name_within

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Result:
    """What a run gave.

    Attributes:
        metrics: split ("train", "val", "test") -> metric -> value, of the best checkpoint.
        model: the classifier with that checkpoint's weights, in eval mode.
        folder: the run's folder.
        ended: how training ended, and why.

    In a notebook it shows itself with its curves.
    """

    metrics: dict[str, dict[str, float]]
    model: Classifier
    folder: Path
    ended: Ended

    @property
    def state(self) -> State:
        """How the run stands: done, pruned, diverged or interrupted."""
        return self.ended.state

    @property
    def reason(self) -> str:
        """Why training ended, for people."""
        return self.ended.reason

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{split} {each.title} {shown(each.name, part[each.name])}"
            for split, part in self.metrics.items()
            for each in DRAWN
            if each.name in part
        )
        return f"<Result: {measured or 'nothing measured'}; {self.ended}; {self.folder}>"

    def _repr_html_(self) -> str:
        from discern.reports.notebook import result_html  # start-up time: in notebooks alone

        return result_html(self.metrics, self.ended, self.folder)


def job(cfg: DictConfig, import_seconds: float) -> Any:
    """Hydra's task: one run in the folder that Hydra made. Returns the objective."""
    hydra: Any = HydraConfig.get()
    if getattr(rank_zero_only, "rank", 0):
        # One of several processes of the run: the first one speaks for all.
        logging.getLogger().setLevel(logging.ERROR)
    cfg.folder, choices = hydra.runtime.output_dir, hydra.runtime.choices
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


def failed(error: BaseException) -> Ended:
    """How a run ends that an error has ended."""
    return Ended(State.FAILED, first_line(error))


def objective_of(setting: str | list[str], result: Result) -> Any:
    """What a sweeper of Hydra's is told: the objective of the model that was kept, or several."""
    if not isinstance(setting, str):
        return [objective_of(metric, result) for metric in setting]
    split, _, name = setting.partition("/")
    return result.metrics.get(split, {}).get(name)


def train(
    cfg: DictConfig,
    identity: dict[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
) -> Result:
    """Run the experiment that a composed config describes, in ``cfg.folder``.

    Args:
        cfg: conf/train.yaml, composed; ``folder`` is set.
        identity: what the summary says of the run besides: its model's name, the overrides, the
            seconds already spent.
        choices: Hydra's groups and what was chosen of each, where Hydra composed the config.

    Raises:
        DiscernError: a setting, a file or the machine does not allow the run.
    """
    check(cfg)
    quiet_libraries()
    summary = Summary(
        Path(cfg.folder) / "summary.json",
        **{
            "name": cfg.model._target_.rpartition(".")[2].lower(),
            "overrides": [],
            **(identity or {}),
        },
        tags=list(cfg.tags),
        seed=cfg.seed,
        changed=as_facts(differences(cfg, choices or {})),
        git=git_state_once(started_in()),
        versions=versions(),
        machine=machine(),
    )
    try:
        with refusals_of_files(), refusals_at_work():
            return _train(cfg, summary, choices or {})
    except KeyboardInterrupt:
        write_summary(summary, BY_CTRL_C, cfg)
        raise
    except SystemExit as end:
        signals = [each for each in (BY_CTRL_C, BY_SIGTERM) if each.status == end.code]
        signals += [Ended(State.FAILED, f"it ended with status {end.code}")]
        write_summary(summary, signals[0], cfg)
        raise
    except BaseException as error:
        with suppress(OSError):  # of a full disk, which is told already
            write_summary(summary, failed(error), cfg)
        raise


@functools.cache
def git_state_once(folder: Path) -> dict[str, Any] | None:
    """The state of the code that this process has imported, whatever becomes of the files."""
    return git_state(folder)


def _train(cfg: DictConfig, summary: Summary, choices: Mapping[str, Any]) -> Result:
    facts, folder = summary.facts, Path(cfg.folder)
    start = find_checkpoints(cfg)
    save_config(cfg, facts["overrides"])
    log_missing(missing(plain(cfg)))
    seed_everything(cfg.seed, workers=True, verbose=False)

    history = History()
    stop = GracefulStop(folder / "checkpoints" / "last.safetensors")
    # Before the data: that the machine lacks a device is said before a file is read.
    always = [Ending(), *watched(cfg), history, Randomness(), *of_a_search(cfg), stop]
    trainer = build_trainer(cfg, always)
    with summary.phase("data"):
        taken = None if cfg.train or not cfg.test else "test"
        data: ImageDataModule = build_data(cfg, known_of(cfg, start), taken)
    suggested = None
    if finders.is_searched(cfg):
        with summary.phase("find"):
            suggested = finders.find(cfg, data, facts)
        save_config(cfg, facts["overrides"])
        # Its settings may refer to those that have been found.
        trainer = build_trainer(cfg, always)
    validated = data.has_validation and trainer.limit_val_batches != 0
    model = build_model(cfg, data, validated)
    if cfg.train:
        omit_single_images(model, data)
        say_what_is_omitted(data, trainer)
    if taken is not None:
        say_what_is_measured(data, taken)
    trained_on = check_trained_on(data, measured_splits(cfg, data), trains=cfg.train)
    splits = {"train", "val"} if cfg.train else set()
    take_some_batches(trainer, data, splits | ({"test"} if cfg.test else set()))
    if cfg.train:
        check_validation_interval(trainer, data)
        check_monitors(trainer, model, validated)
    facts |= {
        "title": f"{facts['name']} on {data.title}",
        "validated": validated,
        **describe(model, data),
    }
    facts["data"]["trained_on"] = trained_on
    use_threads(model.network, data.input_shape, cfg.threads)
    facts["machine"] |= {"devices": devices(trainer), "threads": torch.get_num_threads()}
    announce(cfg, facts, data)
    if suggested is not None:
        write_summary(summary, suggested, cfg)
        conclude(facts, suggested, folder)
        return Result({}, model.eval(), folder, suggested)
    epoch = 1 if start is None else continue_from(start, cfg, trainer, model)
    if cfg.train:
        with summary.phase("figures"):
            show_samples(cfg, data, facts, folder)
    with summary.phase("features") if hasattr(model.network, "backbone") else nullcontext():
        source = features.serve(cfg, model, data, trainer, epoch)
    if cfg.cache.shard is not None:
        ended = Ended(State.DONE, f"cache.shard={cfg.cache.shard} computed")
        assert source is not None
        facts["features"] = features.report(source)
        write_summary(summary, ended, cfg)
        conclude(facts, ended, folder)
        return Result({}, model.eval(), folder, ended)

    ended, best = Ended(State.DONE, "not trained (train=false)"), start
    facts["checkpoint"] = None if start is None else name_within(start, folder)
    content: dict[str, Any] | None = None
    if cfg.train:
        with summary.phase("fit"):
            log_settings(trainer, folder / "config.yaml", facts["overrides"], facts["changed"])
            ended = fit(trainer, model, data, start, stop)
        if trainer.overfit_batches and trainer.global_step:  # type: ignore[attr-defined]
            facts["overfit"] = judge(trainer, model, data).facts()
        best = best_checkpoint(trainer)
        facts["checkpoint"] = None if best is None else name_within(best, folder)
        content = None if best is None else read(best)
        record_fit(summary, history, trainer, best, content)
        found = divergence(trainer)
        if found is not None:
            facts["diverged"] = asdict(found)
        if not cfg.sweep.draws:
            with summary.phase("figures"):
                draw(history, facts, folder)
    came_to_its_end = ended.state in (State.DONE, State.PRUNED)
    # Before the test, whose metrics TensorBoard adds to the row, and which may be interrupted.
    log_row(trainer, cfg, choices, facts["metrics"], ended=came_to_its_end)
    if best is not None:
        fill(model.network, (content or read(best))["state_dict"], best)
    if cfg.test and len(data.test_dataset) and came_to_its_end:
        outputs = TestOutputs()
        with summary.phase("test"):
            facts["metrics"]["test"] = test(trainer, model, data, outputs)
        with summary.phase("figures"):
            keep_test(outputs, data, folder)
    if source is not None:
        facts["features"] = features.report(source)
    write_summary(summary, ended, cfg)
    conclude(facts, ended, folder)
    return Result(facts["metrics"], model.eval(), folder, ended)


# The parts, in the order of the story.


def measured_splits(cfg: DictConfig, data: ImageDataModule) -> list[str]:
    """What the run measures besides the images that it trains on."""
    splits = ["val"] if cfg.train and data.has_validation else []
    return [*splits, "test"] if cfg.test and len(data.test_dataset) else splits


@rank_zero_only
def save_config(cfg: DictConfig, overrides: list[str]) -> None:
    """Write config.yaml (every interpolation resolved) and overrides.yaml (what was typed)."""
    for name, content in (("config", cfg), ("overrides", OmegaConf.create(overrides))):
        write_config(content, Path(cfg.folder) / f"{name}.yaml")


def describe(model: Classifier, data: ImageDataModule) -> dict[str, Any]:
    """What the summary says of the data and the model."""
    backbone = model.card and model.card["backbone"]
    return {
        "parameters": count_parameters(model.network),
        **({"backbone": backbone} if backbone else {}),
        "data": {
            "title": data.title,
            "source": data.source_used,
            "fingerprint": data.fingerprint,
            "images": data.num_images,
            "classes": data.class_names,
        },
    }


@rank_zero_only
def draw(history: History, facts: dict[str, Any], folder: Path) -> None:
    """Draw curves.png."""
    draw_curves(history.rows, facts["best_epoch"], facts["title"], folder / "curves.png")


@rank_zero_only
def write_summary(summary: Summary, ended: Ended, cfg: DictConfig) -> None:
    """Write summary.json, and report.html, which is made from it and the other files."""
    summary.write(ended)
    if cfg.report and not cfg.sweep.draws:
        try:
            from discern.reports.run_page import write_run_page  # start-up time: jinja2

            write_run_page(summary.path.parent)
        except Exception as error:  # the run has been made, and its report can be made again
            log.warning("report.html was not written: %s", first_line(error))
            log.debug("Why:", exc_info=True)
