"""The charts of a sweep's page: what each setting does, and curves over the epochs."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from discern.reports.run_page import points
from discern.runs.folder import finite, is_run, mapping, numbers, read_run
from discern.runs.state import State
from discern.sweeps.ledger import Ledger
from discern.sweeps.names import short_names, short_number
from discern.sweeps.ranking import (
    Group,
    is_geometric,
    is_wide,
    numbers_of,
    rank_rows,
    ranked_groups,
    repetitions,
    steps_of,
    varied,
)
from discern.sweeps.results import NONE, mean_and_sd
from discern.sweeps.rows import Objective, Row
from discern.text import printable

MAX_CURVES = 200
"""Maximum number of curves in a chart, the best first."""

MAX_HEAT_VALUES = 60
"""Maximum number of values of each setting in a heat map."""

Chart = dict[str, object]
"""A chart, for the page's script."""


@dataclass(frozen=True)
class Interval:
    """The values of a setting that a search drew from.

    Attributes:
        low, high: the ends.
        log: whether it drew on a logarithmic scale.
    """

    low: float
    high: float
    log: bool

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', on a log scale' if self.log else ''}"


def intervals(results: Mapping[str, object]) -> dict[str, Interval]:
    """Setting -> the interval that it was searched in, from results.json."""
    found = {}
    for name, given in mapping(results.get("space")).items():
        low, high = (finite(mapping(given).get(end)) for end in ("low", "high"))
        if low is not None and high is not None:
            log = mapping(given).get("log") is True and low > 0
            found[str(name)] = Interval(low, high, log)
    return found


def importance_charts(results: Mapping[str, object]) -> dict[str, Chart]:
    """How much each setting of a search explains, by the charts' ids."""
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


# The effect of settings


def effect_charts(
    rows: Sequence[Row], objectives: Sequence[Objective], space: Mapping[str, Interval]
) -> dict[str, Chart]:
    """The first objective over the settings, by the charts' ids.

    One setting is a line, points or bars; two are a heat map or coloured points; more are parallel
    coordinates. A search of several settings has points over each of them as well.
    """
    seen = _Seen(rows, objectives, space)
    if not seen.axes or len(seen.values) < 2:
        return {}
    if len(seen.axes) == 1:
        return {"effect": seen.effect(0)}
    charts: dict[str, Chart] = {}
    if len(seen.axes) == 2 and seen.is_grid:
        charts["heat"] = seen.heat()
    elif len(seen.axes) == 2 and not any(axis.words for axis in seen.axes):
        charts["plane"] = seen.plane()
    else:
        charts["parallel"] = seen.parallel()
    if space:
        charts |= {f"effect{index}": seen.effect(index) for index in range(len(seen.axes))}
    return charts


class _Axis:
    """A setting that differs between groups: its values as an axis shows them."""

    def __init__(self, name: str, texts: Sequence[str], interval: Interval | None) -> None:
        self.name = name
        self.texts = texts
        self.numbers = numbers_of(texts)
        self.searched = interval is not None
        self.log = self.numbers is not None and min(self.numbers) > 0
        self.log &= interval.log if interval else is_geometric(self.numbers or [])
        self.words = None if self.numbers is not None else steps_of(texts)[0]

    @property
    def values(self) -> Sequence[object]:
        """Numbers, or the indices of words."""
        return self.numbers if self.numbers is not None else steps_of(self.texts)[1]

    def spec(self) -> Chart:
        """The axis, for the page's script."""
        return {
            "name": self.name,
            "log": self.log,
            **({"values": self.words} if self.words else {}),
        }


