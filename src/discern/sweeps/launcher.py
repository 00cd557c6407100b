"""Runs jobs in forked local processes.

Processes share what has been imported. The crash of a job ends its process alone; the sweep goes on
in a new one.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import FrameType
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from discern.config.durations import seconds_of
from discern.config.values import plain
from discern.errors import DiscernError
from discern.runs.signals import BY_SIGNAL, heeded

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from discern.sweeps.screen import Screen

GRACE_SECONDS = 10.0
"""Time for a job to end by itself after it was asked to, or the sweep was killed."""

MAX_WAIT_SECONDS = 3600.0
"""Upper bound on a wait for the end of a job, which the system limits."""

MAX_START_SECONDS = 1.0
"""Upper bound on the start-up of a worker after the first."""

GUESSED_SECONDS = 1.0
"""Assumed duration of a job until the second one was measured."""

Overrides = Sequence[str]


def check_positive(setting: str, value: object, others: str = "") -> None:
    """Check that a setting is a whole number above 0.

    Raises:
        DiscernError: it is not; the sentence names the other values allowed.
    """
    if not isinstance(value, int) or value < 1:
        raise DiscernError(
            f"{setting}={value} is not allowed; it must be {others}a whole number above 0."
        )


STOPPED = {ended.status for ended in BY_SIGNAL.values()}
"""Exit statuses of a job that a signal has stopped."""


class JobDiedError(Exception):
    """The process of a job ended before the job did."""


class JobStoppedError(JobDiedError):
    """A signal ended a job, perhaps before it could write its summary."""


class JobTimeoutError(JobDiedError):
    """A job was ended since it took longer than ``sweep.job_timeout``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it was ended after sweep.job_timeout={seconds:g} s")


