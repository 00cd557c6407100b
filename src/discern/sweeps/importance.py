"""How much each parameter of a search has decided."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from discern.sweeps.rows import Objective

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

ENOUGH = 4
"""Finished trials from which on something can be said."""


def importance_of(
    study: optuna.Study, objectives: Sequence[Objective]
) -> dict[str, dict[str, float]]:
    """The part of each objective's variance that parameters explain (fANOVA, Hutter et al., 2014).

    Args:
        study: the search.
        objectives: its objectives, in their order.

    Returns:
        Objective's metric -> parameter -> part, the greatest first; nothing with fewer than
        ``ENOUGH`` finished trials.
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
    return found
