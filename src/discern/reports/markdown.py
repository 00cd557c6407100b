"""Texts from files as Markdown and YAML that show them and do nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml

from discern.text import visible

_MEANT = re.compile(r"([\\`*_{}\[\]#!|~$@:^])")

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

MAX_TEXT = 300
"""Characters of a text in a table or a sentence."""


def escaped(text: object) -> str:
    """A text of one line in which no character means anything to Markdown or HTML.

    Punctuation has backslashes, so that addresses, mentions and formulas stay text too.
    """
    shown = visible(str(text)).strip()
    if len(shown) > MAX_TEXT:
        shown = f"{shown[:MAX_TEXT]} …"
    shown = _MEANT.sub(r"\\\1", re.sub("[&<>]", lambda found: _ENTITIES[found[0]], shown))
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:3]}&#46;", shown)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, the first column to the left and the others to the right."""
    lines = [list(map(escaped, header)), ["---", *["---:"] * (len(header) - 1)]]
    lines += [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(text: str, language: str = "") -> str:
    """A block of code, fenced by more backticks than the text has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text, lines=True)}\n{fence}"


def front_matter(values: dict[str, object]) -> str:
    """The YAML at the beginning of a file, between two lines of dashes.

    Args:
        values: plain ones, whose texts have no line ends.
    """
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=1_000_000)
    return f"---\n{text}---"
