"""Calibrating the model of a run: its temperature, in the card of the best checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from discern.data.module import ImageDataModule
from discern.models.card import CARD
from discern.models.checkpoint import write
from discern.models.classifier import Classifier
from discern.models.saved import Content
from discern.models.temperature import NoTemperatureError, fit_temperature
from discern.reports.measures import values_of
from discern.runs.predictions import Predictions
from discern.training.outputs import TestOutputs
from discern.training.seam import settings_of

log = logging.getLogger(__name__)

Facts = dict[str, Any]
"""What the summary says of a calibration."""

CHANGED = ("loss", "ece")
"""The metrics that a temperature changes."""


def calibrate(
    trainer: Trainer, model: Classifier, data: ImageDataModule, best: Path, content: Content
) -> Facts:
    """Fit a temperature on the validation images, and write it into the best checkpoint.

    It changes nothing that training goes on from: the weights stay as they are, and so does the
    last checkpoint.

    Args:
        trainer: the run's, after training.
        model: with the weights of the best checkpoint.
        data: the run's.
        best: the checkpoint, which is written anew, whole or not at all.
        content: what is in it.

    Returns:
        The temperature, or None and the reason; and what it changes on the validation images.
    """
    try:
        logits, labels = _validated(trainer, model, data)
        temperature = fit_temperature(logits, labels)
        content[CARD] = {**content[CARD], "temperature": temperature}
        write(content, best)
    except NoTemperatureError as error:
        log.info("No temperature is fitted, and probabilities stay as they are: %s.", error)
        return {"temperature": None, "reason": str(error)}
    except OSError as error:  # such as a full disk: the checkpoint is as it was
        reason = f"the checkpoint cannot be written: {error.strerror}"
        log.warning("No temperature is kept, and probabilities stay as they are: %s.", reason)
        return {"temperature": None, "reason": reason}
    model.card = content[CARD]
    change = changes(logits, labels, temperature)
    log.info(
        "Calibrated: temperature %.4g, fitted on %s validation images, whose calibration error it "
        "changes from %.4f to %.4f.",
        *(temperature, f"{len(labels):,}", *change["ece"]),
    )
    return {"temperature": temperature, "images": len(labels), "val": change}


def changes_of_test(outputs: TestOutputs, facts: Facts) -> Facts:
    """What a calibration's temperature changes on the test images; nothing without either."""
    temperature = facts.get("temperature")
    if temperature is None or outputs.logits is None or outputs.labels is None:
        return {}
    return {"test": changes(outputs.logits, outputs.labels, temperature)}


def changes(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, list[float]]:
    """Loss and calibration error before and after a temperature; of logits (N, K), labels (N,)."""
    names = [str(number) for number in range(logits.shape[1])]
    found = [
        values_of(Predictions.of(logits, labels, labels, names, temperature=each))
        for each in (None, temperature)
    ]
    return {name: [one[name] for one in found] for name in CHANGED}


def _validated(trainer: Trainer, model: Classifier, data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """Logits float32 (N, K) and labels (N,) of the images that training was validated on.

    They are what :func:`discern.load` gives: in full precision, whatever that of training.
    """
    if settings_of(trainer).overfit_batches:
        raise NoTemperatureError("trainer.overfit_batches trains on a few batches only")
    if not isinstance(data, ImageDataModule):
        raise NoTemperatureError("the data module is not one of discern's")
    if not data.has_validation or trainer.limit_val_batches == 0:
        raise NoTemperatureError("there are no validation images")
    loader = data.sequential_loader(data.evaluated("val"), data.eval_batch_size)
    network, device = model.network, trainer.strategy.root_device
    one = next(network.parameters(), torch.empty(0))
    home, dtype, training = one.device, one.dtype, network.training
    logits, labels = [], []
    try:
        network.to(device).eval()
        with torch.inference_mode():
            for images, truth in loader:
                logits.append(network(images.to(device, dtype)).float().cpu())
                labels.append(truth.cpu())
    finally:
        network.to(home).train(training)
    return torch.cat(logits), torch.cat(labels)
