"""Settings that a run finds by trying them: the learning rate and the batch size.

Trials have their own model and their own Trainer, without loggers, callbacks or a folder, and the
state of the random generators is restored after them. The run that follows is therefore, to the
bit, the run that is given the found numbers by hand.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.tuner.lr_finder import _LRFinder
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.types import STEP_OUTPUT
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.optim import Optimizer

from discern.config.check import as_typed_settings
from discern.config.typed import command_line
from discern.console import is_terminal
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, as_override
from discern.models.classifier import Batch, Classifier
from discern.models.optimizer import Group
from discern.models.threads import use_threads, with_threads
from discern.reports.curves import TRAINING, VALIDATION
from discern.reports.sheet import legend_above, save
from discern.reports.sheet import title as write_title
from discern.runs.state import Ended, State
from discern.training import serving as features
from discern.training.batches import omit_single_images, refusals_of_training
from discern.training.build import build_model, build_trainer

log = logging.getLogger(__name__)

Changes = dict[str, Any]
"""Setting -> the value that it is given."""

STEPS, LOWEST, HIGHEST = 100, 1e-6, 10.0
"""Optimizer steps of the search for a learning rate, and the rates of the first and the last."""

SMALLEST_BATCH, MAX_BATCH, BATCHES_AN_EPOCH = 8, 8192, 10
"""The batch sizes tried are powers of two between these that leave an epoch so many batches."""

GROWTH = 1.1
"""A larger batch is worth it if it gives this many times the images/s."""

TRIAL_SECONDS, TRIAL_STEPS = 0.3, (4, 200)
"""How long each batch size is tried: for so long, but at least and at most for so many steps."""


def is_searched(cfg: DictConfig) -> bool:
    """Whether the run searches for a setting before training."""
    return bool(cfg.find_lr) or cfg.data.get("batch_size") == "auto"


def find(cfg: DictConfig, data: ImageDataModule, facts: dict[str, Any]) -> Ended | None:
    """Search for the settings, and put them into the config and the data module.

    Args:
        cfg: the run's config.
        data: the data module, set up.
        facts: the summary's; ``found`` is added, with the name and value of each setting.

    Returns:
        How the run ends here, or None if it continues.

    Raises:
        DiscernError: nothing can be suggested, or several devices would train.
    """
    title, found = f"{facts['name']} on {data.title}", facts.setdefault("found", {})
    with isolate_rng(), with_threads(torch.get_num_threads()):
        if cfg.data.get("batch_size") == "auto":
            size = find_batch_size(cfg, data)
            data.batch_size = size
            found |= _set(cfg, {"data.batch_size": size})
        if not cfg.find_lr:
            return None
        curve = find_lr(cfg, data)
        draw(curve, title, Path(cfg.folder) / "lr_find.png")
        suggested = curve.suggestion
        if suggested is None:
            raise DiscernError(
                f"find_lr={as_override(cfg.find_lr)} has no learning rate to suggest: "
                f"{curve.trouble} (lr_find.png)."
            )
    log.info("  %-10s optimizer.lr=%s suggested (lr_find.png)", "find_lr", suggested)
    changes = rates_in_proportion(cfg, suggested)
    found["optimizer.lr"] = suggested
    if cfg.find_lr == "use":
        found |= _set(cfg, changes)
        # So that the config is that of the run by hand, and repeats it without a search.
        cfg.find_lr = False
        return None
    command = command_with({**found, **changes}, facts["overrides"])
    log.info("  %-10s %s", "use it", command)
    return Ended(State.DONE, f"find_lr=true: optimizer.lr={suggested} suggested")


def _set(cfg: DictConfig, changes: Changes) -> Changes:
    for setting, value in changes.items():
        OmegaConf.update(cfg, setting, value)
    return changes


_OF_SCHEDULERS = ("max_lr", "base_lr", "eta_min", "min_lr")
"""Settings of schedulers that are learning rates."""


def rates_in_proportion(cfg: DictConfig, lr: float) -> Changes:
    """The settings that change with ``optimizer.lr``: it, and the scheduler's own rates.

    Those that refer to ``optimizer.lr`` follow it by themselves.
    """
    ratio = lr / cfg.optimizer.lr
    changes: Changes = {"optimizer.lr": lr}
    for name in _OF_SCHEDULERS:
        if name not in cfg.scheduler or OmegaConf.is_interpolation(cfg.scheduler, name):
            continue
        value = cfg.scheduler[name]
        if OmegaConf.is_config(value):
            changes[f"scheduler.{name}"] = [_three_digits(rate * ratio) for rate in value]
        elif isinstance(value, (int, float)) and value:
            changes[f"scheduler.{name}"] = _three_digits(value * ratio)
    return changes


def command_with(settings: Changes, overrides: Sequence[str]) -> str:
    """The command of the same run with these settings instead of the search."""
    replaced = {"find_lr", *settings}
    kept = [each for each in overrides if each.partition("=")[0].lstrip("+") not in replaced]
    new = [f"{name}={as_override(value)}" for name, value in settings.items()]
    return command_line([*kept, *new], as_typed_settings())


def _three_digits(value: float) -> float:
    """A number rounded to what a search can know."""
    return float(f"{value:.3g}")


# The model, the data and the Trainer that the search has to itself.


@contextmanager
def _isolated_trial(
    cfg: DictConfig, data: ImageDataModule
) -> Iterator[tuple[DictConfig, Classifier, ImageDataModule]]:
    """A config, a model and a data module for trials, separate from those of the run."""
    with TemporaryDirectory(prefix="discern-") as folder:
        cfg = copy.deepcopy(cfg)
        with open_dict(cfg):
            cfg.callbacks, cfg.logger, cfg.scheduler = {}, {}, {"_target_": None}
            cfg.trainer.update(
                callbacks=None, logger=False, profiler=None, barebones=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                default_root_dir=folder, max_epochs=-1, min_epochs=None, max_steps=-1,
                min_steps=None, max_time=None, num_sanity_val_steps=0, val_check_interval=None,
                # An epoch in which there will be no validation.
                check_val_every_n_epoch=2**31,
            )  # fmt: skip
            if cfg.cache.mode == "refresh":  # once, by the run
                cfg.cache.mode = "auto"
        # The images are shared; only who trains on them, and what serves them, is another.
        data = copy.copy(data)
        trainer = _trainer(cfg)
        if trainer.world_size > 1:
            raise DiscernError(
                "find_lr and data.batch_size=auto are for training on one device, and here are "
                f"{trainer.world_size}: find the numbers with trainer.devices=1."
            )
        model = build_model(cfg, data, validated=False)
        omit_single_images(model, data)
        use_threads(model.network, data.input_shape, cfg.threads)
        if hasattr(model.network, "backbone"):
            features.serve(cfg, model, data, trainer, epoch=1)
        with refusals_of_training(data):
            yield cfg, model, data


def _trainer(cfg: DictConfig, *callbacks: Callback, **changes: object) -> Trainer:
    if changes:
        cfg = copy.deepcopy(cfg)
        cfg.trainer.update(changes)
    return build_trainer(cfg, list(callbacks))


# The learning rate.


@dataclass(frozen=True)
class Curve:
    """The loss while the learning rate rose.

    Attributes:
        lrs: the rates tried.
        losses: the loss at each, a moving average over those before it.
        suggestion: the rate to train with, or None.
        trouble: why there is none.
    """

    lrs: list[float]
    losses: list[float]
    suggestion: float | None
    trouble: str = ""


def find_lr(cfg: DictConfig, data: ImageDataModule) -> Curve:
    """Train while the learning rate rises from ``LOWEST`` to ``HIGHEST``."""
    log.info("Looking for a learning rate: %d steps, %g to %g.", STEPS, LOWEST, HIGHEST)
    with _isolated_trial(cfg, data) as (apart, model, its_data):
        trainer = _trainer(apart)
        _keep_proportions(model)
        # Lightning's progress bar is not to be asked whether there is a terminal.
        quiet = nullcontext() if is_terminal() else redirect_stderr(io.StringIO())
        with quiet:
            finder = Tuner(trainer).lr_find(
                model,
                datamodule=its_data,
                min_lr=LOWEST,
                max_lr=HIGHEST,
                num_training=STEPS,
                update_attr=False,
            )
    if finder is None or not finder.results.get("loss"):
        return Curve([], [], None, "no batch was seen")
    return judge(finder)


def _keep_proportions(model: Classifier) -> None:
    """Keep the ratios of the parameter groups' learning rates.

    Lightning's finder gives all groups the same rate.
    """
    build = model.optimizer_factory

    def build_with_hooks(groups: list[Group]) -> Optimizer:
        optimizer = build(groups)

        def scale(power: int) -> None:
            for group in optimizer.param_groups:
                group["lr"] *= group.get("factor", 1.0) ** power

        optimizer.register_step_pre_hook(lambda *_: scale(1))
        optimizer.register_step_post_hook(lambda *_: scale(-1))
        return optimizer

    if len(model.parameter_groups()) > 1:
        model.optimizer_factory = build_with_hooks


SMOOTHING = 0.98
"""What Lightning's finder keeps of the average with each step."""

