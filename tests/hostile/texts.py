"""Texts as a stranger may choose them for names, keys and settings, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

CHOSEN = (
    "\x1b]0;title\x07", "\x1b[2J\x1b[31mred", "\x9b31m", "a\rb", "a\nb", "a\tb", "\0", "\x7f",
    "a\u202egpj.exe", "\u2066a\u2069", "\u2028", "\ud800", "=HYPERLINK(1)", "+1+1", "-2+3",
    "@SUM(1)", "'=1", "''-x", "\t=1", "\r=1", "＝1", "-0.5", "1e3", "[red]red[/red]", "[/]",
    "<script>x</script>", "</script>", "${oc.env:HOME}", "{{7*7}}", "%s%n", "..", "a,b",
    'a"b', "x" * 5000, "",
)  # fmt: skip


def texts(seed: int) -> Iterator[str]:
    """All that are chosen, then pieces of them put together, without end."""
    yield from CHOSEN
    generator = random.Random(seed)
    while True:
        pieces = generator.choices(CHOSEN, k=generator.randrange(1, 5))
        yield "".join(piece[: generator.randrange(1, 40)] for piece in pieces)
