"""``train -m``: runs every combination of the given values and ranks the jobs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import shlex
import signal
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from discern.config.checked_files import CheckedLoader
from discern.config.foreign import SETTING, check_overrides
from discern.config.typed import quoted, without_escapes
from discern.config.values import plain
from discern.errors import DiscernError, as_override, file_errors, first_line, refuse
from discern.redaction import log_missing, redacted, redacted_setting
from discern.runs.folder import WORDS, checkpoint_in, find_checkpoint, glance, numbers
from discern.runs.state import Ended, State
from discern.runs.sweep_job import DRAWS
from discern.sweeps.launcher import (
    InterruptedSweepError,
    JobsLauncher,
    JobStoppedError,
    JobTimeoutError,
    check_positive,
    job_timeout,
)
from discern.sweeps.ledger import Ledger
from discern.sweeps.names import differing
from discern.sweeps.planned import check_jobs
from discern.sweeps.rows import Direction, Job, Row, objectives_of, shown
from discern.training.job import relative

log = logging.getLogger(__name__)

QUIET_CONSOLE = "++hydra.job_logging.handlers.console.level=WARNING"
"""The terminal has one line per job; a job's own lines are in its train.log."""

MAX_JOBS = 10_000
"""Maximum number of jobs of a grid: a mistyped range has millions."""

ELSEWHERE = ("SlurmLauncher", "RayTasks")
"""Launchers whose jobs may run on other machines."""

TIMED = (".Jobs", ".RayTasks")
"""Launchers that end a job which takes longer than ``sweep.job_timeout``."""

SUBMITIT = ".submitit"
"""Folder of submitit's files, in the folder of a sweep."""

ALLOWING = f"{SETTING}="
"""Prefix of ``allow_targets=…``, which has to be typed for each sweep and is not kept in a file."""

OWN = ("sweep.", "hydra.", ALLOWING)
"""Prefixes of settings of the sweep, which are not settings of its jobs."""

CHECKPOINTS = ("ckpt_path", "model.init_from", "model.weights")
"""Settings that may name a checkpoint by ``last`` or ``best``."""


