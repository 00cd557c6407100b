"""sweep.png: the objective of a sweep over its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from discern.reports.lettering import distinct, shortened
from discern.reports.sheet import BLUE, VERMILION, black_or_white, save
from discern.reports.sheet import title as write_title
from discern.sweeps import ranking
from discern.sweeps.names import short_names, short_number
from discern.sweeps.results import NONE, mean_and_sd, over_repetitions, rounded
from discern.sweeps.rows import Objective, Row

MAX_BARS, MAX_CELLS, MAX_JOINED, MAX_TICKS = 40, 20, 30, 10
"""Bars; values along a side of a heat map; points of a line; values that have their own tick."""


def draw_sweep(rows: Sequence[Row], objective: Objective, title: str, path: Path) -> None:
    """Draw the objective of jobs over the settings that they differ in, and save a PNG file.

    Repetitions are averaged. One numeric setting is a line; two settings are a heat map if at
    least half of their pairs have a value; all else is bars, best on top. Jobs that
    only repeat each other are bars with their mean, folds and splits in their order.
    """
    view = _View(rows, objective)
    lines = [title]
    if not view.spreads:
        view.axes.set_axis_off()
        lines.append(f"No job has a value of {objective.metric}.")
    else:
        view.draw()
    if view.spreads and not view.parts:
        lines.append(f"best: {mean_and_sd(view.spreads[0])} at {view.label(0)}")
    if view.spreads and view.repeated:
        view.axes.axvline(float(view.means.mean()), color="0.3", linestyle="--")
        lines += over_repetitions(rows, [objective])
    write_title(view.figure, "\n".join(lines))
    save(view.figure, path)


class _View:
    """The groups that have a value, best first, and where they are drawn."""

    def __init__(self, rows: Sequence[Row], objective: Objective) -> None:
        varied = ranking.varied(rows)
        self.repeated = not varied and bool(ranking.repetitions(rows))
        # No fold or split is the best: they stay in their order.
        self.parts = not varied and ranking.has_parts(rows)
        names = varied or ranking.settings(rows)
        self.names = short_names(names)
        groups = ranking.group_by(rows, [objective], names)
        ranked = [group for _, group in ranking.rank_groups(groups, [objective])]
        groups = [g for g in (groups if self.parts else ranked) if g.spreads[objective.metric].n]
        self.texts = [[group.overrides.get(name, NONE) for group in groups] for name in names]
        self.spreads = [group.spreads[objective.metric] for group in groups]
        self.means = np.array([spread.mean for spread in self.spreads], float)
        self.sds = np.array([spread.sd for spread in self.spreads], float)
        self.scale = "log" if ranking.is_wide(self.means.tolist()) else "linear"
        better, self.colours = ("less", "viridis") if objective.sign > 0 else ("more", "viridis_r")
        self.metric = f"{shortened(objective.metric, 2.2, 10)} ({better} is better)"
        self.figure = Figure(figsize=(8, 5), layout="constrained")
        self.axes = self.figure.subplots()

    def label(self, index: int) -> str:
        """A group's settings."""
        pairs = zip(self.names, (short_number(texts[index]) for texts in self.texts), strict=True)
        return ", ".join(map("=".join, pairs)) or "the only job"

    def draw(self) -> None:
        """Draw a line, a heat map or bars."""
        sides = [] if self.repeated else [len(set(texts)) for texts in self.texts]
        if len(sides) == 1 and (numbers := ranking.numbers_of(self.texts[0])) is not None:
            self.draw_line(numbers)
        elif len(sides) == 2 and max(sides) <= MAX_CELLS and 2 * len(self.means) >= np.prod(sides):
            self.draw_cells()
        else:
            self.draw_bars()

    def draw_line(self, numbers: Sequence[float]) -> None:
        """Draw means and standard deviations over a numeric setting."""
        at, means, sds = np.array(sorted(zip(numbers, self.means, self.sds, strict=True))).T
        ticks = np.unique(at)
        if ranking.is_geometric(numbers):
            zero = (
                {"linthresh": ticks[1], "linscale": 0.5} if ticks[0] == 0 else {}
            )  # it stands apart
            self.axes.set_xscale("symlog" if zero else "log", **zero)
        style = "o-" if len(at) <= MAX_JOINED else "o"
        self.axes.errorbar(at, means, sds, fmt=style, c=BLUE, capsize=4)
        self.axes.plot(numbers[0], self.means[0], "o", c=VERMILION, markersize=9, zorder=3)
        self.axes.set_yscale(self.scale)
        gaps = np.diff(self.axes.xaxis.get_transform().transform(ticks))
        if len(ticks) <= MAX_TICKS and (gaps > 0.06 * gaps.sum()).all():
            self.axes.set_xticks(ticks, map(short_number, ranking.steps_of(self.texts[0])[0]))
            self.axes.set_xticks([], minor=True)
        self.name_axes(self.names[0], self.metric)
        self.axes.grid(alpha=0.3)

    def draw_cells(self) -> None:
        """Draw a heat map of two settings, the best cell framed."""
        (across, columns), (down, rows) = map(ranking.steps_of, self.texts)
        cells = np.full((len(down), len(across)), np.nan)
        # A value typed in two ways is one cell, which has the better.
        cells[rows[::-1], columns[::-1]] = self.means[::-1]
        image = self.axes.pcolormesh(cells, cmap=self.colours, norm=self.scale)
        colours = image.to_rgba(cells)
        for column, row, spread in zip(columns, rows, self.spreads, strict=True):
            sd = "" if spread.sd is None else f"\n± {rounded(spread.sd, 2)}"
            if spread.mean == cells[row, column]:
                self.axes.text(
                    column + 0.5, row + 0.5, rounded(spread.mean, 3) + sd, ha="center", va="center",
                    size=min(9, 108 / max(cells.shape)),
                    color=black_or_white(colours[row, column]),
                )  # fmt: skip
        self.axes.add_patch(Rectangle((columns[0], rows[0]), 1, 1, fill=False, ec=VERMILION, lw=4))
        xs, ys = (distinct(list(map(short_number, of)), 1.4, 10) for of in (across, down))
        turned = 90 if len(xs) * max(map(len, xs)) > 80 else 0
        self.axes.set_xticks(np.arange(len(xs)) + 0.5, xs, rotation=turned, parse_math=False)
        self.axes.set_yticks(np.arange(len(ys)) + 0.5, ys, parse_math=False)
        self.name_axes(self.names[0], self.names[1])
        self.figure.colorbar(image, ax=self.axes, pad=0.02).set_label(self.metric, parse_math=False)

    def draw_bars(self) -> None:
        """Draw a bar for each group, the first on top, with its settings and its value."""
        count = min(len(self.means), MAX_BARS)
        self.figure.set_figheight(1.5 + 0.25 * max(4, count))
        colours = [BLUE if self.parts else VERMILION, *[BLUE] * (count - 1)]
        sds = np.nan_to_num(self.sds[:count])
        bars = self.axes.barh(range(count), self.means[:count], xerr=sds, color=colours)
        self.axes.bar_label(bars, [*map(mean_and_sd, self.spreads[:count])], padding=3)
        labels = distinct([self.label(index) for index in range(count)], 4, 10)
        self.axes.set_yticks(range(count), labels, parse_math=False)
        self.axes.set(ylim=(count - 0.4, -0.6), xscale=self.scale)
        self.axes.spines[["top", "right"]].set_visible(False)
        rest = len(self.means) > count
        self.name_axes(self.metric, f"the best {count} of {len(self.means)}" if rest else "")

    def name_axes(self, x: str, y: str) -> None:
        """Label the axes, without markup."""
        self.axes.set_xlabel(shortened(x, 6, 10), parse_math=False)
        self.axes.set_ylabel(shortened(y, 4, 10), parse_math=False)
