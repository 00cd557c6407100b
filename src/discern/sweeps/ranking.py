"""Which job or setting of a sweep is the best, over seeds or folds, and whether by chance."""

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
from discern.sweeps.rows import Objective, Row

SEED = "seed"
"""The setting that, beside ``FOLD``, makes jobs repetitions of each other. Folds are parts of one
estimate: what differs in the fold alone is not ranked, and none is the best."""

SIGNIFICANT = 0.05
"""The p-value from which on a lead may well be chance."""

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """A metric over the jobs of a group.

    Attributes:
        n: jobs that have a value.
        mean: of the values; None without any.
        sd: their sample standard deviation; None for fewer than two.
    """

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Group:
    """Jobs with the same settings.

    Attributes:
        overrides: setting -> value that the jobs share, of those that the sweep's jobs differ in.
        rows: the jobs, in order of number.
        spreads: an objective's metric -> how it came out. A pruned job counts with the value that
            it had: leaving it out would flatter settings whose bad seeds were stopped.
        epochs: the mean; None if no job has any.
        seconds: the sum; None if no job has any.
        states: how many jobs are done, failed, ….
    """

    overrides: Mapping[str, str]
    rows: tuple[Row, ...]
    spreads: Mapping[str, Spread]
    epochs: float | None
    seconds: float | None
    states: Mapping[State, int]

    @property
    def failed(self) -> int:
        """Jobs that failed."""
        return self.states.get(State.FAILED, 0)

    @property
    def lacks_folds(self) -> bool:
        """Whether the mean is of some of its folds only."""
        return has_folds(self.rows) and any(s.n < len(self.rows) for s in self.spreads.values())

    def counted(self, metric: str) -> str:
        """Of how many jobs a mean is; of folds, also of how many it should be."""
        n, of = self.spreads[metric].n, len(self.rows)
        return f"{n} of {of}" if has_folds(self.rows) and n < of else f"{n}"


def settings(rows: Sequence[Row]) -> list[str]:
    """The settings that the jobs differ in, as they first come; all of them if there is one job."""
    names = dict.fromkeys(name for row in rows for name in row.overrides)
    return [
        name
        for name in names
        if len(rows) == 1 or len({row.overrides.get(name) for row in rows}) > 1
    ]


def has_seeds(rows: Sequence[Row]) -> bool:
    """Whether jobs repeat each other with other seeds."""
    return len(rows) > 1 and SEED in map(_plain, settings(rows))


def has_folds(rows: Sequence[Row]) -> bool:
    """Whether jobs are folds of each other."""
    return len(rows) > 1 and FOLD in map(_plain, settings(rows))


def repetitions(rows: Sequence[Row]) -> str:
    """What jobs with the same settings differ in, in the plural; nothing where none repeat."""
    kinds = ((has_seeds, "seeds"), (has_folds, "folds"))
    return " and ".join(name for has, name in kinds if has(rows))


def varied(rows: Sequence[Row]) -> list[str]:
    """The settings that the jobs differ in and that are no repetitions."""
    return [name for name in settings(rows) if _plain(name) not in (SEED, FOLD)]


def _plain(name: str) -> str:
    return name.lstrip("+")


def value_of(row: Row, objective: Objective) -> float | None:
    """The objective of a job that is done or pruned; None for others, and if it is not finite."""
    value = row.values.get(objective.metric)
    if row.state not in (State.DONE, State.PRUNED) or value is None or not math.isfinite(value):
        return None
    return value


