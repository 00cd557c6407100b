from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from numpy.typing import NDArray

from discern.reports import fonts, lettering
from discern.reports.fonts import drawable, families, isolated
from discern.reports.sheet import Sheet, rendered


def make_font(path: Path, family: str, characters: str) -> None:
    """A font all of whose characters are black squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for corner in ((50, 700), (950, 700), (950, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(each):x}" for each in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """A machine without fonts of its own, in a process that has not drawn; installs fonts."""
    files: list[str] = []
    monkeypatch.setattr(fonts, "findSystemFonts", lambda folders=None: [] if folders else files)
    monkeypatch.setattr(fonts, "_FOUND", fonts._Found())
    monkeypatch.setattr(fonts.fontManager, "ttflist", [*fonts.fontManager.ttflist])
    caches = fonts._installed, lettering.width_of
    for cached in caches:
        cached.cache_clear()

    def install(family: str, characters: str) -> None:
        path = tmp_path / f"{family}.ttf"
        make_font(path, family, characters)
        files.append(str(path))

    yield install
    for cached in caches:
        cached.cache_clear()


def test_a_character_that_matplotlib_s_font_lacks_is_drawn_with_one_that_has_it(machine):
    machine("Han Sans", "猫狗")
    machine("Han Serif", "猫")
    sheet = Sheet(2, 1, "猫")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dark = (rendered(sheet.finished()) < 100).sum()
    assert dark > 150  # a square
    assert drawable("a 狗") == "a 狗"
    assert families()[-1] == "Han Sans"
    assert "Han Serif" not in families()


def test_a_character_that_no_font_has_is_its_code_which_is_said_once(machine, caplog):
    with caplog.at_level(logging.WARNING):
        assert drawable("cat 猫") == "cat \\u732b"
        assert drawable("狗") == "\\u72d7"
    (record,) = caplog.records
    said = record.getMessage()
    assert "No font on this machine has characters such as 猫" in said
    assert "apt install fonts-noto" in said


def test_an_emoji_that_no_font_has_is_its_name_without_what_joins_it(machine):
    assert drawable("👩\u200d🔬\ufe0f!") == "[woman][microscope]!"


def test_a_font_that_has_every_character_is_no_font(machine):
    machine("Last Resort", "猫")
    assert drawable("猫") == "\\u732b"


@pytest.mark.parametrize("text", ["cat 9 $", "Köln", "кот", "γάτα", "قطة", "a\nb"])
def test_what_matplotlib_has_itself_costs_no_search(machine, monkeypatch, text):
    monkeypatch.setattr(fonts, "_installed", lambda: pytest.fail("fonts were searched for"))
    assert drawable(text) == text
    figure = Figure()
    before = figure.text(0, 0, text).get_fontfamily()
    fonts.fall_back(figure)
    assert figure.texts[0].get_fontfamily() == before


def test_a_name_from_right_to_left_turns_nothing_around_beside_it(machine):
    """In ``true قطة (96.3 %)`` the number would otherwise belong to the Arabic."""

    def drawn(text: str) -> NDArray[np.uint8]:
        sheet = Sheet(3, 1, "")
        sheet.text(text, 0.1, 0.5)
        return rendered(sheet.finished())

    beside = drawn(f"true {isolated('قطة')} (96.3 %)")
    assert not np.array_equal(beside, drawn("true قطة (96.3 %)"))
    # The number is where it is beside a name as wide from left to right.
    end = drawn(" (96.3 %)")
    columns = np.flatnonzero((end < 128).any(axis=(0, 2)))
    number = end[:, columns[0] : columns[-1] + 1]
    last = np.flatnonzero((beside < 128).any(axis=(0, 2)))[-1]
    assert np.array_equal(beside[:, last + 1 - number.shape[1] : last + 1], number)
    assert isolated("cat") == "cat"
