"""``discern evaluate``: a saved model measured on a split of a data set."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from discern.config.check import check, check_given
from discern.config.schema import SCHEMAS
from discern.config.user_config import choices, settings_of
from discern.config.values import plain
from discern.console import table_or_blocks
from discern.data.known import Rule
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, as_override
from discern.features.engine import use_engine
from discern.files.writing import as_json_values, write_whole
from discern.files.yaml_file import write_config
from discern.models.card import TARGET, Card, without_target
from discern.models.saved import known_images, model_name, read, rebuilt
from discern.models.threads import use_threads
from discern.redaction import log_missing, missing
from discern.reports.calibration import draw_reliability, reliability
from discern.reports.confusion import (
    class_scores,
    confusion_matrix,
    draw_confusion,
    write_class_scores,
)
from discern.reports.intervals import Estimate
from discern.reports.measures import measure
from discern.reports.samples import as_pixels, draw_top_losses
from discern.runs.folder import find_checkpoint, glance, is_run, mapping
from discern.runs.metric_table import metric_of
from discern.runs.predictions import Predictions, warn_of_undefined, write_predictions
from discern.runs.summary import trained_on_sentence
from discern.training.build import build_data
from discern.training.job import as_job, quiet_libraries, relative
from discern.training.meeting import check_trained_on, say_what_is_measured

log = logging.getLogger(__name__)

WORST = 25
"""Images in top_losses.png."""

CLASSES_PRINTED = 20
"""Classes up to which the terminal shows the scores of each."""


def job(cfg: DictConfig) -> None:
    """Hydra's task: one evaluation in the folder that Hydra made."""
    cfg.folder = HydraConfig.get().runtime.output_dir
    with as_job():
        evaluate(cfg)


def evaluate(cfg: DictConfig) -> dict[str, Estimate]:
    """Measure the model in ``cfg.ckpt_path``; write and print what is known of it.

    Args:
        cfg: conf/evaluate.yaml, composed; ``folder`` is set.

    Returns:
        The metrics of the split.

    Raises:
        DiscernError: a setting, the checkpoint or the data are wrong, or do not fit each other.
    """
    check(cfg, "evaluate")
    quiet_libraries()
    checkpoint, folder = find_checkpoint(cfg.ckpt_path), Path(cfg.folder)
    content = read(checkpoint)
    network = rebuilt(checkpoint, content)
    card: Card = network.card  # type: ignore[assignment]
    use_threads(network, card.input_shape)
    known = known_images(checkpoint, content)
    with open_dict(cfg):
        cfg.data = data_settings(cfg, card, checkpoint, known.rule)
    check(cfg, "evaluate")
    write_config(cfg, folder / "config.yaml")
    log_missing(missing(plain(cfg)))
    data: ImageDataModule = build_data(cfg, known, measured=cfg.split)
    check_fit(card, data, checkpoint)
    say_what_is_measured(data, cfg.split)
    trained_on = check_trained_on(data, [cfg.split])[cfg.split]
    use_engine(network, card.input_shape, cfg.engine, data.num_images[cfg.split])
    predictions = classify(network, data, cfg.split)
    warn_of_undefined(predictions.undefined, len(predictions))
    metrics = measure(predictions, cfg.seed)
    facts = {
        **describe(card, data, cfg.split),
        "trained_on": trained_on,
        "images": len(predictions),
        "checkpoint": {"path": str(checkpoint), "sha256": sha256(checkpoint)},
        "epoch": network.epoch,
        "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
    }
    write_report(predictions, metrics, facts, data, folder)
    conclude(facts, metrics, predictions, folder)
    return metrics


# The data: the model's own, or what was asked for


def data_settings(
    cfg: DictConfig, card: Card, checkpoint: Path, rule: Rule | None
) -> dict[str, Any]:
    """The settings of the data set to evaluate on.

    With a choice of the group ``data`` they are the choice's, else those of the model's run. The
    pixels become what the model knows, and the split, where nothing is typed, that of its run.

    Raises:
        DiscernError: the checkpoint does not name a data set of discern's own, or it is not known
            in which folder that is.
    """
    given = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(given, dict)
    settings: dict[str, Any] = {str(key): value for key, value in given.items()}
    asked = {} if rule is None else {**rule.asked, "fraction": rule.fraction}
    if "_target_" not in settings:
        typed = {name: value for name, value in settings.items() if value is not None}
        of_run = _settings_of_run(card, checkpoint)
        asked = {name: value for name, value in asked.items() if name in of_run}
        settings = {**of_run, **asked, **typed}
    own = _own_data_sets().get(settings["_target_"])
    usual = {**(own or {}), "seed": cfg.seed}
    for name, value in asked.items():
        if name in settings and settings[name] == usual.get(name):
            settings[name] = value
    if own is not None and "dir" not in own:
        settings.pop("dir", None)
    elif settings.get("dir") is None:
        settings["dir"] = _folder_of_run(checkpoint, settings["_target_"], own or {})
    known = {**card.preprocessing.model_dump(exclude_none=True), "image_size": card.input_shape[1]}
    return settings | {name: value for name, value in known.items() if name in settings}


