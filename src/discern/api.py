"""discern in a notebook or a script: train, evaluate, predict, compare and sweep."""

from __future__ import annotations

import copy
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from discern.commands.evaluate import evaluate as measure
from discern.commands.members import members_of
from discern.commands.predict import (
    BATCH,
    as_exported,
    classify_files,
    load_model,
    probabilities_of,
    title_of,
    without_temperature,
)
from discern.config.compose import check_overrides_are_listed, compose_command
from discern.config.experiment_file import name_of
from discern.config.missing import check_all
from discern.config.typed import quoted
from discern.console import ConsoleHandler, Formatter, LogFile
from discern.errors import REFUSED, DiscernError, did_you_mean
from discern.files.walk import find_files
from discern.models.card import Card
from discern.models.classifier import Classifier
from discern.models.combined import Model, combined
from discern.models.threads import with_threads
from discern.reports import comparison
from discern.reports.classified import Classified, classified_sheet
from discern.reports.evaluation import Evaluation
from discern.reports.notebook import comparison_html, predictions_html
from discern.run import train as run
from discern.runs.claim import claim_folder, take_folder
from discern.runs.folder import OUTPUTS, SWEEP, find_sweep, is_run
from discern.runs.holding import release
from discern.sweeps.outcome import Sweep, read_sweep
from discern.sweeps.select import selected
from discern.text import printable
from discern.training.job import restore_torch_state
from discern.training.result import Result

log = logging.getLogger(__name__)

SHOWN = 12
"""Pictures that predictions show in a notebook."""

TIMED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The format of a line of train.log."""


class Comparison(comparison.Comparison):
    """A comparison of runs that a notebook shows as tables and pictures."""

    def __repr__(self) -> str:
        names = zip(self.letters, self.names, strict=True)
        return f"<Comparison of {', '.join(map(' '.join, names))}>"

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
    if "hydra" not in cfg:
        raise DiscernError("train needs a config that discern.compose has composed.")
    choices, overrides = cfg.hydra.runtime.choices, list(cfg.hydra.overrides.task)
    cfg = _in_folder(cfg, cfg.ckpt_path, again=cfg.auto_resume)
    name = name_of(choices.get("experiment") or choices.model)
    with _as_command(Path(cfg.folder, "train.log")):
        return run(cfg, {"name": name, "overrides": overrides}, choices)


def _in_folder(cfg: DictConfig, ckpt_path: str | None = None, again: bool = False) -> DictConfig:
    """A copy of a composed config without its part ``hydra``, and with a new folder.

    A run that continues the checkpoint may share the checkpoint's folder, and one that begins
    ``again`` has its own.
    """
    cfg = copy.deepcopy(cfg)
    OmegaConf.clear_cache(cfg)  # such as the time of composition
    named, wished = "folder" if cfg.folder else None, Path(cfg.folder or cfg.hydra.run.dir)
    with open_dict(cfg):
        del cfg["hydra"]
    shared = again and is_run(wished)
    if again:
        named = "folder"
    cfg.folder = str(take_folder(wished, named, ckpt_path, shared))
    return cfg


@contextmanager
def _as_command(file: Path) -> Iterator[None]:
    """Run the block as a command does: its log is shown and kept, torch's state is restored."""
    try:
        with _shown(file), restore_torch_state(), with_threads(torch.get_num_threads()):
            yield
    finally:
        release(file.parent)


@contextmanager
def _shown(file: Path | None = None) -> Iterator[None]:
    """Show discern's log and write it to a file, within the block.

    A program that has configured logging shows it in its own way.
    """
    logger = logging.getLogger("discern")
    level = logger.level
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(LogFile(file, encoding="utf-8", delay=True))
        handlers[-1].setFormatter(Formatter(TIMED))
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
            handler.close()
        logger.setLevel(level)


def evaluate(
    model: Result | str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    folder: str | Path | None = None,
) -> Evaluation:
    """Measure a saved model on a split of a data set, as ``discern evaluate`` does.

    Args:
        model: a result of :func:`train`; or a checkpoint: its path, a run's folder, ``last`` for
            the newest run or ``best`` for the best one; or a list of checkpoints,
            for their ensemble.
        overrides: settings and choices as one types them, such as ``["split=val",
            "data.dir=photos"]``; by default the test split of the model's own data.
        folder: where tables and pictures are written; None for a new folder in ``outputs``.

    Returns:
        Metrics with confidence intervals, the prediction for each image, and the confusion matrix.
        A notebook shows them.

    Raises:
        DiscernError: a setting, the checkpoint or the data are wrong, or do not match.
    """
    check_overrides_are_listed(overrides)
    path: object = model.folder if isinstance(model, Result) else model
    if isinstance(model, (list, tuple)):
        path = f"[{','.join(quoted(str(each)) for each in model)}]"
    cfg = _in_folder(compose_command("evaluate", [f"ckpt_path={path}", *overrides], folder))
    with _as_command(Path(cfg.folder, "evaluate.log")):
        return measure(cfg)


