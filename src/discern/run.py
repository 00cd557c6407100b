"""What a run does, from top to bottom."""

import functools
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from discern import finders
from discern.build import (
    build_data,
    build_model,
    build_trainer,
    match_backbone,
    portable,
    training_twin,
)
from discern.callbacks.continuation import Continuation
from discern.callbacks.history import History
from discern.callbacks.interrupt import EXIT_STATUS, GracefulStop
from discern.callbacks.outputs import TestOutputs
from discern.callbacks.pruning import Pruning
from discern.callbacks.randomness import Randomness
from discern.checkpoints import (
    CARD,
    card_and_state,
    check_shapes,
    fill,
    read,
)
from discern.config import as_override, check, plain
from discern.config_file import write_config
from discern.console import fitted
from discern.dashboard.settings import log_settings
from discern.differences import as_facts, differences
from discern.errors import DiscernError, about, first_line
from discern.experiments import name_of
from discern.features import run as features
from discern.hparams import log_row
from discern.jobs import as_job, relative
from discern.models.classifier import Classifier, count_parameters
from discern.models.directions import check_mode
from discern.nearest import did_you_mean
from discern.places import started_in
from discern.quiet import quiet_libraries
from discern.reports.curves import draw_curves
from discern.reports.notebook import result_html
from discern.reports.predictions import Predictions
from discern.reports.run_page import REPORT, write_run_page
from discern.reports.samples import as_pixels, copied, draw_grid, remember
from discern.reports.summary import Summary, git_state, machine, metric_cells, versions
from discern.reports.tested import Tested, digest_of, write_tested
from discern.reports.thumbnails import chosen, thumbnails
from discern.runs import find_checkpoint
from discern.threads import use_threads

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
        if not summary.path.exists():
            summary.write(f"failed: {first_line(error)}")
        raise
    if result.stopped in EXIT_STATUS:
        raise SystemExit(EXIT_STATUS[result.stopped])
    return objective_of(cfg.objective, result)


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
        write_summary(summary, f"failed: {first_line(error)}", cfg)
        raise


@functools.cache
def git_state_once(folder: Path) -> dict[str, Any] | None:
    """The state of the code that this process has imported, whatever becomes of the files."""
    return git_state(folder)


def _train(cfg: DictConfig, summary: Summary, choices: Mapping[str, Any]) -> Result:
    facts, folder = summary.facts, Path(cfg.folder)
    save_config(cfg, facts["overrides"])
    seed_everything(cfg.seed, workers=True, verbose=False)

    history = History()
    stop = GracefulStop(folder / "checkpoints" / "last.ckpt")
    # Before the data: that the machine lacks a device is said before a file is read.
    always = [history, Randomness(), *of_a_search(cfg), stop]
    trainer = build_trainer(cfg, always)
    with summary.phase("data"):
        data: Any = build_data(cfg)
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
        omit_single_images(model, data, trainer)
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
    use_threads(model.network, data.input_shape, cfg.threads)
    facts["machine"] |= {"devices": devices(trainer), "threads": torch.get_num_threads()}
    announce(cfg, facts)
    if suggested is not None:
        write_summary(summary, suggested, cfg)
        conclude(facts, suggested, folder)
        return Result({}, model.eval(), folder, suggested)
    start = find_checkpoint(cfg.ckpt_path) if cfg.ckpt_path else None
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
    content: dict[str, Any] | None = None
    if cfg.train:
        with summary.phase("fit"):
            log_settings(trainer, folder / "config.yaml", facts["overrides"], facts["changed"])
            stopped = fit(trainer, model, data, start, stop)
        best = best_checkpoint(trainer)
        content = None if best is None else read(best)
        record_fit(summary, history, trainer, content)
        if not cfg.sweep.draws:
            with summary.phase("figures"):
                draw(history, facts, folder)
    # Before the test, whose metrics TensorBoard adds to the row, and which may be interrupted.
    log_row(trainer, cfg, choices, facts["metrics"], ended=stopped not in EXIT_STATUS)
    if best is not None:
        fill(model.network, (content or read(best))["state_dict"], best)
    if cfg.test and len(data.test_dataset) and stopped not in EXIT_STATUS:
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
        limit, batches = getattr(trainer, setting), _batches(data, split, trainer)
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
    batches = _batches(data, "train", trainer)
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    within_epoch = settings.check_val_every_n_epoch is not None and settings.limit_val_batches
    if isinstance(every, int) and batches and within_epoch and every > batches:
        counted = f"{batches} batch{'' if batches == 1 else 'es'}"
        raise DiscernError(
            f"trainer.val_check_interval={every} is not allowed; an epoch has {counted}, so it "
            "must be at most as many, or a fraction. With trainer.check_val_every_n_epoch=null it "
            "may go beyond an epoch."
        )


