"""Cells of a CSV file, which no spreadsheet takes for a formula."""

import math
import re
from collections.abc import Iterable
from typing import IO

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
"""What spreadsheets take for the beginning of a formula, or pass over to find one behind it."""


def csv_cell(value: object) -> str:
    """A cell's text, which no spreadsheet computes.

    A text that begins like a formula and is not a number gets an apostrophe in front. So does a
    text that begins with apostrophes and then like a formula, so that :func:`csv_text` is exact.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        # float32 has seven digits; more are noise.
        return str(float(f"{value:.7g}")) if math.isfinite(value) else ""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if _is_formula(text) and not _NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """The text of which :func:`csv_cell` has made a cell."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    return text.lstrip("'").startswith(_FORMULA)


def write_csv(file: IO[str], rows: Iterable[Iterable[object]]) -> None:
    """Write rows of texts and numbers, each cell through :func:`csv_cell`."""
    file.writelines(",".join(map(csv_field, row)) + "\n" for row in rows)


def csv_field(value: object) -> str:
    """A cell in quotes where it needs them: the csv module gives none to a carriage return."""
    text = csv_cell(value)
    return '"{}"'.format(text.replace('"', '""')) if set(',"\r\n') & set(text) else text