def sweep(overrides: Sequence[str], *, folder: str | Path | None = None) -> Sweep:
    """Train every combination of values and rank the jobs, as ``python train.py -m`` does.

    The sweep runs in a process of its own, so that its jobs are independent of what this process
    has imported or put on a GPU. Ctrl-C, or a notebook's stop button, ends it after the batches
    that are being trained and returns the ranking so far; ``["sweep.resume=FOLDER"]`` goes on.

    Args:
        overrides: settings and choices as one types them after ``-m``, several values of one with
            commas: ``["data=mnist", "optimizer.lr=1e-3,3e-3"]``.
        folder: where the jobs are written; None for a new folder in ``outputs``.

    Returns:
        The jobs, best first. A job that failed is among them, without a rank. A notebook shows the
        ranking and its picture.

    Raises:
        DiscernError: a setting does not exist or has a value that is not allowed.
    """
    check_overrides_are_listed(overrides)
    resumed = [each.partition("=")[2] for each in overrides if each.startswith("sweep.resume=")]
    if resumed and folder is None:
        place = find_sweep(resumed[-1])
        status, last = _run_sweep(overrides)
    else:
        named = [each for each in overrides if each.startswith("hydra.sweep.dir=")]
        wished = Path(folder or compose_command("train", named).hydra.sweep.dir)
        place = claim_folder(wished, "folder" if folder or named else None)
        status, last = _run_sweep([*overrides, f"hydra.sweep.dir={quoted(str(place))}"])
    refused = last.startswith(REFUSED)
    if (place / SWEEP).is_file() and not refused:
        return read_sweep(place)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
    if refused:
        raise DiscernError(last.removeprefix(REFUSED))
    raise DiscernError(f"The sweep ended with status {status} before its first job.")


def _run_sweep(overrides: Sequence[str]) -> tuple[int, str]:
    """Run the command, showing its lines; its exit status and last line."""
    last = ""
    words = [sys.executable, "-m", "discern", "train", "-m", *overrides]
    # What a notebook has added to the path can be imported there too.
    path = os.pathsep.join(filter(None, sys.path))
    with (
        _shown(),
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # so that Ctrl-C reaches it once, through this process
        ) as process,
    ):
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    log.info("%s", line.rstrip("\n"))
                    last = line.strip() or last
                return process.wait(), last
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
            except BaseException:
                process.terminate()
                raise


@dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """The predictions of a model for N pictures; a notebook shows the first ones with bar charts.

    Attributes:
        title: the model and its data.
        class_names: K names.
        names: N names of the pictures.
        pixels: as the model sees them, uint8 (N, C, H, W).
        probabilities: of the classes, float32 (N, K).
        top: the most probable classes of each, int64 (N, T), the first one first.
        unreadable: file -> why it could not be read; not among the N pictures.
    """

    title: str
    class_names: list[str]
    names: list[str]
    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    top: NDArray[np.int64]
    unreadable: dict[str, str]

    @property
    def labels(self) -> list[str]:
        """The most probable class of each picture, N names."""
        return [self.class_names[number] for number in self.top[:, 0]]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        few = ", ".join(self.labels[:SHOWN]) + (", …" if len(self) > SHOWN else "")
        return f"<Predictions of {len(self)} pictures: {few}>"

    def _repr_html_(self) -> str:
        found = zip(self.names, self.labels, self.probabilities.max(1, initial=0), strict=True)
        few = [(name, label, float(top)) for name, label, top in islice(found, SHOWN)]
        return predictions_html(self.title, few, len(self), self.unreadable, self._png())

    def _png(self) -> bytes | None:
        if not len(self):
            return None
        rows = zip(self.names, self.pixels, self.probabilities, strict=True)
        few = [Classified(*row) for row in islice(rows, SHOWN)]
        return classified_sheet(few, self.class_names, self.title).png()


