from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from discern.runs.predictions import Predictions
from discern.runs.thumbnails import GALLERY, SIDE, chosen, thumbnails


def said(images: int, classes: int, seed: int = 0) -> Predictions:
    """What a model that guesses says."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    return Predictions.of(logits, labels, torch.arange(images), [f"c{n}" for n in range(classes)])


@given(st.integers(1, 200), st.integers(1, 12), st.integers(1, 300), st.integers(0, 5))
def test_what_is_chosen_is_distinct_and_no_more_than_asked_for(images, classes, most, seed):
    rows = chosen(said(images, classes, seed), most)
    assert len(set(rows.tolist())) == len(rows) <= most
    assert len(rows) == min(most, len(rows))
    assert ((rows >= 0) & (rows < images)).all()


def test_the_worst_come_first_and_each_confusion_has_its_worst():
    predictions = said(3000, 4)
    rows = chosen(predictions, 400)
    assert rows[:GALLERY].tolist() == predictions.worst(GALLERY).tolist()
    for label in range(4):
        for guess in range(4):
            cell = np.flatnonzero((predictions.labels == label) & (predictions.predicted == guess))
            worst = cell[np.argmax(predictions.losses[cell])]
            least = cell[np.argmin(predictions.margins[cell])]
            assert (worst if label != guess else least) in rows


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 120])
def test_each_picture_stands_in_its_place(channels, side):
    pixels = np.zeros((5, channels, side, side), np.uint8)
    for number in range(5):
        pixels[number] = 40 * number + 20
    shown = thumbnails(np.arange(5), pixels)
    sprite = Image.open(io.BytesIO(shown.picture))
    of = min(side, SIDE)
    assert sprite.size == (shown.columns * of, -(-5 // shown.columns) * of)
    for number in range(5):
        row, column = divmod(number, shown.columns)
        tile = np.asarray(
            sprite.crop((column * of, row * of, (column + 1) * of, (row + 1) * of)), np.float64
        )
        # To its edges: a neighbour does not shine through the JPEG.
        assert np.abs(tile - (40 * number + 20)).max() <= 3


def test_a_wide_image_is_whole_in_its_square():
    shown = thumbnails(np.arange(1), np.full((1, 3, 50, 100), 200, np.uint8))
    tile = np.asarray(Image.open(io.BytesIO(shown.picture)).convert("L"), np.float64)
    assert tile.shape == (SIDE, SIDE)
    assert tile[SIDE // 2].min() > 190
    assert tile[2].max() < 20


def test_an_image_between_the_two_sizes_fills_its_square():
    shown = thumbnails(np.arange(1), np.full((1, 3, 60, 60), 200, np.uint8))
    tile = np.asarray(Image.open(io.BytesIO(shown.picture)).convert("L"), np.float64)
    assert tile.shape == (SIDE, SIDE)
    assert tile.min() > 190
