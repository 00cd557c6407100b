"""Results of a sweep: the terminal's table, results.csv and results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from discern.files.csv_cells import write_csv
from discern.files.writing import as_json_values, write_whole
from discern.runs.state import State
from discern.sweeps.names import short_names, short_number
from discern.sweeps.ranking import (
    Group,
    Spread,
    described,
    group_rows,
    listed_rows,
    on_other_images,
    ranked_groups,
    repetitions,
    settings,
    value_of,
    varied,
    verdict,
)
from discern.sweeps.rows import Objective, Row
from discern.tables import table, wrapped
from discern.text import printable

NONE = "–"
"""Shown where there is no value."""

FORMAT = 1
"""Version of results.json."""


def results_table(rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """The jobs best first, or their groups where some are repeated, for any terminal's width.

    Where a table is too wide, each job takes lines of its own. Reasons for a missing rank follow.
    """
    repeated = bool(repetitions(rows))
    grouped = repeated and bool(varied(rows))
    names = varied(rows) if grouped else settings(rows)
    values = _values_shown(rows, names)
    ranked: Sequence[tuple[int | None, Row | Group]] = (
        ranked_groups(rows, objectives) if grouped else listed_rows(rows, objectives)
    )
    cells, blocks = [], []
    for rank, one in ranked:
        if isinstance(one, Group):
            results, state, job = group_results(one), _states(one), _states(one)
            lines = [
                f"{metric} {mean_and_sd(spread)} (n = {one.counted(metric)})"
                for metric, spread in one.spreads.items()
            ]
        else:
            results = [rounded(one.values.get(metric)) for metric in _metrics(objectives)]
            lines = [", ".join(map(" ".join, zip(_metrics(objectives), results, strict=True)))]
            state, job = one.state.value, f"job {one.number}: {one.state}"
        cells.append(
            [
                _shown(rank),
                *([] if isinstance(one, Group) else [str(one.number)]),
                *(values[name].get(one.overrides.get(name), NONE) for name in names),
                *results,
                _shown(one.epochs),
                _shown(one.seconds),
                state,
            ]
        )
        for value, unit in ((one.epochs, "epochs"), (one.seconds, "s")):
            job += "" if value is None else f", {_shown(value)} {unit}"
        typed = described({name: one.overrides[name] for name in names if name in one.overrides})
        blocks.append(_block(rank, [*lines, *filter(None, [typed]), job]))
    header = ["rank", *([] if grouped else ["job"]), *short_names(names), *_metrics(objectives)]
    header += [*(["n"] if grouped else []), "epochs", "seconds", "state"]
    parts = [table(header, cells, dispensable=["seconds", "epochs"], blocks=blocks)]
    if repeated and not grouped:
        for line in over_repetitions(rows, objectives):
            parts += wrapped(line, later="  ")
    if caution := on_other_images(rows, objectives):
        parts += wrapped(caution, later="  ")
    reasons = _reasons(rows, objectives)
    return "\n".join([*parts, *(["", *reasons] if reasons else [])])


def group_results(group: Group) -> list[str]:
    """Mean and standard deviation of each objective, and how many jobs have the first."""
    return [*map(mean_and_sd, group.spreads.values()), group.counted(next(iter(group.spreads)))]


def rounded(value: float | None, digits: int = 4) -> str:
    """A value rounded to significant digits, trailing zeros included."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 < magnitude < 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def mean_and_sd(spread: Spread) -> str:
    """``mean ± sd``, with as many digits of the mean as the standard deviation warrants."""
    if not spread.sd or spread.mean is None:
        # A standard deviation of 0 is shown; a single value has none.
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
    """Write results.csv, one line per job, and results.json, with groups and verdict as well.

    Args:
        folder: of the sweep.
        rows: its jobs.
        objectives: what jobs are ranked by; the verdict is about the first.
        extra: further entries of results.json; those of its own names are dropped.
    """
    with write_whole(folder / "results.csv") as file:
        write_csv(file, _csv(folder, rows, objectives))
    facts = {"format": FORMAT, **extra, **_facts(folder, rows, objectives)}
    with write_whole(folder / "results.json") as file:
        text = json.dumps(
            as_json_values(facts), indent=2, ensure_ascii=False, allow_nan=False, default=str
        )
        # An argument that is not UTF-8 has lone surrogates, which no UTF-8 file can hold.
        file.write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def _values_shown(rows: Sequence[Row], names: Sequence[str]) -> dict[str, dict[str | None, str]]:
    """Setting -> value -> how the table shows it: rounded, unless that makes two values equal.

    The blocks of a narrow terminal show them in full, to be copied.
    """
    shown: dict[str, dict[str | None, str]] = {}
    for name in names:
        values = {row.overrides[name] for row in rows if name in row.overrides}
        short = {value: short_number(value) for value in values}
        distinct = len(set(short.values())) == len(values)
        shown[name] = {value: short[value] if distinct else value for value in values}
    return shown