def _batches(data: Any, split: str, trainer: Trainer) -> int:
    """Batches of a split in each process; 0 where there is none, or no end."""
    try:
        size = int(data.batch_size if split == "train" else data.eval_batch_size)
        images = math.ceil(int(data.num_images[split]) / trainer.world_size)
    except (AttributeError, KeyError, TypeError):  # of a data module of a user's own
        return 0
    alone = split == "train" and data.omits_single_images and images > size
    return images // size if alone and images % size == 1 else math.ceil(images / size)


def omit_single_images(model: Classifier, data: Any, trainer: Trainer) -> None:
    """Leave out a last batch of one image where the network normalises over the batch, and say so.

    torch has no statistics of one value, and refuses.
    """
    if not any(isinstance(m, nn.BatchNorm1d) and m.training for m in model.network.modules()):
        return
    before = _batches(data, "train", trainer)
    data.omits_single_images = True
    if _batches(data, "train", trainer) < before and not trainer.overfit_batches:  # type: ignore[attr-defined]
        log.info(
            "The last batch of an epoch would be one image, of which batch normalisation has no "
            "statistics: each epoch leaves one image out."
        )


def check_monitors(trainer: Trainer, model: Classifier, validated: bool) -> None:
    """Let the callbacks watch what there is: without validation, the training metrics.

    Raises:
        DiscernError: a callback is to watch a metric that no epoch logs, or the wrong way.
    """
    replaced = set()
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


def announce(cfg: DictConfig, facts: dict[str, Any]) -> None:
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
    trained, frozen = facts["parameters"]["trainable"], facts["parameters"]["frozen"]
    also = f", {frozen:,} frozen" if frozen else ""
    log.info("  %-10s %s trained%s", "parameters", f"{trained:,}", also)


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
    return int(content.get("epoch", 0)) + 1 + _ends_an_epoch(content)


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
    with stop:
        try:
            trainer.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
        except MisconfigurationException as error:
            raise DiscernError(f"trainer: {first_line(error)}.") from error
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            size = getattr(data, "batch_size", 1)
            raise DiscernError(
                f"data.batch_size={size} leaves a batch of one image, of which batch normalisation "
                "has no statistics; it must be another, above 1, or the network without batch "
                "normalisation (model.norm=none)."
            ) from error
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            raise DiscernError(f"trainer.detect_anomaly=true: {first_line(error)}.") from error
        except SystemExit:
            # Lightning's own end after a KeyboardInterrupt.
            if not trainer.interrupted:
                raise
            return stop.reason or "interrupted"
    if stop.reason is not None:
        return stop.reason
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Pruning) and callback.reason is not None:
            return callback.reason
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "trainer.fast_dev_run batches seen"
    for callback in trainer.early_stopping_callbacks:
        if callback.stopped_epoch:
            return (
                f"early stopping in epoch {callback.stopped_epoch + 1}: {callback.monitor} has not "
                f"improved for {callback.patience} epochs"
            )
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps={trainer.max_steps} reached"
    if trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs >= 0:
        return f"trainer.max_epochs={trainer.max_epochs} reached"
    return "trainer.max_time reached" if trainer.should_stop else "all batches seen"


def best_checkpoint(trainer: Trainer) -> Path | None:
    """The file of the checkpoint that was best by the metric it watches."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return Path(callback.best_model_path)
    return None


def record_fit(
    summary: Summary, history: History, trainer: Trainer, best: dict[str, Any] | None
) -> None:
    """Put into the summary what training gave: the metrics of the best checkpoint, or the last."""
    facts, row = summary.facts, history.rows[-1] if history.rows else {}
    facts["best_epoch"] = None
    if best is not None:
        facts["best_epoch"] = best["epoch"] + 1
        rows = [row for row in history.rows if row["epoch"] == best["epoch"] + 1]
        # Of several validations in its epoch, the checkpoint knows the one that it was best in.
        row = {**rows[0], **at_validation(best)} if rows else at_validation(best)
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


def at_validation(content: dict[str, Any]) -> dict[str, float]:
    """The validation metrics when a checkpoint was written."""
    metrics: dict[str, float] = content[CARD]["metrics"]
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


def conclude(facts: dict[str, Any], stopped: str, folder: Path) -> None:
    """Say what came out, and where it is."""
    log.info("Ended: %s.", stopped)
    metrics = facts["metrics"]
    if metrics:
        log.info("\n%s\n", metrics_table(facts["title"], metrics))
    log.info("Everything is in %s", relative(folder))
    if (folder / REPORT).exists():
        log.info("To look at it, open %s", relative(folder / REPORT))
