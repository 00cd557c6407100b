"""discern in a notebook or a script: train, predict and compare."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from discern.commands.predict import BATCH, classify_files, probabilities_of, title_of
from discern.config.experiment_file import name_of
from discern.config.missing import check_all
from discern.config.preflight import claim_folder
from discern.console import ConsoleHandler, Formatter
from discern.errors import DiscernError
from discern.files.walk import find_files
from discern.models.card import Card
from discern.models.classifier import Classifier
from discern.models.saved import load
from discern.models.threads import with_threads
from discern.reports import comparison
from discern.reports.classified import Classified, classified_sheet
from discern.reports.notebook import comparison_html
from discern.run import train as run
from discern.runs.folder import OUTPUTS
from discern.sweeps.select import selected
from discern.text import printable
from discern.training.job import restore_torch_state
from discern.training.result import Result

SHOWN = 12
"""Pictures that predictions show in a notebook."""

TIMED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The format of a line of train.log."""


class Comparison(comparison.Comparison):
    """A comparison of runs that a notebook shows as tables and pictures."""

    def _repr_html_(self) -> str:
        return comparison_html(self)


def compare(*runs: Result | str | Path) -> Comparison:
    """Compare runs, as ``discern compare`` does.

    Args:
        runs: two or more: results of :func:`train`, or arguments of the command, such as the
            folder of a run or of a sweep.

    Returns:
        The settings and metrics that differ and, for runs tested on the same images, whether one
        is better. A notebook shows them with the images on which the runs disagree.

    Raises:
        DiscernError: one of them is not a run, or there is only one.
    """
    words = [str(each.folder if isinstance(each, Result) else each) for each in runs]
    found = selected(words, OUTPUTS)
    if len(found) < 2:
        raise DiscernError(f"discern.compare needs two runs or more, and this is {len(found)}.")
    return Comparison(**vars(comparison.compare(found)))


def train(cfg: DictConfig) -> Result:
    """Train a config of :func:`discern.compose`, as ``python train.py`` does.

    The run is written to ``cfg.folder`` or, if that is null, to a new folder in ``outputs``. The
    config is not changed, so that it can be edited and trained again. Ctrl-C, or a notebook's stop
    button, ends training after the current batch and returns the result so far.

    Args:
        cfg: the config; its settings may have been edited.

    Returns:
        Metrics, model, folder, and why training ended. A notebook shows its curves.

    Raises:
        DiscernError: a setting, a file or the machine does not allow the run.
    """
    check_all(cfg)
    cfg = copy.deepcopy(cfg)
    if "hydra" not in cfg:
        raise DiscernError("train needs a config that discern.compose has composed.")
    OmegaConf.clear_cache(cfg)  # such as the time of composition
    named, wished = "folder" if cfg.folder else None, Path(cfg.folder or cfg.hydra.run.dir)
    choices, overrides = cfg.hydra.runtime.choices, list(cfg.hydra.overrides.task)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.folder = str(claim_folder(wished, named, cfg.ckpt_path))
    name = name_of(choices.get("experiment") or choices.model)
    with _shown(Path(cfg.folder)), restore_torch_state(), with_threads(torch.get_num_threads()):
        return run(cfg, {"name": name, "overrides": overrides}, choices)


