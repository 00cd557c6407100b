"""What a run does, from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig
from torch import Tensor

from discern.config.check import check
from discern.config.values import plain
from discern.console import print_tree
from discern.data.module import ImageDataModule
from discern.files.writing import dispensable
from discern.models.classifier import Classifier
from discern.models.saved import Content, fill, read
from discern.models.threads import use_threads
from discern.redaction import log_missing, missing
from discern.reports.tensorboard.hparams import log_row
from discern.reports.tensorboard.settings import log_settings
from discern.runs.holding import held
from discern.runs.state import Ended, State
from discern.runs.summary import Summary
from discern.runs.sweep_job import sweep_draws
from discern.training import find as finders
from discern.training import serving as features
from discern.training.batches import omit_single_images, say_what_is_omitted
from discern.training.build import build_data, build_model, build_trainer
from discern.training.calibration import calibrate, changes_of_test
from discern.training.diagnosis import Diagnosis, diagnosis, warnings_about
from discern.training.divergence import divergence
from discern.training.fit import (
    best_checkpoint,
    check_monitors,
    check_validation_interval,
    fit,
    stopping_callbacks,
    take_some_batches,
    test,
)
from discern.training.history import History
from discern.training.interrupt import GracefulStop
from discern.training.job import quiet_libraries
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import TestOutputs, keep_test, show_samples
from discern.training.overfit import judge
from discern.training.profile import say_profile
from discern.training.record import describe, draw, record_fit, recorded, save_config, write_summary
from discern.training.result import Result
from discern.training.resume import RngState, resume_loggers
from discern.training.rollback import Rollbacks, check_rollback, keep_going
from discern.training.run_folder import FolderWatch
from discern.training.seam import callbacks_of, settings_of
from discern.training.skipping import sentences_on_skipped
from discern.training.start import continue_from, find_checkpoints, known_of
from discern.training.terminal import announce, conclude, devices, gpu, name_within, warn

if TYPE_CHECKING:  # start-up time: a frozen backbone alone has features
    from discern.features.source import FeatureSource


def train(
    cfg: DictConfig,
    identity: Mapping[str, object] | None = None,
    choices: Mapping[str, object] | None = None,
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
    with held(Path(cfg.folder)), recorded(cfg, identity or {}, choices or {}) as summary:
        return _train(cfg, summary, choices or {})


def _train(cfg: DictConfig, summary: Summary, choices: Mapping[str, object]) -> Result:
    start = find_checkpoints(cfg)
    save_config(cfg, summary.facts["overrides"])
    if cfg.get("print_config"):
        print_tree("settings", plain(cfg))
    log_missing(missing(plain(cfg)))
    seed_everything(cfg.seed, workers=True, verbose=False)
    run, suggested = _build(cfg, summary, start)
    _check(cfg, run)
    _announce(cfg, run)
    if suggested is not None:
        return _end(cfg, run, suggested)
    epoch = _set_out(cfg, run, start)
    if cfg.train:
        with summary.phase("figures"), dispensable("samples.png"):
            show_samples(cfg, run.data, summary.facts, run.folder)
    with summary.phase("features") if hasattr(run.model.network, "backbone") else nullcontext():
        run.source = features.serve(cfg, run.model, run.data, run.trainer, epoch)
    if cfg.cache.shard is not None:
        return _end(cfg, run, Ended(State.DONE, f"cache.shard={cfg.cache.shard} computed"))
    summary.facts["checkpoint"] = None if start is None else name_within(start, run.folder)
    if cfg.train:
        ended, best, content = _fit(cfg, run, start)
        summary.facts["checkpoint"] = None if best is None else name_within(best, run.folder)
    else:
        ended, best, content = Ended(State.DONE, "not trained (train=false)"), start, None
    came_to_its_end = ended.state in (State.DONE, State.PRUNED)
    # Before the test, whose metrics TensorBoard adds to the row, and which may be interrupted.
    log_row(run.trainer, cfg, choices, summary.facts["metrics"], ended=came_to_its_end)
    if best is not None:
        fill(run.model.network, (content or read(best))["state_dict"], best)
    if best is not None and content is not None and came_to_its_end and run.trainer.is_global_zero:
        with summary.phase("calibration"):
            calibration = calibrate(run.trainer, run.model, run.data, best, content)
        summary.facts["calibration"] = calibration
    if cfg.test and len(run.data.test_dataset) and came_to_its_end:
        _test(run)
    return _end(cfg, run, ended)


@dataclass
class _Run:
    """What a run is made of.

    Attributes:
        summary: its facts, written when it ends.
        folder: where it writes.
        trainer: Lightning's, with its callbacks.
        data: the data module, set up.
        model: the classifier.
        validated: whether training measures itself on held-out images.
        history: the metrics of each epoch.
        stop: ends training after a batch when the user or the system asks.
        rng: torch's generator before the model was built, to build the same one again.
        rollbacks: of training that diverges, where ``on_nan=rollback``.
        source: serves a frozen backbone's features; None where there are none.
    """

    summary: Summary
    folder: Path
    trainer: Trainer
    data: ImageDataModule
    model: Classifier
    validated: bool
    history: History
    stop: GracefulStop
    rng: Tensor
    rollbacks: Rollbacks | None = None
    source: FeatureSource | None = None


def _build(cfg: DictConfig, summary: Summary, start: Path | None) -> tuple[_Run, Ended | None]:
    """The parts of the run; and its end, where it only looks for a learning rate."""
    folder, history = Path(cfg.folder), History()
    stop = GracefulStop(folder / "checkpoints" / "last.safetensors")
    callbacks = _callbacks(cfg, history, stop)
    # Before the data: a missing device is reported before a file is read.
    trainer = build_trainer(cfg, callbacks)
    check_rollback(cfg, trainer)
    with summary.phase("data"):
        data = build_data(cfg, known_of(cfg, start), _only_measured(cfg))
    suggested = None
    if finders.is_searched(cfg):
        with summary.phase("find"):
            suggested = finders.find(cfg, data, summary.facts)
        save_config(cfg, summary.facts["overrides"])
        # Its settings may refer to those that have been found.
        trainer = build_trainer(cfg, callbacks)
    validated = data.has_validation and trainer.limit_val_batches != 0
    rng = torch.get_rng_state()
    model = build_model(cfg, data, validated)
    run = _Run(summary, folder, trainer, data, model, validated, history, stop, rng)
    if cfg.on_nan == "rollback":
        run.rollbacks = Rollbacks(cfg.rollback.factor, cfg.rollback.times)
    return run, suggested


def _callbacks(cfg: DictConfig, history: History, stop: GracefulStop) -> list[Callback]:
    watch = FolderWatch(Path(cfg.folder))
    return [watch, *stopping_callbacks(cfg), history, RngState(), Diagnosis(), stop]


def _only_measured(cfg: DictConfig) -> str | None:
    """The split that a run measures which does not train."""
    return "test" if cfg.test and not cfg.train else None


def _check(cfg: DictConfig, run: _Run) -> None:
    """Say what training leaves out, and refuse what could not end well."""
    data, trainer = run.data, run.trainer
    if cfg.train:
        omit_single_images(run.model, data)
        say_what_is_omitted(data, trainer)
    only = _only_measured(cfg)
    if only is not None:
        say_what_is_measured(data, only)
    measured = ["val"] if cfg.train and data.has_validation else []
    measured += ["test"] if cfg.test and len(data.test_dataset) else []
    trained_on = check_trained_on(data, measured, trains=cfg.train)
    _settle(cfg, run)
    facts = run.summary.facts
    facts |= {
        "title": f"{facts['name']} on {data.title}",
        "validated": run.validated,
        **describe(run.model, data),
    }
    facts["data"]["trained_on"] = trained_on
    facts["warnings"] = []
    if cfg.train:
        warn(facts, warnings_about(data, run.validated))


def _settle(cfg: DictConfig, run: _Run) -> None:
    """Adapt a new trainer's settings to the data, and refuse what does not suit them."""
    splits = {"train", "val"} if cfg.train else set()
    take_some_batches(run.trainer, run.data, splits | ({"test"} if cfg.test else set()))
    if cfg.train:
        check_validation_interval(run.trainer, run.data)
        check_monitors(run.trainer, run.model, run.validated)


