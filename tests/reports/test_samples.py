from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from discern.reports.samples import as_pixels, draw_grid, top_losses
from discern.reports.sheet import Sheet
from discern.runs.predictions import Predictions

HALF = {"mean": 0.5, "std": 0.5}


@pytest.fixture
def page(monkeypatch):
    """What is put on a page: texts and pictures."""
    seen = {"texts": [], "pictures": []}
    text, picture = Sheet.text, Sheet.picture

    def keep_text(sheet, content, *args, **style):
        seen["texts"].append(content)
        text(sheet, content, *args, **style)

    def keep_picture(sheet, pixels, *args):
        seen["pictures"].append(pixels)
        picture(sheet, pixels, *args)

    monkeypatch.setattr(Sheet, "text", keep_text)
    monkeypatch.setattr(Sheet, "picture", keep_picture)
    return seen


@pytest.mark.parametrize(
    ("shape", "mean", "std"),
    [((1, 28, 28), 0.5, 0.5), ((3, 5, 9), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])],
)
def test_samples_show_the_pixels_that_were_normalised(page, tmp_path, shape, mean, std):
    pixels = np.random.default_rng(0).integers(0, 256, (7, *shape), dtype=np.uint8)
    means, stds = (torch.tensor(value).reshape(-1, 1, 1) for value in (mean, std))
    images = (torch.from_numpy(pixels) / 255 - means) / stds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captions = [(name,) for name in ("$x", "b", "$x", "b", "b", "b", "$x")]
        draw_grid(
            as_pixels(images, {"mean": mean, "std": std}),
            captions,
            "Seven images",
            tmp_path / "samples.png",
        )
    assert page["texts"] == ["Seven images", "$x", "b", "$x", "b", "b", "b", "$x"]
    assert np.array_equal(page["pictures"], pixels)
    assert Image.open(tmp_path / "samples.png").width > 300


def test_what_was_out_of_range_is_cut_and_not_wrapped():
    assert as_pixels(torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1), HALF).ravel().tolist() == [
        0,
        255,
    ]


def test_the_image_itself_is_on_the_page(tmp_path):
    images = torch.full((1, 1, 4, 4), 1.0)
    images[..., :2, :] = -1
    draw_grid(as_pixels(images, HALF), [("a",)], "", tmp_path / "x.png")
    drawn = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    dark = np.argwhere(drawn[60:] < 5)  # below the title
    high, wide = dark.max(axis=0) - dark.min(axis=0)
    assert wide == pytest.approx(2 * high, abs=20)


def test_top_losses_say_label_prediction_probability_and_loss(page, tmp_path):
    logits = torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    predictions = Predictions.of(logits, torch.tensor([0, 0, 0]), torch.arange(3), ["cat", "dog"])
    pixels = np.zeros((2, 1, 3, 3), np.uint8)
    top_losses(predictions, predictions.worst(2), pixels, "The worst").save(tmp_path / "x.png")
    assert page["texts"] == [
        "The worst",
        *("true cat, predicted dog (88.1 %)", "loss 2.13"),
        *("true cat, predicted dog (73.1 %)", "loss 1.31"),
    ]


def test_what_a_terminal_obeys_reaches_no_warning_of_a_letter_that_no_font_has(page, tmp_path):
    sheet = Sheet(1, 1, "\x1b]0;x\x07")
    sheet.text("\x1b[2J\x9b31m\u202e", 0, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet.save(tmp_path / "x.png")
