"""Running exported models, and discern's own path beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from discern.data.in_memory import InMemoryImages
from discern.data.preprocessing import Preprocessing
from discern.models.card import Card

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

Run = Callable[[Pixels], Floats]
"""Pixels, uint8 (N, H, W, C) -> probabilities, float32 (N, K)."""

MAX_BATCH_PIXELS = 2**24
"""Values of the pixels that a model is given at once."""


def run_pictures(run: Run, pictures: Sequence[Pixels]) -> Floats:
    """The probabilities (N, K) of pictures, each (H, W, C); those of one size run together."""
    found: list[Floats] = []
    start = 0
    while start < len(pictures):
        shape = pictures[start].shape
        end = start + 1
        most = start + max(1, MAX_BATCH_PIXELS // pictures[start].size)
        while end < min(len(pictures), most) and pictures[end].shape == shape:
            end += 1
        found.append(run(np.stack(pictures[start:end])))
        start = end
    return np.concatenate(found)


def preprocessing_of(card: Card) -> Preprocessing | None:
    """How photographs are prepared for a model; None for a model of small images."""
    known = card.preprocessing
    if known.resize is None or known.interpolation is None:
        return None
    mean, std = (
        tuple(values) if isinstance(values, list) else (values,)
        for values in (known.mean, known.std)
    )
    return Preprocessing(card.input_shape[1], known.resize, known.interpolation, mean, std)


def prepared(card: Card, pictures: Sequence[Pixels]) -> Tensor:
    """The network's input, float32 (N, C, S, S), by the path that discern itself takes."""
    photographs = preprocessing_of(card)
    if photographs is not None:
        cut = [photographs.centre(Image.fromarray(picture)) for picture in pictures]
        return photographs.normalised(
            torch.stack(cut).contiguous(memory_format=torch.channels_last)
        )
    channels, height, width = card.input_shape
    fitted = [
        np.asarray(
            ImageOps.fit(
                Image.fromarray(picture[..., 0] if channels == 1 else picture),
                (width, height),
                Image.Resampling.BILINEAR,
            )
        ).reshape(height, width, channels)
        for picture in pictures
    ]
    pixels = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    data = InMemoryImages(pixels, labels, card.preprocessing.mean, card.preprocessing.std)
    return data.normalised(pixels)


def runs_in_torch(network: nn.Module, temperature: float = 1.0) -> Run:
    """discern's own path from pixels to probabilities."""
    card: Card = network.card  # type: ignore[assignment]

    def run(pixels: Pixels) -> Floats:
        with torch.inference_mode():
            logits = network(prepared(card, list(pixels))) / temperature
            found: Floats = logits.softmax(1).numpy()
        return found

    return run
