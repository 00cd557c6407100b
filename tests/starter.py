"""Commands for tests: a process that has imported everything forks one for each.

Each is a process of its own, with its exit status, signals, environment and streams, but begins
within 50 ms and not after seconds of imports. What happens while modules are imported, or while an
interpreter ends, is not seen here: ``runs.command`` starts a new one.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from run_files import environment, one_pixel

LOG = "said.log"
"""Where a command that is begun writes what it prints, in its working directory."""

PATIENCE = 300
"""Seconds that a command may take on a machine that is busy."""

MESSAGE = 1 << 20
"""Bytes that one has at most."""


def begin(
    cwd: Path,
    *arguments: str,
    streams: tuple[int, int, int] | None = None,
    changes: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    draws: bool = True,
    **env: str,
) -> int:
    """Start ``discern …`` in a process group of its own; its number.

    Args:
        streams: what it reads from, prints to and complains to, in the place of ``said.log``.
        changes: module -> name in it -> what it is for this command.
        draws: False makes each figure a file of one pixel, where nobody looks at them.
    """
    more = {"changes": {name: dict(of) for name, of in changes.items()}, "draws": draws}
    if streams is not None:
        return _begin(cwd, arguments, streams, env, **more)
    with Path(os.devnull).open() as nothing, (cwd / LOG).open("a") as log:
        streams = nothing.fileno(), log.fileno(), log.fileno()
        return _begin(cwd, arguments, streams, env, **more)


def end(number: int, patience: float = PATIENCE) -> int:
    """Wait for the process; its exit status. One that does not end is killed."""
    deadline = time.monotonic() + patience
    while _ask({"runs": number}):
        if time.monotonic() > deadline:
            os.killpg(number, signal.SIGKILL)
        time.sleep(0.002)
    return _ask({"wait": number})


def until(condition: Callable[[], object], number: int) -> None:
    """Wait until something is so, which the process is about to bring about.

    Raises:
        AssertionError: it has ended before.
    """
    while not condition():
        if not _ask({"runs": number}):
            assert condition(), f"process {number} has ended"
            return
        time.sleep(0.01)


def kill(number: int) -> int:
    """End the process and its children at once, if it has not ended; its exit status."""
    os.killpg(number, signal.SIGKILL)
    return end(number)


def said(cwd: Path) -> str:
    """All that the processes begun in a folder have printed."""
    return (cwd / LOG).read_text()


def invoke(
    *arguments: str, cwd: Path, draws: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """``discern …`` as a user types it in a folder; its exit status and what it prints.

    ``invoke("-c", PROGRAM, …)`` runs a program as Python does.
    """
    with (
        Path(os.devnull).open() as nothing,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        streams = nothing.fileno(), out.fileno(), err.fileno()
        status = end(_begin(cwd, arguments, streams, env, draws=draws))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, status, out.read(), err.read())


def _begin(
    cwd: Path,
    arguments: tuple[str, ...],
    streams: tuple[int, ...],
    env: dict[str, str],
    **more: Any,
) -> int:
    env = environment(**{"PYTHONPATH": os.pathsep.join(sys.path), **env})
    return _ask({"cwd": str(cwd), "arguments": arguments, "env": env, **more}, *streams)


def _ask(question: dict[str, Any], *files: int) -> int:
    connection = _connection()
    socket.send_fds(connection, [json.dumps(question).encode()], files)
    answer = connection.recv(MESSAGE)
    assert answer, "the process that starts commands has ended"
    return int(answer)


@cache
def _connection() -> socket.socket:
    """To the process that has imported everything, which starts when it is first asked for.

    It keeps messages apart, and carries open files.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        )

    def close() -> None:
        ours.close()
        process.wait()

    atexit.register(close)
    return ours


def serve(connection: socket.socket) -> None:
    """Fork for each question, or wait for what was forked."""
    _import_everything()
    gc.freeze()  # what is imported is looked at by no fork's collector, and copied for none
    while True:
        message, files, *_ = socket.recv_fds(connection, MESSAGE, 3)
        if not message:
            return
        question = json.loads(message)
        if "wait" in question:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        elif "runs" in question:
            ended = os.waitid(os.P_PID, question["runs"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
            answer = int(ended is None)
        else:
            answer = os.fork()
            if not answer:
                os.setsid()
                connection.close()
                os._exit(_run(question, files))
            while os.getpgid(answer) != answer:  # so that whoever asked may kill the group
                time.sleep(0.001)
        for file in files:
            os.close(file)
        connection.send(str(answer).encode())


def _import_everything() -> None:
    import torch._dynamo  # noqa: F401 - which the first step of an optimizer imports

    import discern
    from run_files import composed_by_hydra

    for module in pkgutil.walk_packages(discern.__path__, "discern."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    composed_by_hydra()  # Hydra looks for its plugins


def _run(question: dict[str, Any], streams: list[int]) -> int:
    from matplotlib.figure import Figure

    from discern.commands.cli import main

    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update(question["env"])
    arguments = question["arguments"]
    sys.argv = ["discern", *arguments]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if not question["draws"]:
        Figure.savefig = one_pixel
    for module, values in question.get("changes", {}).items():
        for name, value in values.items():
            setattr(importlib.import_module(module), name, value)
    status = 0
    try:
        if arguments[:1] == ["-c"]:
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "script.py", "exec"), {"__name__": "__main__"})
        else:
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
    serve(socket.socket(fileno=int(sys.argv[1])))
