"""Texts as wide as they may be: measured, wrapped, and shortened in the middle."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from discern.reports.fonts import drawable, families

DPI = 120
"""Dots per inch of the files."""

_JOINER = "\u200d"


@lru_cache(4096)
def width_of(text: str, size: float, weight: str = "normal") -> float:
    """The width of a text's longest line, in inches, in ``size`` points."""
    lines = drawable(text).split("\n")  # first, since it may find a font
    properties = FontProperties(family=families(), size=size, weight=weight)
    measure = _renderer().get_text_width_height_descent
    return max(float(measure(line, properties, False)[0]) for line in lines) / DPI  # type: ignore[no-untyped-call]


@cache
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]


def shortened(text: str, width: float, size: float, weight: str = "normal") -> str:
    """A text on one line of at most ``width`` inches, shortened in the middle."""
    line = drawable(" ".join(text.split()))
    if width_of(line, size, weight) <= width:
        return line
    parts = _clusters(line)
    fewest, most = 0, len(parts) - 1
    while fewest < most:
        kept = (fewest + most + 1) // 2
        if width_of(_without_middle(parts, kept), size, weight) <= width:
            fewest = kept
        else:
            most = kept - 1
    return _without_middle(parts, fewest)


def _without_middle(parts: Sequence[str], kept: int) -> str:
    tail = (kept + 1) // 2
    return "".join((*parts[: kept - tail], "…", *parts[len(parts) - tail :]))


def _clusters(text: str) -> list[str]:
    """The parts that may be told apart: a letter with its accents, signs joined to one."""
    parts: list[str] = []
    for character in text:
        joined = parts and (
            unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")
            or parts[-1].endswith(_JOINER)
        )
        if joined:
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def wrapped(text: str, width: float, size: float, lines: int, weight: str = "normal") -> str:
    """A text in at most so many lines of ``width`` inches; the last is shortened if need be."""
    words, done = drawable(" ".join(text.split())).split(" "), list[str]()
    while words and len(done) < lines - 1:
        count = 1
        while count < len(words) and width_of(" ".join(words[: count + 1]), size, weight) <= width:
            count += 1
        done.append(shortened(" ".join(words[:count]), width, size, weight))
        words = words[count:]
    if words:
        done.append(shortened(" ".join(words), width, size, weight))
    return "\n".join(done)


def distinct(
    names: Sequence[str], width: float, size: float, lines: int = 1, weight: str = "normal"
) -> list[str]:
    """Names in at most so many lines of ``width`` inches, no two of which look the same.

    Names that shortening makes alike get their number, from 0.
    """
    shown = [wrapped(name, width, size, lines, weight) for name in names]
    count = Counter(shown)
    for number, (name, text) in enumerate(zip(names, shown, strict=True)):
        if count[text] > 1 and "…" in text:
            end = f" #{number}"
            shown[number] = shortened(name, width - width_of(end, size, weight), size, weight) + end
    return shown
