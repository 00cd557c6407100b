"""sweep.png: what a sweep's objective does as its settings change."""

from __future__ import annotations

import itertools
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from discern.files.writing import write_whole
from discern.reports.sheet import BLUE, GREY, VERMILION, shorten
from discern.runs.folder import FOLD
from discern.runs.state import State
from discern.sweeps.ranking import (
    SEED,
    Group,
    Spread,
    group_by,
    has_folds,
    is_geometric,
    number_of,
    rank_groups,
    settings,
    value_of,
    varied,
)
from discern.sweeps.results import mean_and_sd, rounded, short_names
from discern.sweeps.rows import Objective, Row

MISSING = "–"
"""The value of a setting that a job does not set."""

TICKED_UP_TO = 10
"""Different values of a parameter up to which each has its tick."""

APART = 0.05
"""The part of an axis that values are apart if each has its tick."""

LABELLED_UP_TO = 40
"""Different values of a categorical parameter up to which each has its label."""

CELLS_UP_TO = 60
"""Rows or columns that a heat map may have."""

LISTED_UP_TO = 200
"""Values of the one categorical parameter that are listed; the worst are left out."""

JOINED_UP_TO = 30
"""Different values of the one numeric parameter up to which a line joins their means."""

WIDER = 100.0
"""The largest over the smallest objective from which on colours are logarithmic."""


def draw_sweep(rows: Sequence[Row], objective: Objective, title: str, path: Path) -> None:
    """Draw the objective over the parameters: the settings that jobs differ in, without the seed.

    Jobs that differ in the fold alone are a list of folds with their mean, and a fold is never a
    parameter. One numeric parameter is an axis with points, a categorical one a list of points; two
    numeric ones are a heat map, or points in the plane if they are no grid; others are parallel
    coordinates. Jobs that differ in the seed alone are a list of seeds.

    Args:
        rows: the jobs; those without a value are shown as such.
        objective: what is drawn; of several, one picture each.
        title: what was swept.
        path: the PNG file.
    """
    folds = has_folds(rows) and not varied(rows)
    fold = [name for name in settings(rows) if name.lstrip("+") == FOLD]
    names = fold if folds else varied(rows) or settings(rows)
    groups = group_by(rows, [objective], names)
    # Folds are no competitors: they stay in their order.
    ranked = groups if folds else [group for _, group in rank_groups(groups, [objective])]
    view = _View(objective, ranked, _parameters(names, ranked), folds)
    if not view.valued:
        figure = _draw_nothing(rows, objective)
    elif len(names) <= 1:
        listed = folds or names == [SEED]
        numeric = bool(names) and view.parameters[0].numbers is not None
        figure = _draw_line(view) if numeric and not listed else _draw_list(view)
    elif len(names) == 2 and all(parameter.numbers is not None for parameter in view.parameters):
        figure = _draw_cells(view) if _is_grid(view.parameters) else _draw_plane(view)
    else:
        figure = _draw_parallel(view)
    # Letters of 12 points, of which an inch holds about ten.
    wrapped = textwrap.fill(title, max(20, int(10 * figure.get_figwidth())))
    figure.suptitle(wrapped, fontsize=12, parse_math=False)
    with write_whole(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)


@dataclass(frozen=True)
class _Parameter:
    """A setting that is drawn.

    Attributes:
        name: as short as it is unique.
        texts: its value in each group, as typed.
        numbers: the same as numbers; None if some is none.
    """

    name: str
    texts: list[str]
    numbers: list[float] | None

    @cached_property
    def is_log(self) -> bool:
        """Whether its axis is logarithmic; a zero among such values stands apart."""
        return self.numbers is not None and is_geometric(self.numbers)

    @cached_property
    def steps(self) -> list[str]:
        """Its different values in order, a number as the best group that has it typed it."""
        if self.numbers is None:
            return sorted(set(self.texts))
        # 0.1 and 1e-1 are one value.
        typed = dict(zip(reversed(self.numbers), reversed(self.texts), strict=True))
        return [typed[number] for number in sorted(typed)]


