"""``discern evaluate``: a saved model measured on a split of a data set."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from discern.commands.measured import (
    Measured,
    Single,
    against_singles,
    measured_as,
    predictions_of,
    singles_table,
    write_singles,
)
from discern.commands.members import Member, known_to_any, members_of
from discern.config.check import check, check_given
from discern.config.schema import SCHEMAS
from discern.config.user_config import choice_settings, choices, conf_dir
from discern.config.values import plain
from discern.data.images import Images
from discern.data.known import Rule
from discern.data.module import ImageDataModule
from discern.errors import DiscernError, as_override
from discern.files.places import expanded, is_folder
from discern.files.writing import as_json_values, write_whole
from discern.files.yaml_file import write_config
from discern.models.card import TARGET, Card, without_target
from discern.models.saved import undamaged_checkpoint
from discern.models.threads import use_threads
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
from discern.runs.holding import held
from discern.runs.metric_table import metric_of
from discern.runs.predictions import Predictions, warn_of_undefined, write_predictions
from discern.runs.state import Ended, State
from discern.runs.summary import Summary, trained_on_sentence
from discern.tables import table
from discern.training.build import build_data
from discern.training.calibration import CHANGED
from discern.training.job import quiet_libraries, relative
from discern.training.meeting import check_trained_on, say_what_is_measured
from discern.training.outputs import keep_predictions

log = logging.getLogger(__name__)

WORST = 25
"""Images in top_losses.png."""

MAX_CLASSES_PRINTED = 20
"""The most classes for which the terminal shows per-class results."""


def evaluate(cfg: DictConfig) -> Evaluation:
    """Measure the model in ``cfg.ckpt_path``, or several together; write and print the results.

    Args:
        cfg: conf/evaluate.yaml, composed; ``folder`` is set.

    Returns:
        The metrics of the split, and the predictions for its images.

    Raises:
        DiscernError: a setting, a checkpoint or the data are wrong, or do not match.
    """
    check(cfg, "evaluate")
    quiet_libraries()
    members, folder = members_of(cfg.ckpt_path, cfg.ensemble), Path(cfg.folder)
    data = _data(cfg, members)
    trained_on = check_trained_on(data, [cfg.split])[cfg.split]
    measured = measured_as(cfg, members, data)
    predictions = measured.predictions
    warn_of_undefined(predictions.undefined, len(predictions))
    title = f"{measured.name} on {data.title}, {cfg.split}"
    metrics = measure(predictions, cfg.seed)
    outcome = _Outcome(
        evaluation=Evaluation(title, cfg.split, metrics, predictions, folder),
        measured=measured,
        before=None if measured.before is None else measure(measured.before, cfg.seed),
        singles=against_singles(measured, cfg.seed),
        trained_on=trained_on,
    )
    with write_whole(folder / "metrics.json") as file:
        facts = as_json_values(_facts(outcome, cfg, members, data))
        json.dump(facts, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    write_report(predictions, metrics, title, getattr(data, f"{cfg.split}_dataset"), data, folder)
    if outcome.singles:
        write_singles(outcome.singles, folder / "singles.csv")
    _show(outcome)
    return outcome.evaluation


@dataclass(frozen=True)
class _Outcome:
    """What an evaluation has found.

    Attributes:
        evaluation: the metrics and the predictions.
        measured: the models, and how they were measured.
        before: the metrics without the temperature; None where there is none.
        singles: the single models against it.
        trained_on: images that a model was trained on; None if unknown.
    """

    evaluation: Evaluation
    measured: Measured
    before: Mapping[str, Estimate] | None
    singles: Sequence[Single]
    trained_on: int | None


def _facts(
    outcome: _Outcome, cfg: DictConfig, members: Sequence[Member], data: ImageDataModule
) -> dict[str, object]:
    """The content of metrics.json."""
    evaluation, measured, before = outcome.evaluation, outcome.measured, outcome.before
    changes = getattr(data, "changes", None)  # not of a data module of the user's own
    return {
        "title": evaluation.title,
        "split": cfg.split,
        "classes": len(data.class_names),
        "data": {
            "title": data.title,
            "fingerprint": data.fingerprint,
            "as_in_training": data.fingerprint == members[0].card.data.get("fingerprint"),
            # Images that are new, gone or changed since training.
            "changes": asdict(changes) if changes else None,
        },
        "trained_on": outcome.trained_on,
        "images": len(evaluation.predictions),
        "checkpoint": measured.checkpoints[0],
        "checkpoints": measured.checkpoints,
        "ensemble": cfg.ensemble or ("mean" if len(members) > 1 else None),
        "tta": cfg.tta,
        "epoch": members[0].epoch if len(members) == 1 else None,
        "temperature": measured.temperature,
        "metrics": {name: asdict(one) for name, one in evaluation.metrics.items()},
        "before_temperature": None
        if before is None
        else {name: asdict(before[name]) for name in CHANGED},
        "singles": [single.facts() for single in outcome.singles],
    }


def _show(outcome: _Outcome) -> None:
    """The results in the terminal."""
    evaluation, measured = outcome.evaluation, outcome.measured
    predictions, split = evaluation.predictions, evaluation.split
    title = f"{evaluation.title}: {len(predictions):,} images"
    metrics = metrics_table(evaluation.metrics, title, outcome.before, measured.temperature)
    log.info("Measured: %s", measured.description)
    log.info("\n%s\n", metrics)
    if outcome.singles:
        log.info("%s\n", singles_table(outcome.singles))
    if outcome.trained_on and split != "train":
        log.warning("%s.", trained_on_sentence(split, outcome.trained_on, len(predictions)))
    if len(predictions.class_names) <= MAX_CLASSES_PRINTED:
        log.info("%s\n", class_table(predictions))
    log.info("Results: %s", relative(evaluation.folder))


def _data(cfg: DictConfig, members: Sequence[Member]) -> ImageDataModule:
    """The data of an evaluation, whose config is written; the models are ready to see them."""
    first = members[0]
    for member in members:
        use_threads(member.network, member.card.input_shape)
    known = known_to_any(members)
    with open_dict(cfg):
        cfg.data = data_settings(cfg, first.card, first.path, known.rule)
    check(cfg, "evaluate")
    write_config(cfg, Path(cfg.folder) / "config.yaml")
    log_missing(missing(plain(cfg)))
    data: ImageDataModule = build_data(cfg, known, measured=cfg.split)
    check_fit(first.card, data, first.path)
    say_what_is_measured(data, cfg.split)
    return data


def test_beside(run: Path) -> None:
    """Test a run's best checkpoint; its folder ``test`` keeps the metrics and the predictions.

    Raises:
        DiscernError: the checkpoint or its data cannot be used, or another process, which may be
            the run itself, is at work in the run's folder.
    """
    quiet_libraries()
    with held(run):
        folder = run / "test"
        folder.mkdir(exist_ok=True)
        cfg = _default_settings(undamaged_checkpoint(str(run)), folder)
        summary = Summary(folder / SUMMARY)
        members = members_of(cfg.ckpt_path, None)
        data = _data(cfg, members)
        check_trained_on(data, ["test"])
        # Without a temperature, as a run's own test.
        predictions = predictions_of(members[0], cfg, data)
        keep_predictions(predictions, data, folder)
        # The metrics that a run's own test has.
        known = {name.partition("/")[2] for name in glance(run).metrics()}
        measured = {name: one.value for name, one in measure(predictions, cfg.seed).items()}
        summary.facts["metrics"]["test"] = {n: v for n, v in measured.items() if n in known}
        summary.write(Ended(State.DONE, "tested for a comparison"))


def _default_settings(checkpoint: Path, folder: Path) -> DictConfig:
    """The config of an evaluation for which nothing else was typed."""
    cfg = OmegaConf.load(conf_dir() / "evaluate.yaml")
    assert isinstance(cfg, DictConfig)
    for name in ("defaults", "hydra"):
        del cfg[name]
    cfg.ckpt_path, cfg.folder = str(checkpoint), str(folder)
    return cfg


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
        of_run = _settings_of_run(card, checkpoint, cfg.get("tta", "none"))
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
    if isinstance(folder, str) and "${" not in folder and is_folder(expanded(folder)):
        return folder
    if own.get("dir") is not None:
        return str(own["dir"])
    which = f", which was {folder}" if isinstance(folder, str) else ""
    raise DiscernError(
        f"data.dir={as_override(None)} is not allowed; {relative(checkpoint)} is not in the folder "
        f"of a run whose data can be found{which}, so it must be the folder of the pictures."
    )


def _settings_of_run(card: Card, checkpoint: Path, tta: str | int) -> dict[str, object]:
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
    # Random views of the training augmentation are a choice of the run's; nothing else uses it.
    left = NOT_FROM_FILES - ({"augment"} if isinstance(tta, int) else set())
    # A nested setting, which a user's data set may build an object from, is the choice's.
    believed = {
        name: value
        for name, value in given.items()
        if name not in left and (name == "parts" or not isinstance(value, dict))
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


def metrics_table(
    metrics: Mapping[str, Estimate],
    title: str,
    before: Mapping[str, Estimate] | None,
    temperature: float | None,
) -> str:
    """Each metric with its interval, for the terminal; and what the temperature has changed."""
    rows = [_row(metric_of(name).title, name, one) for name, one in metrics.items()]
    if before is not None and temperature is not None:
        rows += [
            _row(
                f"{metric_of(name).title} before temperature {temperature:.4g}", name, before[name]
            )
            for name in CHANGED
        ]
    return table([title, "value", "95 % from", "to"], rows)


def _row(title: str, metric: str, one: Estimate) -> list[str]:
    return [title, *map(metric_of(metric).text, (one.value, one.low, one.high))]


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