class _Seen:
    """The groups of jobs that have a value of the first objective, best first."""

    def __init__(
        self, rows: Sequence[Row], objectives: Sequence[Objective], space: Mapping[str, Interval]
    ) -> None:
        self.objective = objectives[0]
        self.metric = self.objective.metric
        valued = [
            (group, mean)
            for rank, group in ranked_groups(rows, objectives)
            if rank is not None and (mean := group.spreads[self.metric].mean) is not None
        ]
        self.groups = [group for group, _ in valued]
        self.values = [mean for _, mean in valued]
        names = [n for n in varied(rows) if len({g.overrides.get(n) for g in self.groups}) > 1]
        self.axes = [
            _Axis(
                short, [group.overrides.get(name, NONE) for group in self.groups], space.get(name)
            )
            for name, short in zip(names, short_names(names), strict=True)
        ]
        self.told = [self._told(index) for index in range(len(self.groups))]

    def _told(self, index: int) -> str:
        """The text that the script shows at a group."""
        pairs = [f"{axis.name}={axis.texts[index]}" for axis in self.axes]
        spread = self.groups[index].spreads[self.metric]
        return "\n".join([*pairs, f"{self.metric} {mean_and_sd(spread)}"])

    @property
    def is_grid(self) -> bool:
        """Whether at least half of the pairs of two settings' values have been tried."""
        sides = [len(set(axis.texts)) for axis in self.axes]
        full = 2 * len(self.values) >= math.prod(sides)
        return full and max(sides) <= MAX_HEAT_VALUES and not any(a.searched for a in self.axes)

    def effect(self, index: int) -> Chart:
        """The objective over one setting."""
        axis, caption = self.axes[index], f"{self.metric} by {self.axes[index].name}"
        if axis.searched or len(self.axes) > 1:
            y = {"name": self.metric, "log": is_wide(self.values)}
            dots = zip(axis.values, self.values, self.told, strict=True)
            return {"kind": "points", "caption": caption, "x": axis.spec(), "y": y,
                    "dots": list(map(list, dots))}  # fmt: skip
        if axis.numbers is None:
            bars = {"names": list(axis.texts), "values": self.values}
            return {"kind": "bars", "caption": caption, **bars, "x": self.metric}
        spreads = [group.spreads[self.metric] for group in self.groups]
        told = sorted(zip(axis.numbers, self.values, (s.sd for s in spreads), strict=True))
        line: Chart = {"name": self.metric, "points": [[x, mean] for x, mean, _ in told]}
        if any(sd is not None for *_, sd in told):
            line["band"] = [[x, mean - (sd or 0), mean + (sd or 0)] for x, mean, sd in told]
            caption += ": mean, and a band of ± one standard deviation"
        return {
            "kind": "lines", "caption": caption, "series": [line], "x": axis.name,
            "fraction": True, "logx": axis.log, "log": is_wide(self.values),
        }  # fmt: skip

    def heat(self) -> Chart:
        """The objective over two settings, a cell per pair of values."""
        x, y = self.axes
        (across, columns), (down, rows) = steps_of(x.texts), steps_of(y.texts)
        return {
            "kind": "heat",
            "caption": f"{self.metric} by {x.name} and {y.name} (violet is good)",
            "less": self.objective.sign > 0,
            "x": {"name": x.name, "values": across},
            "y": {"name": y.name, "values": down},
            "cells": list(map(list, zip(columns, rows, self.values, self.told, strict=True))),
        }

    def plane(self) -> Chart:
        """The objective over two numeric settings, a coloured point per group."""
        x, y = self.axes
        dots = zip(x.values, y.values, self.values, self.told, strict=True)
        return {
            "kind": "points",
            "caption": f"{self.metric} by {x.name} and {y.name} (violet is good)",
            "less": self.objective.sign > 0,
            "coloured": True,
            "x": x.spec(),
            "y": y.spec(),
            "dots": list(map(list, dots)),
        }

    def parallel(self) -> Chart:
        """A line per group through the values of all settings and the objective."""
        columns = [axis.texts if axis.words else axis.values for axis in self.axes]
        rows = [
            {"name": told, "values": list(each)}
            for told, *each in zip(self.told, *columns, self.values, strict=True)
        ]
        last = {"name": self.metric, "log": is_wide(self.values)}
        which = "setting" if any(len(group.rows) > 1 for group in self.groups) else "job"
        return {
            "kind": "parallel",
            "caption": f"Settings and {self.metric}, one line per {which} (violet is good); drag "
            "along an axis to select",
            "less": self.objective.sign > 0,
            "axes": [*(axis.spec() for axis in self.axes), last],
            "rows": rows,
        }


# Curves


def curve_charts(ledger: Ledger, rows: Sequence[Row]) -> dict[str, Chart]:
    """Each objective by epoch, by the charts' ids: a line per job, or per setting over seeds."""
    grouped = bool(repetitions(rows))
    ranked: Sequence[Row | Group] = (
        [group for _, group in ranked_groups(rows, ledger.ranked_by)]
        if grouped
        else [row for _, row in rank_rows(rows, ledger.ranked_by)]
    )
    shown = ranked[:MAX_CURVES]
    epochs = {
        row.folder: read_run(row.folder).epochs()
        for one in shown
        for row in (one.rows if isinstance(one, Group) else [one])
        if is_run(row.folder)
    }
    charts: dict[str, Chart] = {}
    for number, objective in enumerate(ledger.ranked_by):
        curves = {
            folder: drawn
            for folder, of in epochs.items()
            if (drawn := points(of, objective.metric))
        }
        lines = [line for one in shown if (line := _line(one, curves))["points"]]
        caption = f"{objective.metric} by epoch"
        if grouped:
            caption += (
                f": mean over {repetitions(rows)}, up to the epoch that all have, and a band "
            )
            caption += "of ± one standard deviation"
        if len(ranked) > MAX_CURVES:
            caption += f", the best {MAX_CURVES} {'settings' if grouped else 'jobs'}"
        if lines:
            values = [value for drawn in curves.values() for _, value in drawn]
            charts[f"curves{number}"] = {
                "kind": "lines", "caption": caption, "series": lines, "log": is_wide(values),
            }  # fmt: skip
    return charts


def _line(one: Row | Group, curves: Mapping[Path, list[list[float]]]) -> Chart:
    if isinstance(one, Row):
        return {"name": printable(Path(one.folder.name)), "points": curves.get(one.folder, [])}
    # Those that count in the group's mean; without any, such as while a sweep runs, all.
    counted = [row for row in one.rows if row.state in (State.DONE, State.PRUNED)] or one.rows
    drawn = [curves[row.folder] for row in counted if row.folder in curves]
    values: dict[float, list[float]] = {}
    for epoch, value in itertools.chain(*drawn):
        values.setdefault(epoch, []).append(value)
    # Where a job has ended, the mean of the others would jump.
    of_all = [(epoch, each) for epoch, each in sorted(values.items()) if len(each) == len(drawn)]
    short = zip(short_names(list(one.overrides)), one.overrides.values(), strict=True)
    name = ", ".join(f"{name}={short_number(value)}" for name, value in short)
    line: Chart = {
        "name": name or f"mean of {len(one.rows)} jobs",
        "points": [[epoch, statistics.fmean(each)] for epoch, each in of_all],
    }
    if len(drawn) > 1:
        line["band"] = [[epoch, *_within_sd(each)] for epoch, each in of_all]
    return line


def _within_sd(values: Sequence[float]) -> tuple[float, float]:
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return mean - sd, mean + sd