@dataclass(frozen=True)
class _View:
    """What is drawn: the groups, best first, and their values of each parameter.

    Where they are ``folds`` of one estimate they are in their own order, and none is the best.
    """

    objective: Objective
    groups: list[Group]
    parameters: list[_Parameter]
    folds: bool = False

    @cached_property
    def valued(self) -> list[tuple[int, float]]:
        """The indices of the groups that have a value, and their means."""
        means = ((index, self.spread(index).mean) for index in range(len(self.groups)))
        return [(index, mean) for index, mean in means if mean is not None]

    @property
    def failed(self) -> list[int]:
        """The indices of the groups without a value."""
        return [i for i in range(len(self.groups)) if self.spread(i).mean is None]

    def spread(self, index: int) -> Spread:
        """How the objective came out in a group."""
        return self.groups[index].spreads[self.objective.metric]

    def best(self) -> str:
        """The label of the best group, which is the first."""
        at = ", ".join(f"{p.name}={_brief(p.texts[0], 24)}" for p in self.parameters)
        # A line of its own for each few settings, so that the legend fits.
        return textwrap.fill(
            f"best: {mean_and_sd(self.spread(0))}" + (f" at {at}" if at else ""), 60
        )

    def label(self) -> str:
        """The objective and what is good of it."""
        better = "less" if self.objective.sign > 0 else "more"
        return _broken(f"{self.objective.metric} ({better} is better)")

    def colours(self) -> tuple[Colormap, Normalize]:
        """Dark is good, so that good lines stand out from the page."""
        means = [mean for _, mean in self.valued]
        low, high = min(means), max(means)
        if low == high:
            low, high = low - (abs(low) or 1) * 0.01, high + (abs(high) or 1) * 0.01
        wide = low > 0 and high / low >= WIDER
        norm = LogNorm(low, high) if wide else Normalize(low, high)
        return colormaps["viridis" if self.objective.sign > 0 else "viridis_r"], norm


def _brief(text: str, length: int) -> str:
    """A value in so many characters, a number to three digits if it has many."""
    number = number_of(text)
    return f"{number:.3g}" if number is not None and len(text) > 8 else shorten(text, length)


def _parameters(names: Sequence[str], groups: Sequence[Group]) -> list[_Parameter]:
    parameters = []
    for name, short in zip(names, short_names(names), strict=True):
        texts = [group.overrides.get(name, MISSING) for group in groups]
        numbers = [number for text in texts if (number := number_of(text)) is not None]
        whole = len(numbers) == len(texts)
        parameters.append(_Parameter(short, texts, numbers if whole else None))
    return parameters


def _is_grid(parameters: Sequence[_Parameter]) -> bool:
    """Whether at least half of the pairs of values have been tried, or are to be."""
    x, y = (parameter.numbers or [] for parameter in parameters)
    sides = len(set(x)), len(set(y))
    return max(sides) <= CELLS_UP_TO and 2 * len(set(zip(x, y, strict=True))) >= math.prod(sides)


def _page(width: float, height: float) -> Figure:
    # Wider margins than the engine's own: letters at the edge of a page are hard to read.
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout)


def _draw_nothing(rows: Sequence[Row], objective: Objective) -> Figure:
    figure = _page(7, 3)
    axes = figure.subplots()
    axes.set_axis_off()
    counts = [(sum(row.state is state for row in rows), state.value) for state in State]
    jobs = ", ".join(f"{count} {name}" for count, name in counts if count) or "no jobs"
    text = f"No job has a value of {objective.metric}.\n({jobs})"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, parse_math=False)
    return figure


