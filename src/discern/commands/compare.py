"""``discern compare``: the differences between runs, and whether one is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from discern.commands import words
from discern.console import for_terminal, loading, say
from discern.errors import DiscernError
from discern.runs.claim import new_folder
from discern.runs.folder import OUTPUTS, Run, checkpoint_in, read_run
from discern.sweeps.select import selected
from discern.tables import fits, line_width, table, wrapped
from discern.text import decoded

if TYPE_CHECKING:
    from discern.reports.comparison import Comparison, Row

HELP = """\
The differences between runs, and whether one is better than another on the same test images.

Usage: discern compare RUN RUN … [top=N] [test=true] [limit=N] [out=FOLDER] [dir=FOLDER]

A RUN is the folder of a run; of a sweep, for its jobs, best first; SWEEP/3, for job 3 of a sweep;
a folder with runs somewhere in it; a pattern such as 'outputs/2026-01-*/*'; last, the newest run;
or best, that with the lowest val/loss.

  top=N       only the first N of these runs: of a sweep, its N best jobs
  test=true   test the runs that have no test predictions yet, as most jobs of a sweep; the results
              are kept in their folders
  limit=N     rows in the terminal's lists (10); 0 for all, which are always in the page
  out=FOLDER  where compare.html, compare.csv, pairs.csv and compare.png are written
              (outputs/DATE/TIME_compare)
  dir=FOLDER  where last and best are looked for (outputs)

Up to five runs are compared in pairs, more runs each with the first. McNemar's exact test and the
paired bootstrap show whether the trained models differ on images like these; whether their settings
do takes runs with several seeds.
"""


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern compare``.

    Attributes:
        top: number of runs that are compared, the first ones; 0 for all.
        test: whether runs without test predictions are tested.
        limit: rows of a list in the terminal; 0 for all.
        out: the folder for its files.
        dir: the folder of the runs.
    """

    top: Annotated[int, words.count] = 0
    test: Annotated[bool, words.switch] = False
    limit: Annotated[int, words.count] = 10
    out: Annotated[Path | None, words.path] = None
    dir: words.Folder = OUTPUTS


PAGE, RUNS, PAIRS, PICTURE = "compare.html", "compare.csv", "pairs.csv", "compare.png"

MAX_COLUMNS = 4
"""The most runs that have a column each in the terminal; more have a row each."""

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
    runs = runs[: asked.top or len(runs)]
    if len(runs) < 2:
        one = f": {for_terminal(decoded(runs[0].folder))}" if runs else ""
        raise DiscernError(f"discern compare needs two runs or more, and this is one{one}.")
    with loading("matplotlib", "scipy"):  # not for a mistyped word
        from discern.reports.comparison import compare

    if asked.test:
        runs = list(map(_tested, runs))
    compared = compare(runs)
    folder = asked.out or new_folder(asked.dir, "compare")
    try:
        page = write_files(compared, folder)
    except OSError as error:
        raise DiscernError(
            f"out={for_terminal(decoded(folder))} cannot be written: {error.strerror}."
        ) from error
    say(f"{describe(compared, asked.limit)}\n\nReport: {for_terminal(decoded(page))}")


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


# What the terminal shows


def describe(compared: Comparison, limit: int = 0) -> str:
    """The comparison as text, with at most ``limit`` rows in each list, or all if it is 0."""
    from discern.reports.comparison_tables import metric_rows, pair_table, verdicts

    differing = [*compared.settings, *compared.circumstances]
    runs = [
        f"{letter} = {name} ({for_terminal(run.title)}, {run.state.value})"
        for letter, name, run in zip(compared.letters, compared.names, compared.runs, strict=True)
    ]
    pairs = _pairs(*pair_table(compared), limit) if compared.pairs else ""
    legend = ["\n".join(wrapped(line, _width(), later="    ")) for line in runs]
    parts = [
        "\n".join(_first(legend, limit)),
        _matrix("difference", differing, compared.letters, limit) or "No setting differs.",
        _matrix("metric", metric_rows(compared), compared.letters, limit),
        pairs,
        *map(_wrapped, [*verdicts(compared), *compared.notes]),
    ]
    return "\n\n".join(filter(None, parts))


def _first(rows: list[str], limit: int) -> list[str]:
    more = len(rows) - limit if limit else 0
    return [*rows[:limit], _more(more)] if more > 0 else rows


def _more(count: int) -> str:
    return f"… and {count:,} more: {PAGE} has all, and so has limit=0"


def _matrix(corner: str, rows: list[Row], letters: list[str], limit: int) -> str:
    """A column per run, in several tables if they do not fit side by side; a row per run of many.

    The columns of such rows that do not fit are left out, the last ones first.
    """
    if not rows:
        return ""
    if len(letters) > MAX_COLUMNS:
        names = [name.strip() for name, _ in rows]
        values = list(zip(*(values for _, values in rows), strict=True))
        shown = [[one, *each] for one, each in zip(letters, values, strict=True)]
        return _limited(["", *names], shown, limit, dispensable=names[::-1])
    for tables in range(1, len(letters) + 1):
        width = -(-len(letters) // tables)
        parts = [slice(first, first + width) for first in range(0, len(letters), width)]
        headers = [[corner, *letters[part]] for part in parts]
        cells = [[[name, *values[part]] for name, values in rows] for part in parts]
        if all(fits(*each, line_width()) for each in zip(headers, cells, strict=True)):
            break
    drawn = [table(*each, width=line_width()) for each in zip(headers, cells, strict=True)]
    return "\n\n".join(drawn)


def _pairs(header: list[str], rows: list[list[str]], limit: int) -> str:
    *_, first_right, second_right, p = header[:6]
    left_out = [first_right, second_right, *([p] if len(header) > 6 else [])]
    return _limited(header, rows, limit, dispensable=left_out)


def _limited(
    header: list[str], rows: list[list[str]], limit: int, *, dispensable: list[str]
) -> str:
    text = table(header, rows[: limit or None], width=line_width(), dispensable=dispensable)
    more = len(rows) - limit if limit else 0
    return f"{text}\n{_wrapped(_more(more))}" if more > 0 else text


def _wrapped(text: str) -> str:
    return "\n".join(wrapped(text, _width()))


def _width() -> int:
    return min(line_width(), MAX_WIDTH)


def _tested(run: Run) -> Run:
    """A run that has test predictions: those that it has, or new ones beside it."""
    from discern.runs.tested import read_tested

    if read_tested(run.folder) is not None or not checkpoint_in(run.folder):
        return run
    with loading("torch", "lightning"):
        from discern.commands.evaluate import test_beside
    say(f"Testing {for_terminal(decoded(run.folder))} …")
    test_beside(run.folder)
    return read_run(run.folder)
