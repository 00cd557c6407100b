"""Whether and how a run serves features in the place of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import version as release
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

from discern.data.augment import View
from discern.data.images import Shown
from discern.data.module import ImageDataModule
from discern.errors import DiscernError
from discern.files.cache import cache_dir
from discern.files.places import expanded, is_folder, is_there
from discern.models.classifier import Classifier
from discern.models.threads import use_threads, with_threads
from discern.models.transfer import TransferClassifier
from discern.runs.folder import leaves_out
from discern.training.finetune import Finetune
from discern.training.seam import callback_of, settings_of

# discern.features is imported where a backbone needs it, for the start-up time of other models.
if TYPE_CHECKING:
    from discern.features.source import FeatureSource, Settings

log = logging.getLogger(__name__)

READERS = ("pillow", "simplejpeg", "torchvision")
"""Of these, another release may decode or scale a picture to slightly other pixels."""


def serve(
    cfg: DictConfig, model: Classifier, data: ImageDataModule, trainer: Trainer, epoch: int
) -> FeatureSource | None:
    """Replace images by features of a frozen backbone; None where that is not possible.

    Raises:
        DiscernError: a setting insists on what is not possible, as ``cache.mode=require`` may.
    """
    source = feature_source(cfg, model.network, data, trainer, epoch)
    if source is None:
        return None
    if source.settings.share is not None:
        compute_share(source, data)
        announce(source)
        return source
    if not prepare(source, data, cfg.train, cfg.test, epoch):
        return None
    announce(source)
    data.features = source
    use_threads(model.network.head, (source.store.width, 1, 1), cfg.threads)  # type: ignore[arg-type]
    return source


def feature_source(
    cfg: DictConfig, network: nn.Module, data: ImageDataModule, trainer: Trainer, epoch: int
) -> FeatureSource | None:
    """The feature source of a frozen backbone, or None if features are computed per batch.

    Args:
        cfg: the run's config.
        network: the model's.
        data: the data module, set up.
        trainer: the run's.
        epoch: the first to be trained, from 1.

    Raises:
        DiscernError: ``cache.mode=require``, and this run cannot use the cache.
    """
    mode = cfg.cache.mode
    why = _why_not(cfg, network, trainer, epoch)
    engine = _set_engine(cfg, network, data, trainer)
    if why is not None:
        if mode == "require" or cfg.cache.shard is not None:
            setting = "mode=require" if mode == "require" else f"shard={cfg.cache.shard}"
            raise DiscernError(f"cache.{setting} is not possible: {why}.")
        if isinstance(network, TransferClassifier) and mode != "off":
            log.info("  %-10s computed with every batch: %s", "features", why)
        return None
    assert isinstance(network, TransferClassifier)
    if cfg.model.get("mixup"):
        log.info("  %-10s model.mixup mixes them, two images', not the pixels", "features")
    if cfg.data.get("sampler") == "balanced" and data.augmentation is not None:
        log.info("  %-10s an image that data.sampler draws again has the same features", "features")
    settings = _settings(cfg, data)
    try:
        if is_there(settings.folder) and not is_folder(settings.folder):
            _go_without(cfg, f"cache.dir={cfg.cache.dir} is a file; it must be a folder")
            return None
        return _source(cfg, network, data, trainer, settings, engine)
    except OSError as error:
        _go_without(cfg, f"cache.dir={settings.folder} cannot be used: {error.strerror}")
        return None


def _why_not(cfg: DictConfig, network: nn.Module, trainer: Trainer, epoch: int) -> str | None:
    """Why images cannot be replaced by features, or None."""
    names = ("limit_train_batches", "limit_val_batches")
    limited = [name for name in names if leaves_out(getattr(trainer, name))]
    if not isinstance(network, TransferClassifier):
        return "the model has no backbone"
    if not network.frozen_backbone:
        return f"model.unfreeze={network.depth} trains the backbone"
    if (finetune := callback_of(trainer, Finetune)) and finetune.depth_at(epoch):
        return "callbacks.finetune has begun to train the backbone"
    if cfg.cache.mode == "off":
        return "cache.mode=off"
    if cfg.model.get("cutmix"):
        return "model.cutmix mixes pixels"
    if _sees_few(trainer):
        return "the run sees a few batches only"
    if limited:
        return f"trainer.{limited[0]} leaves images out"
    return None


def _go_without(cfg: DictConfig, why: str) -> None:
    if cfg.cache.mode == "require" or cfg.cache.shard is not None:
        raise DiscernError(f"{why}.")
    log.warning("%s: training goes on without the cache.", why)


def _settings(cfg: DictConfig, data: ImageDataModule) -> Settings:
    from discern.features.source import Settings
    from discern.features.stores import bytes_of

    folder = expanded(cfg.cache.dir) if cfg.cache.dir else cache_dir() / "features"
    share = cfg.cache.shard and tuple(int(part) for part in cfg.cache.shard.split("/"))
    return Settings(
        mode=cfg.cache.mode,
        folder=folder,
        max_bytes=bytes_of(cfg.cache.max_gb),
        views=cfg.cache.views,
        stop_if_full=cfg.cache.on_full == "stop",
        batch_size=cfg.cache.batch_size,
        num_workers=data.num_workers,
        share=share,
    )


def _set_engine(
    cfg: DictConfig, network: nn.Module, data: ImageDataModule, trainer: Trainer
) -> str:
    """Run a frozen backbone by the chosen engine; return the engine's name and version.

    Raises:
        DiscernError: an engine other than torch is chosen, and there is no backbone for it.
    """
    device = trainer.strategy.root_device
    frozen = isinstance(network, TransferClassifier) and network.frozen_backbone
    if not isinstance(network, TransferClassifier) or not frozen or device.type != "cpu":
        if cfg.engine not in ("auto", "torch"):
            why = f"training is on {device}" if frozen else "the model has no frozen backbone"
            raise DiscernError(f"engine={cfg.engine} is not possible, for {why}; choose auto.")
    elif cfg.engine != "auto" or not _sees_few(trainer):
        from discern.features.engine import engine_for

        network.engine = engine_for(network, data.input_shape, cfg.engine)
        return str(network.engine.version_class)
    return f"torch-{device.type}-{release('torch')}"


def _sees_few(trainer: Trainer) -> bool:
    return bool(settings_of(trainer).fast_dev_run or settings_of(trainer).overfit_batches)


def _source(
    cfg: DictConfig,
    network: TransferClassifier,
    data: ImageDataModule,
    trainer: Trainer,
    settings: Settings,
    engine: str,
) -> FeatureSource:
    from discern.features.source import FeatureSource, Kind

    device = trainer.strategy.root_device
    network.to(device)
    threads = torch.get_num_threads()
    reduced = device.type == "cuda" and cfg.cache.precision == "bfloat16"

    def compute(images: Tensor) -> Tensor:
        images = images.to(device, non_blocking=True)
        # In later epochs torch has the few threads that suit the head.
        with (
            with_threads(threads),
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=reduced),
        ):
            features = network.features(images)
        return features.float().cpu()

    backbone = network.backbone
    origin = backbone.provenance
    kind = Kind(
        backbone={"library": origin.library, "name": origin.name, "digest": backbone.digest()},
        shape=data.input_shape,
        preprocessing=data.preprocessing,
        readers={name: release(name) for name in READERS},
        engine=engine,
        precision=cfg.cache.precision,
    )
    return FeatureSource(compute, backbone.num_features, kind, settings)


def prepare(
    source: FeatureSource, data: ImageDataModule, train: bool, test: bool, epoch: int
) -> bool:
    """Compute the features that the first epoch needs; return whether there is room for them.

    Later views of augmented images are computed when an epoch first shows them.

    Args:
        source: of the features.
        data: the data module, set up.
        train, test: whether the run will.
        epoch: that training begins in, from 1.

    Raises:
        DiscernError: a miss with ``cache.mode=require``, no room with ``cache.on_full=stop``, or
            ``cache.max_gb`` is too small.
    """
    from discern.features.source import CacheFullError

    try:
        needed = list(_needed(data, train, test, (epoch - 1) % source.views))
        # Before hours are spent on the first of them.
        source.check_room(sum(map(source.count_missing, needed)))
        for shown in needed:
            source.table(shown)
    except CacheFullError as error:
        if source.settings.stop_if_full or source.settings.mode == "require":
            raise
        log.warning("%s Training goes on without the cache.", error)
        return False
    return True


def compute_share(source: FeatureSource, data: ImageDataModule) -> None:
    """Compute the part of all features that ``cache.shard`` names, and keep it."""
    for shown in _needed(data, train=True, test=True, view=0):
        source.compute_share(shown)
    for view in range(1, source.views if data.augmentation is not None else 1):
        source.compute_share(_trained_on(data, view))


def _needed(data: ImageDataModule, train: bool, test: bool, view: int) -> Iterator[Shown]:
    """Each split as the network sees it: training images in a view, the others in evaluation."""
    if train:
        yield _trained_on(data, view)
    if train and data.has_validation:
        yield Shown(data.val_dataset)
    if test and len(data.test_dataset):
        yield Shown(data.test_dataset)


def _trained_on(data: ImageDataModule, view: int) -> Shown:
    return Shown(data.train_dataset, View.of(data.augmentation, data.seed, view))


def report(source: FeatureSource) -> dict[str, Any]:
    """The facts about the features, for the summary."""
    account, saved = source.account, source.seconds_saved
    return {
        "reused": account.reused,
        "computed": account.computed,
        "bytes": account.bytes,
        "seconds": account.seconds,
        "seconds_saved": saved if account.reused else 0.0,
        "store": source.store.folder.name,
        "damaged": len(source.store.damaged),
    }


def announce(source: FeatureSource) -> None:
    """Log in one line what was reused and what was computed."""
    facts = report(source)
    parts = []
    if facts["computed"]:
        rate = facts["computed"] / max(facts["seconds"], 1e-9)
        parts.append(
            f"{facts['computed']:,} computed in {facts['seconds']:.1f} s ({rate:.0f} images/s)"
        )
    if facts["reused"]:
        saved = facts["seconds_saved"]
        spared = f", which saves {saved:.0f} s" if saved else ""
        parts.append(f"{facts['reused']:,} reused from the cache{spared}")
    size = facts["bytes"] / 1e6
    log.info("  %-10s %s; %.1f MB", "features", ", ".join(parts) or "none needed", size)