def _draw_line(view: _View) -> Figure:
    """The objective over the one numeric parameter."""
    figure = _page(8, 5)
    axes = figure.subplots()
    parameter = view.parameters[0]
    numbers = parameter.numbers or []
    _scale_axis(axes, parameter, "x")
    order = sorted(view.valued, key=lambda pair: numbers[pair[0]])
    if len(order) <= JOINED_UP_TO:
        x = [numbers[index] for index, _ in order]
        axes.plot(x, [mean for _, mean in order], color=BLUE, linewidth=1.2, zorder=2)
    repeated = [pair for pair in order if view.spread(pair[0]).n > 1]
    if repeated:
        axes.errorbar(
            [numbers[index] for index, _ in repeated],
            [mean for _, mean in repeated],
            [view.spread(index).sd or 0.0 for index, _ in repeated],
            fmt="D", color=BLUE, markersize=5, capsize=4, zorder=3, label="mean ± sd over jobs",
        )  # fmt: skip
    _draw_jobs(axes, view, numbers)
    if view.failed:
        axes.plot(
            [numbers[index] for index in view.failed], [0.03] * len(view.failed),
            "x", color="0.4", transform=axes.get_xaxis_transform(), label="no value",
        )  # fmt: skip
    _mark_best(axes, view, numbers[0], view.valued[0][1])
    axes.set_xlabel(_broken(parameter.name), parse_math=False)
    axes.set_ylabel(view.label(), parse_math=False)
    axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def _draw_list(view: _View) -> Figure:
    """A line of points for each value of the one categorical parameter, best on top."""
    name = view.parameters[0].name if view.parameters else "job"
    everything = len(view.groups)
    view = _first_of(view, LISTED_UP_TO)
    count = len(view.groups)
    labels = view.parameters[0].texts if view.parameters else [str(view.groups[0].rows[0].number)]
    few = count <= LABELLED_UP_TO
    figure = _page(8, 2 + (0.3 if few else 0.16) * max(3, count))
    axes = figure.subplots()
    font = 9 if few else 7
    shown = [shorten(label, 40) for label in labels]
    axes.set_yticks(range(count), shown, fontsize=font, parse_math=False)
    axes.set_ylim(count - 0.4, -0.6)
    if any(view.spread(index).n > 1 for index, _ in view.valued):
        axes.errorbar(
            [mean for _, mean in view.valued],
            [index for index, _ in view.valued],
            xerr=[view.spread(index).sd or 0.0 for index, _ in view.valued],
            fmt="D", color=BLUE, markersize=5, capsize=3, zorder=3, label="mean ± sd over jobs",
        )  # fmt: skip
    _draw_jobs(axes, view, list(range(count)), across=True)
    if not view.folds:
        _mark_best(axes, view, view.valued[0][1], 0)
    right = axes.secondary_yaxis("right")
    spreads = map(view.spread, range(count))
    means = ["no value" if spread.n == 0 else mean_and_sd(spread) for spread in spreads]
    right.set_yticks(range(count), means, fontsize=font)
    right.tick_params(length=0)
    axes.set_xlabel(view.label(), parse_math=False)
    best = f" (best {count} of {everything})" if count < everything else ""
    axes.set_ylabel(_broken(name + best), parse_math=False)
    axes.grid(alpha=0.3)
    if view.folds:
        rows = [row for group in view.groups for row in group.rows]
        (whole,) = group_by(rows, [view.objective], [])
        mean, metric = whole.spreads[view.objective.metric].mean or 0.0, view.objective.metric
        told = f"{mean_and_sd(whole.spreads[metric])} over {whole.counted(metric)} folds"
        axes.axvline(mean, color="0.4", linestyle="--", zorder=1, label=told)
    elif name == SEED and len(view.valued) > 1:
        mean = statistics.fmean(mean for _, mean in view.valued)
        axes.axvline(mean, color="0.4", linestyle="--", zorder=1, label=f"mean ({rounded(mean)})")
    _legend(figure)
    return figure


def _draw_cells(view: _View) -> Figure:
    """A heat map of two numeric parameters, each value a column or a row."""
    across, down = view.parameters
    if len(across.steps) < len(down.steps):
        # Pages are wide.
        across, down = down, across
    width, height = len(across.steps), len(down.steps)
    cells: dict[tuple[int, int], int] = {}
    for index, _ in view.valued:
        # 0.1 and 1e-1 share a cell, which has the better of them.
        cells.setdefault((_steps_below(down, index), _steps_below(across, index)), index)
    spreads = any(view.spread(index).n > 1 for index in cells.values())
    side = min(max(0.95 if spreads else 0.7, 5 / width), 18 / width)
    tall = min(max(0.5, 2.5 / height), 14 / height)
    figure = _page(2.4 + side * width, 2 + tall * height)
    axes = figure.subplots()
    # Letters narrow enough for four digits, or for a standard deviation below them.
    image = _fill_cells(
        axes, view, cells, (height, width), min(9.0, side * (10 if spreads else 13))
    )
    _name_steps(axes, across, "x", side)
    _name_steps(axes, down, "y", tall)
    bar = figure.colorbar(image, ax=axes, pad=0.15 / (side * width), fraction=0.4 / (side * width))
    bar.set_label(view.label(), parse_math=False)
    _legend(figure)
    return figure


