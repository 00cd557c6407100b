from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from discern.errors import DiscernError
from discern.files.locks import locked
from discern.runs.claim import take_folder
from discern.runs.holding import LOCK, held, hold, is_in_use, release
from run_files import NOT_DRAWN, summary
from starter import begin, end, invoke, kill, said, until

FORK = multiprocessing.get_context("fork")

RUN = (
    "train", "data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.max_epochs=2",
    "trainer.accelerator=cpu", "logger=csv", "report=false", NOT_DRAWN, "hydra.run.dir=run",
)  # fmt: skip

LONG = (*RUN, "trainer.max_epochs=100000", "callbacks.early_stopping=null")


def in_another_process(work) -> bool:
    """Whether a forked process does something without an error."""

    def try_it() -> None:
        try:
            work()
        except DiscernError:
            os._exit(3)

    process = FORK.Process(target=try_it)
    process.start()
    process.join()
    return process.exitcode == 0


def test_a_folder_is_held_by_one_process_until_it_lets_go(tmp_path):
    assert hold(tmp_path)
    assert not hold(tmp_path), "it is ours already"
    assert not in_another_process(lambda: hold(tmp_path))
    with held(tmp_path):  # within ours
        pass
    assert is_in_use(tmp_path)
    release(tmp_path)
    assert not list(tmp_path.iterdir())
    assert in_another_process(lambda: hold(tmp_path))


def test_who_looks_whether_a_folder_is_in_use_keeps_no_run_out(tmp_path):
    looks = threading.Event()

    def look() -> None:
        with locked(tmp_path / LOCK):
            looks.set()
            time.sleep(0.15)

    looker = threading.Thread(target=look)
    looker.start()
    looks.wait()
    assert in_another_process(lambda: hold(tmp_path))
    looker.join()


def test_a_folder_that_a_command_takes_is_its_own_to_its_end(tmp_path):
    folder = take_folder(tmp_path / "out", "out")
    assert not in_another_process(lambda: hold(folder))
    release(folder)


def test_the_processes_of_one_run_share_its_folder(tmp_path, monkeypatch):
    with held(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert in_another_process(lambda: hold(tmp_path))
        monkeypatch.setenv("LOCAL_RANK", "0")
        assert not in_another_process(lambda: hold(tmp_path))


def test_a_fork_does_not_let_go_of_the_folder(tmp_path):
    with held(tmp_path):
        assert in_another_process(lambda: release(tmp_path))
        assert is_in_use(tmp_path)


def files(folder: Path) -> dict[str, int]:
    """Name -> the file, of those that a run writes once, when it begins."""
    kept = ("config.yaml", "overrides.yaml", "hydra.yaml", LOCK)
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.name in kept}


def test_a_second_run_in_the_folder_says_who_has_it_and_touches_nothing(tmp_path):
    first = begin(tmp_path, *LONG)
    until((tmp_path / "run" / "metrics.csv").exists, first)
    before = files(tmp_path / "run")
    assert len(before) > 2
    second = invoke(*RUN, cwd=tmp_path)
    assert second.returncode == 1
    assert second.stderr == (
        f"Error: hydra.run.dir=run is in use: process {first} on "
        f"{socket.gethostname()} is at work in it; name another folder, or wait for its end.\n"
    )
    assert files(tmp_path / "run") == before
    kill(first)
    assert (tmp_path / "run" / LOCK).exists()
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    again = invoke(*RUN, f"ckpt_path={last}", "train=false", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert not (tmp_path / "run" / LOCK).exists()


def test_of_two_runs_begun_at_once_one_has_the_folder(tmp_path):
    both = [begin(tmp_path, *RUN) for _ in range(2)]
    assert sorted(map(end, both)) == [0, 1], said(tmp_path)
    assert said(tmp_path).count("Error: hydra.run.dir=") == 1
    assert summary(tmp_path / "run")["state"] == "done"
    assert "Traceback" not in said(tmp_path)


def test_a_stopped_run_keeps_its_folder(tmp_path):
    first = begin(tmp_path, *LONG)
    lock = tmp_path / "run" / LOCK
    until(lambda: lock.exists() and lock.read_text(), first)  # it is signed once it is held
    os.killpg(first, signal.SIGSTOP)
    assert invoke(*RUN, cwd=tmp_path).returncode == 1
    kill(first)


def test_a_folder_that_a_killed_run_has_only_locked_is_an_empty_one(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("1 elsewhere\n")
    assert invoke(*RUN, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("used", [True, False])
def test_a_folder_of_a_run_that_has_ended_is_refused_as_before(tmp_path, used):
    (tmp_path / "run").mkdir()
    if used:
        (tmp_path / "run" / "notes.txt").write_text("mine")
    assert invoke(*RUN, cwd=tmp_path).returncode == used
    if used:
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_run_that_python_begins_leaves_a_folder_alone_that_another_process_has(
    tiny_run, tmp_path
):
    (tmp_path / "run").mkdir()
    ready, done = FORK.Event(), FORK.Event()

    def keep() -> None:
        hold(tmp_path / "run")
        ready.set()
        done.wait(60)
        os._exit(0)

    process = FORK.Process(target=keep)
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(DiscernError, match="is in use"):
            tiny_run()
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    finally:
        done.set()
        process.join()