@contextmanager
def _shown(folder: Path) -> Iterator[None]:
    """Show discern's log and write it to train.log, within the block.

    A program that has configured logging shows it in its own way.
    """
    logger = logging.getLogger("discern")
    level = logger.level
    file = logging.FileHandler(folder / "train.log", encoding="utf-8")
    file.setFormatter(Formatter(TIMED))
    handlers: list[logging.Handler] = [file]
    if not logger.hasHandlers():
        handlers.append(ConsoleHandler())
        handlers[-1].setFormatter(Formatter())
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(level)
        file.close()


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of a model for N pictures; a notebook shows the first ones with bar charts.

    Attributes:
        title: the model and its data.
        class_names: K names.
        names: N names of the pictures.
        pixels: as the model sees them, uint8 (N, C, H, W).
        probabilities: of the classes, float32 (N, K).
        unreadable: file -> why it could not be read; not among the N pictures.
    """

    title: str
    class_names: list[str]
    names: list[str]
    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    unreadable: dict[str, str]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each picture, N names."""
        return [self.class_names[number] for number in self.probabilities.argmax(1)]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        few = ", ".join(self.labels[:SHOWN]) + (", …" if len(self) > SHOWN else "")
        return f"<Predictions of {len(self)} pictures: {few}>"

    def _repr_png_(self) -> bytes | None:
        if not len(self):
            return None
        rows = zip(self.names, self.pixels, self.probabilities, strict=True)
        few = [Classified(*row) for row, _ in zip(rows, range(SHOWN), strict=False)]
        return classified_sheet(few, self.class_names, self.title).png()


def predict(
    model: nn.Module | Result | str | Path,
    pictures: str | Path | Sequence[str | Path] | NDArray[np.uint8] | Tensor,
    *,
    invert: bool | str = "auto",
) -> Predictions:
    """Classify pictures.

    Args:
        model: the result of :func:`discern.load` or :func:`discern.train`, on the CPU; or a
            checkpoint: its path, a run's folder, ``last`` for the newest run or ``best`` for the
            best one.
        pictures: a file, a folder with everything in it, a pattern such as ``photos/*.jpg``, or
            several of these, preprocessed as by ``discern predict``; or pixels as in the data set,
            uint8 (N, C, H, W).
        invert: whether dark and light are swapped in files; ``auto`` swaps them in dark-on-light
            pictures if the model was trained on light-on-dark ones.

    Raises:
        DiscernError: the checkpoint cannot be read, there is no such picture, or the pixels have
            another shape than the model takes.
    """
    if invert not in ("auto", True, False):
        raise DiscernError(f"invert={invert} is not allowed; it must be auto, True or False.")
    network, card = _network_and_card(model)
    training = network.training
    try:
        network.eval()
        if isinstance(pictures, (np.ndarray, Tensor)):
            return _of_pixels(np.asarray(pictures), network, card)
        wanted = [pictures] if isinstance(pictures, (str, Path)) else pictures
        files = [file for one in wanted for file in find_files(str(one))]
        return _of_files(files, network, card, invert)
    finally:
        network.train(training)


def _network_and_card(model: nn.Module | Result | str | Path) -> tuple[nn.Module, Card]:
    if isinstance(model, (str, Path)):
        model = load(model)
    if isinstance(model, Result):
        model = model.model
    if isinstance(model, Classifier):
        return model.network, Card.model_validate(model.card)
    card = getattr(model, "card", None)
    if not isinstance(card, Card):
        raise DiscernError(
            f"predict needs a model of discern.load or discern.train, not a {type(model).__name__}."
        )
    return model, card


def _of_pixels(pixels: NDArray[np.uint8], network: nn.Module, card: Card) -> Predictions:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != card.input_shape:
        raise DiscernError(
            f"predict needs pixels of type uint8 and shape (N, {_shape(card.input_shape)}), and "
            f"got {pixels.dtype} ({_shape(pixels.shape)})."
        )
    parts = [
        probabilities_of(network, card, pixels[start : start + BATCH])
        for start in range(0, len(pixels), BATCH)
    ]
    return Predictions(
        title_of(card),
        card.class_names,
        [f"picture {number}" for number in range(len(pixels))],
        pixels,
        np.concatenate([np.zeros((0, len(card.class_names)), np.float32), *parts]),
        {},
    )


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _of_files(files: list[Path], network: nn.Module, card: Card, invert: bool | str) -> Predictions:
    batches = list(classify_files(files, network, card, invert))
    reasons = {path: reason for batch in batches for path, reason in batch.reasons.items()}
    return Predictions(
        title_of(card),
        card.class_names,
        [printable(path) for path, reason in reasons.items() if reason is None],
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.probabilities for batch in batches]),
        {printable(path): reason for path, reason in reasons.items() if reason is not None},
    )
