"""Fonts for the characters that matplotlib's own font lacks, such as Chinese class names."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from numpy.typing import NDArray

from discern.text import visible

log = logging.getLogger(__name__)

ISOLATE, END = "\u2068", "\u2069"
"""Around a name of unknown direction, so that it turns nothing around beside it."""

_PLACEHOLDERS = ("lastresort", "adobeblank")
"""Families that have a glyph for every character, none of which is the character."""


def drawable(text: str) -> str:
    """A text all of whose characters can be drawn.

    A character that no font has becomes its code or, for a symbol such as an emoji, its name; a
    control character other than a line end becomes its code. Fonts are searched for only if a
    character is not in matplotlib's own.
    """
    if text.isascii() and text.isprintable():
        return text
    parts = re.split(f"([{ISOLATE}{END}])", text.replace("\t", " "))
    text = "".join(part if part in (ISOLATE, END) else visible(part, lines=True) for part in parts)
    missing = _FOUND.without_glyph(text)
    if not missing:
        return text
    kept = (each for each in text if each in (ISOLATE, END) or not _is_unseen(each))
    return "".join(_written_out(each) if each in missing else each for each in kept)


def isolated(text: str) -> str:
    """A name to stand within a text, where it may be of a script from right to left."""
    return text if text.isascii() else f"{ISOLATE}{text}{END}"


def families() -> list[str]:
    """Font families for a text: matplotlib's own, and those that :func:`drawable` found."""
    return [*matplotlib.rcParams["font.family"], *_FOUND.families]


def fall_back(figure: Figure) -> None:
    """Let the texts of a figure fall back to the fonts that :func:`drawable` found."""
    if _FOUND.families:
        for text in figure.findobj(Text):
            text.set_fontfamily(families())


def _written_out(character: str) -> str:
    code = ord(character)
    if unicodedata.category(character) == "So" and (name := unicodedata.name(character, "")):
        return f"[{name.lower()}]"
    return f"\\u{code:04x}"


def _is_unseen(character: str) -> bool:
    """Whether it only says how to draw its neighbours: joiners, variation selectors, skin tones."""
    variation, tone = "\ufe00" <= character <= "\ufe0f", "\U0001f3fb" <= character <= "\U0001f3ff"
    return variation or tone or unicodedata.category(character) == "Cf"


@dataclass(frozen=True)
class _Installed:
    """A font file.

    Attributes:
        path: the file.
        quality: better first, among files with the same characters.
        codes: the code points that it has, ascending, uint32.
    """

    path: str
    quality: tuple[bool, ...]
    codes: NDArray[np.uint32]

    def has(self, wanted: Iterable[str]) -> set[str]:
        characters = list(wanted)
        held = np.isin([ord(each) for each in characters], self.codes)
        return {each for each, is_held in zip(characters, held, strict=True) if is_held}


class _Found:
    """The fonts found so far in this process, and the characters that none has.

    Attributes:
        families: names of the fonts.
    """

    def __init__(self) -> None:
        self.families: list[str] = []
        self._drawable: set[str] = set()
        self._missing: set[str] = set()
        self._has_told = False

    def without_glyph(self, text: str) -> set[str]:
        """The characters of a text that no font has."""
        new = set(text) - self._drawable - self._missing - {ISOLATE, END, "\n"}
        own = {each for each in new if ord(each) in _own_characters()}
        self._drawable |= own
        if wanted := new - own:
            self._search(wanted)
        return self._missing & set(text)

    def _search(self, wanted: set[str]) -> None:
        """Take the font that has most of the characters, until no font has another."""
        rest = set(wanted)
        while rest:
            held, _, font = max(
                ((font.has(rest), font.quality, font) for font in _installed()),
                key=lambda found: (len(found[0]), found[1], found[2].path),
                default=(set(), (), None),
            )
            if font is None or not held:
                break
            self._use(font.path, held)
            rest -= held
        self._drawable |= wanted - rest
        self._missing |= rest
        self._tell(sorted(rest))

    def _tell(self, missing: Iterable[str]) -> None:
        """Say once that there are characters without a font."""
        letters = [each for each in missing if unicodedata.category(each)[0] in "LNPS"]
        if letters and not self._has_told:
            self._has_told = True
            log.warning(
                "No font on this machine has characters such as %s, so that pictures show their "
                "codes; install one that has them, such as Noto (on Debian and Ubuntu: "
                "apt install fonts-noto fonts-symbola).",
                " ".join(letters[:3]),
            )

    def _use(self, path: str, characters: set[str]) -> None:
        # matplotlib warns of each weight that a family lacks.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        if all(entry.fname != path for entry in fontManager.ttflist):
            fontManager.addfont(path)
        names = [entry.name for entry in fontManager.ttflist if entry.fname == path]
        family = next((name for name in names if name.endswith(_style(characters))), names[0])
        if family not in self.families:
            self.families.append(family)


def _style(characters: set[str]) -> str:
    """The end of the name of a font in the regional style of Chinese characters."""
    if any("\u3040" <= each <= "\u30ff" for each in characters):
        return " JP"
    return " KR" if any("\uac00" <= each <= "\ud7a3" for each in characters) else " SC"


_FOUND = _Found()


@cache
def _own_characters() -> frozenset[int]:
    """The code points of the font that matplotlib uses by default."""
    return frozenset(FT2Font(findfont(FontProperties())).get_charmap())


@cache
def _installed() -> list[_Installed]:
    """The font files of this machine that matplotlib can draw with; a fifth of a second for 300."""
    # Not matplotlib's list, which it keeps between processes and would lack fonts installed since.
    return list(filter(None, map(_read, dict.fromkeys(findSystemFonts()))))


def _read(path: str) -> _Installed | None:
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):  # a damaged file
        return None
    family = font.family_name.lower()
    # Coloured emoji are pictures of one size.
    if not font.scalable or family.replace(" ", "").lstrip(".").startswith(_PLACEHOLDERS):
        return None
    regular = font.style_name.lower() in ("regular", "book", "roman", "medium")
    quality = (regular, "sans" in family, "noto" in family, "mono" not in family)
    return _Installed(path, quality, np.array(sorted(font.get_charmap()), np.uint32))