def _folder_of_run(checkpoint: Path, target: str, own: dict[str, Any]) -> str:
    """The folder of the run's data, as its config.yaml says, or the usual one of the data set.

    Raises:
        DiscernError: the run's folder is not there, and the data set has no usual one.
    """
    run = checkpoint.parent.parent
    saved = mapping(glance(run).config.get("data")) if is_run(run) else {}
    folder = saved.get("dir") if saved.get("_target_") == target else None
    if isinstance(folder, str) and "${" not in folder and Path(folder).expanduser().is_dir():
        return folder
    usual = own.get("dir")
    if usual is not None:
        return str(usual)
    said = f", which was {folder}" if isinstance(folder, str) else ""
    raise DiscernError(
        f"data.dir={as_override(None)} is not allowed; {relative(checkpoint)} is not in the folder "
        f"of a run whose data can be found{said}, so it must be the folder of the pictures."
    )


def _settings_of_run(card: Card, checkpoint: Path) -> dict[str, Any]:
    """The settings of the run's data set, as far as a file from a stranger is believed.

    The class is only compared with those that there are, since to import what a file names would be
    to run it. The settings are the choice's own, changed by what the file says of which images the
    run had: where they are from, what checks them and what loads them is not for a file to say.

    Raises:
        DiscernError: the class is none of them, or a setting is not allowed.
    """
    saved = card.config.get("data", {})
    own = _own_data_sets()
    target = saved.get(TARGET)
    if target not in own:
        known = ", ".join(f"data={name}" for name in choices("data"))
        raise DiscernError(
            f"{checkpoint} does not name a data set that discern has; say which one is meant: "
            f"{known}."
        )
    told = {key: value for key, value in without_target(saved).items() if key in own[target]}
    if target in SCHEMAS:
        try:
            check_given(target, told, "data")
        except ValueError as error:
            raise DiscernError(f"{error}, in {checkpoint}.") from error
    # A part that is built of settings of its own, as one of a user's data set may be, is the
    # choice's.
    believed = {
        name: value
        for name, value in told.items()
        if name not in NOT_FROM_FILES and (name == "parts" or not isinstance(value, dict))
    }
    for name, value in believed.items():
        if not _is_plain(name, value):
            raise DiscernError(f"{checkpoint} has a data.{name} that is not a plain value.")
    return {**own[target], **believed, "dir": None}


NOT_FROM_FILES = frozenset(
    ("dir", "url", "sha256", "batch_size", "eval_batch_size", "num_workers", "augment", "sampler")
)
"""Settings of data sets that are not taken from a checkpoint: where images are fetched from and
what they are checked with, how many are in memory at a time, and what only training uses."""


def _is_plain(name: str, value: Any) -> bool:
    """Whether a setting's value cannot mean more than it says, wherever it is used."""
    if isinstance(value, list):
        return all(isinstance(item, (int, float)) or _is_word(item) for item in value)
    if isinstance(value, dict):  # data.parts, whose folders the config's check looks at
        return {*value} <= {"train", "val", "test"} and all(map(_is_below, value.values()))
    if name == "csv":
        return value is None or _is_below(value)
    return value is None or isinstance(value, (int, float)) or _is_word(value)


def _is_word(value: Any) -> bool:
    """Whether it is a text that is neither a path nor an address."""
    return isinstance(value, str) and not {*value} & {*"/\\:$"} and value not in (".", "..")


def _is_below(value: Any) -> bool:
    """Whether it is the path of something within a folder."""
    return isinstance(value, str) and "\\" not in value and all(map(_is_word, value.split("/")))


def _own_data_sets() -> dict[str, dict[str, Any]]:
    """``_target_`` -> settings, of discern's choices of data and the user's."""
    files = choices("data")
    nodes = [settings_of(path, files) for path in files.values()]
    return {node["_target_"]: node for node in nodes if "_target_" in node}


def check_fit(card: Card, data: ImageDataModule, checkpoint: Path) -> None:
    """Check that the data are such as the model was made for.

    Raises:
        DiscernError: the images have another shape, or the classes another number. Their names
            are compared as the data are found, where the checkpoint knows any.
    """
    shape = tuple(data.input_shape)
    if shape != card.input_shape:
        raise DiscernError(
            f"{data.title} has images of shape {_shape(shape)}, and the model in {checkpoint} "
            f"takes {_shape(card.input_shape)}."
        )
    names = list(data.class_names)
    if len(names) != len(card.class_names):
        raise DiscernError(
            f"{data.title} has {len(names)} classes, and the model in {checkpoint} knows "
            f"{len(card.class_names)}."
        )


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


