"""What a run does, from top to bottom."""

import functools
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from discern.config.differences import as_facts, differences
from discern.config.experiment_file import name_of
from discern.config.schema import as_override, check, plain
from discern.console import fitted
from discern.data.known import KnownImages, unknown
from discern.errors import (
    DiscernError,
    about,
    first_line,
    refusals_at_work,
    refusals_of_files,
    shortened,
)
from discern.files.places import started_in
from discern.files.text import printable
from discern.files.yaml_file import write_config
from discern.models.card import CARD
from discern.models.classifier import Classifier, count_parameters
from discern.models.saved import (
    card_and_state,
    check_shapes,
    epoch_of,
    fill,
    known_images,
    read,
)
from discern.models.threads import use_threads
from discern.nearest import did_you_mean
from discern.redaction import log_missing, missing
from discern.reports.curves import draw_curves
from discern.reports.notebook import result_html
from discern.reports.run_page import REPORT, write_run_page
from discern.reports.samples import as_pixels, copied, draw_grid, remember
from discern.reports.tensorboard.hparams import log_row
from discern.reports.tensorboard.settings import log_settings
from discern.runs.folder import DIVERGED, find_checkpoint
from discern.runs.metric_table import check_mode
from discern.runs.predictions import Predictions, warn_of_undefined
from discern.runs.summary import (
    Summary,
    git_state,
    machine,
    metric_cells,
    trained_on_sentence,
    versions,
)
from discern.runs.tested import Tested, digest_of, write_tested
from discern.runs.thumbnails import chosen, thumbnails
from discern.training import find as finders
from discern.training import serving as features
from discern.training.batches import (
    batches_of,
    omit_single_images,
    refusals_of_training,
    say_what_is_omitted,
)
from discern.training.build import (
    build_data,
    build_model,
    build_trainer,
    match_backbone,
    portable,
    training_twin,
)
from discern.training.divergence import DivergedError, Divergence, StopOnDivergence
from discern.training.ending import Ending
from discern.training.history import History
from discern.training.interrupt import DIVERGED_STATUS, EXIT_STATUS, GracefulStop
from discern.training.job import as_job, relative
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import TestOutputs
from discern.training.overfit import judge
from discern.training.pruning import Pruning
from discern.training.quiet import quiet_libraries
from discern.training.randomness import Randomness
from discern.training.restoring import check_before_restoring
from discern.training.resume import Continuation

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Result:
    """What a run gave.

    Attributes:
        metrics: split ("train", "val", "test") -> metric -> value, of the best checkpoint.
        model: the classifier with that checkpoint's weights, in eval mode.
        folder: the run's folder.
        stopped: why training ended.

    In a notebook it shows itself with its curves.
    """

    metrics: dict[str, dict[str, float]]
    model: Classifier
    folder: Path
    stopped: str

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{split} {name} {part[name]:.4f}"
            for split, part in self.metrics.items()
            for name in ("loss", "accuracy")
            if name in part
        )
        return f"<Result: {measured or 'nothing measured'}; {self.stopped}; {self.folder}>"

    def _repr_html_(self) -> str:
        return result_html(self.metrics, self.stopped, self.folder)


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
                summary.write(f"failed: {first_line(error)}")
        raise
    if result.stopped in EXIT_STATUS:
        raise SystemExit(EXIT_STATUS[result.stopped])
    if not has_diverged(result.stopped):
        return objective_of(cfg.objective, result)
    if hydra.mode != RunMode.MULTIRUN:
        raise SystemExit(DIVERGED_STATUS)
    # A sweep goes on with its other jobs.
    return math.nan if isinstance(cfg.objective, str) else [math.nan for _ in cfg.objective]