class JobsSweeper(Sweeper):
    """Base class of sweepers: runs jobs, tolerates failures, and ranks the results.

    Args:
        max_batch_size: number of jobs handed to the launcher at a time; None for all.
        params: setting -> values, in addition to those typed.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None
    ) -> None:
        if max_batch_size is not None:
            check_positive("hydra.sweeper.max_batch_size", max_batch_size, "null or ")
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})
        self.config: DictConfig
        self.hydra_context: HydraContext
        self.launcher: Launcher
        self._shown = 0
        self._planned = 0
        self._has_begun = False
        self._best: dict[str, float] = {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra: keep the context and create the launcher."""
        # Hydra's launchers log each job before it starts, with the overrides of the sweep itself.
        logging.getLogger("hydra_plugins").setLevel(logging.WARNING)
        self.config = config
        loader = cast("ConfigLoader", CheckedLoader(hydra_context.config_loader))
        self.hydra_context = HydraContext(loader, hydra_context.callbacks)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Row]:
        """Run the jobs and return their results.

        Raises:
            SystemExit: 1 if a job failed or all of them diverged; 128 plus the number of a signal.
        """
        try:
            return self._sweep([f"{key}={value}" for key, value in self.params.items()] + arguments)
        except Exception as error:
            self._discard()
            if isinstance(error, DiscernError):
                refuse(error)
            raise

    def _discard(self) -> None:
        """Remove the folder of a sweep that has been refused before any job of it ran."""
        folder = Path(self.config.hydra.sweep.dir)
        if self.config.sweep.resume is not None or any(path.is_dir() for path in folder.iterdir()):
            return
        for path in folder.iterdir():
            path.unlink()
        with contextlib.suppress(OSError):  # such as the first one that is not empty
            for path in (folder, *folder.parents):
                path.rmdir()

    def _sweep(self, arguments: list[str]) -> list[Row]:
        self._check_timeout()
        folder = Path(self.config.hydra.sweep.dir)
        own = [a for a in arguments if not a.lstrip("+~").startswith(OWN)]
        ledger = self._ledger(folder, [_with_checkpoints(argument) for argument in own])
        with ledger.alone(), self._launcher_kept():
            ledger.save()
            shown_config = redacted(OmegaConf.to_container(self.config))
            OmegaConf.save(OmegaConf.create(shown_config), folder / "multirun.yaml")
            again = shlex.quote(f"sweep.resume={relative(folder)}")
            try:
                rows = self._run_and_conclude(ledger)
            except KeyboardInterrupt as end:
                log.warning("Interrupted. Continue: python train.py -m %s", again)
                number = end.number if isinstance(end, InterruptedSweepError) else signal.SIGINT
                raise SystemExit(128 + number) from end
            except Exception:
                if self._has_begun:
                    log.warning("Continue: python train.py -m %s", again)
                raise
        if _say_what_died(rows, is_search=ledger.search is not None):
            raise SystemExit(1)
        return rows

    def _run_and_conclude(self, ledger: Ledger) -> list[Row]:
        try:
            self._run(ledger, self._parse(ledger.arguments))
        except (Exception, KeyboardInterrupt) as end:
            # What has been trained is ranked also where the sweep cannot go on.
            if self._has_begun or isinstance(end, KeyboardInterrupt):
                self._conclude(ledger, None)
            raise
        return self._conclude(ledger, self._run_best)

    def _conclude(
        self, ledger: Ledger, test: Callable[[Ledger, Row], dict[str, float]] | None
    ) -> list[Row]:
        from discern.sweeps.conclusion import conclude  # matplotlib

        return conclude(ledger, test, self._extras(ledger))

    @abstractmethod
    def _run(self, ledger: Ledger, overrides: Sequence[Override]) -> None:
        """Run the jobs that are not settled."""

    def _extras(self, ledger: Ledger) -> Mapping[str, object]:
        """Further entries of results.json."""
        return {}

    def _directions(self) -> list[Direction]:
        """Directions of the objectives; empty for the metrics' own."""
        return []

    # Starting or resuming

    def _ledger(self, folder: Path, arguments: list[str]) -> Ledger:
        objective = self.config.objective
        setting = list(objective) if OmegaConf.is_list(objective) else as_override(objective)
        objectives = objectives_of(setting, self._directions())
        if self.config.sweep.resume is None:
            return Ledger(folder, arguments, objectives, self._search(arguments))
        ledger = Ledger.load(folder)
        ledger.check_links()
        if (ledger.search is None) != (self._search(arguments) is None):
            kind = "not a search: leave out" if ledger.search is None else "a search: add"
            typed = " ".join(ledger.search or self._search(arguments) or [])
            raise DiscernError(f"sweep.resume={relative(folder)} is {kind} {typed}.")
        before = {argument.partition("=")[0]: argument for argument in ledger.arguments}
        others = [
            f"{argument} ({before.get(argument.partition('=')[0], 'nothing')} there)"
            for argument in arguments
            if redacted_setting(argument) not in ledger.arguments
        ]
        if others:
            raise DiscernError(
                f"sweep.resume={relative(folder)} is another sweep: {', '.join(others)}. Leave "
                "these settings out to go on with it."
            )
        values = self._values(arguments)
        own = [*arguments, *(f"{key}={value}" for (key, _), value in values.items())]
        of_jobs = [override for job in ledger.jobs for override in _overrides(job.overrides)]
        check_overrides([*ledger.arguments, *of_jobs], own, f"sweep.resume={relative(folder)}")
        directions = [objective.direction for objective in ledger.objectives]
        if self._directions() not in ([], directions):
            raise DiscernError(
                f"sweep.resume={relative(folder)} is a search with hydra.sweeper.direction="
                f"{as_override(directions)}, and not {as_override(self._directions())}."
            )
        again = {redacted_setting(argument): argument for argument in arguments}
        ledger.arguments = [again.get(argument, argument) for argument in ledger.arguments]
        log_missing(ledger.complete(values), logging.WARNING)
        return ledger

    def _values(self, arguments: list[str]) -> dict[tuple[str, str], str]:
        """(setting, value as the ledger writes it) -> value as typed."""
        found = {}
        for override in self._parse(arguments):
            key = override.get_key_element()
            for value in _values(override) or ():
                found[key, shown({key: value})[key]] = value
        return found

    def _search(self, arguments: Sequence[str]) -> list[str] | None:
        """The arguments that ask for a search; None for a grid."""
        return None

    def _parse(self, arguments: list[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed: list[Override] = parser.parse_overrides(arguments)
        for override in parsed:
            if override.value_type is not None and override.is_sweep_override():
                continue
            if override.value() == "" and not override.is_delete():
                raise DiscernError(
                    f"{override.input_line} has no value; write one, or several with commas."
                )
        return parsed

    @contextlib.contextmanager
    def _launcher_kept(self) -> Iterator[None]:
        if not isinstance(launcher := self.launcher, JobsLauncher):
            yield
            return
        from discern.sweeps.screen import screen_if_watched  # tqdm and rich

        with screen_if_watched() as launcher.screen, launcher.kept_open():
            yield
        launcher.screen = None

    # Running jobs

    def _check_timeout(self) -> None:
        """Refuse a ``sweep.job_timeout`` that the launcher does not keep."""
        target = str(self.config.hydra.launcher._target_)
        if math.isfinite(job_timeout(self.config)) and not target.endswith(TIMED):
            raise DiscernError(
                f"sweep.job_timeout={as_override(plain(self.config.sweep.job_timeout))} is kept by "
                f"hydra/launcher=jobs and ray, and not by {target.rpartition('.')[2]}; submitit "
                "has hydra.launcher.timeout_min for it."
            )

    def _check(self, jobs: Sequence[Mapping[str, str]]) -> None:
        """Refuse what no job could do, before any runs.

        Raises:
            DiscernError: see :func:`discern.sweeps.planned.check_jobs`.
        """
        loader = self.hydra_context.config_loader

        def compose(job: Mapping[str, str]) -> DictConfig:
            return loader.load_sweep_config(self.config, [*_overrides(job), *self._allowing()])

        target = str(self.config.hydra.launcher._target_)
        check_jobs(jobs, loader, compose, elsewhere=target.endswith(ELSEWHERE))

    def _launch(self, ledger: Ledger, jobs: Sequence[Job], extra: Sequence[Sequence[str]]) -> None:
        """Run jobs, each with extra overrides; failures of single jobs are recorded."""
        settings = ledger.settings
        own = self.launcher if isinstance(self.launcher, JobsLauncher) else None
        resumed = [ledger.resumption(job) for job in jobs]
        overrides = [
            [
                *_overrides(job.overrides),
                # Only the best is tested, once, unless the test was asked for.
                *([] if "test" in job.overrides else ["test=false"]),
                *self._allowing(),
                *more,
                *start,
                *self._quiet(),
                *((for_job(DRAWS, "1"),) if own is not None else ()),
                f"hydra.sweep.subdir={quoted(job.name)}",
            ]
            for job, more, start in zip(jobs, extra, resumed, strict=True)
        ]

        def ended(place: int, result: JobReturn) -> None:
            job = jobs[place]
            if reason := _reason_of(result, ledger.row(job).state):
                ledger.reasons[job.number] = reason
                ledger.save()
            self._show(ledger, job, settings)
            if own is not None:
                from discern.sweeps.conclusion import write_job_report  # matplotlib

                write_job_report(ledger.folder / job.name)

        if own is not None:
            own.ended = ended
        self._draw(ledger)
        self._has_begun = True
        results = self._launched(ledger, overrides, jobs[0].number)
        if own is None:
            for place, result in enumerate(results):
                ended(place, result)
        else:
            own.ended = None

    def _launched(
        self, ledger: Ledger, overrides: Sequence[Sequence[str]], first: int
    ) -> Sequence[JobReturn]:
        """Run jobs; afterwards remove submitit's pickles, which hold the overrides with secrets.

        Raises:
            DiscernError: the system does not let discern's own launcher start a process.
        """
        is_own = isinstance(self.launcher, JobsLauncher)
        kept = ledger.folder / SUBMITIT
        if "submitit" in str(self.config.hydra.launcher._target_):
            kept.mkdir(0o700, exist_ok=True)
        try:
            with file_errors("hydra/launcher=jobs cannot go on") if is_own else nullcontext():
                return self.launcher.launch(overrides, first)
        except Exception as error:
            if is_own:  # which raises for no job
                raise
            log.debug("The launcher failed.", exc_info=True)
            return [JobReturn(status=JobStatus.FAILED, _return_value=error) for _ in overrides]
        finally:
            own = ledger.folder.resolve() / SUBMITIT
            for pickled in kept.glob("*/*.pkl"):
                if pickled.parent.resolve().parent == own:  # not through a link
                    pickled.unlink(missing_ok=True)

    def _quiet(self) -> list[str]:
        """Empty where the user has chosen another logging of jobs."""
        console = OmegaConf.select(self.config, "hydra.job_logging.handlers.console")
        return [] if console is None else [QUIET_CONSOLE]

    def _allowing(self) -> list[str]:
        """The ``allow_targets=…`` that was typed."""
        typed = map(str, self.config.hydra.overrides.task)
        return [argument for argument in typed if argument.startswith(ALLOWING)]

    def _show(self, ledger: Ledger, job: Job, settings: Sequence[str]) -> None:
        row = ledger.row(job, settings)
        self._shown += 1
        parts = [f"{self._shown}/{max(self._planned, len(ledger.jobs))}", job.name]
        parts += [f"{name} {value:.4f}" for name, value in row.values.items() if value is not None]
        if row.epochs:
            parts.append(f"{row.epochs} epochs" if row.epochs > 1 else "1 epoch")
        if row.seconds:
            parts.append(f"{row.seconds:.1f} s")
        if row.state is not State.DONE:
            parts.append(row.outcome)
        log.info("  ".join(parts))
        self._keep_best(ledger, row)
        self._draw(ledger)

    def _keep_best(self, ledger: Ledger, row: Row) -> None:
        objective = ledger.ranked_by[0]
        value = row.values.get(objective.metric)
        if row.state is State.DONE and value is not None and not row.is_part:
            values = [value, self._best.get(objective.metric, value)]
            self._best[objective.metric] = min(values, key=lambda each: objective.sign * each)

    def _draw(self, ledger: Ledger) -> None:
        """Update the progress bar, on a terminal."""
        screen = self.launcher.screen if isinstance(self.launcher, JobsLauncher) else None
        if screen is None:
            return
        metric = ledger.ranked_by[0].metric
        best = f"{metric} {self._best[metric]:.4f}" if metric in self._best else ""
        screen.show(self._shown, max(self._planned, len(ledger.jobs)), best)

    def _run_best(self, ledger: Ledger, row: Row) -> dict[str, float]:
        """The test metrics of the model that a job kept.

        Raises:
            DiscernError: the test has failed.
        """
        job = ledger.jobs[row.number]
        if self.config.test is False:
            return {}
        best = checkpoint_in(ledger.folder / job.name)
        if best is None:
            return {}
        left_out = ("test", "train", "find_lr")
        name = f"{job.name}/test"
        overrides = [
            *_overrides({k: v for k, v in job.overrides.items() if k not in left_out}),
            *self._allowing(),
            "train=false",
            "test=true",
            "logger=none",
            f"ckpt_path={quoted(str(best.resolve()))}",
            *self._quiet(),
            f"hydra.sweep.subdir={quoted(name)}",
        ]
        if glance(ledger.folder / name).state is not State.DONE:
            (result,) = self._launched(ledger, [overrides], len(ledger.jobs))
            run = glance(ledger.folder / name)
            if run.state is not State.DONE:
                reason = _reason_of(result, run.state)
                ended = Ended(State.FAILED, reason) if reason else run.ended
                raise DiscernError(f"The test of the best job, {job.name}, {ended}.")
        return numbers(glance(ledger.folder / name).part("metrics").get("test"))


def _say_what_died(rows: Sequence[Row], *, is_search: bool) -> bool:
    """Log a line on each job that failed or diverged; whether the sweep has failed by them.

    A search tries values with which training diverges, and goes on from there.
    """
    failed = [row for row in rows if not row.state.is_settled]
    diverged = [row for row in rows if row.state is State.DIVERGED]
    for row in (*failed, *diverged):
        log.error("  %s  %s", row.folder.name, row.outcome)
    if len(diverged) == len(rows) > 0:
        log.error("All %d jobs diverged: the loss was not finite.", len(rows))
    elif diverged:
        log.error("%d of %d jobs diverged: the loss was not finite.", len(diverged), len(rows))
    if failed:
        log.error("%d of %d jobs failed.", len(failed), len(rows))
    return bool(failed) or (bool(diverged) and (not is_search or len(diverged) == len(rows)))


def _reason_of(result: JobReturn, state: State) -> str:
    """Why a job failed, if the launcher knows more of it than the job's folder; else empty."""
    error = result._return_value
    if result.status != JobStatus.FAILED or state.is_settled:
        return ""
    silent = state in (State.WAITING, State.UNFINISHED)
    says_more = silent and not isinstance(error, JobStoppedError)
    return first_line(error) if says_more or isinstance(error, JobTimeoutError) else ""


class GridSweeper(JobsSweeper):
    """Every combination of the given values."""

    def _run(self, ledger: Ledger, overrides: Sequence[Override]) -> None:
        if not ledger.jobs:
            jobs = combinations(overrides)
            self._check(jobs)
            ledger.plan(jobs, differing(jobs))
        rows = ledger.rows()
        self._shown = sum(row.state.is_settled for row in rows)
        for row in rows:
            self._keep_best(ledger, row)
        left = [job for job, row in zip(ledger.jobs, rows, strict=True) if not row.state.is_settled]
        size = self.max_batch_size or len(left) or 1
        for first in range(0, len(left), size):
            part = left[first : first + size]
            self._launch(ledger, part, [[] for _ in part])


def combinations(overrides: Sequence[Override]) -> list[dict[str, str]]:
    """Each combination of the values in overrides, in their order.

    Raises:
        DiscernError: an override is for searches only, or there are more than ``MAX_JOBS``.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        listed = _values(override)
        if listed is None:
            raise DiscernError(
                f"{override.input_line} is not a list of values; an interval is for a search: add "
                "hydra/sweeper=optuna."
            )
        values[override.get_key_element()] = listed
        if math.prod(map(len, values.values())) > MAX_JOBS:
            raise DiscernError(
                f"The values given make more than {MAX_JOBS:,} jobs, the maximum of a sweep."
            )
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def _overrides(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _values(override: Override) -> list[str] | None:
    """The values of an override, at most one more than there may be jobs; None for an interval."""
    if not override.is_sweep_override():
        return [as_typed(override.get_value_element_as_str())]
    if not override.is_discrete_sweep():
        return None
    try:
        few = itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1)
        values = [as_typed(value) for value in few]
    except (ValueError, ArithmeticError) as error:  # of a range
        raise DiscernError(
            f"{override.input_line} cannot be counted: its ends must be finite, and its step not 0."
        ) from error
    if not values:
        raise DiscernError(f"{override.input_line} is empty; it must have a value.")
    return values


def as_typed(value: object) -> str:
    """A value as typed on the command line; Hydra writes those of YAML in Python's syntax."""
    text = {"True": "true", "False": "false", "None": "null"}.get(str(value), str(value))
    return without_escapes(text)


def _with_checkpoints(argument: str) -> str:
    """An override with the paths of ``last`` and ``best`` as of now.

    Otherwise each job would continue from the one before it.
    """
    key, _, text = argument.partition("=")
    words = text.split(",")
    name = key.lstrip("+")
    if name not in CHECKPOINTS or not set(WORDS) >= set(words):
        return argument
    goes_on = name == "ckpt_path"
    paths = [find_checkpoint(word, name, goes_on=goes_on).resolve() for word in words]
    return f"{key}={','.join(quoted(str(path)) for path in paths)}"


def for_job(variable: str, value: str) -> str:
    """An override that sets an environment variable in a job, whichever launcher runs it."""
    return f"++hydra.job.env_set.{variable}={quoted(value)}"
