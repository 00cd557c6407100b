"""Two to ten processes at once; the one that holds the lock is killed, stopped, or left alone.

On the cache of features, on the study of a search, and on the folder of a run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from random import Random

import numpy as np
from torch import Tensor

from discern.files import locks
from torture.case import SEED, Case

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "features"))

from made_up import Counted, child, expected, images, rows, source

COUNT = 24
"""Images whose features are computed, four at a time."""

PATIENCE = 300.0
"""Seconds after which a process that has not ended waits for ever."""

FAULTS = ("none", "kill", "stop")


def cases() -> Iterator[Case]:
    """500 cases: of each kind every fault, for two to ten processes, at moments of many seeds."""
    random = Random(SEED)
    checks = [_check_cache] * 6 + [_check_folder] * 3 + [_check_study]
    for number in range(500):
        check, fault = checks[number % len(checks)], FAULTS[number % 3]
        processes, seed = 2 + number % 9, random.randrange(1 << 30)
        name = check.__name__.removeprefix("_check_")
        yield Case(
            f"{processes} at once on the {name}, fault {fault}, seed {seed}",
            functools.partial(check, processes=processes, fault=fault, seed=seed),
        )


# The cache


class _Strikes:
    """Computes features; the process that has computed so many is struck, once.

    Args:
        cwd: where it notes what is computed, and which process was struck.
        after: images.
        number: of the signal.
    """

    def __init__(self, cwd: Path, after: float, number: int) -> None:
        self.counted = Counted(cwd / "computed", seconds=0.002)
        self.struck, self.after, self.number = cwd / "struck", after, number

    def __call__(self, batch: Tensor) -> Tensor:
        if len(self.counted.numbers) >= self.after and not self.struck.exists():
            self.struck.write_text(str(os.getpid()))
            os.kill(os.getpid(), self.number)
        return self.counted(batch)


def _check_cache(cwd: Path, processes: int, fault: str, seed: int) -> None:
    after = math.inf if fault == "none" else Random(seed).randrange(COUNT // 4) * 4
    compute = _Strikes(cwd, after, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
    folder, shown = cwd / "cache", images(range(COUNT))

    def work(number: int) -> None:
        _log_to(cwd / "said")
        locks.SILENT_SECONDS = locks.LOOK_SECONDS = 0.02
        found = rows(source(folder, compute), shown)
        assert np.array_equal(found.numpy(), expected(shown).numpy())

    killed: list[ForkProcess] = []
    with _started(processes, work) as started:
        if fault != "none":
            _until(lambda: (cwd / "struck").exists() and (cwd / "struck").read_text())
            number = int((cwd / "struck").read_text())
            (struck,) = (process for process in started if process.pid == number)
            if fault == "kill":
                killed = [struck]
            else:
                _until(lambda: _is_stopped(number))
                said = f"Process {number} on {socket.gethostname()} has been stopped"
                _until(lambda: said in _text(cwd / "said"))
                assert f"Waiting for process {number} on" in _text(cwd / "said")
                os.kill(number, signal.SIGCONT)
        _end(started, killed)
    repeated = len(compute.counted.numbers) - COUNT
    # What a killed process has computed last may not have been written; no other is repeated.
    assert 0 <= repeated <= (COUNT if killed else 0), sorted(compute.counted.numbers)
    assert np.array_equal(rows(source(folder, compute), shown).numpy(), expected(shown).numpy())
    assert len(compute.counted.numbers) == COUNT + repeated, "features were lost"


# The folder of a run


def _check_folder(cwd: Path, processes: int, fault: str, seed: int) -> None:
    from discern.errors import DiscernError
    from discern.runs.holding import hold, is_in_use, release

    folder, let_go = cwd / "run", cwd / "let go"
    folder.mkdir()

    def work(number: int) -> None:
        try:
            hold(folder)
        except DiscernError as error:
            (cwd / f"refused{number}").write_text(str(error))
            return
        (cwd / f"holds{number}").write_text(str(os.getpid()))
        _until(let_go.exists)
        release(folder)

    with _started(processes, work) as started:
        _until(lambda: sum(bool(path.read_text()) for path in cwd.glob("*[0-9]")) == processes)
        assert len(list(cwd.glob("holds*"))) == 1
        (holder,) = (p for number, p in enumerate(started) if (cwd / f"holds{number}").exists())
        # One that asks before the holder has signed the lock does not know who it is.
        sentences = [path.read_text() for path in cwd.glob("refused*")]
        assert all("process" in each and "is at work in it" in each for each in sentences)
        if fault == "kill":
            _signal(holder, signal.SIGKILL)
            holder.join()
        elif fault == "stop":
            _signal(holder, signal.SIGSTOP)
            _until(lambda: _is_stopped(_pid(holder)))
            assert is_in_use(folder)
            _signal(holder, signal.SIGCONT)
        let_go.touch()
        _end(started, [holder] if fault == "kill" else [])
    assert hold(folder)
    release(folder)
    assert not list(folder.iterdir())


# The study of a search


def _check_study(cwd: Path, processes: int, fault: str, seed: int) -> None:
    import optuna

    from discern.training.study import open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place, each = f"sqlite:///{cwd / 'study.db'}", 3
    optuna.create_study(storage=open_storage(place), study_name="x")

    def work(number: int) -> None:
        study = optuna.load_study(storage=open_storage(place), study_name="x")
        for _ in range(each):
            trial = study.ask()
            trial.report(0.5, 1)
            study.tell(trial, number)
            with (cwd / "told").open("a") as file:
                file.write(f"{trial.number} {number}\n")

    def told() -> list[str]:
        return (cwd / "told").read_text().splitlines() if (cwd / "told").exists() else []

    killed: list[ForkProcess] = []
    with _started(processes, work) as started:
        victim = started[Random(seed).randrange(processes)]
        _until(told)
        if fault == "kill" and victim.is_alive():
            _signal(victim, signal.SIGKILL)
            killed = [victim]
        elif fault == "stop" and victim.is_alive():
            _signal(victim, signal.SIGSTOP)
            time.sleep(Random(seed).uniform(0, 0.2))
            _signal(victim, signal.SIGCONT)
        _end(started, killed)
    study = optuna.load_study(storage=open_storage(place), study_name="x")
    values = {trial.number: trial.value for trial in study.trials}
    for line in told():
        trial, value = map(int, line.split())
        assert values[trial] == value, "a result was lost"
    assert len(told()) >= each * (processes - len(killed))
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))


# Processes


@contextlib.contextmanager
def _started(number: int, work: Callable[[int], None]) -> Iterator[list[ForkProcess]]:
    """So many processes that work; those that are left at the end are killed."""
    started = [child(work, each) for each in range(number)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    logging.getLogger("discern").addHandler(handler)
    logging.getLogger("discern").setLevel(logging.INFO)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _is_stopped(number: int) -> bool:
    state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def _signal(process: ForkProcess, number: int) -> None:
    os.kill(_pid(process), number)


def _pid(process: ForkProcess) -> int:
    assert process.pid is not None
    return process.pid


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _end(started: list[ForkProcess], killed: list[ForkProcess]) -> None:
    """Wait for all; who was not killed has ended well."""
    deadline = time.monotonic() + PATIENCE
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    waiting = [process for process in started if process.is_alive()]
    for process in waiting:
        process.kill()
        process.join()
    assert not waiting, f"{len(waiting)} processes wait for ever"
    for process in started:
        if process in killed:  # or it had ended a moment before
            assert process.exitcode in (-signal.SIGKILL, 0)
        else:
            assert process.exitcode == 0
