"""The parts of a run, from its composed config: trainer, data, model."""

import functools
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version as release
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.utilities import registry
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from discern.config.devices import no_device
from discern.config.schema import EXTRAS, IF_INSTALLED
from discern.config.values import plain
from discern.data.image_folder import BadFile, TooManyBadFilesError
from discern.data.known import KnownImages, Rule, check_classes
from discern.data.module import ImageDataModule
from discern.data.preprocessing import Preprocessing
from discern.data.published.pretrained import PUBLISHED
from discern.errors import DiscernError, about, as_override, first_line, shortened
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.models.backbones import backbone_preprocessing
from discern.models.card import TARGET, Card, portable_settings, without_target, written
from discern.models.classifier import Classifier
from discern.models.layers import shape_lazy_layers
from discern.models.mixing import mixing
from discern.models.registry import MODELS, name_of
from discern.models.saved import start_from
from discern.models.schedule import Schedule
from discern.models.transfer import TransferClassifier
from discern.redaction import redacted
from discern.runs.summary import versions
from discern.text import printable
from discern.training.checkpointing import WholeFileCheckpointIO
from discern.training.finetune import Finetune
from discern.training.instantiate import build, build_all, with_mode
from discern.training.job import relative
from discern.training.meeting import say_what_differs
from discern.training.profile import PROFILERS, ProfileTotals, settings_of_profiler
from discern.training.seam import callback_of
from discern.training.time_limit import TimeLimit

log = logging.getLogger(__name__)

Settings = dict[Any, Any]
"""A group of the config as plain values; OmegaConf allows other keys than texts."""

KNOWN_LIGHTNING = "2.6."
"""Beginning of the versions whose epoch loop is exchanged; with others Lightning's own is used."""

# Each Trainer looks through all installed packages for callbacks, 15 ms, and finds the same ones.
registry.entry_points = functools.cache(registry.entry_points)  # type: ignore[assignment,attr-defined]


def build_trainer(cfg: DictConfig, always: list[Callback]) -> Trainer:
    """The Lightning Trainer with the chosen callbacks and loggers, and the callbacks of every run.

    Raises:
        DiscernError: an argument, or the machine lacks the device.
    """
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    _check_devices(settings["accelerator"], settings["devices"])
    callbacks = _callbacks_of(cfg, settings)
    if settings["profiler"] in (*PROFILERS,):
        settings["profiler"] = settings_of_profiler(settings["profiler"], cfg.folder)
    for name in ("profiler", "strategy"):
        if isinstance(settings[name], dict):
            settings[name] = build(f"trainer.{name}", settings[name])
    loggers = (
        build_all("logger", _installed(plain(cfg.logger)))
        if settings["logger"] in (None, True)
        else build_all("trainer.logger", settings["logger"])
    )
    changes: dict[str, object] = {
        "callbacks": always + callbacks,
        "logger": loggers or False,
        "plugins": [*build_all("trainer.plugins", settings["plugins"]), WholeFileCheckpointIO()],
        "default_root_dir": settings["default_root_dir"] or cfg.folder,
        # Where the groups chose none, none: Lightning would put in its own.
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
    }
    if settings["barebones"]:
        changes |= dict.fromkeys(("logger", "log_every_n_steps", "num_sanity_val_steps"))
    try:
        trainer: Trainer = build("trainer", settings | changes)
    except (MisconfigurationException, ValueError) as error:
        raise DiscernError(f"trainer: {first_line(error)}.") from error
    for name in ("callbacks", "loggers"):
        kinds = [type(each).__name__ for each in getattr(trainer, name)]
        log.debug("%s: %s", name, ", ".join(kinds) or "none")
    _check_processes(trainer, settings)
    _check_checkpoints(trainer.checkpoint_callbacks)
    if (version := release("lightning")).startswith(KNOWN_LIGHTNING):
        # Not with another release, in which the private classes that it extends may be missing.
        from discern.training.loop import use_lean_epoch_loop

        use_lean_epoch_loop(trainer)
    else:
        log.warning(
            "Lightning %s is not %sx: its own epoch loop trains, which takes longer, and signals "
            "and checkpoints wait for the end of an epoch.",
            *(version, KNOWN_LIGHTNING),
        )
    return trainer