def rank_rows(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[tuple[int | None, Row]]:
    """The jobs with their ranks, best first.

    With one objective, equal values have equal ranks and the rank after two firsts is 3. With
    several, the rank is the number of the front of non-dominated sorting, and a front is in order
    of the first objective. Pruned jobs come after all that are done, as they had fewer epochs;
    jobs that lack a value of some objective come last, without a rank. Else by number.
    """
    return _rank(
        rows,
        [[value_of(row, objective) for objective in objectives] for row in rows],
        objectives,
        late=lambda row: row.state is State.PRUNED,
        number=lambda row: row.number,
    )


def best_row(rows: Sequence[Row], objectives: Sequence[Objective]) -> Row | None:
    """The first of the ranking; None if no job has a value."""
    return _first(rank_rows(rows, objectives))


def listed_rows(
    rows: Sequence[Row], objectives: Sequence[Objective]
) -> list[tuple[int | None, Row]]:
    """The jobs for a list: ranked, but for folds, which stand together under their setting's rank.

    A single setting has none.
    """
    if not has_folds(rows):
        return rank_rows(rows, objectives)
    ranked = ranked_groups(rows, objectives)
    return [
        (rank if len(ranked) > 1 and value_of(row, objectives[0]) is not None else None, row)
        for rank, group in ranked
        for row in group.rows
    ]


def group_rows(rows: Sequence[Row], objectives: Sequence[Objective]) -> list[Group]:
    """The jobs by their settings other than seed and fold, in order of first number."""
    return group_by(rows, objectives, varied(rows))


def group_by(
    rows: Sequence[Row], objectives: Sequence[Objective], names: Sequence[str]
) -> list[Group]:
    """The jobs by the named settings, in order of first number."""
    members: dict[tuple[str | None, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        members.setdefault(tuple(row.overrides.get(name) for name in names), []).append(row)
    return [
        Group(
            overrides={
                name: value for name, value in zip(names, key, strict=True) if value is not None
            },
            rows=tuple(jobs),
            spreads={objective.metric: _spread(jobs, objective) for objective in objectives},
            epochs=_mean([row.epochs for row in jobs if row.epochs is not None]),
            seconds=_sum([row.seconds for row in jobs if row.seconds is not None]),
            states=Counter(row.state for row in jobs),
        )
        for key, jobs in members.items()
    ]


def rank_groups(
    groups: Sequence[Group], objectives: Sequence[Objective]
) -> list[tuple[int | None, Group]]:
    """The groups with their ranks, best mean first, otherwise as :func:`rank_rows` has it.

    Groups of which no job is done come after the others, and so do those that lack folds: their
    means are over other images.
    """
    return _rank(
        groups,
        [[group.spreads[objective.metric].mean for objective in objectives] for group in groups],
        objectives,
        late=lambda group: not group.states.get(State.DONE) or group.lacks_folds,
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


def described(overrides: Mapping[str, str]) -> str:
    """The settings as one types them."""
    return " ".join(f"{name}={value}" for name, value in overrides.items())


def verdict(groups: Sequence[Group], objective: Objective) -> str:
    """Whether the best group's lead over the next is more than noise, in one sentence.

    A paired, two-sided t-test over the seeds with which jobs of both groups are done: a pruned job
    had fewer epochs, which is no difference between settings. Over folds it allows for training
    images that they share (Nadeau & Bengio, 2003).
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
    # What subtracting leaves of equal differences; a t-test would take it for their noise.
    rounding = 1e-12 * max(np.abs(a).max(), np.abs(b).max())
    if np.abs(leads).max() <= rounding:
        return f"not distinguishable (equal with each of {len(both)} {name})"
    if np.ptp(leads) <= rounding:
        p, test = 0.0, f"the same difference with each of {len(both)} {name}"
    else:
        folds = len({fold for _, fold in both})
        p = _chance(leads, folds)
        shown = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
        kind = "corrected paired" if folds > 1 else "paired"
        test = f"{kind} t-test over {len(both)} {name}, {shown}"
    if p >= SIGNIFICANT:
        return f"not distinguishable ({test})"
    if leads.mean() < 0:
        # The means of all seeds say otherwise, as some seeds are of one group only.
        return f"not to be trusted, it is behind with the {name} that both have ({test})"
    return f"more than noise ({test})"


def _chance(leads: NDArray[np.floating], folds: int) -> float:
    """The p of the paired t-test that differences (N,) are none, of so many different folds."""
    from scipy.stats import t

    count = len(leads)
    # Of k folds, each is tested on 1 / (k - 1) of the images that it is trained on.
    shared = 1 / (folds - 1) if folds > 1 else 0.0
    error = math.sqrt(float(leads.var(ddof=1)) * (1 / count + shared))
    return float(2 * t.sf(abs(float(leads.mean())) / error, count - 1))


def _by_repetition(group: Group, objective: Objective) -> dict[tuple[str, str], float]:
    """(seed, fold) -> the objective of the jobs that are done."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in group.rows:
        value = value_of(row, objective)
        if value is not None and row.state is State.DONE:
            told = {_plain(name): text for name, text in row.overrides.items()}
            values.setdefault((told.get(SEED, ""), told.get(FOLD, "")), []).append(value)
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


def _sum(values: Sequence[float]) -> float | None:
    return math.fsum(values) if values else None


def _first(ranked: Sequence[tuple[int | None, T]]) -> T | None:
    return ranked[0][1] if ranked and ranked[0][0] is not None else None


def _rank(
    items: Sequence[T],
    values: Sequence[Sequence[float | None]],
    objectives: Sequence[Objective],
    late: Callable[[T], bool],
    number: Callable[[T], int],
) -> list[tuple[int | None, T]]:
    """Rank ``items`` by their ``values`` of each objective, the ``late`` ones after the others."""
    scored: list[tuple[T, tuple[float, ...]]] = []
    rest: list[T] = []
    for item, row in zip(items, values, strict=True):
        signed = tuple(
            objective.sign * value
            for objective, value in zip(objectives, row, strict=True)
            if value is not None
        )
        if len(signed) == len(objectives):
            scored.append((item, signed))
        else:
            rest.append(item)
    ranked: list[tuple[int | None, T]] = []
    before = 0
    for is_late in (False, True):
        part = sorted(
            ((item, score) for item, score in scored if late(item) == is_late),
            key=lambda pair: (pair[1][0], number(pair[0])),
        )
        places = _places([score for _, score in part])
        order = sorted(range(len(part)), key=places.__getitem__)
        ranked += [(before + places[index], part[index][0]) for index in order]
        # A place counts jobs with one objective, fronts with several.
        before += len(part) if len(objectives) == 1 else max(places, default=0)
    return ranked + [(None, item) for item in sorted(rest, key=number)]


def _places(scores: Sequence[tuple[float, ...]]) -> list[int]:
    """The place from 1 of each score, of which less is better and the first part ascends."""
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
    """Whether numbers are spaced by factors: their axis is logarithmic.

    They are none below 0, with two or more different ones above it of which the largest is ten
    times the smallest; of three or more, four times is enough, but their logarithms have to be
    more evenly spaced than they are.
    """
    steps = sorted({value for value in values if value != 0})
    if len(steps) < 2 or steps[0] < 0:
        return False
    ratio = steps[-1] / steps[0]
    if len(steps) == 2:
        return ratio >= 10
    return ratio >= 4 and _unevenness([math.log(step) for step in steps]) < _unevenness(steps)


def _unevenness(steps: Sequence[float]) -> float:
    gaps = [after - before for before, after in itertools.pairwise(steps)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


def number_of(text: str) -> float | None:
    """The finite number that a value is typed as; None if it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    """The finite numbers that values are typed as; None if some is not a number."""
    numbers = [number for text in texts if (number := number_of(text)) is not None]
    return numbers if len(numbers) == len(texts) else None


def steps_of(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The different values in order, as first typed, and the place of each value among them."""
    numbers = numbers_of(texts)
    # 0.1 and 1e-1 are one value.
    keys = [(0.0, text) for text in texts] if numbers is None else [(n, "") for n in numbers]
    typed = dict(zip(reversed(keys), reversed(texts), strict=True))
    order = sorted(typed)
    return [typed[key] for key in order], [order.index(key) for key in keys]
