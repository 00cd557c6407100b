"""What a run does, from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from discern.config.check import check
from discern.config.values import plain
from discern.console import print_tree
from discern.files.writing import dispensable
from discern.models.saved import Content, read, restore
from discern.models.threads import use_threads
from discern.redaction import log_missing, missing
from discern.reports.tensorboard.hparams import log_row
from discern.reports.tensorboard.settings import log_settings
from discern.runs.holding import held
from discern.runs.state import Ended, State
from discern.runs.summary import Summary
from discern.runs.sweep_job import sweep_draws
from discern.training import serving as features
from discern.training.batches import omit_single_images, say_what_is_omitted
from discern.training.calibration import calibrate, changes_of_test
from discern.training.diagnosis import diagnosis, warnings_about
from discern.training.divergence import divergence
from discern.training.fit import best_checkpoint, ended_with, fit, test
from discern.training.interrupt import ends_at_once
from discern.training.job import quiet_libraries
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import TestOutputs, keep_test, show_samples
from discern.training.overfit import judge
from discern.training.parts import Run, begin_anew, build_run, only_measured, set_out, settle
from discern.training.profile import say_profile
from discern.training.record import describe, draw, record_fit, recorded, save_config, write_summary
from discern.training.result import Result
from discern.training.resume import resume_loggers
from discern.training.seam import settings_of
from discern.training.skipping import sentences_on_skipped
from discern.training.start import find_checkpoints
from discern.training.terminal import announce, conclude, devices, gpu, name_within, warn


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
    with (
        held(Path(cfg.folder)),
        recorded(cfg, identity or {}, choices or {}) as summary,
        ends_at_once(),
    ):
        return _train(cfg, summary, choices or {})


def _train(cfg: DictConfig, summary: Summary, choices: Mapping[str, object]) -> Result:
    start = find_checkpoints(cfg)
    save_config(cfg, summary.facts["overrides"])
    if cfg.get("print_config"):
        print_tree("settings", plain(cfg))
    log_missing(missing(plain(cfg)))
    seed_everything(cfg.seed, workers=True, verbose=False)
    run, suggested = build_run(cfg, summary, start)
    _check(cfg, run)
    _announce(cfg, run)
    if suggested is not None:
        return _end(cfg, run, suggested)
    epoch = set_out(cfg, run, start)
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
        restore(run.model.network, content or read(best), best)
    if best is not None and content is not None and came_to_its_end and run.trainer.is_global_zero:
        with summary.phase("calibration"):
            calibration = calibrate(run.trainer, run.model, run.data, best, content)
        summary.facts["calibration"] = calibration
    if cfg.test and len(run.data.test_dataset) and came_to_its_end:
        _test(run)
    return _end(cfg, run, ended)


def _check(cfg: DictConfig, run: Run) -> None:
    """Say what training leaves out, and refuse what could not end well."""
    data, trainer = run.data, run.trainer
    if cfg.train:
        omit_single_images(run.model, data)
        say_what_is_omitted(data, trainer)
    only = only_measured(cfg)
    if only is not None:
        say_what_is_measured(data, only)
    measured = ["val"] if cfg.train and data.has_validation else []
    measured += ["test"] if cfg.test and len(data.test_dataset) else []
    trained_on = check_trained_on(data, measured, trains=cfg.train)
    settle(cfg, run)
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


def _announce(cfg: DictConfig, run: Run) -> None:
    use_threads(run.model.network, run.data.input_shape, cfg.threads)
    machine = {"devices": devices(run.trainer), "threads": torch.get_num_threads()}
    run.summary.facts["machine"] |= machine | gpu(run.trainer)
    announce(cfg, run.summary.facts, run.data)


def _fit(
    cfg: DictConfig, run: Run, start: Path | None
) -> tuple[Ended, Path | None, Content | None]:
    """How training ended, the best checkpoint, and what is in it."""
    summary, facts = run.summary, run.summary.facts
    with summary.phase("fit"):
        resume_loggers(run.trainer, run.folder, start)
        log_settings(run.trainer, run.folder / "config.yaml", facts["overrides"], facts["changed"])
        ended = fit(run.trainer, run.model, run.data, start, run.stop)
        while run.rollbacks is not None and run.rollbacks.is_due(run.trainer, ended):
            back = run.rollbacks.begin(run.trainer, start)
            begin_anew(cfg, run, back)
            ended = fit(run.trainer, run.model, run.data, back, run.stop)
    trainer = run.trainer
    if settings_of(trainer).overfit_batches and trainer.global_step:
        facts["overfit"] = judge(trainer, run.model, run.data).facts()
    best = best_checkpoint(trainer)
    ended = ended_with(ended, trainer, best)
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


def _test(run: Run) -> None:
    outputs = TestOutputs()
    with run.summary.phase("test"):
        run.summary.facts["metrics"]["test"] = test(run.trainer, run.model, run.data, outputs)
    with run.summary.phase("figures"), dispensable("test_predictions.safetensors"):
        keep_test(outputs, run.data, run.folder)
    facts = run.summary.facts.get("calibration", {})
    facts |= changes_of_test(outputs, facts)


def _end(cfg: DictConfig, run: Run, ended: Ended) -> Result:
    """Write the summary and the report, and tell how the run ended."""
    facts = run.summary.facts
    if run.source is not None:
        facts["features"] = features.report(run.source)
    write_summary(run.summary, ended, cfg)
    conclude(facts, ended, run.folder)
    say_profile(run.trainer)
    return Result(facts["metrics"], run.model.eval(), run.folder, ended)