def _set_out(cfg: DictConfig, run: _Run, start: Path | None) -> int:
    """Prepare the trainer to go on from a checkpoint, if there is one; the epoch, from 1."""
    epoch = 1 if start is None else continue_from(start, cfg, run.trainer, run.model)
    if run.rollbacks is not None:  # after what applies settings that have changed since
        callbacks_of(run.trainer).append(run.rollbacks)
    return epoch


def _announce(cfg: DictConfig, run: _Run) -> None:
    use_threads(run.model.network, run.data.input_shape, cfg.threads)
    machine = {"devices": devices(run.trainer), "threads": torch.get_num_threads()}
    run.summary.facts["machine"] |= machine | gpu(run.trainer)
    announce(cfg, run.summary.facts, run.data)


def _fit(
    cfg: DictConfig, run: _Run, start: Path | None
) -> tuple[Ended, Path | None, Content | None]:
    """How training ended, the best checkpoint, and what is in it."""
    summary, facts = run.summary, run.summary.facts
    with summary.phase("fit"):
        resume_loggers(run.trainer, run.folder, start)
        log_settings(run.trainer, run.folder / "config.yaml", facts["overrides"], facts["changed"])
        ended = fit(run.trainer, run.model, run.data, start, run.stop)
        while run.rollbacks is not None and run.rollbacks.is_due(run.trainer, ended):
            back = run.rollbacks.begin(run.trainer, start)
            _begin_anew(cfg, run, back)
            ended = fit(run.trainer, run.model, run.data, back, run.stop)
    trainer = run.trainer
    if settings_of(trainer).overfit_batches and trainer.global_step:
        facts["overfit"] = judge(trainer, run.model, run.data).facts()
    best = best_checkpoint(trainer)
    content = None if best is None else read(best)
    record_fit(summary, run.history, trainer, best, content)
    found = divergence(trainer)
    if found is not None:
        facts["diverged"] = asdict(found)
    if run.rollbacks is not None:
        ended = run.rollbacks.ended(ended)
        facts["rollbacks"] = [asdict(each) for each in run.rollbacks.made]
        warn(facts, run.rollbacks.sentences)
    warn(facts, sentences_on_skipped(trainer) + diagnosis(trainer, run.history.rows, ended))
    if not sweep_draws():
        with summary.phase("figures"):
            draw(run.history, facts, run.folder)
    return ended, best, content