def has_diverged(stopped: str) -> bool:
    """Whether training ended since a loss was not finite."""
    return stopped.startswith(DIVERGED)


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
        write_summary(summary, "interrupted", cfg)
        raise
    except SystemExit as end:
        reasons = [reason for reason, number in EXIT_STATUS.items() if number == end.code]
        reasons += [f"failed: it ended with status {end.code}"]
        write_summary(summary, reasons[0], cfg)
        raise
    except BaseException as error:
        with suppress(OSError):  # of a full disk, which is told already
            write_summary(summary, f"failed: {first_line(error)}", cfg)
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
        data: Any = build_data(cfg, known_of(cfg, start), taken)
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
        stopped = f"cache.shard={cfg.cache.shard} computed"
        assert source is not None
        facts["features"] = features.report(source)
        write_summary(summary, stopped, cfg)
        conclude(facts, stopped, folder)
        return Result({}, model.eval(), folder, stopped)

    stopped, best = "not trained (train=false)", start
    facts["checkpoint"] = None if start is None else name_within(start, folder)
    content: dict[str, Any] | None = None
    if cfg.train:
        with summary.phase("fit"):
            log_settings(trainer, folder / "config.yaml", facts["overrides"], facts["changed"])
            stopped = fit(trainer, model, data, start, stop)
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
    came_to_its_end = not (stopped in EXIT_STATUS or has_diverged(stopped))
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
    write_summary(summary, stopped, cfg)
    conclude(facts, stopped, folder)
    return Result(facts["metrics"], model.eval(), folder, stopped)


# The parts, in the order of the story.


def watched(cfg: DictConfig) -> list[Callback]:
    """What ends training once a loss is not finite, unless it is to go on."""
    return [StopOnDivergence()] if cfg.on_nan == "stop" else []


def find_checkpoints(cfg: DictConfig) -> Path | None:
    """Put the files into the config that ``ckpt_path`` and ``model.init_from`` mean; the former.

    What ``last`` means may be another file a moment later.
    """
    start = find_checkpoint(cfg.ckpt_path) if cfg.ckpt_path else None
    if start is not None:
        cfg.ckpt_path = str(start)
    if (wanted := cfg.model.get("init_from")) is not None:
        cfg.model.init_from = str(find_checkpoint(wanted, "model.init_from"))
    return start


def known_of(cfg: DictConfig, start: Path | None) -> KnownImages | None:
    """The images that a model which the run goes on or starts from knows."""
    origins = {"ckpt_path": start, "model.init_from": cfg.model.get("init_from")}
    for setting, origin in origins.items():
        if origin is not None:
            path = Path(origin)
            with about(setting):
                content = read(path)
                known = known_images(path, content) if CARD in content else unknown(None, path)
            return replace(known, continued=setting == "ckpt_path" and known.rule is not None)
    return known_of_backbone(cfg.model.get("weights"))


def known_of_backbone(weights: str | None) -> KnownImages | None:
    """The images that a backbone was trained on, where its weights are a checkpoint's."""
    if weights is None or not Path(weights).is_file():
        return None
    try:
        content = read(weights)
    except DiscernError:  # of torchvision's, say, which whoever builds the backbone reads
        return None
    if CARD not in content:
        return None
    with about("model.weights"):
        # The head is another one: its classes and the rule for them do not matter.
        return replace(known_images(Path(weights), content), class_names=None, rule=None)


def measured_splits(cfg: DictConfig, data: Any) -> list[str]:
    """What the run measures besides the images that it trains on."""
    splits = ["val"] if cfg.train and data.has_validation else []
    return [*splits, "test"] if cfg.test and len(data.test_dataset) else splits


def of_a_search(cfg: DictConfig) -> list[Callback]:
    """What ends a job of a search that is hopeless; nothing for other runs."""
    sweep = cfg.sweep
    if sweep.trial is None:
        return []
    return [Pruning(sweep.study, sweep.name, sweep.trial, cfg.objective)]


