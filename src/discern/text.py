"""Texts of others, as a terminal or a page may have them."""

import os
import re
from pathlib import Path

# Controls, marks that turn the direction of writing or begin a line, and halves of characters.
_OBEYED = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"


_UNSEEN = re.compile(f"[{_OBEYED}]")


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


_UNSEEN_IN_LINES = re.compile(f"(?![\n\t])[{_OBEYED}]")


def visible(text: str, *, lines: bool = False) -> str:
    """A text as a terminal may have it: what it would obey and not show is written as an escape.

    With ``lines``, ends of lines and tabs stay.
    """
    unseen = _UNSEEN_IN_LINES if lines else _UNSEEN
    return unseen.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    names = {9: "\\t", 10: "\\n", 13: "\\r"}
    return names.get(code) or (f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}")


def decoded(path: Path) -> str:
    """The path as text; what is no UTF-8 shows its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(path: Path) -> str:
    """The path as text on one line, controls in it as escapes; what is no UTF-8 shows its bytes.

    Marks of the direction of writing stay: they are in names of people's own files.
    """
    return _CONTROLS.sub(lambda found: _escape(ord(found[0])), decoded(path))
