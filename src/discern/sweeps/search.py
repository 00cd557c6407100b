"""``hydra/sweeper=optuna``: a search by Optuna, over its ask-and-tell interface."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    RangeSweep,
)
from hydra.utils import instantiate
from omegaconf import OmegaConf

from discern.errors import DiscernError, refusals_of
from discern.redaction import redacted_setting
from discern.runs.state import State
from discern.runs.sweep_job import TRIAL, Trial
from discern.sweeps.launcher import check_positive
from discern.sweeps.ledger import Ledger
from discern.sweeps.rows import Direction, Job
from discern.sweeps.study_file import check_study
from discern.sweeps.sweeper import JobsSweeper, as_typed, for_job
from discern.training.study import FOLDER, PRUNER, open_storage

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)


STUDY = "study.db"
"""File of the study in the sweep's folder, unless a storage is named."""

SELF_NUMBERED = ("GridSampler", "QMCSampler")
"""Samplers that keep in the study which of their values come next, and need the seed they had."""

MAX_INT = 2**53
"""Samplers compute in float64, which has no distinct whole numbers beyond."""

Entry = Mapping[str, object]
"""An entry of the config with ``_target_``."""

MISSING = (
    "hydra/sweeper=optuna needs the package optuna, which is not installed; "
    "pip install 'discern[optuna]' brings it."
)


