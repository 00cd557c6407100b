"""``discern evaluate``: a saved model measured on a split of a data set."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from discern.config.check import check, check_given
from discern.config.schema import SCHEMAS
from discern.config.user_config import choice_settings, choices, conf_dir
from discern.config.values import plain
from discern.data.images import Images, labels_of
from discern.data.known import KnownImages, Rule
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, as_override
from discern.exports.files import is_exported
from discern.exports.onnx_model import ExportedModel, load_exported
from discern.features.engine import use_engine
from discern.files.writing import as_json_values, write_whole
from discern.files.yaml_file import write_config
from discern.models.card import TARGET, Card, without_target
from discern.models.saved import known_images, model_name, read, rebuilt, undamaged_checkpoint
from discern.models.threads import use_threads
from discern.models.torch_file import sha256_of
from discern.redaction import log_missing, missing
from discern.reports.calibration import draw_reliability, reliability
from discern.reports.confusion import (
    class_scores,
    confusion_figure,
    confusion_matrix,
    write_class_scores,
)
from discern.reports.evaluation import CONFUSION, Evaluation
from discern.reports.intervals import Estimate
from discern.reports.measures import measure
from discern.reports.samples import as_pixels, top_losses
from discern.reports.sheet import save
from discern.runs.folder import SUMMARY, glance, is_run, mapping
from discern.runs.metric_table import metric_of
from discern.runs.predictions import Predictions, warn_of_undefined, write_predictions
from discern.runs.state import Ended, State
from discern.runs.summary import Summary, trained_on_sentence
from discern.tables import table
from discern.training.build import build_data
from discern.training.job import quiet_libraries, relative
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import keep_predictions

log = logging.getLogger(__name__)

WORST = 25
"""Images in top_losses.png."""

EXPORTED_BATCH = 256
"""Images that an exported model classifies at a time; photographs, of various sizes, one by one."""

SMALLEST = 2.0**-149
"""The smallest float32 above 0."""

MAX_CLASSES_PRINTED = 20
"""The most classes for which the terminal shows per-class results."""


def evaluate(cfg: DictConfig) -> Evaluation:
    """Measure the model in ``cfg.ckpt_path``; write and print the results.

    Args:
        cfg: conf/evaluate.yaml, composed; ``folder`` is set.

    Returns:
        The metrics of the split, and the predictions for its images.

    Raises:
        DiscernError: a setting, the checkpoint or the data are wrong, or do not match.
    """
    check(cfg, "evaluate")
    quiet_libraries()
    checkpoint, folder = undamaged_checkpoint(cfg.ckpt_path), Path(cfg.folder)
    network, card, data = _ready(cfg, checkpoint)
    trained_on = check_trained_on(data, [cfg.split])[cfg.split]
    predictions = classify(network, data, cfg.split)
    warn_of_undefined(predictions.undefined, len(predictions))
    metrics = measure(predictions, cfg.seed)
    title = f"{model_name(card)} on {data.title}, {cfg.split}"
    changes = getattr(data, "changes", None)  # not of a data module of the user's own
    facts = {
        "title": title,
        "split": cfg.split,
        "classes": len(data.class_names),
        "data": {
            "title": data.title,
            "fingerprint": data.fingerprint,
            "as_in_training": data.fingerprint == card.data.get("fingerprint"),
            # Images that are new, gone or changed since training.
            "changes": asdict(changes) if changes else None,
        },
        "trained_on": trained_on,
        "images": len(predictions),
        "checkpoint": {"path": str(checkpoint), "sha256": sha256_of(checkpoint)},
        "epoch": network.epoch,
        "metrics": {name: asdict(estimate) for name, estimate in metrics.items()},
    }
    with write_whole(folder / "metrics.json") as file:
        json.dump(as_json_values(facts), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    write_report(predictions, metrics, title, getattr(data, f"{cfg.split}_dataset"), data, folder)
    of_epoch = "" if network.epoch is None else f", of epoch {network.epoch}"
    log.info("Measured: %s%s", relative(checkpoint), of_epoch)
    log.info("\n%s\n", metrics_table(metrics, f"{title}: {len(predictions):,} images"))
    if trained_on and cfg.split != "train":
        log.warning("%s.", trained_on_sentence(cfg.split, trained_on, len(predictions)))
    if len(data.class_names) <= MAX_CLASSES_PRINTED:
        log.info("%s\n", class_table(predictions))
    log.info("Results: %s", relative(folder))
    return Evaluation(title, cfg.split, metrics, predictions, folder)


def _ready(cfg: DictConfig, checkpoint: Path) -> tuple[nn.Module, Card, ImageDataModule]:
    """The network, the card and the data of an evaluation, whose config is written."""
    network, known = _model(checkpoint)
    card: Card = network.card  # type: ignore[assignment]
    use_threads(network, card.input_shape)
    if isinstance(network, ExportedModel):
        _check_sides_are_known(cfg, network)
    with open_dict(cfg):
        cfg.data = data_settings(cfg, card, checkpoint, known.rule)
    check(cfg, "evaluate")
    write_config(cfg, Path(cfg.folder) / "config.yaml")
    log_missing(missing(plain(cfg)))
    data: ImageDataModule = build_data(cfg, known, measured=cfg.split)
    check_fit(card, data, checkpoint)
    say_what_is_measured(data, cfg.split)
    use_engine(network, card.input_shape, cfg.engine, data.num_images[cfg.split])
    return network, card, data


def _model(checkpoint: Path) -> tuple[nn.Module, KnownImages]:
    """The model in a checkpoint or an exported file, and the images of its run."""
    if is_exported(checkpoint):
        model = load_exported(checkpoint)
        return model, model.known
    content = read(checkpoint)
    return rebuilt(checkpoint, content), known_images(checkpoint, content)


def _check_sides_are_known(cfg: DictConfig, model: ExportedModel) -> None:
    """Refuse a split of a run's own data that the exported file cannot tell from the others."""
    if cfg.split != "test" and model.facts.known is None and "_target_" not in cfg.data:
        raise DiscernError(
            f"split={cfg.split} is not possible: {model.path} does not say which images its run "
            "trained on; split=test, or the checkpoint, is."
        )


