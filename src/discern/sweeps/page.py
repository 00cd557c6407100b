"""report.html of a sweep: its ranking, what the settings do, every job's curve."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from discern.files.reading import check_format, read_json
from discern.reports.page import cell, duration, write_page
from discern.reports.run_page import points
from discern.runs.folder import REPORT, is_run, numbers, read_run
from discern.runs.metric_table import METRICS
from discern.runs.state import State
from discern.sweeps.ledger import Ledger
from discern.sweeps.ranking import (
    Group,
    best_group,
    described,
    group_rows,
    has_folds,
    is_geometric,
    listed_rows,
    number_of,
    numbers_of,
    rank_groups,
    rank_rows,
    repetitions,
    settings,
    steps_of,
    varied,
    verdict,
)
from discern.sweeps.results import FORMAT, NONE, mean_and_sd, rounded, short_names
from discern.sweeps.rows import Objective, Row
from discern.text import printable

CURVES = 200
"""Jobs, the best first, whose curves are drawn."""

CELLS = 60
"""Values of a setting up to which two settings are a heat map."""


def write_sweep_page(folder: Path) -> Path:
    """Write report.html into a sweep's folder, from what it and its jobs' folders hold.

    Returns:
        The file.

    Raises:
        DiscernError: it is not the folder of a sweep, or one of another version of discern.
    """
    ledger = Ledger.load(folder)
    rows, objectives = ledger.rows(), ledger.objectives
    results = _results(folder / "results.json")
    charts, views = _charts(ledger, rows, results)
    ranked = listed_rows(rows, objectives)
    page: dict[str, Any] = {
        "lead": _lead(rows),
        "state": _state(rows),
        "best": _best(ranked, objectives, results, folder),
        "command": shlex.join(["python", "train.py", "-m", *ledger.arguments]),
        "ranking": _ranking(ranked, objectives, folder),
        "groups": _groups(rows, objectives) if repetitions(rows) else None,
        "views": views,
        "curves": [name for name in charts if name.startswith("curves")],
        "charts": charts,
        "failed": [
            [row.folder.name, row.state.value, row.reason]
            for row in rows
            if row.state not in (State.DONE, State.PRUNED) and row.reason
        ],
    }
    path = folder / REPORT
    title = f"{objectives[0].metric} of {len(rows)} {'job' if len(rows) == 1 else 'jobs'}"
    write_page(
        "sweep.html.j2",
        path,
        title=title,
        kind="A sweep of discern",
        data={"charts": charts},
        **page,
    )
    return path


def _results(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, path.parent)
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    check_format(path, content.get("format"), FORMAT)
    return content


def _state(rows: Sequence[Row]) -> str:
    states = {row.state for row in rows}
    if State.FAILED in states:
        return "failed"
    return "done" if all(state.is_settled for state in states) else "interrupted"


def _lead(rows: Sequence[Row]) -> list[str]:
    counts = {state: sum(row.state is state for row in rows) for state in State}
    parts = [f"{count} {state.value}" for state, count in counts.items() if count]
    seconds = sum(row.seconds for row in rows if row.seconds is not None)
    return [*parts, f"{duration(seconds)} of jobs"] if seconds else parts


# The answer


def _best(
    ranked: Sequence[tuple[int | None, Row]],
    objectives: Sequence[Objective],
    results: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any] | None:
    told = results.get("best")
    if not isinstance(told, dict) or not ranked:
        return None
    if has_folds([row for _, row in ranked]):
        return _best_setting([row for _, row in ranked], objectives, str(told.get("command", "")))
    found = [row for _, row in ranked if row.folder.name == told.get("folder")]
    row = found[0] if found else ranked[0][1]
    test = numbers(told.get("test"))
    tiles = [
        {"name": f"Best {objective.metric}", "value": rounded(row.values.get(objective.metric))}
        for objective in objectives
    ]
    tiles += [
        {"name": f"Test {metric.title}", "value": rounded(test[metric.name])}
        for metric in METRICS
        if metric.average == "micro" and metric.name in test
    ]
    return {
        "title": "The best",
        "name": printable(Path(row.folder.name)),
        "link": _link(row, folder),
        "tiles": tiles,
        "command": str(told.get("command", "")),
    }


def _best_setting(
    rows: Sequence[Row], objectives: Sequence[Objective], command: str
) -> dict[str, Any] | None:
    """The setting whose mean over folds is the best, or the only one."""
    groups = group_rows(rows, objectives)
    setting = best_group(groups, objectives)
    if setting is None:
        return None
    tiles = [
        {
            "name": f"{objective.metric} over {setting.counted(objective.metric)} folds",
            "value": mean_and_sd(setting.spreads[objective.metric]),
        }
        for objective in objectives
    ]
    title = "The best setting" if len(groups) > 1 else "The estimate"
    name = described(setting.overrides)
    return {"title": title, "name": name, "link": None, "tiles": tiles, "command": command}


def _link(row: Row, folder: Path) -> str | None:
    """Where the job's own report is, as the sweep's sees it."""
    if not (row.folder / REPORT).is_file() or row.folder.parent != folder:
        return None
    return f"./{quote(row.folder.name)}/{REPORT}"


def _ranking(
    ranked: Sequence[tuple[int | None, Row]], objectives: Sequence[Objective], folder: Path
) -> dict[str, Any]:
    names = settings([row for _, row in ranked])
    metrics = [objective.metric for objective in objectives]
    rows = [
        {
            "rank": "" if rank is None else rank,
            "name": printable(Path(row.folder.name)),
            "link": _link(row, folder),
            "cells": [
                *(_setting(row.overrides.get(name)) for name in names),
                *(cell(row.values.get(each), rounded(row.values.get(each))) for each in metrics),
                cell(row.epochs, NONE if row.epochs is None else str(row.epochs)),
                cell(row.seconds, NONE if row.seconds is None else f"{row.seconds:.1f}"),
            ],
            "state": row.state.value,
        }
        for rank, row in ranked
    ]
    header = ["rank", "job", *short_names(names), *metrics, "epochs", "seconds", "state"]
    return {"header": header, "rows": rows}


def _setting(text: str | None) -> Any:
    if text is None:
        return NONE
    number = number_of(text)
    return text if number is None else cell(number, text)


def _groups(rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, Any]:
    groups = group_rows(rows, objectives)
    names = varied(rows)
    metrics = [objective.metric for objective in objectives]
    shown = [
        [
            "" if rank is None else str(rank),
            *(group.overrides.get(name, NONE) for name in names),
            *(cell(group.spreads[each].mean, mean_and_sd(group.spreads[each])) for each in metrics),
            group.counted(metrics[0]),
        ]
        for rank, group in rank_groups(groups, objectives)
    ]
    return {
        "over": repetitions(rows),
        "header": ["rank", *short_names(names), *metrics, repetitions(rows)],
        "rows": shown,
        "verdict": verdict(groups, objectives[0]) if names or not has_folds(rows) else "",
    }


# The charts


def _charts(
    ledger: Ledger, rows: Sequence[Row], results: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Chart's id -> what it shows; and those of them that show what the settings do."""
    objective = ledger.objectives[0]
    groups = [
        group
        for rank, group in rank_groups(group_rows(rows, ledger.objectives), ledger.objectives)
        if rank is not None
    ]
    charts = _settings_charts(groups, objective, varied(rows))
    views = list(charts)
    for number, (metric, parts) in enumerate(_importance(results).items()):
        charts[f"importance{number}"] = {
            "kind": "bars",
            "caption": f"How much of the variance of {metric} a setting explains",
            "names": list(parts),
            "values": list(parts.values()),
            "x": "part of the variance",
        }
        views.append(f"importance{number}")
    charts |= _curves(ledger, rows)
    return charts, views