def _callbacks_of(cfg: DictConfig, settings: Settings) -> list[Callback]:
    """The callbacks that the config chooses, without those that the Trainer's settings rule out."""
    callbacks = build_all("callbacks", cfg.callbacks)
    callbacks += build_all("trainer.callbacks", settings["callbacks"])
    bare = settings["barebones"]  # nothing is logged that early stopping could watch
    unwanted: list[type[Callback]] = [EarlyStopping] if bare else []
    unwanted += [ModelCheckpoint] if bare or settings["enable_checkpointing"] is False else []
    unwanted += [ProgressBar] if bare or settings["enable_progress_bar"] is False else []
    callbacks = [c for c in callbacks if not isinstance(c, tuple(unwanted))]
    if settings["profiler"] is not None:
        callbacks.append(ProfileTotals())
    if settings["max_time"] is not None:
        # Lightning, which is given it as well, takes this one in the place of its own.
        callbacks.append(TimeLimit(settings["max_time"]))
    return callbacks


def _check_processes(trainer: Trainer, settings: Mapping[Any, object]) -> None:
    """Refuse what cannot train in several processes.

    Raises:
        DiscernError: what training measures would end with its processes, or the device cannot.
    """
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        value = settings["strategy"]
        name = value if isinstance(value, str) else type(value).__name__
        raise DiscernError(
            f"trainer.strategy={name} is not allowed; what its processes measure would end with "
            "them, so it must be one that starts the command once more for each, such as ddp."
        )
    if (
        trainer.world_size > 1
        and settings["sync_batchnorm"]
        and strategy.root_device.type != "cuda"
    ):
        raise DiscernError(
            "trainer.sync_batchnorm=true is not allowed on a CPU; PyTorch has it for GPUs only."
        )
    if trainer.world_size > 1 and callback_of(trainer, Finetune):
        raise DiscernError(
            f"callbacks=finetune is not allowed with trainer.devices={trainer.world_size}; each "
            "process would change what is trained later by itself, so train the head first, and go "
            "on with model.unfreeze=… and model.init_from=RUN."
        )


def _check_checkpoints(callbacks: Sequence[Callback]) -> None:
    """Refuse two checkpoint callbacks that would write one file.

    Raises:
        DiscernError: names the file.
    """
    files = [(c.dirpath, c.filename) for c in callbacks if isinstance(c, ModelCheckpoint)]
    for dirpath, name in files:
        if name and files.count((dirpath, name)) > 1:
            raise DiscernError(
                f"callbacks: two checkpoints have the filename={name}; each must have its own."
            )


def _installed(loggers: object) -> object:
    """Loggers without those with ``if_installed`` whose package is missing."""
    if not isinstance(loggers, dict):
        return loggers
    kept, missing = {}, []
    for name, node in loggers.items():
        settings = dict(node) if isinstance(node, dict) else {}
        extra = EXTRAS.get(str(settings.get("_target_"))) if settings.pop(IF_INSTALLED, 0) else None
        if extra is None or find_spec(extra) is not None:
            kept[name] = settings or node
        else:
            missing.append(extra)
    if missing:
        log.info(
            "Loggers that are not installed: %s; pip install 'discern[%s]' brings them.",
            " and ".join(missing),
            ",".join(missing),
        )
    return kept


def _check_devices(accelerator: str, devices: int | str | list[int]) -> None:
    """Refuse missing devices: Lightning would use others, or start too many processes."""
    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if not gpus:
        # Lightning lets torch ask NVML, lest the driver be loaded before processes are forked, and
        # Adam asks at each step: 80 us where there is no GPU, and 2 us otherwise.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    if accelerator in ("gpu", "cuda") and not gpus and not (accelerator == "gpu" and mps):
        raise no_device(accelerator)
    if accelerator == "mps" and not mps:
        raise no_device(accelerator)
    if accelerator not in ("auto", "gpu", "cuda", "mps", "cpu") or not isinstance(devices, int):
        return
    on_cpu = accelerator == "cpu"
    there = (os.cpu_count() or 1) if on_cpu else (gpus or 1)
    if not (devices == -1 or 1 <= devices <= there):
        kind = "CPU core" if on_cpu else "GPU" if gpus or mps else "device, the CPU"
        plural = "s" if there > 1 else ""
        raise DiscernError(
            f"trainer.devices={devices} is not allowed; this machine has {there} {kind}{plural}."
        )