def _fill_cells(
    axes: Axes,
    view: _View,
    cells: Mapping[tuple[int, int], int],
    shape: tuple[int, int],
    font: float,
) -> QuadMesh:
    """Colour each (row, column) by the group that it has, and write its mean."""
    means = np.full(shape, np.nan)
    for cell, index in cells.items():
        means[cell] = view.spread(index).mean
    colours, norm = view.colours()
    edges = [np.arange(side + 1) - 0.5 for side in reversed(shape)]
    image = axes.pcolormesh(*edges, means, cmap=colours, norm=norm)
    for (row, column), index in cells.items() if font >= 5 else []:
        red, green, blue, _ = colours(norm(means[row, column]))
        light = 0.3 * red + 0.59 * green + 0.11 * blue > 0.45
        sd = view.spread(index).sd
        axes.text(
            column, row,
            rounded(view.spread(index).mean, 3) + ("" if sd is None else f"\n± {rounded(sd, 2)}"),
            ha="center", va="center", fontsize=font, color="black" if light else "white",
        )  # fmt: skip
    empty: dict[str, Any] = {
        "hatch": "///",
        "facecolor": "0.93",
        "edgecolor": "0.75",
        "linewidth": 0,
    }
    label = "no value"
    for row, column in zip(*np.nonzero(np.isnan(means)), strict=True):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, label=label, **empty))
        label = "_once in the legend"
    row, column = next(iter(cells))
    best: dict[str, Any] = {"fill": False, "edgecolor": VERMILION, "linewidth": 3, "clip_on": False}
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, zorder=4, label=view.best(), **best))
    return image


def _draw_plane(view: _View) -> Figure:
    """Points of two numeric parameters that are no grid."""
    figure = _page(8, 6)
    axes = figure.subplots()
    x, y = (parameter.numbers or [] for parameter in view.parameters)
    for parameter, axis in zip(view.parameters, ("x", "y"), strict=True):
        _scale_axis(axes, parameter, axis)
    colours, norm = view.colours()
    if view.failed:
        axes.plot(
            [x[index] for index in view.failed], [y[index] for index in view.failed],
            "x", color="0.5", zorder=2, label="no value",
        )  # fmt: skip
    worst_first = list(reversed(view.valued))
    points = axes.scatter(
        [x[index] for index, _ in worst_first], [y[index] for index, _ in worst_first], s=45,
        c=[mean for _, mean in worst_first], cmap=colours, norm=norm,
        edgecolors="0.3", linewidths=0.5, zorder=3,
    )  # fmt: skip
    _mark_best(axes, view, x[0], y[0])
    axes.set_xlabel(_broken(view.parameters[0].name), parse_math=False)
    axes.set_ylabel(_broken(view.parameters[1].name), parse_math=False)
    axes.grid(alpha=0.3)
    figure.colorbar(points, ax=axes).set_label(view.label(), parse_math=False)
    _legend(figure)
    return figure