def _begin_anew(cfg: DictConfig, run: _Run, start: Path | None) -> None:
    """Build again what a fit has changed, to go on from a checkpoint or from the beginning."""
    before, history = run.trainer, run.history
    run.history = History(history.validation_seconds)
    run.trainer = build_trainer(cfg, _callbacks(cfg, run.history, run.stop))
    keep_going(before, run.trainer)
    run.data.features = None
    torch.set_rng_state(run.rng)
    run.model = build_model(cfg, run.data, run.validated)
    _settle(cfg, run)
    epoch = _set_out(cfg, run, start)
    run.source = features.serve(cfg, run.model, run.data, run.trainer, epoch)


def _test(run: _Run) -> None:
    outputs = TestOutputs()
    with run.summary.phase("test"):
        run.summary.facts["metrics"]["test"] = test(run.trainer, run.model, run.data, outputs)
    with run.summary.phase("figures"), dispensable("test_predictions.safetensors"):
        keep_test(outputs, run.data, run.folder)
    facts = run.summary.facts.get("calibration", {})
    facts |= changes_of_test(outputs, facts)


def _end(cfg: DictConfig, run: _Run, ended: Ended) -> Result:
    """Write the summary and the report, and tell how the run ended."""
    facts = run.summary.facts
    if run.source is not None:
        facts["features"] = features.report(run.source)
    write_summary(run.summary, ended, cfg)
    conclude(facts, ended, run.folder)
    say_profile(run.trainer)
    return Result(facts["metrics"], run.model.eval(), run.folder, ended)