def _block(rank: int | None, lines: Sequence[str]) -> str:
    lead = f"{NONE}  " if rank is None else f"{rank}. "
    indent = " " * len(lead)
    first, *others = lines
    later = [line for other in others for line in wrapped(other, 0, indent, indent)]
    return "\n".join([*wrapped(first, 0, lead, indent), *later])


def over_repetitions(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    """Mean and standard deviation of each objective, where jobs only repeat each other."""
    (group,) = group_rows(rows, objectives)
    return [
        f"{metric}: {mean_and_sd(spread)} "
        f"(mean ± sd over {group.counted(metric)} {repetitions(rows)})"
        for metric, spread in group.spreads.items()
        if spread.n > 1
    ]


def _reasons(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[str]:
    """Why jobs have no rank, one line per reason."""
    numbers: dict[tuple[State, str], list[int]] = {}
    for _, row in listed_rows(rows, objectives):
        reason = " ".join(row.reason.split())
        if reason and any(value_of(row, objective) is None for objective in objectives):
            numbers.setdefault((row.state, reason), []).append(row.number)
    return [
        line
        for (state, reason), jobs in numbers.items()
        for line in wrapped(
            f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs))} {state}: {reason}",
            later="  ",
        )
    ]


def _metrics(objectives: Sequence[Objective]) -> list[str]:
    return [objective.metric for objective in objectives]


def _shown(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 100 and value != round(value) else f"{value:.0f}"


def _states(group: Group) -> str:
    return ", ".join(f"{group.states[state]} {state}" for state in State if state in group.states)


def _csv(
    folder: Path, rows: Sequence[Row], objectives: Sequence[Objective]
) -> Iterator[list[object]]:
    names, metrics = settings(rows), _metrics(objectives)
    yield ["rank", "number", "folder", *names, *metrics, "epochs", "seconds", "state", "reason"]
    for rank, row in listed_rows(rows, objectives):
        typed = (row.overrides.get(name) for name in names)
        values = (row.values.get(metric) for metric in metrics)
        reason = " ".join(row.reason.split())
        yield [
            *(rank, row.number, _below(row.folder, folder), *typed, *values),
            *(row.epochs, row.seconds, row.state, reason),
        ]


def _facts(folder: Path, rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, object]:
    ranked = ranked_groups(rows, objectives)
    return {
        "objectives": list(map(asdict, objectives)),
        "rows": [
            {
                "rank": rank,
                **vars(row),
                "folder": _below(row.folder, folder),
                "values": {metric: row.values.get(metric) for metric in _metrics(objectives)},
            }
            for rank, row in listed_rows(rows, objectives)
        ],
        "groups": [
            {
                "rank": rank,
                "overrides": group.overrides,
                "numbers": [row.number for row in group.rows],
                "values": {metric: asdict(spread) for metric, spread in group.spreads.items()},
                "epochs": group.epochs,
                "seconds": group.seconds,
                "states": group.states,
            }
            for rank, group in ranked
        ]
        if repetitions(rows)
        else [],
        "verdict": verdict([group for _, group in ranked], objectives[0]),
    }


def _below(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    return printable(path.relative_to(folder) if path.is_relative_to(folder) else path)
