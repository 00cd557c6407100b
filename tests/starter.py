"""Commands for tests: a process that has imported everything forks one for each."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import Any

from runs import environment

LOG = "said.log"
"""Where a process that is begun writes what it prints, in its working directory."""

MESSAGE = 1 << 20
"""Bytes that one has at most."""


class Starter:
    """Starts commands of discern, which are processes of their own but need no seconds to begin.

    Args:
        changes: module -> name in it -> what it is for all commands.
        **env: of the commands.
    """

    def __init__(self, changes: dict[str, dict[str, Any]] | None = None, **env: str) -> None:
        self._env = {"PYTHONPATH": os.pathsep.join(sys.path), **env}
        # Keeps messages apart, and carries open files.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), json.dumps(changes or {})],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment(**self._env),
            )

    def begin(self, cwd: Path, *arguments: str, terminal: int | None = None) -> int:
        """Start ``discern …`` in a process group of its own; its number.

        Args:
            terminal: an open one, which it reads from and writes to in the place of ``said.log``.
        """
        if terminal is not None:
            return self._begin(cwd, arguments, {}, terminal, terminal, terminal)
        with Path(os.devnull).open() as nothing, (cwd / LOG).open("a") as log:
            streams = nothing.fileno(), log.fileno(), log.fileno()
            return self._begin(cwd, arguments, {}, *streams)

    def end(self, number: int) -> int:
        """Wait for the process; its exit status."""
        return self._ask({"wait": number})

    def run(self, cwd: Path, *arguments: str) -> int:
        """A whole command; its exit status."""
        return self.end(self.begin(cwd, *arguments))

    def call(self, cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A whole command; its exit status and what it prints."""
        with (
            Path(os.devnull).open() as nothing,
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        ):
            streams = nothing.fileno(), out.fileno(), err.fileno()
            status = self.end(self._begin(cwd, arguments, env, *streams))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, status, out.read(), err.read())

    def kill(self, number: int) -> int:
        """End the process and its children at once, if it has not ended; its exit status."""
        os.killpg(number, signal.SIGKILL)
        return self.end(number)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def _begin(
        self, cwd: Path, arguments: tuple[str, ...], env: dict[str, str], *streams: int
    ) -> int:
        env = environment(**{**self._env, **env})
        return self._ask({"cwd": str(cwd), "arguments": arguments, "env": env}, *streams)

    def _ask(self, question: dict[str, Any], *files: int) -> int:
        socket.send_fds(self._socket, [json.dumps(question).encode()], files)
        return int(self._socket.recv(MESSAGE))


@cache
def shared_starter() -> Starter:
    """The one of this process, which begins when it is first asked for."""
    starter = Starter()
    atexit.register(starter.close)
    return starter


def invoke(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """``discern …`` as a user types it in a folder, to its end."""
    return shared_starter().call(cwd, *arguments, **env)


def said(cwd: Path) -> str:
    """All that the processes begun in a folder have printed."""
    return (cwd / LOG).read_text()


def serve(connection: socket.socket, changes: dict[str, dict[str, Any]]) -> None:
    """Fork for each question, or wait for what was forked."""
    _import_everything()
    for module, values in changes.items():
        for name, value in values.items():
            setattr(importlib.import_module(module), name, value)
    while True:
        message, files, *_ = socket.recv_fds(connection, MESSAGE, 3)
        if not message:
            return
        question = json.loads(message)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                os._exit(_run(question, files))
        for file in files:
            os.close(file)
        connection.send(str(answer).encode())


def _import_everything() -> None:
    import torch._dynamo  # noqa: F401 - which the first step of an optimizer imports

    import discern
    from runs import composed

    for module in pkgutil.walk_packages(discern.__path__, "discern."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    composed()  # Hydra looks for its plugins


def _run(question: dict[str, Any], streams: list[int]) -> int:
    from discern.cli import main

    os.setsid()
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update(question["env"])
    sys.argv = ["discern", *question["arguments"]]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    status = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
