"""report.html of a sweep: ranking, effect of each setting, and the curves of all jobs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from discern.files.reading import check_format, read_json
from discern.reports.page import cell, duration, write_page
from discern.reports.run_page import points
from discern.runs.folder import REPORT, is_run, mapping, numbers, read_run
from discern.runs.metric_table import METRICS
from discern.runs.state import State
from discern.sweeps.ledger import Ledger
from discern.sweeps.names import short_names
from discern.sweeps.ranking import (
    Group,
    best_group,
    described,
    has_folds,
    is_geometric,
    listed_rows,
    number_of,
    numbers_of,
    rank_rows,
    ranked_groups,
    repetitions,
    settings,
    steps_of,
    varied,
    verdict,
)
from discern.sweeps.results import FORMAT, NONE, group_results, mean_and_sd, rounded
from discern.sweeps.rows import Objective, Row
from discern.text import printable

MAX_CURVES = 200
"""Maximum number of jobs whose curves are drawn, the best first."""

MAX_HEAT_VALUES = 60
"""Maximum number of values of each setting in a heat map."""

Part = dict[str, object]
"""A part of the page, for its template or for its script."""

Ranked = Sequence[tuple[int | None, Row]]
"""Jobs with their ranks, best first."""


def write_sweep_page(folder: Path) -> Path:
    """Write report.html into a sweep's folder, from its files and those of its jobs.

    Returns:
        The file.

    Raises:
        DiscernError: the folder is not a sweep's, or of another version of discern.
    """
    ledger = Ledger.load(folder)
    rows, objectives = ledger.rows(), ledger.objectives
    results = _results(folder / "results.json")
    ranked = listed_rows(rows, objectives)
    effects = _effects(rows, objectives) | _importance(results)
    curves = _curves(ledger, rows)
    charts = effects | curves
    states = {row.state for row in rows}
    settled = all(state.is_settled for state in states)
    path = folder / REPORT
    write_page(
        "sweep.html.j2",
        path,
        title=f"{objectives[0].metric} of {len(rows)} {'job' if len(rows) == 1 else 'jobs'}",
        kind="A sweep of discern",
        data={"charts": charts},
        lead=_lead(rows),
        state="failed" if State.FAILED in states else "done" if settled else "interrupted",
        best=_best(ranked, objectives, mapping(results.get("best")), folder),
        command=shlex.join(["python", "train.py", "-m", *ledger.arguments]),
        ranking=_ranking(ranked, objectives, folder),
        groups=_groups(rows, objectives) if repetitions(rows) else None,
        views=list(effects),
        curves=list(curves),
        charts=charts,
        failed=[
            [row.folder.name, row.state, row.reason]
            for row in rows
            if row.state not in (State.DONE, State.PRUNED) and row.reason
        ],
    )
    return path


def _results(path: Path) -> Part:
    try:
        content = mapping(read_json(path, path.parent))
    except (OSError, ValueError):
        content = {}
    if content:
        check_format(path, content.get("format"), FORMAT)
    return content


def _lead(rows: Sequence[Row]) -> list[str]:
    counts = Counter(row.state for row in rows)
    parts = [f"{counts[state]} {state}" for state in State if counts[state]]
    seconds = sum(row.seconds for row in rows if row.seconds is not None)
    return [*parts, f"{duration(seconds)} of jobs"] if seconds else parts


# Tables


def _best(
    ranked: Ranked, objectives: Sequence[Objective], best: Mapping[str, object], folder: Path
) -> Part | None:
    rows = [row for _, row in ranked]
    if not best or not rows:
        return None
    command = str(best.get("command", ""))
    if has_folds(rows):
        setting = best_group(rows, objectives)
        if setting is None:
            return None
        tiles = [
            {"name": f"{metric} over {setting.counted(metric)} folds", "value": mean_and_sd(spread)}
            for metric, spread in setting.spreads.items()
        ]
        return {
            "title": "Best setting" if varied(rows) else "Cross-validation estimate",
            "name": described(setting.overrides),
            "link": None,
            "tiles": tiles,
            "command": command,
        }
    row = next((row for row in rows if row.folder.name == best.get("folder")), rows[0])
    test = numbers(best.get("test"))
    tiles = [
        {"name": f"Best {objective.metric}", "value": rounded(row.values.get(objective.metric))}
        for objective in objectives
    ]
    tiles += [
        {"name": f"Test {metric.title}", "value": rounded(test[metric.name])}
        for metric in METRICS
        if metric.average == "micro" and metric.name in test
    ]
    return {"title": "Best job", "tiles": tiles, "command": command, **_named(row, folder)}


def _named(row: Row, folder: Path) -> Part:
    """The name of a job, and the link to its report where it has one."""
    has_report = (row.folder / REPORT).is_file() and row.folder.parent == folder
    link = f"./{quote(row.folder.name)}/{REPORT}" if has_report else None
    return {"name": printable(Path(row.folder.name)), "link": link}


def _ranking(ranked: Ranked, objectives: Sequence[Objective], folder: Path) -> Part:
    names = settings([row for _, row in ranked])
    metrics = [objective.metric for objective in objectives]
    rows = [
        {
            "rank": "" if rank is None else rank,
            **_named(row, folder),
            "cells": [
                *(_setting(row.overrides.get(name)) for name in names),
                *(cell(row.values.get(each), rounded(row.values.get(each))) for each in metrics),
                cell(row.epochs, NONE if row.epochs is None else str(row.epochs)),
                cell(row.seconds, NONE if row.seconds is None else f"{row.seconds:.1f}"),
            ],
            "state": row.state,
        }
        for rank, row in ranked
    ]
    header = ["rank", "job", *short_names(names), *metrics, "epochs", "seconds", "state"]
    return {"header": header, "rows": rows}


def _setting(text: str | None) -> object:
    if text is None:
        return NONE
    number = number_of(text)
    return text if number is None else cell(number, text)


def _groups(rows: Sequence[Row], objectives: Sequence[Objective]) -> Part:
    ranked, names, over = ranked_groups(rows, objectives), varied(rows), repetitions(rows)
    shown = [
        [
            "" if rank is None else str(rank),
            *(group.overrides.get(name, NONE) for name in names),
            *map(cell, [spread.mean for spread in group.spreads.values()], group_results(group)),
            group_results(group)[-1],
        ]
        for rank, group in ranked
    ]
    metrics = [objective.metric for objective in objectives]
    return {
        "over": over,
        "header": ["rank", *short_names(names), *metrics, over],
        "rows": shown,
        "verdict": verdict([group for _, group in ranked], objectives[0])
        if names or not has_folds(rows)
        else "",
    }


# Charts, by their ids


def _importance(results: Mapping[str, object]) -> dict[str, Part]:
    found = {metric: numbers(of) for metric, of in mapping(results.get("importance")).items()}
    return {
        f"importance{number}": {
            "kind": "bars",
            "caption": f"Share of the variance of {metric} that each setting explains (fANOVA)",
            "names": list(shares),
            "values": list(shares.values()),
            "x": "share of the variance",
        }
        for number, (metric, shares) in enumerate(found.items())
        if shares
    }


def _effects(rows: Sequence[Row], objectives: Sequence[Objective]) -> dict[str, Part]:
    """The objective over the settings: a line or bars, a heat map, or parallel coordinates."""
    objective = objectives[0]
    valued = [
        (group, mean)
        for rank, group in ranked_groups(rows, objectives)
        if rank is not None and (mean := group.spreads[objective.metric].mean) is not None
    ]
    names = [n for n in varied(rows) if len({group.overrides.get(n) for group, _ in valued}) > 1]
    if not names or len(valued) < 2:
        return {}
    short = short_names(names)
    texts = [[group.overrides.get(name, NONE) for group, _ in valued] for name in names]
    values = [mean for _, mean in valued]
    if len(names) == 1:
        return {"effect": _effect(short[0], texts[0], values, objective.metric)}
    points = [_point(group, names, short, objective) for group, _ in valued]
    if len(names) == 2 and all(len(set(one)) <= MAX_HEAT_VALUES for one in texts):
        name, chart = "heat", _heat(short, texts, values, points)
        caption = f"{objective.metric} by {short[0]} and {short[1]} (dark is good)"
    else:
        name, chart = "parallel", _parallel([*short, objective.metric], texts, values, points)
        caption = (
            f"Settings and {objective.metric}, one line per job (dark is good); drag along an axis "
            "to select"
        )
    return {name: {"kind": name, "caption": caption, "less": objective.sign > 0, **chart}}


def _point(group: Group, names: Sequence[str], short: Sequence[str], objective: Objective) -> str:
    """The text that the script shows at the point of a group."""
    pairs = zip(short, (group.overrides.get(name, NONE) for name in names), strict=True)
    mean = f"{objective.metric} {mean_and_sd(group.spreads[objective.metric])}"
    return "\n".join([*map("=".join, pairs), mean])


def _effect(name: str, texts: Sequence[str], values: Sequence[float], metric: str) -> Part:
    numbers, caption = numbers_of(texts), f"{metric} by {name}"
    if numbers is None:
        bars = {"names": list(texts), "values": list(values)}
        return {"kind": "bars", "caption": caption, **bars, "x": metric}
    points = sorted(map(list, zip(numbers, values, strict=True)))
    return {
        "kind": "lines", "caption": caption, "series": [{"name": metric, "points": points}],
        "x": name, "fraction": True, "logx": is_geometric(numbers) and min(numbers) > 0,
    }  # fmt: skip


def _heat(
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    values: Sequence[float],
    points: Sequence[str],
) -> Part:
    (across, columns), (down, rows) = map(steps_of, texts)
    return {
        "x": {"name": names[0], "values": across},
        "y": {"name": names[1], "values": down},
        "cells": [list(each) for each in zip(columns, rows, values, points, strict=True)],
    }


def _parallel(
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    values: Sequence[float],
    points: Sequence[str],
) -> Part:
    axes: list[Part] = []
    columns: list[Sequence[object]] = []
    for name, given in zip(names, texts, strict=False):
        numbers = numbers_of(given)
        if numbers is None:
            axes.append({"name": name, "values": steps_of(given)[0]})
        else:
            axes.append({"name": name, "log": is_geometric(numbers) and min(numbers) > 0})
        columns.append(given if numbers is None else numbers)
    rows = [
        {"name": point, "values": list(each)}
        for point, *each in zip(points, *columns, values, strict=True)
    ]
    return {"axes": [*axes, {"name": names[-1]}], "rows": rows}


def _curves(ledger: Ledger, rows: Sequence[Row]) -> dict[str, Part]:
    best = [row for _, row in rank_rows(rows, ledger.objectives)][:MAX_CURVES]
    epochs = {row.folder.name: read_run(row.folder).epochs() for row in best if is_run(row.folder)}
    charts: dict[str, Part] = {}
    for number, objective in enumerate(ledger.objectives):
        lines = [
            {"name": printable(Path(name)), "points": drawn}
            for name, of in epochs.items()
            if (drawn := points(of, objective.metric))
        ]
        shown = "" if len(rows) <= MAX_CURVES else f", the best {MAX_CURVES} jobs"
        caption = f"{objective.metric} by epoch{shown}"
        if lines:
            charts[f"curves{number}"] = {"kind": "lines", "caption": caption, "series": lines}
    return charts
