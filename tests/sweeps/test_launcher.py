from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest
from hydra.core.utils import JobReturn

from discern.errors import DiscernError
from discern.sweeps import launcher
from discern.sweeps.launcher import (
    Done,
    JobDiedError,
    JobsLauncher,
    JobStoppedError,
    _Rate,
    _result,
    _serve,
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