@rank_zero_only
def save_config(cfg: DictConfig, overrides: list[str]) -> None:
    """Write config.yaml (every interpolation resolved) and overrides.yaml (what was typed)."""
    for name, content in (("config", cfg), ("overrides", OmegaConf.create(overrides))):
        write_config(content, Path(cfg.folder) / f"{name}.yaml")


def take_some_batches(trainer: Trainer, data: Any, splits: set[str]) -> None:
    """Have a fraction of the batches of these splits be one batch at least, and say so."""
    settings: Any = trainer
    limits = dict(LIMITS)
    if settings.overfit_batches:  # which Lightning has made the limits of two splits, too
        limits = {"overfit_batches": "train", "limit_test_batches": "test"}
    for setting, split in limits.items():
        limit, batches = getattr(trainer, setting), batches_of(data, split, trainer)
        if split not in splits or not isinstance(limit, float) or not batches or limit >= 1:
            continue
        if limit > 0 and int(limit * batches) == 0:
            copies = ("limit_train_batches", "limit_val_batches")
            for name in (setting, *(copies if setting == "overfit_batches" else ())):
                setattr(trainer, name, 1)
            log.info(
                "trainer.%s=%s of %d batch%s is none: one is taken.",
                *(setting, limit, batches, "" if batches == 1 else "es"),
            )


LIMITS = {
    "limit_train_batches": "train",
    "limit_val_batches": "val",
    "limit_test_batches": "test",
}
"""Setting of the Trainer -> the split of whose batches it is a part."""


def check_validation_interval(trainer: Trainer, data: Any) -> None:
    """Refuse validation after more batches than an epoch has.

    Raises:
        DiscernError: says how many there are.
    """
    settings: Any = trainer
    # Lightning has none where it is an amount of time.
    every, limit = getattr(trainer, "val_check_interval", None), settings.limit_train_batches
    batches = batches_of(data, "train", trainer)
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    within_epoch = settings.check_val_every_n_epoch is not None and settings.limit_val_batches
    if isinstance(every, int) and batches and within_epoch and every > batches:
        counted = f"{batches} batch{'' if batches == 1 else 'es'}"
        raise DiscernError(
            f"trainer.val_check_interval={every} is not allowed; an epoch has {counted}, so it "
            "must be at most as many, or a fraction. With trainer.check_val_every_n_epoch=null it "
            "may go beyond an epoch."
        )


def check_monitors(trainer: Trainer, model: Classifier, validated: bool) -> None:
    """Let the callbacks watch what there is: without validation, the training metrics.

    Raises:
        DiscernError: a callback is to watch a metric that no epoch logs, or the wrong way.
    """
    replaced = set()
    watched = model._schedule.monitor if model._schedule else None
    if watched is not None and watched not in model.metric_names:
        raise DiscernError(
            f"scheduler.monitor={watched} is not logged; "
            f"{did_you_mean(watched, model.metric_names)}"
        )
    for callback in (*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks):
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)) or not callback.monitor:
            continue
        if callback.monitor not in model.metric_names:
            raise DiscernError(
                f"monitor={callback.monitor} is not logged; "
                f"{did_you_mean(callback.monitor, model.metric_names)}"
            )
        kind = type(callback).__name__
        check_mode(f"{kind}.mode", callback.mode, callback.monitor)
        if not validated and callback.monitor.startswith("val/"):
            callback.monitor = training_twin(callback.monitor)
            replaced.add(callback.monitor)
            if isinstance(callback, EarlyStopping):
                callback._check_on_train_epoch_end = True
    if replaced:
        metrics = ", ".join(sorted(replaced))
        log.info("No validation images: checkpoints and early stopping watch %s.", metrics)


def describe(model: Classifier, data: Any) -> dict[str, Any]:
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


def devices(trainer: Trainer) -> str:
    """What the run computes on."""
    kind = str(trainer.strategy.root_device)
    if kind.startswith("cuda"):
        kind = (
            f"{kind.partition(':')[0]} ({torch.cuda.get_device_name(trainer.strategy.root_device)})"
        )
    return f"{trainer.world_size} × {kind}"


