"""The result of a sweep, as ``discern.sweep`` returns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from discern.runs.folder import glance, numbers
from discern.sweeps.ledger import Ledger
from discern.sweeps.ranking import (
    Group,
    best_job,
    described,
    listed_rows,
    ranked_groups,
    repetitions,
    settings,
    varied,
    verdict,
)
from discern.sweeps.results import NONE, group_results, rounded
from discern.sweeps.rows import Objective, Row

TEST = "test"
"""Folder of the test of the best job, in the job's."""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """The ranked jobs of a sweep.

    Attributes:
        folder: the sweep's folder.
        objectives: what jobs are ranked by.
        ranking: each job with its rank, best first; None for a job without a value.
        groups: the settings with their ranks, over repetitions; empty where none is repeated.
        verdict: whether the best setting's lead over the next is more than noise; empty without
            repetitions.
        test: metric -> value of the best job on the test split; empty if it was not measured.

    In a notebook it shows itself with its picture.
    """

    folder: Path
    objectives: list[Objective]
    ranking: list[tuple[int | None, Row]]
    groups: list[tuple[int | None, Group]]
    verdict: str
    test: dict[str, float]

    @property
    def best(self) -> Row | None:
        """The best job, which ``best.yaml`` and ``best/`` are of; None for folds and splits."""
        return best_job([row for _, row in self.ranking], self.objectives)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the ranking as text: settings over repetitions, else jobs."""
        rows = [row for _, row in self.ranking]
        metrics = [objective.metric for objective in self.objectives]
        names = varied(rows) if self.groups else settings(rows)
        header = ["rank", *names, *metrics, "n" if self.groups else "state"]
        ranked: Sequence[tuple[int | None, Row | Group]] = self.groups or self.ranking
        return header, [
            [
                NONE if rank is None else str(rank),
                *(one.overrides.get(name, NONE) for name in names),
                *(
                    group_results(one)
                    if isinstance(one, Group)
                    else [*(rounded(one.values.get(each)) for each in metrics), str(one.state)]
                ),
            ]
            for rank, one in ranked
        ]

    def __repr__(self) -> str:
        best = self.best
        if best is None:
            return f"<Sweep of {len(self.ranking)} jobs; {self.folder}>"
        metric = self.objectives[0].metric
        value, typed = rounded(best.values.get(metric)), described(best.overrides)
        return f"<Sweep of {len(self.ranking)} jobs: {metric} {value} with {typed}; {self.folder}>"

    def _repr_html_(self) -> str:
        from discern.reports.notebook import picture_in  # start-up time: notebooks alone
        from discern.reports.page import render

        return render(
            "notebook.html.j2",
            head=[f"{self.objectives[0].metric} of {len(self.ranking)} jobs"],
            tables=[self.table()],
            lines=[*filter(None, [self.verdict]), str(self.folder)],
            source=picture_in(self.folder, "sweep.png"),
            description=f"{self.objectives[0].metric} by setting",
        )


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder, with the ranking of its command.

    Raises:
        DiscernError: there is no sweep, or none that this version can read.
    """
    ledger = Ledger.load(folder)
    rows, objectives = ledger.rows(), ledger.ranked_by
    groups = ranked_groups(rows, objectives) if repetitions(rows) else []
    found = Sweep(
        folder,
        objectives,
        listed_rows(rows, objectives),
        groups,
        verdict([group for _, group in groups], objectives[0]) if groups else "",
        {},
    )
    if found.best is not None:
        for measured in (found.best.folder / TEST, found.best.folder):
            if test := numbers(glance(measured).part("metrics").get("test")):
                found.test.update(test)
                break
    return found
