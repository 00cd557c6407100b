"""``discern predict``: classify pictures in files with a saved model."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from discern.commands.members import members_of
from discern.config.check import check
from discern.console import is_terminal
from discern.data.in_memory import InMemoryImages
from discern.data.pictures import PictureError, dark_on_light, fit_picture
from discern.errors import DiscernError, as_override
from discern.exports.files import is_exported
from discern.files.csv_cells import write_csv
from discern.files.walk import find_files
from discern.files.writing import write_whole
from discern.models.card import Card
from discern.models.combined import Model, combined
from discern.models.saved import load, model_name, undamaged_checkpoint
from discern.models.threads import use_threads
from discern.reports.classified import Classified, classified_sheet
from discern.reports.explain import GradCam
from discern.runs.predictions import TOP, tempered, warn_of_undefined
from discern.tables import table
from discern.text import printable
from discern.training.job import relative

if TYPE_CHECKING:
    from discern.exports.onnx_model import ExportedModel

log = logging.getLogger(__name__)

BATCH, MAX_VALUES = 256, 2**23
"""Files in memory at a time, and the most values of a batch in the network's input or in the
output of any of its linear layers."""
MAX_LISTED, MAX_CLASSES = 10, 20
"""The most pictures whose labels are printed one by one, and the most classes that are counted."""


@dataclass
class Outcome:
    """The counts of a prediction.

    Attributes:
        read: pictures that were classified.
        inverted: of these, pictures that were inverted.
        undefined: of these, pictures for which the model's output is NaN.
        unreadable: files that could not be read.
        shown: the first of the pictures, to be drawn.
        first: file, label and probability of the first of the pictures, to be printed.
        counts: label -> pictures that it was predicted for.
    """

    read: int = 0
    inverted: int = 0
    undefined: int = 0
    unreadable: int = 0
    shown: list[Classified] = field(default_factory=list)
    first: list[tuple[Path, int, float]] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Batch:
    """A batch of files.

    Attributes:
        reasons: file -> why it could not be read; None for a picture.
        pixels: of the pictures, as the network sees them, uint8 (M, C, H, W).
        inverted: whether each of these was inverted, bool (M,).
        probabilities: of their classes, float32 (M, K).
        top: the most probable classes of each, int64 (M, T), the first one first.
    """

    reasons: dict[Path, str | None]
    pixels: NDArray[np.uint8]
    inverted: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    top: NDArray[np.int64]


def predict(cfg: DictConfig) -> Outcome:
    """Classify the pictures in ``cfg.input``; write predictions.csv and predictions.png.

    Args:
        cfg: conf/predict.yaml, composed; the folder ``cfg.out`` need not exist.

    Raises:
        DiscernError: a setting or the checkpoint is wrong, or no file could be read as a picture.
    """
    check(cfg, "predict")
    members, folder = members_of(cfg.ckpt_path, cfg.ensemble), Path(cfg.out)
    shape = members[0].card.input_shape
    check_channels(members[0].card, members[0].path)
    if is_exported(members[0].path):
        _check_is_as_exported(cfg, members[0].path)
    model = as_shown(members, cfg)
    card = model.card
    explainer = GradCam(model.network, shape, model_name(card)) if cfg.explain else None
    files = list(find_files(cfg.input))
    for network in [member.network for member in members]:
        use_threads(network, shape)
        if hasattr(network, "backbone") or cfg.engine != "auto":
            # torchvision takes half a second to import; other models do not need it.
            from discern.features.engine import use_engine

            use_engine(network, shape, cfg.engine, len(files))
    outcome = Outcome()
    with write_whole(folder / "predictions.csv") as file:
        write_csv(file, [_columns(card)])
        for batch in classify_files(files, model, cfg.invert):
            write_csv(file, _rows(batch, card.class_names))
            _count(outcome, batch, cfg.pictures)
    drawing = folder / "predictions.png"
    drawing.unlink(missing_ok=True)  # of an earlier table
    if explainer is not None:
        outcome.shown = list(_explained(outcome.shown, explainer, card))
    if outcome.shown:
        sheet = classified_sheet(outcome.shown, card.class_names, title_of(card))
        sheet.save(drawing)
    _conclude(outcome, cfg, card)
    return outcome


def as_shown(members: Sequence[Model], cfg: DictConfig) -> Model:
    """The model that pictures are shown to: one or several, in views, calibrated, as asked for."""
    if len(members) > 1 or cfg.tta != "none":
        return combined(members, cfg.tta, calibrated=cfg.temperature == "on")
    return members[0] if cfg.temperature == "on" else without_temperature(members[0])


def without_temperature(model: Model) -> Model:
    """A model whose probabilities are as its network gives them."""
    return Model(model.network, model.card.model_copy(update={"temperature": None}))


def _check_is_as_exported(cfg: DictConfig, path: Path) -> None:
    """Refuse what only a checkpoint can do."""
    for wrong, asked in (
        ("explain=true", cfg.explain),
        (f"tta={cfg.tta}", cfg.tta != "none"),
        ("temperature=off", cfg.temperature == "off"),
    ):
        if asked:
            raise DiscernError(
                f"{wrong} is not possible: {path} is an exported model, which is as it was "
                "exported; give the checkpoint."
            )


def check_channels(card: Card, checkpoint: Path) -> None:
    """Raise a DiscernError for a model of images that no picture can be read as."""
    if card.input_shape[0] not in (1, 3):
        raise DiscernError(
            f"{checkpoint} takes images of {card.input_shape[0]} channels; pictures are read as "
            "grey (1) or colour (3)."
        )


def load_model(path: str | Path) -> nn.Module:
    """The model in a checkpoint, or in a file of ``discern export``, which takes pictures.

    Raises:
        DiscernError: as :func:`discern.load`.
    """
    if not is_exported(file := undamaged_checkpoint(str(path), "path")):
        return load(file)
    from discern.exports.onnx_model import load_exported  # start-up time

    return load_exported(file)


def title_of(card: Card) -> str:
    """The title of a sheet of classified pictures."""
    model = f"{model_name(card)} trained on {card.data.get('title', 'unknown data')}"
    return f"{model}: class probabilities of each picture, shown as the model sees it"


def classify_files(files: list[Path], model: Model, invert: bool | str) -> Iterator[Batch]:
    """Read and classify the files in batches, with a progress bar on a terminal."""
    network, card = model.network, model.card
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        _progress_bar("predict", len(files)) as bar,
    ):
        size = batch_size(network, card)
        for start in range(0, len(files), size):
            reasons, pixels = _read(files[start : start + size], card, pool)
            inverted = to_invert(pixels, invert)
            pixels[inverted] = 255 - pixels[inverted]
            exported = as_exported(network)
            if exported is not None and card.preprocessing.resize is not None:
                probabilities = _of_photographs(exported, card, reasons, inverted)
                scores = probabilities, ranked(probabilities)
            else:
                scores = probabilities_of(model, pixels)
            yield Batch(reasons, pixels, inverted, *scores)
            bar.update(len(reasons))


def batch_size(network: nn.Module, card: Card) -> int:
    """The most pictures that are classified at a time."""
    return max(1, min(BATCH, MAX_VALUES // max(math.prod(card.input_shape), _widest(network))))


def _widest(network: nn.Module) -> int:
    """The largest output of a linear layer for one image, such as one value per class."""
    linear = (module for module in network.modules() if isinstance(module, nn.Linear))
    return max((module.out_features for module in linear), default=1)


def _progress_bar(doing: str, files: int) -> tqdm[NoReturn]:
    return tqdm(
        desc=doing, total=files, unit=" files", leave=False, dynamic_ncols=True,
        disable=not is_terminal(),
    )  # fmt: skip


def _read(
    files: list[Path], card: Card, pool: ThreadPoolExecutor
) -> tuple[dict[Path, str | None], NDArray[np.uint8]]:
    """Why each file cannot be read, or None, and the pixels of those that can."""
    prepare = preparation(card)

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return prepare(path)
        except PictureError as error:
            return str(error)

    found = dict(zip(files, pool.map(read, files), strict=True))
    pictures = [pixels for pixels in found.values() if not isinstance(pixels, str)]
    reasons = {path: it if isinstance(it, str) else None for path, it in found.items()}
    return reasons, np.array(pictures, np.uint8).reshape(-1, *card.input_shape)


def preparation(card: Card) -> Callable[[Path | IO[bytes]], NDArray[np.uint8]]:
    """The function from a file, its path or open, to the pixels, uint8 (C, H, W), for the model.

    It raises PictureError for a file that cannot be read.
    """
    known = card.preprocessing
    if known.resize is None or known.interpolation is None:
        return lambda source: fit_picture(source, card.input_shape)
    # torchvision takes half a second to import; a model of small images does not need it.
    from discern.exports.running import preprocessing_of

    photos = preprocessing_of(card)
    assert photos is not None
    return lambda source: photos.read(source).numpy()


def to_invert(pixels: NDArray[np.uint8], invert: bool | str) -> NDArray[np.bool_]:
    """Which pictures, uint8 (M, C, H, W), are to be inverted, bool (M,)."""
    if invert == "auto":
        # Colour pictures are never inverted.
        return dark_on_light(pixels) if pixels.shape[1] == 1 else np.zeros(len(pixels), np.bool_)
    return np.full(len(pixels), invert)


def as_exported(network: nn.Module) -> ExportedModel | None:
    """The network if it is that of an exported file, which takes pictures as they are."""
    # onnx, which the module imports, is not for whoever has a checkpoint.
    return cast("ExportedModel", network) if hasattr(network, "of_pictures") else None


def _of_photographs(
    network: ExportedModel,
    card: Card,
    reasons: dict[Path, str | None],
    inverted: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Class probabilities (M, K) of the files that are pictures, by an exported model."""
    from discern.exports.running import preprocessing_of  # start-up time

    photographs = preprocessing_of(card)
    assert photographs is not None
    found = [np.empty((0, len(card.class_names)), np.float32)]
    read = (path for path, reason in reasons.items() if reason is None)
    for path, invert in zip(read, inverted, strict=True):
        try:
            picture = photographs.picture(path)
        except PictureError as error:
            raise DiscernError(f"{printable(path)} can no longer be read: {error}.") from error
        found.append(network.of_pictures([255 - picture if invert else picture]))
    return np.concatenate(found)