def announce(cfg: DictConfig, facts: dict[str, Any], data: Any) -> None:
    """Say in a few lines what was composed."""
    images = facts["data"]["images"]
    counts = " + ".join(f"{images[split]:,} {split}" for split in images if images[split])
    log.info("%s, seed %d", facts["title"], cfg.seed)
    for group in ("model", "data", "optimizer", "scheduler", "trainer"):
        node = cfg[group]
        if node._target_ is not None:
            shown = {"data": ("batch_size",), "trainer": ("accelerator", "devices", "max_epochs")}
            keys = shown.get(group, tuple(key for key in node if key != "_target_"))
            # A data set of a user's own may have no setting for it.
            settings = {key: plain(node[key]) for key in keys if key in node}
            # What is off is not shown: its lines would hide what is on.
            text = " ".join(f"{k}={as_override(v)}" for k, v in settings.items() if v not in OFF)
            name = node._target_.rpartition(".")[2]
            log.info("  %-10s %s", group, f"{name} {text}" if group != "trainer" else text)
    log.info("  %-10s %s", "images", counts)
    log.info("  %-10s %s", "classes", classes_of(data))
    trained, frozen = facts["parameters"]["trainable"], facts["parameters"]["frozen"]
    also = f", {frozen:,} frozen" if frozen else ""
    log.info("  %-10s %s trained%s", "parameters", f"{trained:,}", also)


def classes_of(data: Any) -> str:
    """The classes in the order of their labels, each with its training images."""
    names = [str(name) for name in data.class_names]
    # A data set of a user's own may not count them.
    counts = getattr(data, "train_class_counts", None)
    if counts is not None:
        names = [f"{name}: {n:,}" for name, n in zip(names, counts.tolist(), strict=True)]
    return shortened(names)


OFF = (None, False, 0, "none")


def continue_from(start: Path, cfg: DictConfig, trainer: Trainer, model: Classifier) -> int:
    """Check that a checkpoint is of this model; say which settings differ, let them count.

    Returns:
        The epoch, from 1, that training goes on in.
    """
    with about("ckpt_path"):
        content = read(start)
        card, state = card_and_state(start, content)
        check_shapes(model.network, state, start)
        match_backbone(model.network, card, state, start)
    log.info("  %-10s %s", "from", relative(start))
    trainer.callbacks.append(Continuation(card, portable(cfg)))  # type: ignore[attr-defined]
    return (epoch_of(content) or 1) + _ends_an_epoch(content)


