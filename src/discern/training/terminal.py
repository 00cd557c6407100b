"""What a run logs at its beginning and at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from discern.config.check import as_typed_settings
from discern.config.typed import command_line
from discern.config.values import plain
from discern.data.module import ImageDataModule
from discern.errors import as_override, shortened
from discern.files.places import placed
from discern.models.checkpoint import flaw
from discern.runs.folder import OUTPUTS, REPORT, checkpoints_in, is_sweep
from discern.runs.state import Ended, State
from discern.runs.summary import metric_cells, trained_on_sentence
from discern.tables import fits, table
from discern.text import printable
from discern.training.job import relative

log = logging.getLogger(__name__)


def devices(trainer: Trainer) -> str:
    """The number and kind of the devices, such as ``1 × cpu``."""
    device = trainer.strategy.root_device
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device
    return f"{trainer.world_size} × {name}"


def gpu(trainer: Trainer) -> dict[str, str | int]:
    """The name and memory of the GPU that this process trains on; empty without one of CUDA's."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return {}
    found = torch.cuda.get_device_properties(device)
    return {"gpu": found.name, "gpu_memory_bytes": found.total_memory}


def gpu_memory_used(trainer: Trainer) -> dict[str, int]:
    """The most bytes of the GPU's memory that tensors held at once; empty without one."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return {}
    return {"gpu_memory_used_bytes": torch.cuda.max_memory_allocated(device)}


def announce(cfg: DictConfig, facts: Mapping[str, Any], data: ImageDataModule) -> None:
    """Log the choices and settings of the run in a few lines."""
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


def classes_of(data: ImageDataModule) -> str:
    """The classes in the order of their labels, each with its training images."""
    names = [str(name) for name in data.class_names]
    # A data set of a user's own may not count them.
    counts = getattr(data, "train_class_counts", None)
    if counts is not None:
        names = [f"{name}: {n:,}" for name, n in zip(names, counts.tolist(), strict=True)]
    return shortened(names)


OFF = (None, False, 0, "none")


def metrics_table(title: str, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """A table of metrics with a row per split, or a column per split on a narrow terminal."""
    names, rows = metric_cells(metrics)
    header = [title, *names]
    if not fits(header, rows):
        header, *rows = map(list, zip(["", *names], *rows, strict=True))
        header[0] = title
    return table(header, rows)


def measured(facts: Mapping[str, Any]) -> str:
    """The checkpoint and epoch that metrics belong to, in words."""
    checkpoint, epoch, epochs = (facts.get(k) for k in ("checkpoint", "best_epoch", "epochs"))
    if checkpoint is None:
        if not epochs:
            return "a network that was not trained"
        return (
            f"the weights that training ended with, in epoch {epochs}; none were kept as the best"
        )
    return f"{checkpoint}, of epoch {epoch} of {epochs}" if epoch is not None else str(checkpoint)


def name_within(path: Path, folder: Path) -> str:
    """A path relative to the run's folder or else to the working directory."""
    path, folder = path.resolve(), folder.resolve()
    return printable(path.relative_to(folder) if path.is_relative_to(folder) else relative(path))


def way_on(facts: Mapping[str, Any], folder: Path) -> str | None:
    """The command that continues a run that did not come to its end; None where there is none."""
    whole = (flaw(path) is None for path in checkpoints_in(folder, goes_on=True))
    if is_sweep(folder.parent) or not any(whole):
        return None
    among_all = folder.resolve().is_relative_to(placed(OUTPUTS).resolve())
    start = "last" if among_all else as_override(str(relative(folder)))
    left_out = ("ckpt_path=", "auto_resume=")
    typed = [each for each in facts["overrides"] if not each.startswith(left_out)]
    return command_line([*typed, f"ckpt_path={start}"], as_typed_settings())


def warn(facts: dict[str, Any], sentences: Sequence[str]) -> None:
    """Log sentences on what to look at, and keep them for the summary and the report."""
    for sentence in sentences:
        log.warning("%s", sentence)
    facts["warnings"] += sentences


def conclude(facts: dict[str, Any], ended: Ended, folder: Path) -> None:
    """Say what came out, and where it is."""
    command = way_on(facts, folder) if ended.state is State.INTERRUPTED else None
    log.info("%s.%s", ended.sentence, f" Continue: {command}" if command else "")
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
            log.warning("%s.", trained_on_sentence(split, count, facts["data"]["images"][split]))
    log.info("Results: %s", relative(folder))
    if (folder / REPORT).exists():
        log.info("Report: %s", relative(folder / REPORT))