def test_beside(run: Path) -> None:
    """Test a run's best checkpoint; its folder ``test`` keeps the metrics and the predictions.

    Raises:
        DiscernError: the checkpoint or its data cannot be used.
    """
    folder = run / "test"
    folder.mkdir(exist_ok=True)
    cfg = OmegaConf.load(conf_dir() / "evaluate.yaml")
    assert isinstance(cfg, DictConfig)
    for name in ("defaults", "hydra"):
        del cfg[name]
    checkpoint = undamaged_checkpoint(str(run))
    cfg.ckpt_path, cfg.folder = str(checkpoint), str(folder)
    quiet_libraries()
    summary = Summary(folder / SUMMARY)
    network, _, data = _ready(cfg, checkpoint)
    check_trained_on(data, ["test"])
    predictions = classify(network, data, "test")
    keep_predictions(predictions, data, folder)
    # The metrics that a run's own test has.
    known = {name.partition("/")[2] for name in glance(run).metrics()}
    measured = measure(predictions, cfg.seed).items()
    summary.facts["metrics"]["test"] = {name: one.value for name, one in measured if name in known}
    summary.write(Ended(State.DONE, "tested for a comparison"))


# The settings of the data set


def data_settings(
    cfg: DictConfig, card: Card, checkpoint: Path, rule: Rule | None
) -> dict[str, object]:
    """The settings of the data set to evaluate on.

    They are those of ``data=CHOICE`` if one was typed, else those of the model's run. Preprocessing
    is the model's, and the split is that of its run unless typed.

    Raises:
        DiscernError: the checkpoint does not name a known data set, or its folder is not known.
    """
    settings = {str(key): value for key, value in mapping(plain(cfg.data)).items()}
    asked: dict[str, object] = {} if rule is None else {**rule.asked, "fraction": rule.fraction}
    if "_target_" not in settings:
        typed = {name: value for name, value in settings.items() if value is not None}
        of_run = _settings_of_run(card, checkpoint)
        asked = {name: value for name, value in asked.items() if name in of_run}
        settings = {**of_run, **asked, **typed}
    target = str(settings["_target_"])
    own = _known_data_sets().get(target)
    usual: dict[str, object] = {**(own or {}), "seed": cfg.seed}
    for name, value in asked.items():
        if name in settings and settings[name] == usual.get(name):
            settings[name] = value
    if own is not None and "dir" not in own:
        settings.pop("dir", None)
    elif settings.get("dir") is None:
        settings["dir"] = _folder_of_run(checkpoint, target, own or {})
    known = {**card.preprocessing.model_dump(exclude_none=True), "image_size": card.input_shape[1]}
    return settings | {name: value for name, value in known.items() if name in settings}