class SearchSweeper(JobsSweeper):
    """Lets Optuna choose the values of each job by the results of those before.

    Args:
        n_trials: number of jobs in total, over all resumptions and all sweeps that share the study.
        n_jobs: trials asked for at a time; the launcher decides how many run at a time.
        direction: ``minimize`` or ``maximize``, or a list for several objectives; null: that of the
            metric.
        sampler: an Optuna sampler, as a ``_target_`` entry.
        pruner: an Optuna pruner, as a ``_target_`` entry; null for none.
        storage: of the study: an SQLAlchemy URL, the path of a journal file (``….log``), or null
            for ``study.db`` in the sweep's folder.
        study_name: name of the study in the storage.
        params: setting -> values, in addition to those typed.
    """

    def __init__(
        self,
        n_trials: int = 20,
        n_jobs: int = 1,
        direction: str | Sequence[str] | None = None,
        sampler: Entry | None = None,
        pruner: Entry | None = None,
        storage: str | None = None,
        study_name: str = "sweep",
        params: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(params=params)
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            check_positive(f"hydra.sweeper.{name}", value)
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.direction = direction
        self.sampler = sampler
        self.pruner = pruner
        self.storage = storage
        self.study_name = study_name
        self._study: optuna.Study | None = None
        self._space: Mapping[str, BaseDistribution] = {}

    def _directions(self) -> list[Direction]:
        if self.direction is None:
            return []
        directions = [self.direction] if isinstance(self.direction, str) else self.direction
        for direction in directions:
            if direction not in ("minimize", "maximize"):
                raise DiscernError(
                    f"hydra.sweeper.direction={direction} is not allowed; it must be minimize or "
                    "maximize."
                )
        return cast("list[Direction]", list(directions))

    def _search(self, arguments: Sequence[str]) -> list[str]:
        of_hydra = [str(argument) for argument in self.config.hydra.overrides.hydra]
        names = ("hydra/sweeper", "hydra.sweeper")
        return [
            *(argument for argument in arguments if argument.startswith("hparams_search=")),
            *(argument for argument in of_hydra if argument.startswith(names)),
        ]

    def _run(self, ledger: Ledger, overrides: Sequence[Override]) -> None:
        space, fixed = search_space(overrides)
        if not space:
            raise DiscernError(
                "hydra/sweeper=optuna has nothing to search; give a setting several values, such "
                "as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'."
            )
        self._space = space
        study = self._study = self._open(ledger)
        first = fixed | {key: _examples(values)[0] for key, values in space.items()}
        self._check([first | {key: value} for key in space for value in _examples(space[key])])
        self._planned = self.n_trials
        self._finish(study, ledger)
        while (left := self.n_trials - _ended(study, ledger)) > 0:
            with refusals_of("hydra.sweeper"):
                trials = [study.ask(space) for _ in range(min(left, self.n_jobs))]
            jobs = ledger.plan(
                [
                    fixed | {key: _parameter(value) for key, value in trial.params.items()}
                    for trial in trials
                ],
                list(space),
            )
            for job, trial in zip(jobs, trials, strict=True):
                trial.set_user_attr(FOLDER, str(ledger.folder.resolve() / job.name))
            self._try(study, ledger, jobs, [trial.number for trial in trials])

    def _check_space(self, study: optuna.Study) -> None:
        """Refuse values of another kind than those that the study's trials chose from.

        Raises:
            DiscernError: names the first such setting.
        """
        for trial in study.get_trials(deepcopy=False):
            for name, values in self._space.items():
                known = trial.distributions.get(name, values)
                if _choices(known) != _choices(values) or _is_log(known) != _is_log(values):
                    raise DiscernError(
                        f"{name}={_described(values)} is not what the trials of the study chose "
                        f"from, {_described(known)}; take the same values, or another "
                        f"hydra.sweeper.study_name than {study.study_name}."
                    )

    def _finish(self, study: optuna.Study, ledger: Ledger) -> None:
        """Finish the jobs that were running when the sweep was killed."""
        import optuna

        running = {
            trial.user_attrs.get(FOLDER): trial.number
            for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        }
        for job in list(ledger.jobs):
            number = running.pop(str(ledger.folder.resolve() / job.name), None)
            if number is None:
                continue
            self._shown = job.number
            if ledger.row(job).state.is_settled:
                self._tell(study, ledger, job, number)
            else:
                self._try(study, ledger, [job], [number])
        for folder, number in running.items():
            # A trial without a folder was asked for just before the end, in a shared study perhaps
            # by another sweep.
            of_sweep = folder and Path(folder).parent == ledger.folder.resolve()
            if of_sweep or (folder is None and self.storage is None):
                study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _try(
        self, study: optuna.Study, ledger: Ledger, jobs: Sequence[Job], numbers: Sequence[int]
    ) -> None:
        location, name = self._location(ledger), study.study_name
        prunes = self.pruner is not None and len(ledger.ranked_by) == 1
        extra = [
            [for_job(TRIAL, str(Trial(location, name, number)))] if prunes else []
            for number in numbers
        ]
        self._launch(ledger, jobs, extra)
        for job, number in zip(jobs, numbers, strict=True):
            self._tell(study, ledger, job, number)

    def _tell(self, study: optuna.Study, ledger: Ledger, job: Job, number: int) -> None:
        from optuna.trial import TrialState

        row = ledger.row(job)
        values = [row.values.get(objective.metric) for objective in ledger.ranked_by]
        if row.state is State.DONE and None not in values:
            study.tell(number, [value for value in values if value is not None])
        elif row.state is State.PRUNED:
            study.tell(number, state=TrialState.PRUNED)
        elif row.state in (State.FAILED, State.DIVERGED):
            study.tell(number, state=TrialState.FAIL)

    def _location(self, ledger: Ledger) -> str:
        """URL or path of the study, independent of the working directory."""
        if self.storage is None:
            path = str((ledger.folder / STUDY).resolve())
            # Characters with a meaning in a URL.
            return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"
        return self.storage if "://" in self.storage else str(Path(self.storage).resolve())

    def _open(self, ledger: Ledger) -> optuna.Study:
        try:
            import optuna
        except ImportError as error:
            raise DiscernError(MISSING) from error
        # discern logs a line per trial itself.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [objective.direction for objective in ledger.ranked_by]
        if self.storage is None:
            check_study(ledger.folder / STUDY)
        with refusals_of("hydra.sweeper.storage"):
            study = optuna.create_study(
                storage=open_storage(self._location(ledger)),
                study_name=self.study_name,
                directions=directions,
                load_if_exists=True,
            )
            begun = len(study.get_trials(deepcopy=False))  # fails if the file is damaged
        if [direction.name.lower() for direction in study.directions] != directions:
            raise DiscernError(
                f"hydra.sweeper.study_name={self.study_name} is a study with other objectives; "
                "choose another name."
            )
        self._check_space(study)
        if self.sampler is not None:
            study.sampler = self._sampler(self.sampler, begun, ledger)
        if self.pruner is not None:
            entry = OmegaConf.to_container(OmegaConf.create(dict(self.pruner)), resolve=True)
            study.set_user_attr(PRUNER, entry)
        return study

    def _sampler(self, entry: Entry, begun: int, ledger: Ledger) -> optuna.samplers.BaseSampler:
        """The sampler, seeded so that it proposes nothing again.

        With its own seed it would repeat the values of the trials begun before a resumption, and
        those of another sweep that shares the study.
        """
        settings, seed = dict(entry), entry.get("seed")
        if isinstance(seed, int) and not str(entry.get("_target_")).endswith(SELF_NUMBERED):
            of_sweep = str(ledger.folder.resolve()).encode() if self.storage is not None else b""
            settings["seed"] = (seed + begun + zlib.crc32(of_sweep)) % 2**32
        with refusals_of("hydra.sweeper.sampler"):
            sampler: optuna.samplers.BaseSampler = instantiate(settings)
        return sampler

    def _extras(self, ledger: Ledger) -> Mapping[str, object]:
        if self._study is None:
            return {}
        from discern.sweeps.importance import importance_of

        importance = importance_of(self._study, ledger.ranked_by)
        return {
            "study": redacted_setting(self._location(ledger)),
            "importance": importance,
            "space": _intervals(self._space),
        }


def search_space(
    overrides: Sequence[Override],
) -> tuple[dict[str, BaseDistribution], dict[str, str]]:
    """The search space, and the settings that all jobs share.

    Values mean what they mean to hydra-optuna-sweeper: ``interval(a, b)`` is continuous,
    ``int(interval(a, b))`` is of whole numbers, ``tag(log, …)`` makes either logarithmic,
    ``range(a, b, step)`` includes both ends, and ``choice(…)`` or a list are categories.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = as_typed(override.get_value_element_as_str())
    return space, fixed


def _distribution(override: Override) -> BaseDistribution:
    try:
        from optuna import distributions as d
    except ImportError as error:
        raise DiscernError(MISSING) from error
    value = override.value()
    if isinstance(value, (IntervalSweep, RangeSweep)):
        low, high, step, is_log = _ends(value)
        given = (low, high, 1 if step is None else step)
        try:
            if not all(math.isfinite(number) for number in given):
                raise ValueError("Its ends and its step must be finite.")
            if isinstance(low, int) and max(map(abs, given)) > MAX_INT:
                raise ValueError(f"Its whole numbers must be at most {MAX_INT} (2^53).")
            if isinstance(low, int):
                whole = 1 if step is None else int(step)
                return d.IntDistribution(low, int(high), log=is_log, step=whole)
            return d.FloatDistribution(low, high, log=is_log, step=step)
        except ValueError as error:  # of Optuna's own checks, too
            text = f"{override.input_line} cannot be searched: {error}"
            raise DiscernError(text) from error
    return d.CategoricalDistribution([as_typed(each) for each in override.sweep_string_iterator()])


def _intervals(space: Mapping[str, BaseDistribution]) -> dict[str, object]:
    """Setting -> ends and scale of its interval, of the settings that have one."""
    return {
        name: {end: getattr(values, end) for end in ("low", "high", "log")}
        for name, values in space.items()
        if hasattr(values, "log")
    }


def _ends(
    value: IntervalSweep | RangeSweep,
) -> tuple[int | float, int | float, int | float | None, bool]:
    """Low end, high end, step and whether the scale is log; whole numbers if all are typed so."""
    if isinstance(value, IntervalSweep):
        numbers = [value.start or 0, value.end or 0]
    else:
        numbers = [value.start or 0, value.stop or 0, value.step]
    if not all(isinstance(number, int) for number in numbers):
        numbers = [float(number) for number in numbers]
    is_log = "log" in value.tags
    # A logarithmic scale includes every whole number, which is the default step of a range.
    steps = numbers[2:] if not (is_log and numbers[2:] == [1]) else []
    return numbers[0], numbers[1], steps[0] if steps else None, is_log


def _examples(values: BaseDistribution) -> list[str]:
    """Values to check before the search: all categories, or the lower end of an interval."""
    categories = getattr(values, "choices", None)
    return [_parameter(value) for value in categories or [getattr(values, "low", None)]]


def _parameter(value: object) -> str:
    """The value of a parameter as one would type it."""
    return repr(value) if isinstance(value, (int, float)) else str(value)


def _choices(values: BaseDistribution) -> object:
    """The categories of a parameter; of a number, its type."""
    return getattr(values, "choices", type(values))


def _is_log(values: BaseDistribution) -> bool:
    return bool(getattr(values, "log", False))


def _described(values: BaseDistribution) -> str:
    """The values of a parameter, about as they are typed."""
    facts = vars(values)
    if "choices" in facts:
        return ",".join(map(str, facts["choices"]))
    interval = f"interval({facts.get('low')},{facts.get('high')})"
    interval = f"int({interval})" if isinstance(facts.get("low"), int) else interval
    return f"tag(log,{interval})" if _is_log(values) else interval


def _ended(study: optuna.Study, ledger: Ledger) -> int:
    """Number of trials that have ended.

    Between two batches those are all of this sweep, also the ones whose jobs were interrupted: they
    have no result in the study, but a resumed sweep goes on with them.
    """
    of_sweep = ledger.folder.resolve()
    return sum(
        trial.state.is_finished() or Path(str(trial.user_attrs.get(FOLDER))).parent == of_sweep
        for trial in study.get_trials(deepcopy=False)
    )
