from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from discern.errors import DiscernError
from discern.sweeps import launcher
from discern.sweeps.launcher import (
    Done,
    InterruptedSweepError,
    JobDiedError,
    JobsLauncher,
    JobStoppedError,
    JobTimeoutError,
    _Rate,
    _result,
    _serve,
    _Worker,
)


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "cpus", lambda: 4)


def learnt(*seconds: float, threads: int = 1) -> _Rate:
    rate = _Rate()
    for each in seconds:
        rate.learn(Done(JobReturn(), each, threads))
    return rate


@pytest.mark.parametrize(
    ("rate", "left", "processes"),
    [
        (_Rate(), 100, 1),  # nothing is known
        (learnt(5.0, 1.0), 20, 4),
        (learnt(5.0, 0.3), 3, 1),  # done before another process has started
        (learnt(60.0, 50.0), 3, 3),  # no more than there are jobs
        (learnt(5.0, 0.01), 100, 1),
        (learnt(5.0, 1.0, threads=2), 20, 2),
        (learnt(5.0, 1.0, threads=4), 20, 1),  # a job takes all cores
        (learnt(5.0, 1.0, threads=0), 20, 1),  # on a GPU
        (learnt(300.0), 11, 4),  # the first has computed the features
    ],
)
def test_more_processes_are_taken_where_they_pay(rate, left, processes):
    assert rate.processes(left) == processes


@pytest.mark.parametrize("wrong", [0, -1, "two", 1.5])
def test_a_number_of_processes_that_cannot_be_is_refused(wrong):
    with pytest.raises(DiscernError, match="n_jobs"):
        JobsLauncher(wrong)


def test_what_is_imported_before_the_fork_asks_for_no_gpu():
    # CUDA that was asked for anything cannot be used in a fork.
    program = (
        "import torch\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = None\n"
        "from discern.sweeps.launcher import import_for_jobs\n"
        "import_for_jobs()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("end", "stopped"),
    [(KeyboardInterrupt(), True), (SystemExit(143), True), (SystemExit(4), False)],
)
def test_a_job_that_was_stopped_before_it_began_has_not_failed(end, stopped):
    def run(overrides, number):
        raise end

    error = _result(run, [], 0)._return_value
    assert isinstance(error, JobDiedError)
    assert isinstance(error, JobStoppedError) == stopped


def test_a_job_that_ends_when_its_sweep_has_been_killed_ends_quietly(capfd):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    gone = context.Event()

    def run(overrides, number):
        gone.wait()
        return JobReturn()

    worker = context.Process(target=_serve, args=(run, theirs, ours, 1, None, True))
    worker.start()
    theirs.close()
    ours.send(([], 0))
    ours.close()  # as the end of its process does
    gone.set()
    worker.join()
    assert worker.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err


class Overdue:
    """A worker whose job goes on until it is ended."""

    def __init__(self, run: Callable[[object, int], JobReturn], limit: float) -> None:
        self.worker = _Worker(run, None, None, True)
        self.worker.begin(0, [], 0, limit)

    def done(self) -> Done:
        while not connection.wait([self.worker.pipe, self.worker.sentinel], 0.01):
            self.worker.end_if_overdue()
        return self.worker.end()


def pauses(overrides: object, number: int) -> JobReturn:
    while True:
        signal.pause()


def swallows_signals(overrides: object, number: int) -> JobReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return pauses(overrides, number)


@pytest.mark.parametrize("run", [pauses, swallows_signals])
def test_a_job_that_hangs_is_ended_and_said_to_be(run, monkeypatch):
    monkeypatch.setattr(launcher, "GRACE_SECONDS", 0.05)
    overdue = Overdue(run, 0.3)
    error = overdue.done().result._return_value
    assert isinstance(error, JobTimeoutError)
    assert str(error) == "it was ended after sweep.job_timeout=0.3 s"
    if overdue.worker.alive:
        overdue.worker.close()


def test_what_a_killed_job_has_started_is_killed_with_it(tmp_path):
    def run(overrides: object, number: int) -> JobReturn:
        child = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "child").write_text(str(child.pid))
        os._exit(3)

    worker = _Worker(run, None, None, True)
    worker.begin(0, [], 0, math.inf)
    connection.wait([worker.sentinel])
    done = worker.end()
    assert str(done.result._return_value) == "its process ended with status 3 during the job"
    started = Path("/proc", (tmp_path / "child").read_text())
    while started.exists() and "(sleep) Z" not in (started / "stat").read_text():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [(None, math.inf), (90, 90.0), ("00:02:00:00", 7200.0), ({"minutes": 5}, 300.0)],
)
def test_the_time_of_a_job_is_given_as_other_times_are(limit, seconds):
    config = OmegaConf.create({"sweep": {"job_timeout": limit}})
    assert launcher.job_timeout(config) == seconds


def test_no_job_runs_in_the_process_of_one_that_failed():
    # Its memory may be gone, or a device of no use.
    def run(overrides: object, number: int) -> JobReturn:
        status = JobStatus.FAILED if number == 1 else JobStatus.COMPLETED
        return JobReturn(status=status, _return_value=MemoryError() if number == 1 else os.getpid())

    jobs = JobsLauncher(n_jobs=1)
    jobs._one = run  # type: ignore[method-assign]
    jobs.config = OmegaConf.create()
    results = jobs.launch([["a"], ["b"], ["c"], ["d"]], 0)
    processes = [one._return_value for one in results]
    assert isinstance(processes.pop(1), MemoryError)
    assert processes[0] != processes[1] == processes[2]


def test_a_signal_of_a_cluster_ends_a_sweep_and_its_jobs_in_good_order():
    def run(overrides: object, number: int) -> JobReturn:
        if number == 1:
            os.kill(os.getppid(), signal.SIGUSR1)
            time.sleep(60)
        return JobReturn(status=JobStatus.COMPLETED, _return_value=0.0)

    jobs = JobsLauncher(n_jobs=1)
    jobs._one = run  # type: ignore[method-assign]
    jobs.config = OmegaConf.create()
    ended: dict[int, JobReturn] = {}
    jobs.ended = ended.__setitem__
    with pytest.raises(InterruptedSweepError) as caught:
        jobs.launch([["a"], ["b"], ["c"]], 0)
    assert caught.value.number == signal.SIGUSR1
    assert ended.keys() == {0, 1}
    assert isinstance(ended[1]._return_value, JobStoppedError)