def _folder_of_run(checkpoint: Path, target: str, own: Mapping[str, object]) -> str:
    """The data folder in the run's config.yaml, or the data set's default.

    Raises:
        DiscernError: the run's data folder is not there, and the data set has no default.
    """
    run = checkpoint.parent.parent
    saved = mapping(glance(run).config.get("data")) if is_run(run) else {}
    folder = saved.get("dir") if saved.get("_target_") == target else None
    if isinstance(folder, str) and "${" not in folder and Path(folder).expanduser().is_dir():
        return folder
    if own.get("dir") is not None:
        return str(own["dir"])
    which = f", which was {folder}" if isinstance(folder, str) else ""
    raise DiscernError(
        f"data.dir={as_override(None)} is not allowed; {relative(checkpoint)} is not in the folder "
        f"of a run whose data can be found{which}, so it must be the folder of the pictures."
    )


def _settings_of_run(card: Card, checkpoint: Path) -> dict[str, object]:
    """The settings of the run's data set, as far as an untrusted file may set them.

    The class is looked up among the known data sets, never imported by its name. The settings are
    those of the choice; the file only changes which images are selected, never where they are from,
    what checks them or what loads them.

    Raises:
        DiscernError: the class is not known, or a setting is not allowed.
    """
    saved = card.config.get("data", {})
    own = _known_data_sets()
    target = saved.get(TARGET)
    if target not in own:
        known = ", ".join(f"data={name}" for name in choices("data"))
        raise DiscernError(
            f"{checkpoint} does not name a data set that discern has; say which one is meant: "
            f"{known}."
        )
    given = {key: value for key, value in without_target(saved).items() if key in own[target]}
    if target in SCHEMAS:
        try:
            check_given(target, given, "data")
        except ValueError as error:
            raise DiscernError(f"{error}, in {checkpoint}.") from error
    # A nested setting, which a user's data set may build an object from, is the choice's.
    believed = {
        name: value
        for name, value in given.items()
        if name not in NOT_FROM_FILES and (name == "parts" or not isinstance(value, dict))
    }
    for name, value in believed.items():
        if not _is_plain(name, value):
            raise DiscernError(f"{checkpoint} has a data.{name} that is not a plain value.")
    return {**own[target], **believed, "dir": None}


NOT_FROM_FILES = frozenset(
    ("dir", "url", "sha256", "batch_size", "eval_batch_size", "num_workers", "augment", "sampler")
)
"""Settings of data sets that are not taken from a checkpoint: the source and checksum of images,
batch sizes, and what only training uses."""


def _is_plain(name: str, value: object) -> bool:
    """Whether a setting's value is safe wherever it is used: not a path, address or resolver."""
    if isinstance(value, list):
        return all(isinstance(item, (int, float)) or _is_word(item) for item in value)
    if isinstance(value, dict):  # data.parts, whose folders the config's check looks at
        return {*value} <= {"train", "val", "test"} and all(map(_is_below, value.values()))
    if name == "csv":
        return value is None or _is_below(value)
    return value is None or isinstance(value, (int, float)) or _is_word(value)


