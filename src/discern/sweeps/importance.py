"""importance.png: how much each parameter of a search has decided."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from discern.files.writing import write_whole
from discern.sweeps.rows import Objective

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

ENOUGH = 4
"""Finished trials from which on something can be said."""


def draw_importance(
    study: optuna.Study, objectives: Sequence[Objective], path: Path
) -> dict[str, dict[str, float]]:
    """Draw what part of each objective's variance parameters explain (fANOVA, Hutter et al., 2014).

    Args:
        study: the search.
        objectives: its objectives, in their order.
        path: the PNG file, which is written if there are enough finished trials.

    Returns:
        Objective's metric -> parameter -> part, the greatest first.
    """
    import optuna

    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(done) < ENOUGH:
        return {}
    found: dict[str, dict[str, float]] = {}
    for number, objective in enumerate(objectives):

        def value(trial: optuna.trial.FrozenTrial, number: int = number) -> float:
            return float(trial.values[number])

        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            with warnings.catch_warnings(action="ignore"):
                found[objective.metric] = optuna.importance.get_param_importances(
                    study, evaluator=evaluator, target=value
                )
        except (ValueError, RuntimeError) as error:  # all values are equal
            log.debug("The importance for %s cannot be told: %s", objective.metric, error)
    if found:
        _draw(found, path)
    return found


def _draw(found: dict[str, dict[str, float]], path: Path) -> None:
    rows = max(len(parts) for parts in found.values())
    figure = Figure(figsize=(7, len(found) * (1.2 + 0.4 * rows)), layout="constrained")
    plots = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (metric, parts) in zip(plots, found.items(), strict=True):
        names = list(parts)[::-1]
        bars = axes.barh(names, [parts[name] for name in names], color="#0072B2")
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set_xlim(0, 1.1)
        axes.set_xlabel(f"Part of the variance of {metric} that it explains")
    with write_whole(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
