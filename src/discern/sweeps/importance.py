"""Importance of each parameter of a search."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from discern.sweeps.rows import Objective

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

MIN_TRIALS = 4
"""Minimum number of finished trials for an estimate."""


def importance_of(
    study: optuna.Study, objectives: Sequence[Objective]
) -> dict[str, dict[str, float]]:
    """Share of each objective's variance that a parameter explains (fANOVA, Hutter et al., 2014).

    Args:
        study: the search.
        objectives: its objectives, in their order.

    Returns:
        Metric of the objective -> parameter -> share, largest first; empty with fewer than
        ``MIN_TRIALS`` finished trials.
    """
    import optuna

    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(done) < MIN_TRIALS:
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
            log.debug("No importance for %s: %s", objective.metric, error)
    return found