def _is_word(value: object) -> bool:
    """Whether it is a text that is neither a path nor an address."""
    return isinstance(value, str) and not {*value} & {*"/\\:$"} and value not in (".", "..")


def _is_below(value: object) -> bool:
    """Whether it is a relative path without ``..``."""
    return isinstance(value, str) and "\\" not in value and all(map(_is_word, value.split("/")))


def _known_data_sets() -> dict[str, dict[str, object]]:
    """``_target_`` -> settings, for each choice of the group ``data``."""
    files = choices("data")
    nodes = [choice_settings(path, files) for path in files.values()]
    return {str(node["_target_"]): node for node in nodes if "_target_" in node}


def check_fit(card: Card, data: ImageDataModule, checkpoint: Path) -> None:
    """Check that images and classes match the model.

    Class names are compared earlier, when the data are found.

    Raises:
        DiscernError: the images have another shape, or the number of classes differs.
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


# The results


def classify(network: nn.Module, data: ImageDataModule, split: str) -> Predictions:
    """The predictions of a network in eval mode for a split, in the order of its images.

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
    if isinstance(network, ExportedModel):
        return _classify_pictures(network, data, dataset)
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


def _classify_pictures(model: ExportedModel, data: ImageDataModule, dataset: Images) -> Predictions:
    """As :func:`classify`, of an exported model, which prepares the pictures itself."""
    batch = EXPORTED_BATCH if dataset.names() is None else 1
    found = [
        model.of_pictures(dataset.pictures(np.arange(start, min(start + batch, len(dataset)))))
        for start in range(0, len(dataset), batch)
    ]
    # Logits of these probabilities, none of which is so small that it has none.
    logits = torch.from_numpy(np.concatenate(found)).clamp(min=SMALLEST).log()
    indices = torch.arange(len(dataset)) if dataset.indices is None else dataset.indices
    names = list(data.class_names)
    return Predictions.of(logits, labels_of(dataset), indices, names, files=dataset.names())


def write_report(
    predictions: Predictions,
    metrics: Mapping[str, Estimate],
    title: str,
    dataset: Images,
    data: ImageDataModule,
    folder: Path,
) -> None:
    """Write the tables and the pictures."""
    names = predictions.class_names
    write_predictions(predictions, folder / "predictions.csv")
    matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
    write_class_scores(matrix, names, folder / "per_class.csv")
    figure = confusion_figure(matrix, names, f"Confusion matrix\n{title}")
    save(figure, folder / CONFUSION)
    bins = reliability(predictions.confidences, predictions.correct)
    draw_reliability(bins, metrics["ece"], f"Calibration: {title}", folder / "reliability.png")
    worst = predictions.worst(WORST)
    images, _ = dataset.__getitems__(worst.tolist())
    heading = f"{title}: the {len(worst)} images with the highest loss of {len(predictions):,}"
    pixels = as_pixels(images, data.preprocessing)
    top_losses(predictions, worst, pixels, heading).save(folder / "top_losses.png")


def metrics_table(metrics: Mapping[str, Estimate], title: str) -> str:
    """Each metric with its interval, for the terminal."""
    rows = [
        [metric_of(name).title, *map(metric_of(name).text, (one.value, one.low, one.high))]
        for name, one in metrics.items()
    ]
    return table([title, "value", "95 % from", "to"], rows)


def class_table(predictions: Predictions) -> str:
    """The scores of each class, for the terminal."""
    names = predictions.class_names
    matrix = confusion_matrix(predictions.labels, predictions.predicted, len(names))
    scores = class_scores(matrix)
    columns = [*(metric.title for metric in scores), "support"]
    rows = [
        [name, *(metric.text(float(of[i])) for metric, of in scores.items()), f"{support:,}"]
        for i, (name, support) in enumerate(zip(names, matrix.sum(axis=1), strict=True))
    ]
    return table(["Per-class results", *columns], rows)