def predict(
    model: nn.Module | Result | str | Path | Sequence[str | Path],
    pictures: str | Path | Sequence[str | Path] | NDArray[np.uint8] | Tensor,
    *,
    invert: bool | str = "auto",
    tta: str = "none",
    temperature: str = "on",
) -> Predictions:
    """Classify pictures.

    Args:
        model: the result of :func:`discern.load` or :func:`discern.train`, on the CPU; or a
            checkpoint: its path, a run's folder, ``last`` for the newest run or ``best`` for the
            best one; or a list of checkpoints, for the mean of their probabilities.
        pictures: a file, a folder with everything in it, a pattern such as ``photos/*.jpg``, or
            several of these, preprocessed as by ``discern predict``; or pixels as in the data set,
            uint8 (N, C, H, W).
        invert: whether dark and light are swapped in files; ``auto`` swaps them in dark-on-light
            pictures if the model was trained on light-on-dark ones.
        tta: test-time augmentation: ``flip``, the mean over a picture and its mirror image;
            ``five_crop``, over its corners and its centre; ``none``.
        temperature: ``on`` for probabilities that are calibrated by the model's temperature, where
            it has one; ``off`` for those of the network.

    Raises:
        DiscernError: the checkpoint cannot be read, there is no such picture, or the pixels have
            another shape than the model takes.
    """
    if invert not in ("auto", True, False):
        raise DiscernError(f"invert={invert} is not allowed; it must be auto, True or False.")
    for name, value, allowed in (
        ("tta", tta, ("none", "flip", "five_crop")),
        ("temperature", temperature, ("on", "off")),
    ):
        if value not in allowed:
            raise DiscernError(
                f"{name}={value} is not allowed; {did_you_mean(str(value), allowed)}"
            )
    members = _members(model)
    if as_exported(members[0].network) is not None and (tta, temperature) != ("none", "on"):
        raise DiscernError(
            f"tta={tta} and temperature={temperature} are not possible together with an exported "
            "model, which is as it was exported; give the checkpoint."
        )
    training = [member.network.training for member in members]
    try:
        for member in members:
            member.network.eval()
        if len(members) > 1 or tta != "none":
            shown = combined(members, tta, calibrated=temperature == "on")
        else:
            shown = members[0] if temperature == "on" else without_temperature(members[0])
        if isinstance(pictures, (np.ndarray, Tensor)):
            return _of_pixels(np.asarray(pictures), shown)
        wanted = [pictures] if isinstance(pictures, (str, Path)) else pictures
        files = [file for one in wanted for file in find_files(str(one))]
        return _of_files(files, shown, invert)
    finally:
        for member, before in zip(members, training, strict=True):
            member.network.train(before)


def _members(model: nn.Module | Result | str | Path | Sequence[str | Path]) -> Sequence[Model]:
    if isinstance(model, (list, tuple)):
        return members_of([str(each) for each in model], None)
    return [_model(model)]


def _model(model: object) -> Model:
    if isinstance(model, (str, Path)):
        model = load_model(model)
    if isinstance(model, Result):
        model = model.model
    if isinstance(model, Classifier):
        return Model(model.network, Card.model_validate(model.card))
    card = getattr(model, "card", None)
    if isinstance(card, Card) and hasattr(model, "of_pictures"):  # its temperature is in its graph
        card = card.model_copy(update={"temperature": None})
    if not isinstance(card, Card) or not isinstance(model, nn.Module):
        raise DiscernError(
            f"predict needs a model of discern.load or discern.train, not a {type(model).__name__}."
        )
    return Model(model, card)


def _of_pixels(pixels: NDArray[np.uint8], model: Model) -> Predictions:
    card = model.card
    if pixels.dtype != np.uint8 or pixels.shape[1:] != card.input_shape:
        raise DiscernError(
            f"predict needs pixels of type uint8 and shape (N, {_shape(card.input_shape)}), and "
            f"got {pixels.dtype} ({_shape(pixels.shape)})."
        )
    starts = range(0, max(1, len(pixels)), BATCH)  # of no picture one batch, which is empty
    parts = [probabilities_of(model, pixels[start : start + BATCH]) for start in starts]
    return Predictions(
        title_of(card),
        card.class_names,
        [f"picture {number}" for number in range(len(pixels))],
        pixels,
        np.concatenate([probabilities for probabilities, _ in parts]),
        np.concatenate([top for _, top in parts]),
        {},
    )


def _shape(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _of_files(files: list[Path], model: Model, invert: bool | str) -> Predictions:
    batches = list(classify_files(files, model, invert))
    reasons = {path: reason for batch in batches for path, reason in batch.reasons.items()}
    return Predictions(
        title_of(model.card),
        model.classes,
        [printable(path) for path, reason in reasons.items() if reason is None],
        np.concatenate([batch.pixels for batch in batches]),
        np.concatenate([batch.probabilities for batch in batches]),
        np.concatenate([batch.top for batch in batches]),
        {printable(path): reason for path, reason in reasons.items() if reason is not None},
    )
