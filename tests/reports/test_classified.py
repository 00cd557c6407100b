from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image

from discern.reports.classified import Classified, classified_sheet
from discern.reports.explain import overlay
from discern.reports.sheet import BLUE, GREY, Sheet


@pytest.fixture
def page(monkeypatch):
    """The texts of a page, and its bars as (width, colour) without those of the legend."""
    seen = {"texts": [], "bars": []}
    text, bars = Sheet.text, Sheet.bars

    def keep_text(sheet, content, *args, **style):
        seen["texts"].append(content)
        text(sheet, content, *args, **style)

    def keep_bars(sheet, boxes, colours):
        if len(boxes) > 1:
            lengths = [right - left for left, _, right, _ in boxes]
            seen["bars"].append(list(zip(lengths, colours, strict=True)))
        bars(sheet, boxes, colours)

    monkeypatch.setattr(Sheet, "text", keep_text)
    monkeypatch.setattr(Sheet, "bars", keep_bars)
    return seen


def picture(*probabilities: float, name: str = "x.png", channels: int = 1) -> Classified:
    return Classified(
        name, np.zeros((channels, 28, 28), np.uint8), np.array(probabilities, np.float32)
    )


def draw(pictures, names, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classified_sheet(pictures, names, "mlp").save(path)
    return Image.open(path).size


def test_a_bar_is_as_long_as_the_class_is_probable(page, tmp_path):
    draw([picture(0.125, 0.625, 0.25)], ["cat", "dog", "owl"], tmp_path / "x.png")
    ((cat, dog, owl),) = page["bars"]
    assert (cat[1], dog[1], owl[1]) == (GREY, BLUE, GREY)
    assert dog[0] / cat[0] == pytest.approx(5)
    assert owl[0] / cat[0] == pytest.approx(2)
    for text in ("mlp", "x.png", "cat", "dog", "owl", "62.5 %", "probability", "predicted class"):
        assert text in page["texts"]


def test_of_many_classes_the_most_probable_are_shown_in_order(page, tmp_path):
    probabilities = np.arange(100) / np.arange(100).sum()
    draw([picture(*probabilities)], [f"c{n}" for n in range(100)], tmp_path / "x.png")
    shown = [text for text in page["texts"] if text.startswith("c")]
    assert shown == [f"c{n}" for n in range(99, 89, -1)]
    assert [colour for _, colour in page["bars"][0]] == [BLUE] + [GREY] * 9


def test_what_speaks_for_the_class_is_beside_its_picture_and_the_legend_says_so(
    page, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(Sheet, "picture", lambda sheet, pixels, *box: drawn.append((pixels, box)))
    plain = [picture(0.25, 0.75, channels=3), picture(0.5, 0.5)]
    names = ["cat", "dog"]
    width, _ = draw(plain, names, tmp_path / "x.png")
    assert len(drawn) == 2
    assert not any("Grad-CAM" in text for text in page["texts"])

    drawn.clear()
    importance = np.zeros((28, 28), np.float32)
    importance[3, 4] = 2
    explained = [dataclasses.replace(it, importance=importance) for it in plain]
    wider, _ = draw(explained, names, tmp_path / "y.png")
    (_, legend), *cells = drawn
    assert sum("Grad-CAM" in text for text in page["texts"]) == 1
    for (pixels, (left, top, side, _)), (colours, box) in zip(cells[::2], cells[1::2], strict=True):
        assert legend[1] < top
        assert box[1] == top
        assert left + side < box[0] < left + 1.1 * side
        assert not pixels.any()
        assert np.array_equal(colours, overlay(pixels, importance))
    assert wider > width


def test_many_pictures_and_odd_names_fit_on_the_page(page, tmp_path):
    pictures = [picture(0.5, 0.5, name="a/$b$/" * 30, channels=3) for _ in range(12)]
    width, height = draw(pictures, ["a $ class " * 9, "b"], tmp_path / "x.png")
    assert len(page["bars"]) == 12
    assert max(map(len, page["texts"])) < 100
    assert width < 2500
    assert height < 2500
