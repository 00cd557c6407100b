"""What a sweep gave: a table for the terminal, results.csv and results.json."""

from __future__ import annotations

import io
import json
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from discern.console import table_or_blocks
from discern.files.csv_cells import write_csv
from discern.files.writing import as_json_values, write_whole
from discern.runs.state import State
from discern.sweeps.names import short_number
from discern.sweeps.ranking import (
    Group,
    Spread,
    described,
    group_rows,
    listed_rows,
    rank_groups,
    repetitions,
    settings,
    value_of,
    varied,
    verdict,
)
from discern.sweeps.rows import Objective, Row
from discern.text import printable

NONE = "–"

FORMAT = 1
"""Of results.json."""


def results_table(rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """The jobs best first, or their groups where seeds or folds differ, for any terminal's width.

    Where a table is too wide each job takes lines of its own. Why jobs have no rank stands below.
    """
    repeated = bool(repetitions(rows))
    grouped = repeated and bool(varied(rows))
    shown = _groups_shown(rows, objectives) if grouped else _rows_shown(rows, objectives)
    parts = [shown]
    if repeated and not grouped:
        parts += over_repetitions(rows, objectives)
    reasons = _reasons(rows, objectives)
    return "\n".join([*parts, *(["", *reasons] if reasons else [])])


def short_names(names: Sequence[str]) -> list[str]:
    """The names by as many of their last parts as tell them apart: ``optimizer.lr`` is ``lr``."""

    def ending(name: str, parts: int) -> str:
        return ".".join(name.split(".")[-parts:])

    short = []
    for name in names:
        parts = 1
        while ending(name, parts) != name and any(
            ending(other, parts) == ending(name, parts) for other in names if other != name
        ):
            parts += 1
        short.append(ending(name, parts))
    return short


def rounded(value: float | None, digits: int = 4) -> str:
    """A value to so many significant digits, zeros at its end too."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 < magnitude < 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def mean_and_sd(spread: Spread) -> str:
    """``mean ± sd``, the mean to the digits that the standard deviation leaves."""
    if not spread.sd or spread.mean is None:
        # A standard deviation of 0 is known; that of a single value is not.
        return rounded(spread.mean) + (" ± 0" if spread.sd == 0 else "")
    digits = 4
    if spread.mean:
        leading = math.floor(math.log10(abs(spread.mean))) - math.floor(math.log10(spread.sd))
        digits = min(max(digits, leading + 2), 9)
    return f"{rounded(spread.mean, digits)} ± {rounded(spread.sd, 2)}"


def write_results(
    folder: Path,
    rows: Sequence[Row],
    objectives: Sequence[Objective],
    extra: Mapping[str, object],
) -> None:
    """Write results.csv, a line a job, and results.json, which has the groups and the verdict too.

    Args:
        folder: the sweep's.
        rows: its jobs.
        objectives: what they are ranked by; the verdict is about the first.
        extra: what else results.json is to have, under names that it has not.
    """
    with write_whole(folder / "results.csv") as file:
        file.write(_writable(_csv(folder, rows, objectives)))
    facts = {"format": FORMAT, **extra, **_facts(folder, rows, objectives)}
    with write_whole(folder / "results.json") as file:
        text = json.dumps(
            as_json_values(facts), indent=2, ensure_ascii=False, allow_nan=False, default=str
        )
        file.write(_writable(text) + "\n")


def _rows_shown(rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    names = settings(rows)
    ranked = listed_rows(rows, objectives)
    values = _values_shown(rows, names)
    header = ["rank", "job", *short_names(names), *_metrics(objectives)]
    cells = [
        [
            _rank_shown(rank),
            str(row.number),
            *(values[name].get(row.overrides.get(name), NONE) for name in names),
            *(rounded(row.values.get(metric)) for metric in _metrics(objectives)),
            _count(row.epochs),
            _count(row.seconds),
            row.state.value,
        ]
        for rank, row in ranked
    ]
    blocks = [
        _block(
            rank,
            [
                ", ".join(
                    f"{metric} {rounded(row.values.get(metric))}" for metric in _metrics(objectives)
                )
            ],
            described({name: row.overrides[name] for name in names if name in row.overrides}),
            f"job {row.number}: {row.state.value}{_effort(row.epochs, row.seconds)}",
        )
        for rank, row in ranked
    ]
    return table_or_blocks([*header, "epochs", "seconds", "state"], cells, blocks)


def _groups_shown(rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    names = varied(rows)
    ranked = rank_groups(group_rows(rows, objectives), objectives)
    values = _values_shown(rows, names)
    header = ["rank", *short_names(names), *_metrics(objectives), "n"]
    cells = [
        [
            _rank_shown(rank),
            *(values[name].get(group.overrides.get(name), NONE) for name in names),
            *(mean_and_sd(group.spreads[metric]) for metric in _metrics(objectives)),
            group.counted(objectives[0].metric),
            _count(group.epochs),
            _count(group.seconds),
            _states(group),
        ]
        for rank, group in ranked
    ]
    blocks = [
        _block(
            rank,
            [
                f"{metric} {mean_and_sd(spread)} (n = {group.counted(metric)})"
                for metric, spread in group.spreads.items()
            ],
            described(group.overrides),
            _states(group) + _effort(group.epochs, group.seconds),
        )
        for rank, group in ranked
    ]
    return table_or_blocks([*header, "epochs", "seconds", "state"], cells, blocks)


def _values_shown(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str | None, str]]:
    """Setting -> its values in the rows -> what the table has: long numbers rounded, where that
    still tells them apart. The blocks of a narrow terminal, which can be copied, have them whole.
    """
    shown: dict[str, dict[str | None, str]] = {}
    for name in names:
        values = {row.overrides[name] for row in rows if name in row.overrides}
        short = {value: short_number(value) for value in values}
        distinct = len(set(short.values())) == len(values)
        shown[name] = {value: short[value] if distinct else value for value in values}
    return shown


def _block(rank: int | None, values: Sequence[str], overrides: str, job: str) -> str:
    lead = f"{_rank_shown(rank)}. " if rank is not None else f"{NONE}  "
    lines = [*values, *([overrides] if overrides else []), job]
    return "\n".join(
        _wrapped(line, lead if number == 0 else " " * len(lead), " " * len(lead))
        for number, line in enumerate(lines)
    )


def over_repetitions(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    """What each objective came to over jobs that differ in seed or fold alone."""
    (group,) = group_rows(rows, objectives)
    return [
        _wrapped(
            f"{metric}: {mean_and_sd(spread)} "
            f"(mean ± sd over {group.counted(metric)} {repetitions(rows)})",
            "",
            "  ",
        )
        for metric, spread in group.spreads.items()
        if spread.n > 1
    ]


def _reasons(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    """Why jobs have no rank; jobs with the same reason share a line."""
    numbers: dict[tuple[State, str], list[int]] = {}
    for _, row in listed_rows(rows, objectives):
        reason = " ".join(row.reason.split())
        if reason and any(value_of(row, objective) is None for objective in objectives):
            numbers.setdefault((row.state, reason), []).append(row.number)
    return [
        _wrapped(
            f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs))} "
            f"{state.value}: {reason}",
            "",
            "  ",
        )
        for (state, reason), jobs in numbers.items()
    ]


def _wrapped(text: str, first: str, later: str) -> str:
    # A word that is longer than a line, such as a path, stays whole so that it can be copied.
    return textwrap.fill(
        text,
        width=shutil.get_terminal_size(fallback=(100, 24)).columns,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _metrics(objectives: Sequence[Objective]) -> list[str]:
    return [objective.metric for objective in objectives]


def _rank_shown(rank: int | None) -> str:
    return NONE if rank is None else str(rank)


def _count(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 100 and value != round(value) else f"{value:.0f}"


def _effort(epochs: float | None, seconds: float | None) -> str:
    parts = [
        f"{_count(value)} {unit}"
        for value, unit in ((epochs, "epochs"), (seconds, "s"))
        if value is not None
    ]
    return "".join(f", {part}" for part in parts)


def _states(group: Group) -> str:
    return ", ".join(
        f"{group.states[state]} {state.value}" for state in State if group.states.get(state)
    )


def _csv(folder: Path, rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    names = settings(rows)
    text = io.StringIO()
    header = ["rank", "number", "folder", *names, *_metrics(objectives)]
    write_csv(text, [[*header, "epochs", "seconds", "state", "reason"]])
    for rank, row in listed_rows(rows, objectives):
        cells = [
            rank,
            row.number,
            _below(row.folder, folder),
            *(row.overrides.get(name) for name in names),
            *(row.values.get(metric) for metric in _metrics(objectives)),
            row.epochs,
            row.seconds,
            row.state.value,
            " ".join(row.reason.split()),
        ]
        write_csv(text, [cells])
    return text.getvalue()


def _facts(folder: Path, rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, object]:
    groups = group_rows(rows, objectives)
    return {
        "objectives": [
            {"metric": objective.metric, "direction": objective.direction}
            for objective in objectives
        ],
        "rows": [
            {
                "rank": rank,
                "number": row.number,
                "folder": _below(row.folder, folder),
                "overrides": dict(row.overrides),
                "values": {metric: row.values.get(metric) for metric in _metrics(objectives)},
                "epochs": row.epochs,
                "seconds": row.seconds,
                "state": row.state.value,
                "reason": row.reason,
            }
            for rank, row in listed_rows(rows, objectives)
        ],
        "groups": [
            {
                "rank": rank,
                "overrides": dict(group.overrides),
                "numbers": [row.number for row in group.rows],
                "values": {
                    metric: {"n": spread.n, "mean": spread.mean, "sd": spread.sd}
                    for metric, spread in group.spreads.items()
                },
                "epochs": group.epochs,
                "seconds": group.seconds,
                "states": {state.value: number for state, number in group.states.items()},
            }
            for rank, group in rank_groups(groups, objectives)
        ]
        if repetitions(rows)
        else [],
        "verdict": verdict(groups, objectives[0]),
    }


def _below(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return printable(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _writable(text: str) -> str:
    # An argument that is no UTF-8 has lone surrogates, which no UTF-8 file can hold.
    return text.encode("utf-8", "backslashreplace").decode()
