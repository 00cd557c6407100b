"""``discern compare``: the differences between runs, and whether one is better."""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from discern.commands import words
from discern.console import for_terminal, line_width, loading, say, table_or_blocks
from discern.errors import DiscernError
from discern.runs.folder import OUTPUTS
from discern.sweeps.select import selected
from discern.text import decoded

if TYPE_CHECKING:
    from discern.reports.comparison import Comparison, Row

HELP = """\
The differences between runs, and whether one is better than another on the same test images.

Usage: discern compare RUN RUN … [out=FOLDER] [dir=FOLDER]

A RUN is the folder of a run; of a sweep, for its jobs; one with runs somewhere in it; a pattern
such as 'outputs/2026-01-*/*'; last, the newest run; or best, that with the lowest val/loss.

  out=FOLDER  where compare.html, compare.csv, pairs.csv and compare.png are written
              (outputs/DATE/TIME_compare)
  dir=FOLDER  where last and best are looked for (outputs)

Up to five runs are compared in pairs, more runs each with the first. McNemar's exact test and the
paired bootstrap show whether the trained models differ on images like these; whether their settings
do takes runs with several seeds.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern compare``: the folder for its files, and the folder of the runs."""

    out: Annotated[Path | None, words.path] = None
    dir: words.Folder = OUTPUTS


PAGE, RUNS, PAIRS, PICTURE = "compare.html", "compare.csv", "pairs.csv", "compare.png"

MAX_COLUMNS = 4
"""The most runs that have a column each in the terminal; more have a line each."""

MAX_WIDTH = 100
"""Characters in a line of text."""


def run(arguments: list[str]) -> None:
    """Run ``discern compare`` with these arguments.

    Raises:
        DiscernError: a word does not name a run, there is only one run, or files cannot be written.
    """
    # The folders of a sweep's jobs have = in them.
    asked, named = words.read(Settings, arguments)
    runs = selected(named, asked.dir)
    if len(runs) < 2:
        one = f": {for_terminal(decoded(runs[0].folder))}" if runs else ""
        raise DiscernError(f"discern compare needs two runs or more, and this is one{one}.")
    with loading("matplotlib", "scipy"):  # not for a mistyped word
        from discern.reports.comparison import compare

    compared = compare(runs)
    folder = asked.out or _new_folder(asked.dir)
    try:
        page = write_files(compared, folder)
    except OSError as error:
        raise DiscernError(
            f"out={for_terminal(decoded(folder))} cannot be written: {error.strerror}."
        ) from error
    say(f"{describe(compared)}\n\nReport: {for_terminal(decoded(page))}")


def write_files(compared: Comparison, folder: Path) -> Path:
    """Write compare.csv and compare.html, and pairs.csv and compare.png if there are tests.

    Returns:
        The page.

    Raises:
        OSError: a file cannot be written.
    """
    from discern.reports.compare_page import write_compare_page
    from discern.reports.comparison_tables import disputed_sheet, write_pairs, write_runs

    folder.mkdir(parents=True, exist_ok=True)
    page, pairs, picture = (folder / name for name in (PAGE, PAIRS, PICTURE))
    for path in (pairs, picture):  # of an earlier comparison
        path.unlink(missing_ok=True)
    write_runs(compared, folder / RUNS)
    if compared.pairs:
        write_pairs(compared, pairs)
    if compared.disagreement is not None and len(compared.disagreement.pixels):
        disputed_sheet(compared.disagreement).save(picture)
    write_compare_page(compared, page)
    return page


def _new_folder(outputs: Path) -> Path:
    wanted = outputs / time.strftime("%Y-%m-%d") / f"{time.strftime('%H-%M-%S')}_compare"
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}_{number}")
    return folder


# What the terminal shows


def describe(compared: Comparison) -> str:
    """The comparison as text."""
    from discern.reports.comparison_tables import metric_rows, pair_table, verdicts

    differing = [*compared.settings, *compared.circumstances]
    runs = [
        f"{letter}  {name}  ({for_terminal(run.title)}, {run.state.value})"
        for letter, name, run in zip(compared.letters, compared.names, compared.runs, strict=True)
    ]
    return "\n\n".join(
        [
            "\n".join(runs),
            _matrix("difference", differing, compared.letters) or "No setting differs.",
            _matrix("metric", metric_rows(compared), compared.letters),
            *([_lines(*pair_table(compared))] if compared.pairs else []),
            *map(_wrapped, [*verdicts(compared), *compared.notes]),
        ]
    )


def _matrix(corner: str, rows: list[Row], letters: list[str]) -> str:
    """A row per setting and a column per run, or the other way round for many runs."""
    if not rows:
        return ""
    if len(letters) <= MAX_COLUMNS:
        return _lines([corner, *letters], [[name, *values] for name, values in rows])
    values = [list(each) for each in zip(*(values for _, values in rows), strict=True)]
    header = [corner, *(name for name, _ in rows)]
    return _lines(header, [[one, *each] for one, each in zip(letters, values, strict=True)])


def _lines(header: list[str], rows: list[list[str]]) -> str:
    """A table, or one cell per line if the terminal is too narrow."""
    names = [name.strip() for name in header[1:]]
    blocks = [
        "\n  ".join((row[0], *map(": ".join, zip(names, row[1:], strict=True)))) for row in rows
    ]
    return table_or_blocks(header, rows, blocks, line_width())


def _wrapped(text: str) -> str:
    return textwrap.fill(
        text, min(line_width(), MAX_WIDTH), break_long_words=False, break_on_hyphens=False
    )
