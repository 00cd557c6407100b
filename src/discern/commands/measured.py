"""A model, or several together, measured on the images of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from discern.commands.members import Member, known_to_any, name_of
from discern.commands.soup import soup
from discern.data.augment import View
from discern.data.images import Batch, Images
from discern.data.module import ImageDataModule
from discern.errors import DiscernError
from discern.exports.onnx_model import ExportedModel
from discern.features.engine import use_engine
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.models.combined import combined, log_probabilities, mean_of
from discern.models.torch_file import sha256_of
from discern.reports.paired import Paired, compare_pairs
from discern.runs.metric_table import metric_of
from discern.runs.predictions import Predictions
from discern.tables import table
from discern.training.build import build_data
from discern.training.job import relative

MAX_SINGLES = 10
"""The most single models that several together are compared with, the first or best ones."""

SOUP = "soup.safetensors"

EXPORTED_BATCH = 256
"""Images that an exported model classifies at a time; photographs, of various sizes, one by one."""

SMALLEST = 2.0**-149
"""The smallest float32 above 0."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What an evaluation has measured.

    Attributes:
        name: of the model, for titles.
        description: its files, for the terminal.
        checkpoints: path and SHA-256 of each file.
        predictions: for the images of the split.
        before: the same without the temperature; None where there is none.
        temperature: of a single model; None for none, and of several, which have their own.
        singles: name of a single model -> its predicted classes, (N,); empty where the single model
            is what is measured.
    """

    name: str
    description: str
    checkpoints: list[dict[str, str]]
    predictions: Predictions
    before: Predictions | None
    temperature: float | None
    singles: dict[str, NDArray[np.int64]]


def measured_as(cfg: DictConfig, members: Sequence[Member], data: ImageDataModule) -> Measured:
    """Measure the models as ``cfg`` says: alone, together, in several views.

    Raises:
        DiscernError: the split is empty, or the models cannot be measured so.
    """
    check_has_images(cfg.split, data)
    _check_views(cfg, members[0], data)
    images = data.num_images[cfg.split]
    for member in members:
        use_engine(member.network, member.card.input_shape, cfg.engine, images)
    several, views = len(members) > 1, cfg.tta != "none"
    # In views the single models are only what the result is compared with.
    alone = [_logits(member, cfg, data) for member in members[: MAX_SINGLES if views else None]]
    singles = _singles(members, alone) if several or views else {}
    name, description, files = _named(members, cfg)
    if cfg.ensemble == "soup":
        found = _of_soup(cfg, soup(members, data, files[0]), data)
    elif views:
        found = _of_views(cfg, members, data)
    elif several:
        found = _of_mean(cfg, members, alone, data)
    else:
        found = _of_one(cfg, members[0], alone[0], data)
    checkpoints = [{"path": str(file), "sha256": sha256_of(file)} for file in files]
    return Measured(name, description, checkpoints, *found, singles)


class _Found(NamedTuple):
    """Predictions, those without the temperature, and the temperature, as in Measured."""

    predictions: Predictions
    before: Predictions | None = None
    temperature: float | None = None


def _of_one(cfg: DictConfig, member: Member, logits: Tensor, data: ImageDataModule) -> _Found:
    temperature = _temperature(cfg, member)
    as_given = _predictions(logits, cfg, data)
    if temperature is None:
        return _Found(as_given)
    return _Found(_predictions(logits, cfg, data, temperature), as_given, temperature)


def _of_mean(
    cfg: DictConfig, members: Sequence[Member], logits: Sequence[Tensor], data: ImageDataModule
) -> _Found:
    each = [
        log_probabilities(one, _temperature(cfg, member))
        for one, member in zip(logits, members, strict=True)
    ]
    return _Found(_predictions(mean_of(each), cfg, data))


def _of_soup(cfg: DictConfig, member: Member, data: ImageDataModule) -> _Found:
    use_engine(member.network, member.card.input_shape, cfg.engine, data.num_images[cfg.split])
    if cfg.tta != "none":
        return _of_views(cfg, [member], data)
    return _of_one(cfg, member, _logits(member, cfg, data), data)


def _of_views(cfg: DictConfig, members: Sequence[Member], data: ImageDataModule) -> _Found:
    return _Found(_predictions(_in_views(cfg, members, data), cfg, data))


def _temperature(cfg: DictConfig, member: Member) -> float | None:
    return member.card.temperature if cfg.temperature == "on" else None


def _singles(members: Sequence[Member], logits: Sequence[Tensor]) -> dict[str, NDArray[np.int64]]:
    """Name of each of the first models -> its predicted classes, (N,)."""
    known = list(zip(members, logits, strict=False))[:MAX_SINGLES]
    return {str(relative(one.path)): found.argmax(1).numpy() for one, found in known}


def _named(members: Sequence[Member], cfg: DictConfig) -> tuple[str, str, list[Path]]:
    """The name for titles, the files for the terminal, and the files; that of a soup is new."""
    first, files = members[0], [member.path for member in members]
    description = str(relative(first.path))
    if first.epoch is not None:
        description += f", of epoch {first.epoch}"
    if len(members) > 1:
        description = f"{len(members)} models, {', '.join(str(relative(file)) for file in files)}"
    if cfg.ensemble == "soup":
        path = Path(cfg.out or Path(cfg.folder) / SOUP)
        description = f"{relative(path)}, the mean of the weights of {description}"
        files = [path, *files]
    return name_of(members, cfg.ensemble, cfg.tta), description, files


def check_has_images(split: str, data: ImageDataModule) -> None:
    """Raise a DiscernError where a split is empty."""
    if not len(getattr(data, f"{split}_dataset")):
        size = "test_size" if split == "test" and hasattr(data, "test_size") else "val_size"
        value = getattr(data, size)
        raise DiscernError(
            f"split={split} has no images: with data.{size}={value} none are held out."
        )


def _check_views(cfg: DictConfig, member: Member, data: ImageDataModule) -> None:
    """Raise a DiscernError where test-time augmentation is not possible or shows nothing new."""
    if isinstance(member.network, ExportedModel) and (cfg.tta, cfg.temperature) != ("none", "on"):
        wrong = f"tta={cfg.tta}" if cfg.tta != "none" else "temperature=off"
        raise DiscernError(
            f"{wrong} is not possible: {relative(member.path)} is an exported model, which is as "
            "it was exported; give the checkpoint."
        )
    if not isinstance(cfg.tta, int):
        combined([member], cfg.tta)
    elif getattr(data, "augmentation", None) is None:  # not of a data module of the user's own
        choices = [name for name in getattr(data, "augmentations", {}) if name != "none"]
        others = f"; +data.augment=CHOICE says which: {', '.join(choices)}" if choices else ""
        raise DiscernError(
            f"tta={cfg.tta} shows views of the training augmentation, and the model was trained "
            f"without (data.augment=none){others}."
        )


def predictions_of(member: Member, cfg: DictConfig, data: ImageDataModule) -> Predictions:
    """The predictions of a network for a split, without a temperature, in the order of its images.

    Raises:
        DiscernError: the split is empty.
    """
    check_has_images(cfg.split, data)
    use_engine(member.network, member.card.input_shape, cfg.engine, data.num_images[cfg.split])
    return _predictions(_logits(member, cfg, data), cfg, data)


def _logits(member: Member, cfg: DictConfig, data: ImageDataModule) -> Tensor:
    if isinstance(member.network, ExportedModel):
        return _of_pictures(member.network, _images(cfg, data))
    return _outputs(
        member.network, data.sequential_loader(_images(cfg, data), data.eval_batch_size)
    )


def _of_pictures(model: ExportedModel, images: Images) -> Tensor:
    """Logits of the probabilities of an exported model, which prepares the pictures itself."""
    batch = EXPORTED_BATCH if images.names() is None else 1
    found = [
        model.of_pictures(images.pictures(np.arange(start, min(start + batch, len(images)))))
        for start in range(0, len(images), batch)
    ]
    return torch.from_numpy(np.concatenate(found)).clamp(min=SMALLEST).log()


def _images(cfg: DictConfig, data: ImageDataModule) -> Images:
    images: Images = getattr(data, f"{cfg.split}_dataset")
    return images


def _outputs(network: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """What a network says of all images, (N, K)."""
    with torch.inference_mode():
        return torch.cat([network(images) for images, _ in batches])


def _predictions(
    logits: Tensor, cfg: DictConfig, data: ImageDataModule, temperature: float | None = None
) -> Predictions:
    images = _images(cfg, data)
    indices = torch.arange(len(images)) if images.indices is None else images.indices
    labels, names = images.labels[indices], list(data.class_names)
    return Predictions.of(logits, labels, indices, names, images.names(), temperature)


def _in_views(cfg: DictConfig, members: Sequence[Member], data: ImageDataModule) -> Tensor:
    """The logarithms of the mean probabilities of models over views of each image, (N, K)."""
    calibrated, size = cfg.temperature == "on", data.eval_batch_size
    if not isinstance(cfg.tta, int):
        model = combined(members, cfg.tta, calibrated=calibrated)
        if cfg.tta == "five_crop":
            data = _larger(cfg, model.card.input_shape[1], members, data)
        return _outputs(model.network, data.sequential_loader(_images(cfg, data), size))
    network = combined(members, calibrated=calibrated).network
    total: Tensor | None = None
    for number in range(cfg.tta):
        view = View(data.augmentation, cfg.seed, number)
        found = _outputs(network, _seen(_images(cfg, data), view, size))
        total = found if total is None else torch.logaddexp(total, found)
    assert total is not None
    return total - float(np.log(cfg.tta))


def _seen(images: Images, view: View, size: int) -> Iterator[Batch]:
    for start in range(0, len(images), size):
        yield images.augmented(np.arange(start, min(start + size, len(images))), view)


def _larger(
    cfg: DictConfig, side: int, members: Sequence[Member], data: ImageDataModule
) -> ImageDataModule:
    """The same data, of which a larger square of each picture is seen."""
    larger = OmegaConf.merge(cfg, {"data": {"image_size": side}})
    assert isinstance(larger, DictConfig)
    found: ImageDataModule = build_data(larger, known_to_any(members), measured=cfg.split)
    assert found.num_images == data.num_images
    return found


# Against the single models


@dataclass(frozen=True)
class Single:
    """A single model beside what has been measured.

    Attributes:
        name: its file.
        accuracy: its own.
        pair: it is the first, what has been measured the second.
    """

    name: str
    accuracy: float
    pair: Paired

    def facts(self) -> dict[str, object]:
        """For metrics.json."""
        pair = self.pair
        return {
            "checkpoint": self.name,
            "accuracy": self.accuracy,
            "difference": asdict(pair.difference),
            "only_single_right": pair.only_first,
            "only_measured_right": pair.only_second,
            "differ": pair.differ,
            "p": pair.p,
            "p_holm": pair.adjusted,
        }


def against_singles(measured: Measured, seed: int) -> list[Single]:
    """The single models, each against what has been measured, on the same images."""
    found = measured.predictions
    predicted = {0: found.predicted, **dict(enumerate(measured.singles.values(), 1))}
    pairs = compare_pairs(predicted, found.labels, [(n, 0) for n in range(1, len(predicted))], seed)
    return [
        Single(name, float((classes == found.labels).mean()), pair)
        for (name, classes), pair in zip(measured.singles.items(), pairs, strict=True)
    ]


def write_singles(singles: Sequence[Single], path: Path) -> None:
    """Write a row per single model."""
    rows = [_flat(single.facts()) for single in singles]
    with write_whole(path) as file:
        write_csv(file, [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)])


def _flat(facts: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            flat |= {
                name: value["value"],
                f"{name}_low": value["low"],
                f"{name}_high": value["high"],
            }
        else:
            flat[name] = value
    return flat


def singles_table(singles: Sequence[Single]) -> str:
    """What is gained over each single model, for the terminal."""
    text = metric_of("accuracy").text
    header = ["Gain over the single model", "its accuracy", "gain", "95 % from", "to"]
    header += ["only it right", "only this right"]
    header += ["McNemar's p" if len(singles) == 1 else "McNemar's p (Holm)"]
    rows = [
        [
            single.name,
            text(single.accuracy),
            *(f"{end:+.4f}" for end in _ends(single.pair)),
            f"{single.pair.only_first:,}",
            f"{single.pair.only_second:,}",
            f"{single.pair.adjusted:.2g}",
        ]
        for single in singles
    ]
    return table(header, rows, dispensable=["only it right", "only this right"])


def _ends(pair: Paired) -> tuple[float, float, float]:
    return pair.difference.value, pair.difference.low, pair.difference.high