def probabilities_of(
    model: Model, pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Class probabilities (M, K) of pixels, uint8 (M, C, H, W), and the top classes (M, T).

    The classes are ranked by the logits: rounding could make probabilities equal whose logits are
    not, and then a temperature would change a label.
    """
    classes, temperature = len(model.classes), model.card.temperature
    if not len(pixels):  # no file of a batch was a picture; few networks take none
        return np.empty((0, classes), np.float32), np.empty((0, min(TOP, classes)), np.int64)
    exported = as_exported(model.network)
    if exported is not None:
        if model.preprocessing.resize is not None:
            raise DiscernError(
                f"{exported.path} resizes and cuts photographs itself; give files, not pixels."
            )
        found = exported.of_pictures(list(pixels.transpose(0, 2, 3, 1)))
        return found, ranked(found)
    with torch.inference_mode():
        logits = model.network(_normalised(model.card, pixels))
        scaled = logits if temperature is None else tempered(logits, temperature)
        probabilities: NDArray[np.float32] = scaled.softmax(1).float().numpy()
    return probabilities, ranked(logits.numpy())


def ranked(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The classes of the highest scores (M, K), (M, T), the first one first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP]


def _normalised(card: Card, pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels, uint8 (M, C, H, W), as the network sees them, float32."""
    images = torch.from_numpy(pixels)
    # The data set's own arithmetic, so that the input is identical to the bit.
    labels = torch.zeros(len(images), dtype=torch.int64)
    data = InMemoryImages(images, labels, card.preprocessing.mean, card.preprocessing.std)
    return data.normalised(images)


def _explained(pictures: list[Classified], explainer: GradCam, card: Card) -> Iterator[Classified]:
    """The pictures with their Grad-CAM, with a progress bar."""
    with _progress_bar("explain", len(pictures)) as bar:
        for picture in pictures:
            (image,) = _normalised(card, picture.pixels[None])
            label = int(picture.probabilities.argmax())
            yield replace(picture, importance=explainer(image, label))
            bar.update()


def _columns(card: Card) -> list[str]:
    places = range(1, min(TOP, len(card.class_names)) + 1)
    top = [column for place in places for column in (f"top{place}", f"top{place}_probability")]
    return ["file", "label", "probability", *top, "inverted", "error"]


def _rows(batch: Batch, class_names: list[str]) -> Iterator[list[str]]:
    """A row per file; one that could not be read has only its name and the reason."""
    top = batch.top
    read = 0
    for path, reason in batch.reasons.items():
        if reason is not None:
            yield [printable(path), *[""] * (2 + 2 * top.shape[1] + 1), reason]
            continue
        cells = []
        for number in top[read]:
            cells += [class_names[number], f"{batch.probabilities[read, number]:.7g}"]
        inverted = as_override(bool(batch.inverted[read]))
        yield [printable(path), *cells[:2], *cells, inverted, ""]
        read += 1


def _count(outcome: Outcome, batch: Batch, pictures: int) -> None:
    read = [path for path, reason in batch.reasons.items() if reason is None]
    wanted = max(0, pictures - len(outcome.shown))
    for number, path in enumerate(read[:wanted]):
        # A copy: a view would keep the whole batch in memory.
        pixels, probabilities = batch.pixels[number].copy(), batch.probabilities[number].copy()
        note = " (inverted)" if batch.inverted[number] else ""
        outcome.shown.append(Classified(f"{printable(path)}{note}", pixels, probabilities))
    defined = np.isfinite(batch.probabilities).all(axis=1)
    labels = batch.top[:, 0]
    for number in np.flatnonzero(defined)[: MAX_LISTED - len(outcome.first)]:
        label = int(labels[number])
        outcome.first.append((read[number], label, float(batch.probabilities[number, label])))
    outcome.counts.update(labels[defined].tolist())
    outcome.read += len(read)
    outcome.undefined += int((~defined).sum())
    outcome.inverted += int(batch.inverted.sum())
    outcome.unreadable += len(batch.reasons) - len(read)


def _conclude(outcome: Outcome, cfg: DictConfig, card: Card) -> None:
    """Log the results and their folder."""
    if not outcome.read:
        raise DiscernError(
            f"input={cfg.input} has no readable picture: "
            f"{relative(Path(cfg.out) / 'predictions.csv')} has the reason for each file."
        )
    inversion = _about_inversion(outcome, cfg.invert, card.input_shape[0])
    if inversion is not None:
        log.info(inversion)
    if outcome.unreadable:
        log.warning(
            "%s of %s files could not be read; predictions.csv has the reasons.",
            f"{outcome.unreadable:,}",
            f"{outcome.read + outcome.unreadable:,}",
        )
    warn_of_undefined(outcome.undefined, outcome.read)
    pictures = "1 picture" if outcome.read == 1 else f"{outcome.read:,} pictures"
    log.info("%s classified.", pictures)
    if outcome.counts:
        log.info("\n%s\n", _predictions(outcome, card.class_names))
    log.info("Results: %s", relative(Path(cfg.out)))


def _predictions(outcome: Outcome, class_names: Sequence[str]) -> str:
    """The class of each of a few pictures, or of many how many are of each class."""
    if outcome.counts.total() <= MAX_LISTED:
        rows = [
            (printable(relative(path)), class_names[label], _percent(probability))
            for path, label, probability in outcome.first
        ]
        return table(["picture", "class", "probability"], rows)
    common = outcome.counts.most_common(MAX_CLASSES)
    counted = [
        (class_names[label], f"{count:,}", _percent(count / outcome.counts.total()))
        for label, count in common
    ]
    others = outcome.counts.total() - sum(count for _, count in common)
    if others:
        classes = len(outcome.counts) - len(common)
        share = _percent(others / outcome.counts.total())
        counted.append((f"{classes:,} other classes", f"{others:,}", share))
    return table(["class", "pictures", "share"], counted)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _about_inversion(outcome: Outcome, invert: bool | str, channels: int) -> str | None:
    if channels == 3 and invert is not True:
        return None  # light on dark means nothing in colour
    if invert == "auto":
        note = f"{outcome.inverted:,} of {outcome.read:,} pictures, dark on light, were inverted"
    else:
        note = f"all {outcome.read:,} pictures were inverted" if invert else "none was inverted"
    return f"invert={as_override(invert)}: {note}."
