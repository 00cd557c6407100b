"""Sweeps for tests: a process that has imported everything forks one for each sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from runs import environment


class Dies(Callback):
    """A user's own callback by which a job ends as it should not."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_validation_end(self, trainer, pl_module) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            os._exit(3)
        if self.how == "sysexit":
            raise SystemExit(4)
        if self.how == "raise":
            raise RuntimeError("a mistake\nin two lines")


def dies(*how: str) -> str:
    """An override: one job for each way to end."""
    entries = ",".join(f"[{{_target_: sweeping.Dies, how: {each}}}]" for each in how)
    return f"trainer.callbacks={entries}"


class Starter:
    """A process that has imported everything, and forks one for each sweep: they start at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        )

    def begin(self, cwd: Path, *arguments: str) -> int:
        """Start ``train.py -m …`` in a process group of its own; its number."""
        return self._ask({"cwd": str(cwd), "arguments": arguments})

    def end(self, number: int) -> int:
        """Wait for the process; its exit status."""
        return self._ask({"wait": number})

    def sweep(self, cwd: Path, *arguments: str) -> int:
        """A whole sweep; its exit status."""
        return self.end(self.begin(cwd, *arguments))

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    """Fork for each question, or wait for what was forked."""
    import discern.run  # noqa: F401 - what takes seconds

    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                os._exit(_run(Path(question["cwd"]), question["arguments"]))
        print(answer, flush=True)


def _run(cwd: Path, arguments: list[str]) -> int:
    from discern.cli import train

    os.setsid()
    os.chdir(cwd)
    log = os.open(cwd / "sweep.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        train(["-m", *arguments])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def said(cwd: Path) -> str:
    """All that the sweeps in a folder have printed."""
    return (cwd / "sweep.log").read_text()


def results(folder: Path) -> dict[str, Any]:
    """A sweep's results.json."""
    return json.loads((folder / "results.json").read_text())


if __name__ == "__main__":
    serve()