def _draw_parallel(view: _View) -> Figure:
    """An axis for each parameter and one for the objective, a line for each group."""
    count = len(view.parameters)
    most = max(len(_ticks(parameter)) for parameter in view.parameters)
    size = max(7, 1.5 + 1.6 * count), max(5.0, 1.8 + 0.17 * most)
    figure = _page(*size)
    axes = figure.subplots()
    colours, norm = view.colours()
    places = [_apart(_heights(parameter)) for parameter in view.parameters]
    for index in view.failed:
        axes.plot(
            range(count), [place[index] for place in places], color=GREY, linewidth=0.8,
            linestyle="--", zorder=1, label="no value" if index == view.failed[0] else None,
        )  # fmt: skip
    worst_first = list(reversed(view.valued))
    lines = [
        [*enumerate(place[index] for place in places), (count, float(norm(mean)))]
        for index, mean in worst_first
    ]
    axes.add_collection(
        LineCollection(
            lines, colors=[colours(norm(mean)) for _, mean in worst_first],
            linewidths=1.6 if len(lines) <= 50 else 1.0, alpha=0.85, zorder=2,
        ),
        autolim=False,
    )  # fmt: skip
    x, y = zip(*lines[-1], strict=True)
    # The ends are on the edge of the axes, where half of a thick line would be cut.
    thick: dict[str, Any] = {"color": VERMILION, "linewidth": 3.5, "zorder": 3, "clip_on": False}
    axes.plot(x, y, label=view.best(), **thick)
    for place, parameter in enumerate(view.parameters):
        axes.axvline(place, color="0.3", linewidth=1, zorder=4)
        _name_heights(axes, parameter, place)
    axes.set(xlim=(-0.05, count), ylim=(0, 1))
    names = [_broken(parameter.name, 16) for parameter in view.parameters]
    axes.set_xticks(range(count), names, parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    scale = ScalarMappable(norm, colours)
    # Against the axes, so that a line ends at its colour.
    bar = figure.colorbar(scale, ax=axes, pad=0, aspect=30)
    bar.set_label(view.label(), parse_math=False)
    _legend(figure)
    return figure


def _first_of(view: _View, count: int) -> _View:
    parameters = [replace(p, texts=p.texts[:count], numbers=None) for p in view.parameters]
    return replace(view, groups=view.groups[:count], parameters=parameters)


def _broken(name: str, length: int = 36) -> str:
    """A name on lines that end at its underscores, if it is long."""
    return textwrap.fill(name.replace("_", "_ "), length).replace("_ ", "_")


def _draw_jobs(axes: Axes, view: _View, places: Sequence[float], across: bool = False) -> None:
    """Draw each job's value at its group's place, on the axis that is not the objective's."""
    for state, fill, label in ((State.DONE, BLUE, "job"), (State.PRUNED, "white", "pruned job")):
        points = [
            (place, value)
            for place, group in zip(places, view.groups, strict=True)
            for row in group.rows
            if row.state is state and (value := value_of(row, view.objective)) is not None
        ]
        if points:
            x, y = zip(*(point[::-1] if across else point for point in points), strict=True)
            axes.plot(
                x, y, "o", color=BLUE, markerfacecolor=fill, markersize=5, alpha=0.7,
                zorder=2.5, label=label,
            )  # fmt: skip


def _mark_best(axes: Axes, view: _View, x: float, y: float) -> None:
    axes.plot(
        [x], [y], "o", markersize=14, markerfacecolor="none", markeredgecolor=VERMILION,
        markeredgewidth=2, zorder=5, label=view.best(),
    )  # fmt: skip


def _legend(figure: Figure) -> None:
    """Name what is drawn below the axes, where it hides nothing."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # The best last: its label is long.
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith("best"))
    legend = figure.legend(
        [handles[index] for index in order], [labels[index] for index in order],
        loc="outside lower center", ncols=len(order) if figure.get_figwidth() >= 7 else 1,
        fontsize=9, frameon=False,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _scale_axis(axes: Axes, parameter: _Parameter, axis: str) -> None:
    """Give the axis its scale, and ticks at the values that were tried if they are few."""
    numbers = sorted(set(parameter.numbers or []))
    set_scale = axes.set_xscale if axis == "x" else axes.set_yscale
    if parameter.is_log and numbers[0] == 0:
        set_scale("symlog", linthresh=numbers[1], linscale=0.5)
    elif parameter.is_log:
        set_scale("log")
    if _is_ticked(parameter):
        which = axes.xaxis if axis == "x" else axes.yaxis
        which.set_minor_locator(NullLocator())
        which.set_ticks(numbers, [_brief(step, 12) for step in parameter.steps])


def _steps_below(parameter: _Parameter, index: int) -> int:
    """How many of a numeric parameter's values are below that of a group."""
    numbers = parameter.numbers or []
    return len({number for number in numbers if number < numbers[index]})


def _name_steps(axes: Axes, parameter: _Parameter, axis: str, inches: float) -> None:
    """Name the columns or rows of a heat map, each so many inches wide."""
    labels = [_brief(step, 12) for step in parameter.steps]
    font = min(9.0, max(5.0, 60 * inches))
    if axis == "x":
        turned = 90 if max(map(len, labels)) * 0.085 > inches else 0
        axes.set_xticks(range(len(labels)), labels, rotation=turned, size=font, parse_math=False)
        axes.set_xlabel(_broken(parameter.name), parse_math=False)
    else:
        axes.set_yticks(range(len(labels)), labels, size=font, parse_math=False)
        axes.set_ylabel(_broken(parameter.name), parse_math=False)


def _heights(parameter: _Parameter) -> list[float]:
    """Where each group is on the parameter's axis, 0 to 1."""
    if parameter.numbers is None:
        steps = parameter.steps
        return [(steps.index(text) + 0.5) / len(steps) for text in parameter.texts]
    return [_height(parameter, number) for number in parameter.numbers]


def _height(parameter: _Parameter, number: float) -> float:
    """Where a number is on a numeric parameter's axis, with a margin at its ends."""
    numbers = parameter.numbers or []
    low, high = min(numbers), max(numbers)
    if low == high:
        return 0.5
    if parameter.is_log:
        positive = min(value for value in numbers if value > 0)
        # Zero has no logarithm: it stands a step below the others.
        step = 0.15 * math.log(high / positive)
        at = math.log(number / positive) if number > 0 else -step
        low, high = (-step if low == 0 else 0.0), math.log(high / positive)
    else:
        at = number
    return 0.04 + 0.92 * (at - low) / (high - low)


def _apart(heights: Sequence[float]) -> list[float]:
    """The heights, those that are equal a little apart and the best on top, to tell lines apart."""
    steps = sorted(set(heights))
    gap = min((after - before for before, after in itertools.pairwise(steps)), default=0.1)
    band = min(0.03, 0.3 * gap)
    moved = list(heights)
    for step in steps:
        members = [index for index, height in enumerate(heights) if height == step]
        for place, index in enumerate(members):
            if len(members) > 1:
                moved[index] += band * (1 - 2 * place / (len(members) - 1))
    return moved


def _name_heights(axes: Axes, parameter: _Parameter, place: int) -> None:
    """Write a parameter's values beside its axis."""
    for height, label in _ticks(parameter):
        axes.text(
            place + 0.03, height, label, fontsize=8, va="center", zorder=5, parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def _is_ticked(parameter: _Parameter) -> bool:
    """Whether each value of a numeric parameter has its tick: they are few and not too close."""
    numbers = sorted(set(parameter.numbers or []))
    if len(numbers) > TICKED_UP_TO:
        return False
    heights = [_height(parameter, number) for number in numbers]
    return all(after - before >= APART for before, after in itertools.pairwise(heights))


def _ticks(parameter: _Parameter) -> list[tuple[float, str]]:
    """Heights on a parameter's axis and what they mean."""
    if parameter.numbers is None:
        steps = parameter.steps
        every = math.ceil(len(steps) / LABELLED_UP_TO)
        return [
            ((index + 0.5) / len(steps), shorten(step, 18))
            for index, step in enumerate(steps)
            if index % every == 0
        ]
    if _is_ticked(parameter):
        return [(_height(parameter, float(step)), _brief(step, 18)) for step in parameter.steps]
    low, high = min(parameter.numbers), max(parameter.numbers)
    positive = min((number for number in parameter.numbers if number > 0), default=low)
    if parameter.is_log:
        ticks = LogLocator().tick_values(positive, high)
    else:
        ticks = MaxNLocator(6).tick_values(low, high)
    start = positive if parameter.is_log else low
    numbers = [float(number) for number in ticks if start <= number <= high]
    if len(numbers) < 2:
        numbers = [low, high]
    if low == 0 and 0 not in numbers:
        numbers = [0.0, *numbers]
    return [(_height(parameter, number), f"{number:.3g}") for number in numbers]