class InterruptedSweepError(KeyboardInterrupt):
    """A signal that ends a sweep was received, and the running jobs have ended.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@dataclass(frozen=True)
class Done:
    """A worker's report of a finished job.

    Attributes:
        result: as of Hydra's launchers, without the configs.
        seconds: duration of the job.
        threads: CPU threads of an operation; 0 where the job was not on the CPU.
    """

    result: JobReturn
    seconds: float
    threads: int


@dataclass(frozen=True)
class Setup:
    """What Hydra has given to a launcher."""

    hydra_context: HydraContext
    config: DictConfig
    task_function: TaskFunction

    @classmethod
    def of(cls, launcher: BasicLauncher) -> Setup:
        """That of a launcher, which Hydra has set up."""
        assert launcher.hydra_context is not None
        assert launcher.config is not None
        assert launcher.task_function is not None
        return cls(launcher.hydra_context, launcher.config, launcher.task_function)


def run_one(setup: Setup, overrides: Overrides, number: int) -> JobReturn:
    """Run a job in this process, whose logging Hydra sets up for each job."""
    loader = setup.hydra_context.config_loader
    config = loader.load_sweep_config(setup.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    return run_job(
        hydra_context=setup.hydra_context,
        task_function=setup.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


class JobsLauncher(BasicLauncher):
    """Runs jobs in one process or several.

    Args:
        n_jobs: number of processes; ``auto`` starts with one and adds more where jobs take long
            enough for it to pay.
    """

    def __init__(self, n_jobs: int | str = "auto") -> None:
        super().__init__()
        if n_jobs != "auto":
            check_positive("hydra.launcher.n_jobs", n_jobs, "auto or ")
        self.n_jobs = n_jobs
        self.ended: Callable[[int, JobReturn], None] | None = None
        """Called with the index and result of each finished job."""
        self.screen: Screen | None = None
        """The progress bar, on a terminal."""
        self._open = False
        self._workers: list[_Worker] = []
        self._rate = _Rate()

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the processes between batches of jobs within the block."""
        self._open = True
        try:
            yield
        finally:
            self._open = False
            self._close()

    def launch(
        self, job_overrides: Sequence[Overrides], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs and return the result or exception of each.

        Raises:
            InterruptedSweepError: a signal that ends a sweep came; no further job was started.
        """
        batch = _Batch(job_overrides, initial_job_idx)
        try:
            with _Signals(self._workers) as signals:
                import_for_jobs()
                self._run(batch, signals, job_timeout(self.config))
        except BaseException:
            self._close()  # whoever catches it takes no more results
            raise
        if not self._open:
            self._close()
        if signals.number is not None:
            raise InterruptedSweepError(signals.number)
        return batch.results

    def _run(self, batch: _Batch, signals: _Signals, limit: float) -> None:
        ended: list[int] = []
        while True:
            try:
                self._start_workers(batch)
                for worker in self._workers:
                    if worker.place is None and batch.waiting and signals.number is None:
                        worker.begin(*batch.next(), limit)
            finally:
                # After the next jobs were started: none waits for the report of the one before.
                for place in ended:
                    if self.ended is not None:
                        self.ended(place, batch.results[place])
            busy = [worker for worker in self._workers if worker.place is not None]
            if not busy:
                return
            signals.pass_on()
            ended = [self._end(worker, batch) for worker in self._ready(busy)]
            for worker in busy:
                worker.end_if_overdue()

    def _ready(self, busy: Sequence[_Worker]) -> list[_Worker]:
        """The workers whose job or process has ended, perhaps none."""
        handles = {each: worker for worker in busy for each in (worker.pipe, worker.sentinel)}
        left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        if self.screen is None:
            found = connection.wait(list(handles), min(left, MAX_WAIT_SECONDS))
        else:
            seconds = min(left, self.screen.seconds)
            found = connection.wait([*handles, self.screen.fileno()], seconds)
            self.screen.refresh()
        return list(dict.fromkeys(handles[handle] for handle in found if handle in handles))

    def _end(self, worker: _Worker, batch: _Batch) -> int:
        """Take the result of a worker's job; its index in the batch."""
        place = worker.place
        assert place is not None
        done = worker.end()
        batch.results[place] = done.result
        if worker.alive:
            self._rate.learn(done)
        if done.result.status == JobStatus.FAILED:
            # The next job gets a process of its own: what has failed may have taken the memory of
            # this one, or left a device of no use.
            self._workers.remove(worker)
            if worker.alive:
                worker.close()
        return place

    def _start_workers(self, batch: _Batch) -> None:
        self._workers[:] = [worker for worker in self._workers if worker.is_able]
        busy = sum(worker.place is not None for worker in self._workers)
        left = busy + len(batch.waiting)
        wanted = self._rate.processes(left) if self.n_jobs == "auto" else int(self.n_jobs)
        threads = None if self.n_jobs == "auto" else max(1, cpus() // wanted)
        while len(self._workers) < min(wanted, left):
            first = not self._workers
            self._workers.append(_Worker(self._one, threads, self.screen, first))

    def _one(self, overrides: Overrides, number: int) -> JobReturn:
        """Run a job in this process."""
        return run_one(Setup.of(self), overrides, number)

    def _close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers.clear()


class _Batch:
    """The waiting jobs, and the results of the others."""

    def __init__(self, overrides: Sequence[Overrides], first: int) -> None:
        self.waiting = deque(enumerate(overrides))
        self.first = first
        self.results = [JobReturn(overrides=list(each)) for each in overrides]

    def next(self) -> tuple[int, Overrides, int]:
        place, overrides = self.waiting.popleft()
        return place, overrides, self.first + place


class _Rate:
    """Measured durations of jobs, and the number of processes that they justify."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.later: float | None = None
        self.threads = 0

    def learn(self, done: Done) -> None:
        """Record a job's duration; the first job of a sweep also loads everything."""
        if self.first is None:
            self.first = done.seconds
        else:
            self.later = done.seconds
        self.threads = done.threads

    def processes(self, left: int) -> int:
        """Number of processes for the remaining jobs."""
        if self.first is None or not self.threads:
            return 1
        later = GUESSED_SECONDS if self.later is None else self.later
        most = min(cpus() // self.threads, left)
        if most < 2:
            return 1
        # The first job may also have computed features, which the others find in the cache.
        start = min(max(0.0, self.first - later), MAX_START_SECONDS)
        return most if left * later * (1 - 1 / most) > start else 1


def import_for_jobs() -> None:
    """Import slow modules once; the workers are forks of this process and share them."""
    from discern.console import loading

    with loading("torch", "lightning"):
        import discern.features.source
        import discern.reports.run_page
        import discern.run  # noqa: F401
        from discern.training.job import freeze_imports

    freeze_imports()


def job_timeout(config: DictConfig | None) -> float:
    """The seconds that a job of a sweep may take; infinite without a limit."""
    limit = None if config is None else plain(OmegaConf.select(config, "sweep.job_timeout"))
    return math.inf if limit is None else seconds_of(limit)


def cpus() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that runs jobs.

    Attributes:
        pipe: readable when a job has ended.
        place: index of the running job in its batch; None while idle.
        alive: whether it can run another job.
        deadline: when the job is to be ended, on the monotonic clock; infinite without a limit.
    """

    def __init__(
        self,
        run: Callable[[Overrides, int], JobReturn],
        threads: int | None,
        screen: Screen | None,
        first: bool,
    ) -> None:
        # A fork shares imported modules and Hydra's state.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(run, theirs, self.pipe, threads, screen, first)
        )
        self._process.start()
        theirs.close()
        self.place: int | None = None
        self.alive = True
        self.deadline = math.inf
        self._limit = math.inf
        self._is_overdue = False

    @property
    def sentinel(self) -> int:
        """Readable when the process has ended."""
        return self._process.sentinel

    @property
    def is_able(self) -> bool:
        """Whether it runs a job or can run one."""
        return self.place is not None or self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def begin(self, place: int, overrides: Overrides, number: int, limit: float) -> None:
        self.place = place
        self._limit, self._is_overdue = limit, False
        self.deadline = time.monotonic() + limit
        with contextlib.suppress(OSError):  # it has died, which end() reports
            self.pipe.send((list(overrides), number))

    def end_if_overdue(self) -> None:
        """Ask a job that takes too long to end, and kill it if it does not."""
        if self.place is None or time.monotonic() < self.deadline:
            return
        if not self._is_overdue:
            self._is_overdue = True
            self.deadline = time.monotonic() + GRACE_SECONDS
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        else:
            self.deadline = math.inf
            self._kill()

    def end(self) -> Done:
        """The report of the job, or of the process's death."""
        self.place = None
        self.deadline = math.inf
        done = self._received() or self._died()
        if self._is_overdue and done.result.status == JobStatus.FAILED:
            done.result.return_value = JobTimeoutError(self._limit)
        return done

    def _received(self) -> Done | None:
        try:
            if self.pipe.poll():
                done: Done = self.pipe.recv()
                return done
        except (EOFError, OSError):
            pass
        return None

    def _died(self) -> Done:
        self._kill()  # also what the job has started
        self._process.join()
        self.alive = False
        self.pipe.close()
        error = JobDiedError(_how_it_ended(self._process.exitcode or 0))
        self._process.close()
        return Done(JobReturn(status=JobStatus.FAILED, _return_value=error), 0.0, 0)

    def _kill(self) -> None:
        """Kill the process, and those that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()

    def close(self) -> None:
        if self.place is not None:  # it would go on to the end of its job
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self._process.join(GRACE_SECONDS)
        if self._process.is_alive():  # a thread of a job goes on
            self._kill()
            self._process.join()
        self.pipe.close()
        self._process.close()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status} during the job"
    name = signal.Signals(-status).name
    memory = ", perhaps for lack of memory" if -status == signal.SIGKILL else ""
    return f"its process was ended by {name}{memory}"


class _Signals:
    """Passes a signal that ends a sweep on to the running jobs, once.

    Jobs are in process groups of their own: a terminal would also send them Ctrl-C, and the second
    one ends a job at once.
    """

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self.number: int | None = None
        self._workers = workers
        self._found: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._passed: set[tuple[int, int]] = set()
        self._count = 0

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._found[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._found.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._count += 1
        self.pass_on()

    def pass_on(self) -> None:
        """Send the signal to the running jobs; the second one kills them."""
        if self.number is None:
            return
        for worker in self._workers:
            if worker.place is not None and (worker.pid, self._count) not in self._passed:
                self._passed.add((worker.pid, self._count))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, self.number if self._count == 1 else signal.SIGKILL)


# In the worker's process


def _serve(
    run: Callable[[Overrides, int], JobReturn],
    pipe: Connection,
    others: Connection,
    threads: int | None,
    screen: Screen | None,
    first: bool,
) -> None:
    """Run jobs until there are none."""
    others.close()
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in heeded():
        if number != signal.SIGINT:
            signal.signal(number, _terminate)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    if threads is not None:
        from discern.models.threads import limit_threads  # torch

        limit_threads(threads)
    from discern.sweeps.screen import forget_bars  # tqdm and rich

    forget_bars()
    if screen is not None:
        screen.take_output()
    elif not first:
        os.environ["TQDM_DISABLE"] = "1"  # several bars would overwrite each other
    while (job := _next(pipe)) is not None:
        begun = time.perf_counter()
        result = _result(run, *job)
        # Both are in the job's folder, and take 8 ms to send.
        result.cfg = result.hydra_cfg = None
        done = Done(result, time.perf_counter() - begun, _threads())
        try:
            message = pickle.dumps(done)
        except Exception:  # an exception of a library that cannot be sent
            error = RuntimeError(str(result._return_value))
            plain = JobReturn(status=result.status, _return_value=error)
            message = pickle.dumps(Done(plain, done.seconds, done.threads))
        with contextlib.suppress(OSError):  # the sweep was killed, which the next read reports
            pipe.send_bytes(message)


def _next(pipe: Connection) -> tuple[Overrides, int] | None:
    try:
        job: tuple[Overrides, int] | None = pipe.recv()
        return job
    except (EOFError, KeyboardInterrupt):
        return None


def _result(
    run: Callable[[Overrides, int], JobReturn], overrides: Overrides, number: int
) -> JobReturn:
    try:
        return run(overrides, number)
    except (KeyboardInterrupt, SystemExit) as end:
        # The run has written why it ended, if it had started.
        stopped = isinstance(end, KeyboardInterrupt) or end.code in STOPPED
        error = JobStoppedError if stopped else JobDiedError
        return JobReturn(status=JobStatus.FAILED, _return_value=error(repr(end)))
    except Exception as error:  # its folder could not be made, or its config not be composed
        return JobReturn(status=JobStatus.FAILED, _return_value=error)


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is None or torch.cuda.is_initialized():
        return 0
    return int(torch.get_num_threads())


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _follow(parent: int) -> None:
    """End this process when the sweep was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(128 + signal.SIGTERM)
