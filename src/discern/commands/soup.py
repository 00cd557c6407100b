"""Model soups (Wortsman et al., 2022): the mean of the weights of several runs, as one model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from discern.commands.members import Member, known_to_any
from discern.data.module import ImageDataModule
from discern.errors import DiscernError
from discern.models.card import CARD
from discern.models.checkpoint import STATE, write
from discern.models.saved import BACKBONE, IMAGES, has_backbone, rebuilt
from discern.models.temperature import NoTemperatureError, fit_temperature
from discern.models.transfer import TransferClassifier
from discern.training.job import relative

log = logging.getLogger(__name__)

MAX_IMAGES = 10_000
"""Training images by which the statistics of batch normalisation are measured."""

NOT_OF_THE_NETWORK = ("dropout", "unfreeze", "train_bn", "weights")
"""Settings of a model that its training differs by, and not what its layers compute."""


def soup(members: Sequence[Member], data: ImageDataModule, path: Path) -> Member:
    """Write the mean of the weights of several models as a checkpoint, and load it.

    The statistics of batch normalisation that differ between the models are measured anew on
    training images, and a temperature is fitted on validation images, where the data are those of
    the models' runs.

    Args:
        members: of one architecture.
        data: that are measured, set up.
        path: a new file.

    Raises:
        DiscernError: they are of different architectures.
    """
    first = members[0]
    for other in members[1:]:
        _check_architecture(first, other)
    states = [member.network.state_dict() for member in members]
    first.network.load_state_dict(_mean(states))
    if isinstance(first.network, TransferClassifier):
        first.network.engine = None  # only torch's own layers collect statistics
    _say_or_measure_statistics(first.network, states, data)
    state = first.network.state_dict()
    if not any(map(_holds_backbone, members)) and len({*map(_backbone, members)}) == 1:
        state = {name: part for name, part in state.items() if not name.startswith(BACKBONE)}
    temperature = _temperature(first.network, data)
    card = first.card.model_copy(update={"temperature": temperature, "metrics": {}})
    content = {STATE: state, CARD: card.model_dump()}
    if IMAGES in first.content:
        content[IMAGES] = known_to_any(members).tensors()
    write(content, path)
    network = rebuilt(path, content)
    return replace(first, network=network, card=card, path=path, content=content, epoch=None)


def _holds_backbone(member: Member) -> bool:
    return has_backbone(member.content[STATE])


def _backbone(member: Member) -> str:
    """The digest of a published backbone."""
    return "" if member.card.backbone is None else member.card.backbone.digest


def _check_architecture(one: Member, other: Member) -> None:
    """Check that the weights of two models mean the same.

    Raises:
        DiscernError: their layers differ.
    """
    model, another = one.card.model, other.card.model
    settings, others = (
        {name: value for name, value in each.settings.items() if name not in NOT_OF_THE_NETWORK}
        for each in (model, another)
    )
    shapes, further = (
        {name: part.shape for name, part in each.network.state_dict().items()}
        for each in (one, other)
    )
    if model.name != another.name:
        differ = f"one is {model.name}, the other {another.name}"
    elif settings != others:
        names = [n for n in {**settings, **others} if settings.get(n) != others.get(n)]
        differ = f"they differ in model.{', model.'.join(names[:5])}"
    elif shapes != further:
        differ = "their layers have different shapes"
    else:
        return
    raise DiscernError(
        f"ensemble=soup is the mean of the weights of one architecture, and {relative(one.path)} "
        f"and {relative(other.path)} have two: {differ}; ensemble=mean is possible."
    )


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor, in float64; of whole numbers the first one's."""
    return {
        name: sum(state[name].double() for state in states).div(len(states)).to(part.dtype)  # type: ignore[union-attr]
        if part.is_floating_point()
        else part
        for name, part in states[0].items()
    }


def _say_or_measure_statistics(
    network: nn.Module, states: Sequence[dict[str, Tensor]], data: ImageDataModule
) -> None:
    """Measure the statistics of batch normalisation that are not the same in all models."""
    layers = [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, BatchNorm)
        and layer.running_mean is not None
        and any(
            not torch.equal(state[f"{name}.{part}"], states[0][f"{name}.{part}"])
            for state in states
            for part in ("running_mean", "running_var")
        )
    ]
    if not layers:
        return
    if not data.are_own or not len(data.train_dataset):
        log.warning(
            "The statistics of %d layers of batch normalisation are the means of the models' own: "
            "the training images are not at hand, on which they would be measured anew.",
            len(layers),
        )
        return
    images = _measure(network, layers, data)
    log.info(
        "The statistics of %d layers of batch normalisation are measured anew on %s training "
        "images.",
        *(len(layers), f"{images:,}"),
    )


def _measure(network: nn.Module, layers: Sequence[BatchNorm], data: ImageDataModule) -> int:
    """Set running means and variances to those of training images; the number of images."""
    chosen = np.unique(np.linspace(0, len(data.train_dataset) - 1, MAX_IMAGES).astype(np.int64))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean of all batches
        layer.train()
    # Of one image many layers have no variance.
    parts = np.array_split(chosen, max(1, len(chosen) // max(2, data.eval_batch_size)))
    with torch.no_grad():
        for part in parts:
            images, _ = data.train_dataset.__getitems__(part.tolist())
            network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    return len(chosen)


def _temperature(network: nn.Module, data: ImageDataModule) -> float | None:
    logits, labels = [], []
    try:
        if not data.are_own or not data.has_validation:
            raise NoTemperatureError("the validation images are not at hand")
        with torch.inference_mode():
            for images, truth in data.sequential_loader(data.val_dataset, data.eval_batch_size):
                logits.append(network(images))
                labels.append(truth)
        temperature = fit_temperature(torch.cat(logits), torch.cat(labels))
    except NoTemperatureError as error:
        log.info("No temperature is fitted to the soup: %s.", error)
        return None
    log.info(
        "The soup's temperature is %.4g, fitted on %s validation images that no member is trained "
        "on.",
        *(temperature, f"{sum(map(len, labels)):,}"),
    )
    return temperature
