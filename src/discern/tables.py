"""Plain-text tables and lines that fit into the width of a terminal."""

import io
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from discern.text import visible


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int = 0,
    dispensable: Sequence[str] = (),
    blocks: Sequence[str] = (),
) -> str:
    """A plain-text table: the first column is left-aligned, the others are right-aligned.

    A table that is too wide becomes narrower step by step: its columns move together, a long first
    heading moves to a line above, dispensable columns are left out and named below, and the first
    column's cells continue on further lines; or, if there are any, the blocks are shown instead.

    Args:
        header, rows: the cells.
        width: characters of a line; 0 for the terminal's, 100 without a terminal.
        dispensable: headings of columns that may be left out, in the order in which they are.
        blocks: a block of lines for each row.
    """
    width = width or terminal_width(100)
    cells = [list(map(visible, row)) for row in (header, *rows)]
    if _narrowest(cells) <= width:
        return "\n".join(_drawn(cells, width))
    above: list[str] = []
    if cell_len(cells[0][0]) > max(SHORTEST_CELL, *(cell_len(row[0]) for row in cells[1:])):
        above, cells[0][0] = [*wrapped(cells[0][0], width), ""], ""
    left_out = []
    for name in filter(header.__contains__, dispensable):
        if _narrowest(cells, 2 * width // 5) <= width:
            break
        column = cells[0].index(visible(name))
        left_out.append(name)
        cells = [[*row[:column], *row[column + 1 :]] for row in cells]
    if _narrowest(cells) > width and blocks:
        return "\n".join(blocks)
    below = wrapped(f"Not shown on this narrow terminal: {', '.join(left_out)}.", width)
    return "\n".join([*above, *_drawn(cells, width), *(["", *below] if left_out else [])])


def fits(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = 0) -> bool:
    """Whether a table fits into a line, without its first heading and without leaving out any."""
    cells = [["", *map(visible, header[1:])], *(list(map(visible, row)) for row in rows)]
    return _narrowest(cells) <= (width or terminal_width(100))


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _narrowest(cells: Sequence[Sequence[str]], most: int = 10_000) -> int:
    """Characters of a line of a table whose columns are two spaces apart, the first at ``most``."""
    first, *others = _widths(cells)
    return min(first, most) + sum(others) + 2 * len(others)


SHORTEST_CELL, SHORTEST_FOLD = 12, 4
"""Characters of a heading up to which it stays in its column, and of a line of a folded cell."""


def _drawn(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of a table; the first column has several for a cell that is too wide."""
    first, *others = _widths(cells)
    gap = 3 if first + sum(others) + 3 * len(others) <= width else 2
    room = width - sum(others) - gap * len(others)
    first = min(first, room if room >= SHORTEST_FOLD else SHORTEST_CELL)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, gap - 2))
    for number, name in enumerate(cells[0]):
        justify: Literal["left", "right"] = "right" if number else "left"
        grid.add_column(Text(name), justify=justify, overflow="fold")
    for name, *values in cells[1:]:
        grid.add_row(Text("\n".join(_folded(name, first))), *map(Text, values))
    # Rich would write to standard output even where it captures, which may be closed, and in a
    # notebook show an empty output.
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None, force_jupyter=False, emoji=False)
    console.print(grid)
    return [line.rstrip() for line in text.getvalue().rstrip("\n").splitlines()]


def _folded(text: str, width: int) -> list[str]:
    """A text in lines, ended where possible after a mark that divides names, or a space."""
    lines = [""]
    for part in re.findall(r"[^\s/,_]*[\s/,_]?", text):
        if cell_len(lines[-1]) + cell_len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        *whole, lines[-1] = chop_cells(lines[-1] + part, width) or [""]
        lines[-1:-1] = whole
    return lines


def wrapped(text: str, width: int = 0, first: str = "", later: str = "") -> list[str]:
    """A text in lines that end between words, with the beginnings of the first and later lines.

    Lines of a text with double spaces end there. A word that is longer than a line, such as a path,
    stays whole so that it can be copied.
    """
    width = width or terminal_width(100)
    space = "  " if "  " in text.strip() else " "
    lines, line, start = [], first, first
    for word in re.split(r"\s{2,}", text.strip()) if space == "  " else text.split():
        if line != start and cell_len(line) + len(space) + cell_len(word) > width:
            lines.append(line)
            line = start = later
        line = f"{line}{space}{word}" if line != start else f"{line}{word}"
    return [*lines, line]


def terminal_width(otherwise: int) -> int:
    """Characters of a line of the terminal, or ``otherwise`` in a file or a pipe."""
    return shutil.get_terminal_size(fallback=(otherwise, 24)).columns


def line_width() -> int:
    """Characters of a line: the terminal's width, or more than any table has in a file or pipe."""
    return terminal_width(10_000)