def _importance(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    found = results.get("importance")
    if not isinstance(found, dict):
        return {}
    return {
        str(metric): {
            str(name): value for name, value in parts.items() if isinstance(value, (int, float))
        }
        for metric, parts in found.items()
        if isinstance(parts, dict) and parts
    }


def _settings_charts(
    groups: Sequence[Group], objective: Objective, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    names = [name for name in names if len({group.overrides.get(name) for group in groups}) > 1]
    means = [group.spreads[objective.metric].mean for group in groups]
    valued = [(group, mean) for group, mean in zip(groups, means, strict=True) if mean is not None]
    if not names or len(valued) < 2:
        return {}
    short = short_names(names)
    texts = [[group.overrides.get(name, NONE) for group, _ in valued] for name in names]
    values = [mean for _, mean in valued]
    told = [
        "\n".join(f"{name}={one[number]}" for name, one in zip(short, texts, strict=True))
        + f"\n{objective.metric} {mean_and_sd(group.spreads[objective.metric])}"
        for number, (group, _) in enumerate(valued)
    ]
    if len(names) == 1:
        return {"effect": _effect(short[0], texts[0], values, objective)}
    if len(names) == 2 and all(len(set(one)) <= CELLS for one in texts):
        return {"heat": _heat(short, texts, values, told, objective)}
    return {"parallel": _parallel(short, texts, values, told, objective)}


def _effect(
    name: str, texts: Sequence[str], values: Sequence[float], objective: Objective
) -> dict[str, Any]:
    numbers = numbers_of(texts)
    caption = f"{objective.metric} by {name}"
    if numbers is None:
        return {
            "kind": "bars", "caption": caption, "names": list(texts), "values": list(values),
            "x": objective.metric,
        }  # fmt: skip
    line = {
        "name": objective.metric,
        "points": sorted(map(list, zip(numbers, values, strict=True))),
    }
    return {
        "kind": "lines", "caption": caption, "series": [line], "x": name, "fraction": True,
        "logx": is_geometric(numbers) and min(numbers) > 0,
    }  # fmt: skip


def _heat(
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    values: Sequence[float],
    told: Sequence[str],
    objective: Objective,
) -> dict[str, Any]:
    (across, columns), (down, rows) = map(steps_of, texts)
    return {
        "kind": "heat",
        "caption": f"{objective.metric} by {names[0]} and {names[1]} (dark is good)",
        "x": {"name": names[0], "values": across},
        "y": {"name": names[1], "values": down},
        "cells": [list(each) for each in zip(columns, rows, values, told, strict=True)],
        "less": objective.sign > 0,
    }


def _parallel(
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    values: Sequence[float],
    told: Sequence[str],
    objective: Objective,
) -> dict[str, Any]:
    axes: list[dict[str, Any]] = []
    columns: list[Sequence[Any]] = []
    for name, given in zip(names, texts, strict=True):
        numbers = numbers_of(given)
        if numbers is None:
            axes.append({"name": name, "values": steps_of(given)[0]})
            columns.append(given)
        else:
            axes.append({"name": name, "log": is_geometric(numbers) and min(numbers) > 0})
            columns.append(numbers)
    axes.append({"name": objective.metric})
    rows = [
        {"name": text, "values": list(each)}
        for text, *each in zip(told, *columns, values, strict=True)
    ]
    return {
        "kind": "parallel",
        "caption": f"Settings and {objective.metric}, a line a job (dark is good); drag along an "
        "axis to choose",
        "axes": axes,
        "rows": rows,
        "less": objective.sign > 0,
    }


def _curves(ledger: Ledger, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    best = [row for _, row in rank_rows(rows, ledger.objectives)][:CURVES]
    epochs = {row.folder.name: read_run(row.folder).epochs() for row in best if is_run(row.folder)}
    charts: dict[str, dict[str, Any]] = {}
    for number, objective in enumerate(ledger.objectives):
        lines = [
            {"name": printable(Path(name)), "points": points(of, objective.metric)}
            for name, of in epochs.items()
        ]
        lines = [line for line in lines if line["points"]]
        if lines:
            shown = "" if len(rows) <= CURVES else f", the best {CURVES} jobs"
            charts[f"curves{number}"] = {
                "kind": "lines", "caption": f"{objective.metric} by epoch{shown}", "series": lines,
            }  # fmt: skip
    return charts