# What the model says


def classify(network: nn.Module, data: ImageDataModule, split: str) -> Predictions:
    """What a network in eval mode says of a split, in the order of its images.

    Raises:
        DiscernError: the split is empty.
    """
    dataset = getattr(data, f"{split}_dataset")
    if not len(dataset):
        size = "test_size" if split == "test" and hasattr(data, "test_size") else "val_size"
        value = getattr(data, size)
        raise DiscernError(
            f"split={split} has no images: with data.{size}={value} none are held out."
        )
    logits, labels = [], []
    with torch.inference_mode():
        for images, truth in data.sequential_loader(dataset, data.eval_batch_size):
            logits.append(network(images))
            labels.append(truth)
    indices = torch.arange(len(dataset)) if dataset.indices is None else dataset.indices
    names = list(data.class_names)
    return Predictions.of(
        torch.cat(logits), torch.cat(labels), indices, names, files=dataset.names()
    )


# What is kept of it


def describe(card: Card, data: ImageDataModule, split: str) -> dict[str, Any]:
    """What metrics.json says of the model and the data."""
    return {
        "title": f"{model_name(card)} on {data.title}, {split}",
        "split": split,
        "classes": len(data.class_names),
        "data": {
            "title": data.title,
            "fingerprint": data.fingerprint,
            "as_in_training": data.fingerprint == card.data.get("fingerprint"),
            "changes": _changes(data),
        },
    }


def _changes(data: ImageDataModule) -> dict[str, int] | None:
    """How many images are new, gone and changed since the model was trained; None for none."""
    changes = data.changes if isinstance(data, ImageDataModule) else None
    return None if changes is None else asdict(changes)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_report(
    predictions: Predictions,
    metrics: dict[str, Estimate],
    facts: dict[str, Any],
    data: ImageDataModule,
    folder: Path,
) -> None:
    """Write the tables and the pictures."""
    title, names = facts["title"], predictions.class_names
    with write_whole(folder / "metrics.json") as file:
        json.dump(as_json_values(facts), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    write_predictions(predictions, folder / "predictions.csv")
    matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
    write_class_scores(matrix, names, folder / "per_class.csv")
    draw_confusion(matrix, names, title, folder / "confusion_matrix.png")
    bins = reliability(predictions.confidences, predictions.correct)
    draw_reliability(bins, metrics["ece"], title, folder / "reliability.png")
    worst = predictions.worst(WORST)
    images, _ = getattr(data, f"{facts['split']}_dataset").__getitems__(worst.tolist())
    draw_top_losses(
        predictions,
        worst,
        as_pixels(images, data.preprocessing["mean"], data.preprocessing["std"]),
        f"{title}: the {len(worst)} images with the highest loss of {len(predictions):,}",
        folder / "top_losses.png",
    )


def conclude(
    facts: dict[str, Any], metrics: dict[str, Estimate], predictions: Predictions, folder: Path
) -> None:
    """Say what came out, and where it is."""
    rows = [
        [metric.title, *map(metric.text, (part.value, part.low, part.high))]
        for metric, part in ((metric_of(name), part) for name, part in metrics.items())
    ]
    title = f"{facts['title']}: {facts['images']:,} images"
    blocks = [title, *(f"  {name} {value} ({low} to {high})" for name, value, low, high in rows)]
    log.info("Measured: %s", _file(facts))
    log.info("\n%s\n", table_or_blocks([title, "value", "95 % from", "to"], rows, blocks))
    if (count := facts["trained_on"]) and facts["split"] != "train":
        log.warning("%s.", trained_on_sentence(facts["split"], count, facts["images"]))
    names = predictions.class_names
    if len(names) <= CLASSES_PRINTED:
        matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
        log.info("%s\n", _class_table(matrix, names))
    log.info("Results: %s", relative(folder))


def _file(facts: dict[str, Any]) -> str:
    """Which file was measured, and which epoch it is of, where it says so."""
    of = "" if facts["epoch"] is None else f", of epoch {facts['epoch']}"
    return f"{relative(Path(facts['checkpoint']['path']))}{of}"


def _class_table(matrix: NDArray[np.int64], names: list[str]) -> str:
    scores = class_scores(matrix)
    columns = [*(metric.title for metric in scores), "support"]
    rows = [
        [
            name,
            *(metric.text(float(of[number])) for metric, of in scores.items()),
            f"{matrix[number].sum():,}",
        ]
        for number, name in enumerate(names)
    ]
    blocks = [
        f"{name}: " + ", ".join(map(" ".join, zip(columns, values, strict=True)))
        for name, *values in rows
    ]
    return table_or_blocks(["class", *columns], rows, blocks)
