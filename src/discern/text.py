"""Texts from files, made safe for a terminal or a page."""

import os
import re
from pathlib import Path

# Control characters, marks of direction, line separators, and surrogates.
_CONTROLLING = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


_UNSEEN = re.compile(f"[{_CONTROLLING}]")


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


_UNSEEN_IN_LINES = re.compile(f"(?![\n\t])[{_CONTROLLING}]")


def counted(number: int, one: str, many: str) -> str:
    """A number and the noun that goes with it, such as ``1 image is`` or ``1,234 images are``."""
    return f"{number:,} {one if number == 1 else many}"


def visible(text: str, *, lines: bool = False) -> str:
    """A text with escapes for the characters that a terminal would obey instead of showing.

    With ``lines``, line ends and tabs stay.
    """
    unseen = _UNSEEN_IN_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    names = {9: "\\t", 10: "\\n", 13: "\\r"}
    return names.get(code) or (f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}")


def decoded(path: Path) -> str:
    """The path as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(path: Path) -> str:
    """The path as text on one line; control characters and bytes that are not UTF-8 become escapes.

    Marks of direction stay: people's own file names have them.
    """
    return _CONTROLS.sub(lambda found: _escape(ord(found[0])), decoded(path))
