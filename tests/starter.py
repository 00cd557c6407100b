"""Runs for tests that start many: a process that has imported everything forks one for each."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from runs import composed, environment

LOG = "said.log"


class Starter:
    """A process that has imported everything, and forks one for each run: they start at once.

    Args:
        changes: module -> name in it -> what it is for all runs.
        **env: of the runs.
    """

    def __init__(self, changes: dict[str, dict[str, Any]] | None = None, **env: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(changes or {})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=os.pathsep.join(sys.path), **env),
        )

    def begin(self, cwd: Path, *arguments: str) -> int:
        """Start ``train.py …`` in a process group of its own; its number."""
        return self._ask({"cwd": str(cwd), "arguments": arguments})

    def end(self, number: int) -> int:
        """Wait for the process; its exit status."""
        return self._ask({"wait": number})

    def run(self, cwd: Path, *arguments: str) -> int:
        """A whole run; its exit status."""
        return self.end(self.begin(cwd, *arguments))

    def kill(self, number: int) -> int:
        """End the process and its children at once, if it has not ended; its exit status."""
        os.killpg(number, signal.SIGKILL)
        return self.end(number)

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve(changes: dict[str, dict[str, Any]]) -> None:
    """Fork for each question, or wait for what was forked."""
    import discern.run  # noqa: F401 - what takes seconds

    composed()  # Hydra looks for its plugins
    for module, values in changes.items():
        for name, value in values.items():
            setattr(importlib.import_module(module), name, value)
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
    log = os.open(cwd / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        train(arguments)
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
    """All that the runs in a folder have printed."""
    return (cwd / LOG).read_text()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
