"""What a run starts from: its checkpoint, and the images known to that."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from discern.data.known import KnownImages, unknown
from discern.errors import DiscernError, about
from discern.files.places import is_file, is_folder, placed
from discern.models.card import CARD
from discern.models.classifier import Classifier
from discern.models.registry import MODELS
from discern.models.saved import (
    card_and_state,
    check_fits,
    epoch_of,
    known_images,
    match_backbone,
    part_of,
    read,
    undamaged_checkpoint,
)
from discern.runs.folder import WORDS, checkpoints_in
from discern.training.build import portable
from discern.training.find import rates_in_proportion
from discern.training.job import relative
from discern.training.resume import Continuation
from discern.training.seam import callbacks_of

log = logging.getLogger(__name__)


def find_checkpoints(cfg: DictConfig) -> Path | None:
    """Resolve the checkpoints in the config, such as ``last``, to files; return ``ckpt_path``'s.

    Only once, since ``last`` may be another file a moment later. With ``auto_resume`` the last
    checkpoint of the run's own folder comes first.
    """
    again = cfg.get("auto_resume") and cfg.train and checkpoints_in(Path(cfg.folder), True)
    if again:
        cfg.ckpt_path = cfg.folder
    start = undamaged_checkpoint(cfg.ckpt_path, goes_on=cfg.train) if cfg.ckpt_path else None
    if again and start is not None:
        _keep_what_was_found(cfg, start)
    if start is not None:
        cfg.ckpt_path = str(start)
    model = cfg.model
    if (wanted := model.get("init_from")) is not None:
        model.init_from = str(undamaged_checkpoint(wanted, "model.init_from"))
    weights = model.get("weights") if model._target_ == MODELS["transfer"] else None
    if weights not in (None, "default") and (weights in WORDS or is_folder(placed(weights))):
        model.weights = str(undamaged_checkpoint(weights, "model.weights"))
    return start


def _keep_what_was_found(cfg: DictConfig, start: Path) -> None:
    """Take the learning rates and the batch size that the first part of the run has found."""
    found = card_and_state(start, read(start))[0].config
    if cfg.find_lr:
        cfg.find_lr = False
        for setting, value in rates_in_proportion(cfg, found["optimizer"]["lr"]).items():
            OmegaConf.update(cfg, setting, value)
    if cfg.data.get("batch_size") == "auto":
        cfg.data.batch_size = found["data"]["batch_size"]


def known_of(cfg: DictConfig, start: Path | None) -> KnownImages | None:
    """The images known to the model that the run continues or starts from."""
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
    if weights is None or not is_file(weights):
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


def continue_from(start: Path, cfg: DictConfig, trainer: Trainer, model: Classifier) -> int:
    """Check that a checkpoint is of this model; log which settings differ, and apply those of now.

    Returns:
        The epoch, from 1, in which training continues.
    """
    with about("ckpt_path"):
        content = read(start)
        card, state = card_and_state(start, content)
        # Beside averaged weights (callbacks.ema) there are those that training goes on with: of a
        # frozen backbone the average is not the same to the last digit, nor are its features.
        current = content.get("current_model_state", state)
        if not isinstance(current, dict) or not all(map(torch.is_tensor, current.values())):
            current = state  # which is refused when it is loaded
        for each in (state, current):
            check_fits(model.network, each, start)
        match_backbone(model.network, card, current, start)
    log.info("  %-10s %s", "from", relative(start))
    callbacks_of(trainer).append(Continuation(card, portable(cfg)))
    place = ("loops", "fit_loop", "epoch_loop.batch_progress", "is_last_batch")
    return (epoch_of(content) or 1) + (part_of(content, *place) is True)