def build_data(
    cfg: DictConfig, known: KnownImages | None = None, measured: str | None = None
) -> ImageDataModule:
    """The data module, set up: files found or downloaded, splits made.

    What its settings leave open of the pictures' preparation is what the model, where ``cfg`` has
    one, was trained with. Files that cannot be used are listed in bad_files.csv.

    Args:
        cfg: the whole config.
        known: what a checkpoint that meets the data knows of them: the split is by its rule.
        measured: the split that is wanted of data that are not trained on.

    Raises:
        DiscernError: the data cannot be had, too much of it cannot be used, or its classes are not
            those of the checkpoint.
    """
    settings = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(settings, dict)
    if settings.get("batch_size") == "auto":
        settings["batch_size"] = 1  # until it is found; other commands do not need it
    # A user's own class need not be discern's: it has what training asks for.
    data: Any = build("data", _with_preprocessing(settings, cfg.get("model")))
    if isinstance(data, ImageDataModule):
        data.known, data.measured = known, measured
    try:
        data.prepare_data()
        data.setup("fit")
    except TooManyBadFilesError as error:
        path = _list_bad_files(error.bad, cfg)
        raise DiscernError(f"{error}; {relative(path)} lists them.") from error
    if getattr(data, "bad_files", None):
        _list_bad_files(data.bad_files, cfg)
    if isinstance(data, ImageDataModule):
        say_what_differs(data)
    elif known is not None:  # a data module of a user's own that divides its images itself
        check_classes(data.title, data.class_names, known)
    return cast(ImageDataModule, data)


_PLAIN = asdict(Preprocessing(64, 73, "bilinear", (0.5,) * 3, (0.5,) * 3))
"""How pictures are prepared for a model without weights that were trained with something else."""


def _with_preprocessing(settings: Settings, model: DictConfig | None) -> Settings:
    """The settings of a data set, with defaults for the preprocessing that they leave open."""
    left_open = [name for name in _PLAIN if name in settings and settings[name] is None]
    if not left_open:
        return settings
    known = _PLAIN
    if model is not None and model._target_ == MODELS["transfer"]:
        known = asdict(backbone_preprocessing(model.library, model.backbone))
    settings = settings | {
        name: list(value) if isinstance(value := known[name], tuple) else value
        for name in left_open
        if name != "resize"
    }
    if "resize" in left_open:
        # In proportion, for a size that was chosen.
        settings["resize"] = round(known["resize"] * settings["image_size"] / known["image_size"])
    return settings


def _list_bad_files(bad: Sequence[BadFile], cfg: DictConfig) -> Path:
    path = Path(cfg.folder) / "bad_files.csv"
    if not getattr(rank_zero_only, "rank", 0):
        with write_whole(path) as file:
            write_csv(file, [["file", "class", "reason"]])
            write_csv(file, ([printable(b.path), b.label, b.reason] for b in bad))
    return path


def build_model(cfg: DictConfig, data: ImageDataModule, validated: bool) -> Classifier:
    """The classifier for the images of a data module.

    Args:
        cfg: the whole config.
        data: has ``input_shape`` (C, H, W) and ``num_classes``.
        validated: whether there are validation metrics to watch.
    """
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(settings, dict)
    training = {name: settings.pop(name, None) for name in FOR_TRAINING}
    network = build("model", settings, input_shape=data.input_shape, num_classes=data.num_classes)
    shape_lazy_layers(network, data.input_shape)
    if training["init_from"] is not None:
        with about("model.init_from"):
            start_from(network, Path(training["init_from"]))
    seen: KnownImages | None = getattr(data, "seen", None)
    card = _card(cfg, settings, data, network, None if seen is None else seen.rule)
    return Classifier(
        network,
        data.num_classes,
        optimizer=build("optimizer", cfg.optimizer, _partial_=True),
        schedule=_schedule(cfg.scheduler, validated),
        label_smoothing=training["label_smoothing"],
        class_weights=_class_weights(training["class_weights"], data),
        mixing=mixing(data.num_classes, training["mixup"], training["cutmix"]),
        lr_factor=training["lr_factor"] or 1.0,
        full_checkpoints=cfg.checkpoint.full,
        card=card.model_dump(),
        images=None if seen is None else seen.tensors(),
    )


