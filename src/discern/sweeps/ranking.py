"""Ranking of jobs and of settings, over seeds or folds, with a significance test."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from discern.runs.folder import FOLD
from discern.runs.state import State
from discern.sweeps.names import differing
from discern.sweeps.rows import PARTS, Objective, Row

REPETITIONS = {"seed": "seeds", "data.seed": "splits", FOLD: "folds"}
"""Settings in which repeated jobs differ, and what jobs are then called."""

SIGNIFICANT = 0.05
"""Level of significance: a lead with a p-value from here on may be chance."""

MAX_LINEAR = 100
"""The largest over the smallest objective on a linear axis."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Statistics of a metric over the jobs of a group.

    Attributes:
        n: number of values.
        mean: None without values.
        sd: sample standard deviation; None for fewer than two values.
    """

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Group:
    """Jobs with the same settings.

    Attributes:
        overrides: setting -> the jobs' common value, of the settings that differ in the sweep.
        rows: the jobs, in order of number.
        spreads: metric -> its statistics, for each objective. A pruned job counts with its last
            value: leaving it out would flatter settings whose bad seeds were stopped.
        epochs: mean over jobs; None if no job has any.
        seconds: sum over jobs; None if no job has any.
        states: number of jobs in each state.
    """

    overrides: Mapping[str, str]
    rows: tuple[Row, ...]
    spreads: Mapping[str, Spread]
    epochs: float | None
    seconds: float | None
    states: Mapping[State, int]

    @property
    def lacks_parts(self) -> bool:
        """Whether the mean lacks some of the folds or splits."""
        return has_parts(self.rows) and any(s.n < len(self.rows) for s in self.spreads.values())

    def counted(self, metric: str) -> str:
        """Number of values of a mean, as ``2 of 3`` where folds or splits lack one."""
        n, of = self.spreads[metric].n, len(self.rows)
        return f"{n} of {of}" if has_parts(self.rows) and n < of else f"{n}"


def settings(rows: Sequence[Row]) -> list[str]:
    """The settings that differ between jobs, in order of appearance; all of a single job's."""
    return list(rows[0].overrides) if len(rows) == 1 else differing([r.overrides for r in rows])


def has_seeds(rows: Sequence[Row]) -> bool:
    """Whether jobs differ in their seeds."""
    return "seed" in _repeated(rows)


def has_parts(rows: Sequence[Row]) -> bool:
    """Whether jobs differ in their folds or splits."""
    return any(name in PARTS for name in _repeated(rows))


def repetitions(rows: Sequence[Row]) -> str:
    """What repeated jobs differ in, as ``seeds and folds``; empty without repetition."""
    return " and ".join(REPETITIONS[name] for name in _repeated(rows))


def _repeated(rows: Sequence[Row]) -> list[str]:
    found = set(map(_plain, settings(rows))) if len(rows) > 1 else ()
    return [name for name in REPETITIONS if name in found]


def varied(rows: Sequence[Row]) -> list[str]:
    """The settings that differ between jobs, other than those of repetitions."""
    return [name for name in settings(rows) if _plain(name) not in REPETITIONS]


def _plain(name: str) -> str:
    return name.lstrip("+")


def repetition(row: Row) -> tuple[str, ...]:
    """Seed, seed of the split, and fold of a job; empty texts for those that do not differ."""
    overrides = {_plain(name): text for name, text in row.overrides.items()}
    return tuple(overrides.get(name, "") for name in REPETITIONS)


def value_of(row: Row, objective: Objective) -> float | None:
    """The objective of a job that is done or pruned; None for others and if it is not finite."""
    value = row.values.get(objective.metric)
    if row.state not in (State.DONE, State.PRUNED) or value is None or not math.isfinite(value):
        return None
    return value