SKIPPED, LEAST_FALL, BEGUN = 10, 0.01, 0.2
"""Steps at first that tell nothing; the part of the loss that must be lost; the part of that fall
from which on it counts as begun."""


def judge(finder: _LRFinder) -> Curve:
    """The suggestion of Lightning's finder, if the loss fell.

    Its suggestion is where the loss falls most for a change of the rate. Among the smallest rates,
    where a change is tiny, that is wherever a batch happened to be easier than the one before, so
    that the search begins where the fall has begun.
    """
    lrs, smoothed = finder.results["lr"], finder.results["loss"]
    lrs = lrs[: len(smoothed)]
    # Lightning divides by one power too many, by which the first loss is half of what it was.
    losses = [
        loss * (1 - SMOOTHING ** (step + 1)) / (1 - SMOOTHING**step)
        for step, loss in enumerate(smoothed, 1)
    ]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 2 * SKIPPED:
        return Curve(lrs, losses, None, "the loss diverges at once")
    start, lowest = statistics.fmean(finite[:SKIPPED]), min(finite[SKIPPED:])
    if lowest > start - LEAST_FALL * abs(start):
        return Curve(lrs, losses, None, "the loss falls at none of the rates tried")
    begun = start - BEGUN * (start - lowest)
    falling = next(n for n, loss in enumerate(losses) if n >= SKIPPED and loss <= begun)
    if len(losses) - falling < 4:  # fewer have no slope
        return Curve(lrs, losses, None, "the loss falls at the highest rates only")
    suggestion = finder.suggestion(skip_begin=falling)
    return Curve(lrs, losses, suggestion and _three_digits(suggestion))