FOR_TRAINING = ("label_smoothing", "class_weights", "mixup", "cutmix", "lr_factor", "init_from")
"""Settings of ``model`` that are of its training, not of its network."""


def _class_weights(
    setting: str | list[float] | dict[str | int, float] | None, data: ImageDataModule
) -> torch.Tensor | None:
    """Weight of each class in the loss, float32 (num_classes,); logged.

    Raises:
        DiscernError: there is not one number for each class.
    """
    if setting is None:
        return None
    names = [str(name) for name in getattr(data, "class_names", range(data.num_classes))]
    if setting == "auto":
        counts = data.train_class_counts.float()
        weights: torch.Tensor = counts.sum() / (len(counts) * counts.clamp(min=1))
    elif isinstance(setting, dict):
        weights = torch.tensor(_weights_by_name(setting, names), dtype=torch.float32)
    elif len(setting) != data.num_classes:
        raise DiscernError(
            f"model.class_weights={as_override(setting)} has {len(setting)} numbers; it must have "
            f"one for each of the {data.num_classes} classes."
        )
    else:
        weights = torch.tensor(setting, dtype=torch.float32)
    shown = [f"{name}: {weight:.4g}" for name, weight in zip(names, weights.tolist(), strict=True)]
    log.info("model.class_weights: %s", shortened(shown))
    return weights


def _weights_by_name(setting: dict[str | int, float], names: list[str]) -> list[float]:
    """The weights in the order of the classes."""
    given = {unicodedata.normalize("NFC", str(name)): weight for name, weight in setting.items()}
    unknown, missing = [n for n in given if n not in names], [n for n in names if n not in given]
    if unknown or missing or len(given) < len(setting):
        wrong = [f"lacks {shortened(missing)}"] if missing else []
        wrong += [f"names {shortened(unknown)}, which is not a class"] if unknown else []
        raise DiscernError(
            f"model.class_weights={as_override(setting)} "
            f"{' and '.join(wrong) or 'names a class twice'}; it must have a number for each of "
            f"{shortened(names)}."
        )
    return [given[name] for name in names]


def _card(
    cfg: DictConfig,
    settings: Settings,
    data: ImageDataModule,
    network: nn.Module,
    split: Rule | None,
) -> Card:
    model = without_target(settings)
    backbone = None
    if isinstance(network, TransferClassifier):
        provenance = network.backbone.provenance
        backbone = {**provenance.model_dump(), "digest": network.backbone.digest()}
        if provenance.weights != PUBLISHED:
            model["weights"] = None  # they are in the checkpoint
    return written(
        model={"name": name_of(settings["_target_"]) or "", "settings": redacted(model)},
        class_names=data.class_names,
        input_shape=data.input_shape,
        preprocessing=data.preprocessing,
        backbone=backbone,
        data={"title": data.title, "fingerprint": data.fingerprint},
        split=split,
        versions=versions(),
        config=portable(cfg),
    )


def portable(cfg: DictConfig) -> dict[str, Any]:
    """A config as plain values, without paths and secrets."""
    kept = ("seed", "model", "data", "optimizer", "scheduler")
    parts: dict[str, Any] = {key: plain(cfg[key]) for key in kept}
    parts["data"].pop("dir", None)
    parts["model"].pop("init_from", None)
    if parts["model"].get("weights"):
        parts["model"]["weights"] = Path(parts["model"]["weights"]).name
    for group in kept[1:]:
        settings = without_target(parts[group])
        parts[group] = {TARGET: parts[group][TARGET], **portable_settings(settings)}
    return dict(redacted(parts))


def _schedule(node: DictConfig, validated: bool) -> Schedule | None:
    if node._target_ is None:
        return None
    settings = with_mode(OmegaConf.to_container(node, resolve=True))
    monitor = settings.pop("monitor", None)
    return Schedule(
        interval=settings.pop("interval", "epoch"),
        total_as=settings.pop("total_as", None),
        monitor=monitor if validated or monitor is None else train_metric_for(monitor),
        build=build("scheduler", settings, _partial_=True),
    )


def train_metric_for(metric: str) -> str:
    """The training metric to watch where there is no validation: val/loss -> train/loss."""
    return f"train/{metric.removeprefix('val/')}" if metric.startswith("val/") else metric