def rank_rows(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[tuple[int | None, Row]]:
    """The jobs with their ranks, best first.

    With one objective, equal values share a rank: 1, 1, 3. With several, the rank is the front of
    non-dominated sorting, and a front is in order of the first objective. Pruned jobs follow those
    that are done, as they had fewer epochs. Jobs without a value of each objective come last and
    have no rank. Ties are in order of number.
    """
    return _rank(
        rows,
        [[value_of(row, objective) for objective in objectives] for row in rows],
        objectives,
        late=lambda row: row.state is State.PRUNED,
        number=lambda row: row.number,
    )


def best_row(rows: Sequence[Row], objectives: Sequence[Objective]) -> Row | None:
    """The best job; None if no job has a value."""
    return _first(rank_rows(rows, objectives))


def listed_rows(
    rows: Sequence[Row], objectives: Sequence[Objective]
) -> list[tuple[int | None, Row]]:
    """The jobs in the order of a list: ranked, or grouped by setting over folds or splits.

    Folds and splits have the rank of their setting; those of a single setting have none.
    """
    if not has_parts(rows):
        return rank_rows(rows, objectives)
    ranked = ranked_groups(rows, objectives)
    return [
        (rank if len(ranked) > 1 and value_of(row, objectives[0]) is not None else None, row)
        for rank, group in ranked
        for row in group.rows
    ]


def group_rows(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[Group]:
    """Repetitions of the same settings as groups, in order of first number."""
    return group_by(rows, objectives, varied(rows))


def group_by(
    rows: Sequence[Row], objectives: Sequence[Objective], names: Sequence[str]
) -> list[Group]:
    """The jobs grouped by the named settings, in order of first number."""
    members: dict[tuple[str | None, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        members.setdefault(tuple(row.overrides.get(name) for name in names), []).append(row)
    return [
        _group(dict(zip(names, key, strict=True)), jobs, objectives)
        for key, jobs in members.items()
    ]


def _group(
    overrides: Mapping[str, str | None], rows: Sequence[Row], objectives: Sequence[Objective]
) -> Group:
    seconds = [row.seconds for row in rows if row.seconds is not None]
    return Group(
        overrides={name: value for name, value in overrides.items() if value is not None},
        rows=tuple(rows),
        spreads={objective.metric: _spread(rows, objective) for objective in objectives},
        epochs=_mean([row.epochs for row in rows if row.epochs is not None]),
        seconds=math.fsum(seconds) if seconds else None,
        states=Counter(row.state for row in rows),
    )


def rank_groups(
    groups: Sequence[Group], objectives: Sequence[Objective]
) -> list[tuple[int | None, Group]]:
    """The groups with their ranks, best mean first, by the rules of :func:`rank_rows`.

    Groups without a job that is done follow the others, and so do groups that lack folds or splits,
    whose means are over other images.
    """
    return _rank(
        groups,
        [[group.spreads[objective.metric].mean for objective in objectives] for group in groups],
        objectives,
        late=lambda group: not group.states.get(State.DONE) or group.lacks_parts,
        number=lambda group: group.rows[0].number,
    )


def ranked_groups(
    rows: Sequence[Row], objectives: Sequence[Objective]
) -> list[tuple[int | None, Group]]:
    """The groups of the jobs with their ranks, best mean first."""
    return rank_groups(group_rows(rows, objectives), objectives)


def best_group(rows: Sequence[Row], objectives: Sequence[Objective]) -> Group | None:
    """The group with the best mean; None if no group has a value."""
    return _first(ranked_groups(rows, objectives))


def best_job(rows: Sequence[Row], objectives: Sequence[Objective]) -> Row | None:
    """The best job; with seeds, that of the best mean; None for folds and splits."""
    if has_parts(rows):
        return None
    if has_seeds(rows):
        group = best_group(rows, objectives)
        return None if group is None else best_row(group.rows, objectives)
    return best_row(rows, objectives)


def described(overrides: Mapping[str, str]) -> str:
    """The settings as typed on the command line."""
    return " ".join(f"{name}={value}" for name, value in overrides.items())


def on_other_images(rows: Sequence[Row], objectives: Sequence[Objective]) -> str:
    """A sentence where jobs of one seed, split and fold were validated on different images."""
    counts: dict[tuple[str, ...], set[int]] = {}
    for row in rows:
        if row.validation_images is not None:
            counts.setdefault(repetition(row), set()).add(row.validation_images)
    names = [objective.metric for objective in objectives if objective.metric.startswith("val/")]
    if not names or all(len(each) == 1 for each in counts.values()):
        return ""
    found = set.union(*counts.values())
    return (
        f"The jobs were validated on different images, {min(found):,} to {max(found):,} of them: "
        f"their {' and '.join(names)} may differ by that alone."
    )


def verdict(groups: Sequence[Group], objective: Objective) -> str:
    """One sentence on whether the best group's lead over the second is more than noise.

    A paired, two-sided t-test over the seeds of which both groups have a job that is done; pruned
    jobs are left out, as they had fewer epochs. Over folds, the variance is corrected for training
    images that folds share (Nadeau & Bengio, 2003). Equal differences, which have no variance, are
    left to the exact sign test.
    """
    ranked = [group for rank, group in rank_groups(groups, [objective]) if rank is not None]
    if not ranked:
        return f"No job has a value of {objective.metric}."
    if len(ranked) == 1:
        name = described(ranked[0].overrides) or "one group of jobs"
        return f"Only {name} has a value of {objective.metric}: nothing to compare it with."
    first, second = ranked[:2]
    return f"{_lead(first, second, objective)}: {_judgement(first, second, objective)}."


def _lead(first: Group, second: Group, objective: Objective) -> str:
    best, next_best = (group.spreads[objective.metric].mean for group in (first, second))
    assert best is not None
    assert next_best is not None
    ours, theirs = described(first.overrides), described(second.overrides)
    if best == next_best:
        return f"{ours} and {theirs} are level in {objective.metric} ({best:.4g})"
    return f"{ours} ({best:.4g}) leads {theirs} ({next_best:.4g}) in {objective.metric}"


def _judgement(first: Group, second: Group, objective: Objective) -> str:
    ours, theirs = _by_repetition(first, objective), _by_repetition(second, objective)
    both = [key for key in ours if key in theirs]
    name = repetitions([*first.rows, *second.rows]) or "seeds"
    if len(both) < 2:
        return f"not distinguishable (too few {name}: both have {len(both)}, a t-test needs 2)"
    a, b = (np.array([values[key] for key in both]) for values in (ours, theirs))
    leads = objective.sign * (b - a)
    # Rounding errors of equal differences, which a t-test would take for noise.
    rounding = 1e-12 * max(np.abs(a).max(), np.abs(b).max())
    if np.abs(leads).max() <= rounding:
        return f"not distinguishable (equal with each of {len(both)} {name})"
    if np.ptp(leads) <= rounding:
        # Accuracies are multiples of 1 / images: two seeds often differ equally by chance.
        p = 2 * 0.5 ** len(both)
        kind = "the same difference with each, sign test"
    else:
        folds = len({fold for *_, fold in both})
        parts = [row.folds for row in (*first.rows, *second.rows) if row.folds is not None]
        p = _chance(leads, min(parts, default=folds) if folds > 1 else 1)
        kind = f"{'corrected ' if folds > 1 else ''}paired t-test"
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    test = f"{kind} over {len(both)} {name}, {shown}"
    if p >= SIGNIFICANT:
        return f"not distinguishable ({test})"
    if leads.mean() < 0:
        # The means say otherwise, as some seeds are of one group only.
        return f"not to be trusted, it is behind with the {name} that both have ({test})"
    return f"more than noise ({test})"


def _chance(leads: NDArray[np.floating], folds: int) -> float:
    """The p-value of the paired t-test of differences (N,) between jobs that hold out one of folds.

    With one fold, which is none, there is no correction.
    """
    from scipy.stats import t

    count = len(leads)
    # With k folds, the test images are 1 / (k - 1) as many as the training images, also where only
    # some of the folds were run.
    shared = 1 / (folds - 1) if folds > 1 else 0.0
    error = math.sqrt(float(leads.var(ddof=1)) * (1 / count + shared))
    return float(2 * t.sf(abs(float(leads.mean())) / error, count - 1))


def _by_repetition(group: Group, objective: Objective) -> dict[tuple[str, ...], float]:
    """(seed, seed of the split, fold) -> mean objective of the jobs that are done."""
    values: dict[tuple[str, ...], list[float]] = {}
    for row in group.rows:
        value = value_of(row, objective)
        if value is not None and row.state is State.DONE:
            values.setdefault(repetition(row), []).append(value)
    return {key: statistics.fmean(each) for key, each in values.items()}


def _spread(rows: Sequence[Row], objective: Objective) -> Spread:
    values = [value for row in rows if (value := value_of(row, objective)) is not None]
    return Spread(
        n=len(values),
        mean=_mean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _first(ranked: Sequence[tuple[int | None, T]]) -> T | None:
    return ranked[0][1] if ranked and ranked[0][0] is not None else None


def _rank(
    items: Sequence[T],
    values: Sequence[Sequence[float | None]],
    objectives: Sequence[Objective],
    late: Callable[[T], bool],
    number: Callable[[T], int],
) -> list[tuple[int | None, T]]:
    """Rank items by their values of each objective, the ``late`` ones after the others."""
    scored, rest = [], []
    for item, row in zip(items, values, strict=True):
        pairs = zip(objectives, row, strict=True)
        score = tuple(o.sign * value for o, value in pairs if value is not None)
        if len(score) == len(objectives):
            scored.append((late(item), score, number(item), item))
        else:
            rest.append(item)
    ranked: list[tuple[int | None, T]] = []
    before = 0
    for is_late in (False, True):
        part = sorted((one for one in scored if one[0] == is_late), key=lambda one: one[1:3])
        places = _places([score for _, score, *_ in part])
        # Stable: a front stays in order of its first objective.
        placed = sorted(zip(places, part, strict=True), key=lambda pair: pair[0])
        ranked += [(before + place, item) for place, (*_, item) in placed]
        # A rank counts jobs with one objective, fronts with several.
        before += len(part) if len(objectives) == 1 else max(places, default=0)
    return ranked + [(None, item) for item in sorted(rest, key=number)]


def _places(scores: Sequence[tuple[float, ...]]) -> list[int]:
    """The rank from 1 of each score; less is better, and scores ascend by their first part."""
    if not scores:
        return []
    if len(scores[0]) == 1:
        return [1 + scores.index(score) for score in scores]
    points = np.array(scores)
    places = np.zeros(len(points), int)
    ours, theirs = points[:, None], points[None]
    # [i, j]: i is nowhere worse than j, and somewhere better.
    dominates = np.all(ours <= theirs, axis=-1) & np.any(ours < theirs, axis=-1)
    dominators = dominates.sum(axis=0)
    front = 0
    while (places == 0).any():
        front += 1
        members = (dominators == 0) & (places == 0)
        places[members] = front
        dominators -= dominates[members].sum(axis=0)
    return [int(place) for place in places]


def is_geometric(values: Sequence[float]) -> bool:
    """Whether numbers are spaced by factors, so that their axis is logarithmic.

    None is negative, and the largest is at least ten times the smallest above 0. Of three or more,
    four times is enough if their logarithms are more evenly spaced than they are.
    """
    steps = sorted({value for value in values if value != 0})
    if len(steps) < 2 or steps[0] < 0:
        return False
    ratio = steps[-1] / steps[0]
    if len(steps) == 2:
        return ratio >= 10
    return ratio >= 4 and _unevenness([math.log(step) for step in steps]) < _unevenness(steps)


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive values span too much for a linear axis."""
    return 0 < min(values, default=0) < max(values) / MAX_LINEAR


def _unevenness(steps: Sequence[float]) -> float:
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


def number_of(text: str) -> float | None:
    """The finite number that a text stands for; None if it is not one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    """The finite numbers that texts stand for; None if any is not one."""
    numbers = [number for text in texts if (number := number_of(text)) is not None]
    return numbers if len(numbers) == len(texts) else None


def steps_of(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct values in order, as first typed, and the index of each text among them."""
    numbers = numbers_of(texts)
    # 0.1 and 1e-1 are one value.
    keys = [(0.0, text) for text in texts] if numbers is None else [(n, "") for n in numbers]
    typed = dict(zip(reversed(keys), reversed(texts), strict=True))
    order = sorted(typed)
    return [typed[key] for key in order], [order.index(key) for key in keys]