def _ends_an_epoch(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written after the last batch of its epoch."""
    progress: Any = content
    for part in ("loops", "fit_loop", "epoch_loop.batch_progress", "is_last_batch"):
        progress = progress.get(part) if isinstance(progress, Mapping) else None
    return progress is True


SAMPLES = 25
"""Training images in samples.png."""

THUMBNAILS, THUMBNAILS_OF_FILES = 600, 200
"""Test images of which a small picture is kept; files have to be read and decoded again."""

AUGMENTED, EPOCHS_SHOWN = 5, 4
"""Training images in augmented.png, and epochs in whose views each is shown beside itself."""


@rank_zero_only
def show_samples(cfg: DictConfig, data: Any, facts: dict[str, Any], folder: Path) -> None:
    """Draw samples.png and augmented.png: training images as the network will see them.

    Those of jobs of a sweep with the same data are copied, and no image is read.
    """
    title, train = facts["data"]["title"], data.train_dataset
    told = repr((plain(cfg.data), data.fingerprint, data.preprocessing, title))
    if copied(told, folder):
        return
    drawn = [folder / "samples.png"]
    step = max(1, len(train) // SAMPLES)
    few = list(range(0, len(train), step))[:SAMPLES]
    images, labels = data.seen_in_epoch(few, 0)
    names = [data.class_names[label] for label in labels.tolist()]
    shown = f"{title}: training images as the network sees them"
    draw_grid(pixels_of(images, data), [(name,) for name in names], shown, drawn[0])
    if data.augmentation is not None:
        few = few[:: max(1, len(few) // AUGMENTED)][:AUGMENTED]
        unchanged, labels = train.__getitems__(few)
        views = [data.seen_in_epoch(few, epoch)[0] for epoch in range(EPOCHS_SHOWN)]
        captions = [
            (caption,)
            for label in labels.tolist()
            for caption in (data.class_names[label], *(f"epoch {n + 1}" for n in range(len(views))))
        ]
        images = torch.stack([unchanged, *views], dim=1).flatten(0, 1)
        shown = f"{title}: a few images and what training makes of them"
        drawn.append(folder / "augmented.png")
        draw_grid(pixels_of(images, data), captions, shown, drawn[1], 1 + len(views))
    remember(told, drawn)


def pixels_of(images: torch.Tensor, data: Any) -> Any:
    """Normalised images as pixels again."""
    return as_pixels(images, data.preprocessing["mean"], data.preprocessing["std"])


def fit(
    trainer: Trainer,
    model: Classifier,
    data: LightningDataModule,
    start: Path | None,
    stop: GracefulStop,
) -> str:
    """Train; return why training ended."""
    check_before_restoring(trainer)
    with stop:
        try:
            with refusals_of_training(data):
                trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
        except DivergedError:
            pass
        except SystemExit:
            # Lightning's own end after a KeyboardInterrupt.
            if not trainer.interrupted:
                raise
            return stop.reason or "interrupted"
    if stop.reason is not None:
        return stop.reason
    found = divergence(trainer)
    if found is not None:
        return found.reason
    (ending,) = (c for c in trainer.callbacks if isinstance(c, Ending))  # type: ignore[attr-defined]
    return ending.reason(trainer)


def divergence(trainer: Trainer) -> Divergence | None:
    """Where a loss was not finite, if one was and that has ended training."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((c.found for c in callbacks if isinstance(c, StopOnDivergence)), None)


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The file of the checkpoint that was best by the metric it watches."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return Path(callback.best_model_path)
    return None


def record_fit(
    summary: Summary,
    history: History,
    trainer: Trainer,
    best: Path | None,
    content: dict[str, Any] | None,
) -> None:
    """Put into the summary what training gave: the metrics of the best checkpoint, or the last."""
    facts, row = summary.facts, history.rows[-1] if history.rows else {}
    facts["best_epoch"] = None
    if best is not None and content is not None:
        facts["best_epoch"] = epoch_of(content)
        rows = [row for row in history.rows if row["epoch"] == facts["best_epoch"]]
        # Of several validations in its epoch, the checkpoint knows the one that it was best in.
        row = {**(rows[0] if rows else {}), **at_validation(best, content)}
    for split in ("train", "val"):
        names = ("loss", "accuracy", "precision", "recall", "top5_error")
        metrics = {name: row[f"{split}/{name}"] for name in names if f"{split}/{name}" in row}
        if metrics:
            facts["metrics"][split] = metrics
    facts["epochs"], facts["steps"] = len(history.rows), trainer.global_step
    seconds = facts["seconds"]
    totals = history.totals
    seconds["validation"] = history.validation_seconds
    seconds["fit"] -= history.validation_seconds
    facts["images_per_second"] = totals.images / totals.fit_seconds if totals.fit_seconds else None
    facts["images_counted"] = {
        "all": totals.images,
        "features_read": totals.features_read,
        "features_computed": totals.features_computed,
    }


def at_validation(path: Path, content: dict[str, Any]) -> dict[str, float]:
    """The validation metrics when a checkpoint was written."""
    metrics = card_and_state(path, content)[0].metrics
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


@rank_zero_only
def draw(history: History, facts: dict[str, Any], folder: Path) -> None:
    """Draw curves.png."""
    draw_curves(history.rows, facts["best_epoch"], facts["title"], folder / "curves.png")


@rank_zero_only
def write_summary(summary: Summary, stopped: str, cfg: DictConfig) -> None:
    """Write summary.json, and report.html, which is made from it and the other files."""
    summary.write(stopped)
    if cfg.report and not cfg.sweep.draws:
        try:
            write_run_page(summary.path.parent)
        except Exception as error:  # the run has been made, and its report can be made again
            log.warning("report.html was not written: %s", first_line(error))
            log.debug("Why:", exc_info=True)


def test(
    trainer: Trainer, model: Classifier, data: LightningDataModule, outputs: TestOutputs
) -> dict[str, float]:
    """The metrics of the model on the test split, whose outputs are kept."""
    trainer.callbacks.append(outputs)  # type: ignore[attr-defined]
    trainer.test(model, datamodule=data, verbose=False)
    return {
        name.removeprefix("test/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }


@rank_zero_only
def keep_test(outputs: TestOutputs, data: Any, folder: Path) -> None:
    """Write what the model said of the test images, with thumbnails of some."""
    if outputs.logits is None or outputs.labels is None:
        return
    images, tested = len(outputs.labels), data.test_dataset
    indices = torch.arange(len(tested)) if tested.indices is None else tested.indices
    files = tested.names()
    said = Predictions.of(
        outputs.logits,
        outputs.labels,
        indices[:images],
        list(data.class_names),
        None if files is None else files[:images],
    )
    warn_of_undefined(said.undefined, len(said))
    rows = chosen(said, THUMBNAILS if files is None else THUMBNAILS_OF_FILES)
    pictures, _ = tested.__getitems__(rows.tolist())
    shown = thumbnails(rows, pixels_of(pictures, data))
    seen = digest_of(tested.identify()[:images], said.labels)
    write_tested(Tested(said, seen, shown), folder)


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of each split: a row a split, or a few lines where the terminal is narrow."""
    names, rows = metric_cells(metrics)
    blocks = [
        "\n  ".join([f"{split}:", *(f"{n} {x}" for n, x in zip(names, values, strict=True) if x)])
        for split, *values in rows
    ]
    return fitted([title, *names], rows, blocks)


def measured(facts: Mapping[str, Any]) -> str:
    """Which checkpoint and epoch metrics are of, in words."""
    checkpoint, epoch, epochs = (facts.get(k) for k in ("checkpoint", "best_epoch", "epochs"))
    if checkpoint is None:
        if not epochs:
            return "a network that was not trained"
        return (
            f"the weights that training ended with, in epoch {epochs}; none were kept as the best"
        )
    return f"{checkpoint}, of epoch {epoch} of {epochs}" if epoch is not None else str(checkpoint)


def name_within(path: Path, folder: Path) -> str:
    """A file as seen from a run's folder, if it is in there, else as from where one works."""
    path, folder = path.resolve(), folder.resolve()
    return printable(path.relative_to(folder) if path.is_relative_to(folder) else relative(path))


def conclude(facts: dict[str, Any], stopped: str, folder: Path) -> None:
    """Say what came out, and where it is."""
    log.info("Ended: %s.", stopped)
    if "overfit" in facts:
        log.info("%s", facts["overfit"]["verdict"])
    if "diverged" in facts:
        log.info("%s", facts["diverged"]["advice"])
    metrics = facts["metrics"]
    if metrics:
        log.info("Metrics of %s:", measured(facts))
        log.info("\n%s\n", metrics_table(facts["title"], metrics))
    for split, count in facts["data"].get("trained_on", {}).items():
        if count and split in metrics:
            said = trained_on_sentence(split, count, facts["data"]["images"][split])
            log.warning("%s.", said)
    log.info("Everything is in %s", relative(folder))
    if (folder / REPORT).exists():
        log.info("To look at it, open %s", relative(folder / REPORT))