@rank_zero_only
def draw(curve: Curve, title: str, path: Path) -> None:
    """Draw lr_find.png."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.lrs, curve.losses, color=TRAINING, label="training, moving average")
    suggestion = curve.suggestion
    if suggestion is not None:
        _, loss = min(
            zip(curve.lrs, curve.losses, strict=True), key=lambda point: abs(point[0] - suggestion)
        )
        axes.plot(
            suggestion, loss, "o", color=VALIDATION, markersize=8,
            label=f"suggested: {suggestion}",
        )  # fmt: skip
        axes.axvline(suggestion, color="0.4", linestyle=":")
    finite = [loss for loss in curve.losses if math.isfinite(loss)]
    if finite:
        # Where it diverges it would leave no room for the rest.
        lowest, start = min(finite), statistics.fmean(finite[:SKIPPED])
        room = max(start - lowest, 0.1 * abs(start))
        axes.set_ylim(lowest - 0.2 * room, min(max(finite), start + room) + 0.2 * room)
    axes.set_xscale("log")
    axes.set_xlabel("Learning rate")
    axes.set_ylabel("Loss (cross-entropy, nats)")
    write_title(figure, f"{title}: loss while the learning rate rises")
    axes.grid(alpha=0.3)
    legend_above(axes)
    save(figure, path)


# The batch size.


def find_batch_size(cfg: DictConfig, data: ImageDataModule) -> int:
    """The batch size, of those that fit in memory, beyond which images/s stop growing.

    A larger one would take as long an epoch, with fewer steps in it. Only on an accelerator is it
    tried what memory holds: a process that has used up a computer's memory is ended without
    a word, and on a CPU images/s have long ceased to grow by then.
    """
    images = data.num_images["train"]
    largest = min(MAX_BATCH, images // BATCHES_AN_EPOCH)
    log.info("Looking for a batch size: of %d to %d images.", SMALLEST_BATCH, largest)
    with _isolated_trial(cfg, data) as (apart, model, its_data):
        if _trainer(apart).strategy.root_device.type != "cpu":
            largest = min(largest, _largest_in_memory(apart, model, its_data, largest))
        best, rates = 0, {0: 0.0}
        powers = (2**n for n in range(SMALLEST_BATCH.bit_length(), max(largest, 1).bit_length()))
        for size in (min(SMALLEST_BATCH, images), *powers):
            rates[size] = images_per_second(apart, model, its_data, size)
            if rates[size] > GROWTH * rates[best]:
                best = size
            elif size > 2 * best:
                # Two in a row were no faster: it is not that one was disturbed.
                break
    del rates[0]
    measured = ", ".join(f"{size}: {rate:,.0f}" for size, rate in rates.items())
    log.info("  %-10s %d (images/s with %s)", "batch size", best, measured)
    return best


def _largest_in_memory(
    cfg: DictConfig, model: Classifier, data: ImageDataModule, largest: int
) -> int:
    """The power of two that Lightning's search comes to; it may be above ``largest``."""
    data.batch_size = SMALLEST_BATCH
    most = max(largest, SMALLEST_BATCH)
    size = Tuner(_trainer(cfg)).scale_batch_size(
        model, datamodule=data, init_val=SMALLEST_BATCH, max_val=most
    )
    return size or largest


def images_per_second(
    cfg: DictConfig, model: Classifier, data: ImageDataModule, size: int
) -> float:
    """Training speed with batches of ``size`` images.

    Raises:
        DiscernError: there is no batch.
    """
    data.batch_size = size
    clock = _Clock(head_start=1 + 2 * data.num_workers)
    trainer = _trainer(cfg, clock, max_steps=TRIAL_STEPS[1] + clock.head_start)
    trainer.fit(model, datamodule=data)
    if not clock.rates:
        raise DiscernError("data.batch_size=auto finds no batch to try: the run sees none.")
    return statistics.median(clock.rates)


class _Clock(Callback):
    """Times batches from end to end, and stops training after enough of them.

    Args:
        head_start: batches at first that do not count: worker processes have made them before.
    """

    def __init__(self, head_start: int) -> None:
        self.head_start = head_start
        self.rates: list[float] = []
        self._seen = 0
        self._began = self._last = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Take the time."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now, self._seen = time.perf_counter(), self._seen + 1
        if self._seen > self.head_start:
            self.rates.append(len(batch[1]) / (now - self._last))
        else:
            self._began = now
        self._last = now
        if len(self.rates) >= TRIAL_STEPS[0] and now - self._began > TRIAL_SECONDS:
            trainer.should_stop = True
