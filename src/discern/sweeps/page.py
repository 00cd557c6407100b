"""report.html of a sweep: ranking, effect of each setting, and the curves of all jobs."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from discern.files.places import is_file
from discern.files.reading import check_format, read_json
from discern.reports.page import cell, duration, write_page
from discern.runs.folder import REPORT, Run, glance, mapping, numbers
from discern.runs.metric_table import METRICS
from discern.runs.state import State
from discern.sweeps.charts import (
    Interval,
    curve_charts,
    effect_charts,
    importance_charts,
    intervals,
)
from discern.sweeps.ledger import Ledger
from discern.sweeps.names import short_names, short_number
from discern.sweeps.ranking import (
    best_group,
    described,
    has_parts,
    has_seeds,
    listed_rows,
    number_of,
    on_other_images,
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

MAX_VALUES = 12
"""Values of a setting that the page lists; of more, their number and the ends."""

MAX_READ = 200
"""Jobs whose summaries are read for the model, the data and the time."""

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
    rows, objectives = ledger.rows(), ledger.ranked_by
    results = _results(folder / "results.json")
    ranked = listed_rows(rows, objectives)
    space = intervals(results)
    effects = effect_charts(rows, objectives, space) | importance_charts(results)
    curves = curve_charts(ledger, rows)
    runs = [glance(row.folder) for row in rows[:MAX_READ]]
    charts = effects | curves
    states = {row.state for row in rows}
    settled = all(state.is_settled for state in states)
    path = folder / REPORT
    write_page(
        "sweep.html.j2",
        path,
        title=_title(rows, runs),
        kind="A sweep of discern",
        data={"charts": charts},
        lead=_lead(rows, runs),
        swept=_swept(ledger, rows, space),
        state="failed" if State.FAILED in states else "done" if settled else "interrupted",
        best=_best(ranked, objectives, mapping(results.get("best")), folder),
        command=shlex.join(["python", "train.py", "-m", *ledger.arguments]),
        ranking=_ranking(ranked, objectives, folder),
        caution=on_other_images(rows, objectives),
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


def _title(rows: Sequence[Row], runs: Sequence[Run]) -> str:
    """What was swept, and of which model on which data."""
    names = short_names(settings(rows)) if len(rows) > 1 else []
    what = few(names, 3) or f"{len(rows)} {'job' if len(rows) == 1 else 'jobs'}"
    titles = list(dict.fromkeys(run.title for run in runs if run.facts.get("title")))
    return f"Sweep of {what}" + (f": {few(titles, 2)}" if titles else "")


def few(names: Sequence[str], most: int) -> str:
    """Names in a list, as ``a, b and 3 more``."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _lead(rows: Sequence[Row], runs: Sequence[Run]) -> list[str]:
    began = min((run.began for run in runs if run.began is not None), default=None)
    when = [f"{began:%Y-%m-%d %H:%M}"] if began else []
    counts = Counter(row.state for row in rows)
    parts = [*when, *(f"{counts[state]} {state}" for state in State if counts[state])]
    seconds = sum(row.seconds for row in rows if row.seconds is not None)
    return [*parts, f"{duration(seconds)} of jobs"] if seconds else parts


def _swept(ledger: Ledger, rows: Sequence[Row], space: Mapping[str, Interval]) -> Part:
    """The settings that differ with their values, what jobs are ranked by, and the search."""
    told = []
    for name in settings(rows) if len(rows) > 1 else []:
        values = steps_of([row.overrides[name] for row in rows if name in row.overrides])[0]
        listed = ", ".join(values)
        if len(values) > MAX_VALUES:
            listed = f"{len(values):,} values, {values[0]} to {values[-1]}"
        told.append([name, str(space[name]) if name in space else listed])
    ranked_by = [
        f"{each.metric} ({'less' if each.sign > 0 else 'more'} is better)"
        for each in ledger.ranked_by
    ]
    return {"settings": told, "by": ", ".join(ranked_by), "search": shlex.join(ledger.search or [])}


# Tables


def _best(
    ranked: Ranked, objectives: Sequence[Objective], best: Mapping[str, object], folder: Path
) -> Part | None:
    rows = [row for _, row in ranked]
    if not best or not rows:
        return None
    command = str(best.get("command", ""))
    if has_parts(rows):
        setting = best_group(rows, objectives)
        if setting is None:
            return None
        over = repetitions(rows)
        tiles = [
            {"name": f"{name} over {setting.counted(name)} {over}", "value": mean_and_sd(spread)}
            for name, spread in setting.spreads.items()
        ]
        return {
            "title": "Best setting" if varied(rows) else "Cross-validation estimate",
            "why": "",
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
        {"name": f"Test {metric.title}", "value": metric.text(test[metric.name])}
        for metric in METRICS
        if metric.average == "micro" and metric.name in test
    ]
    why = "The best seed of the setting with the best mean." if has_seeds(rows) else ""
    return {
        "title": "Best job", "why": why, "tiles": tiles, "command": command, **_named(row, folder)
    }  # fmt: skip


def _named(row: Row, folder: Path) -> Part:
    """The name of a job, and the link to its report where it has one."""
    has_report = is_file(row.folder / REPORT) and row.folder.parent == folder
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
    return text if number is None else cell(number, short_number(text))


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
        if names or not has_parts(rows)
        else "",
    }
