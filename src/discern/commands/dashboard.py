"""``discern dashboard``: TensorBoard on the runs of a folder."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from discern.commands import words
from discern.commands.hosts import OwnHosts, address_of, is_loopback
from discern.console import for_terminal, say
from discern.errors import DiscernError
from discern.files.places import is_folder
from discern.runs.folder import OUTPUTS

if TYPE_CHECKING:
    from argparse import Namespace
    from wsgiref.types import WSGIApplication

    from tensorboard.program import TensorBoardServer

HELP = """\
TensorBoard on the runs of a folder, until Ctrl-C.

Usage: discern dashboard [SETTING=VALUE] …

Settings:
  logdir=outputs    the folder; a run or a sweep, or one of many
  port=6006         the port; the next free one if it is in use
  host=127.0.0.1    who may see it: only this machine; 0.0.0.0 for anyone who can reach it
"""

WARNING = """\
WARNING: host={host} shows everything in {logdir}, without a password, to anyone who can reach \
this machine; host=127.0.0.1 shows it to this machine only, and to others through an SSH tunnel."""

ATTEMPTS = 100
"""Ports that are tried one after another."""


def _host(name: str, value: str) -> str:
    if not value:
        raise DiscernError(f"{name}= must be a host's name or address, such as 127.0.0.1.")
    return value


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern dashboard``."""

    logdir: Annotated[Path, words.path] = OUTPUTS
    port: Annotated[int, words.between(1, 65_535)] = 6006
    host: Annotated[str, _host] = "127.0.0.1"


def run(arguments: list[str]) -> None:
    """Run ``discern dashboard`` with these arguments.

    Raises:
        DiscernError: a word is not known, the folder does not exist, or no port is free.
    """
    asked = words.read_all(Settings, arguments, "discern dashboard")
    if not is_folder(asked.logdir):
        logdir = for_terminal(str(asked.logdir))
        raise DiscernError(f"logdir={logdir} must be a folder that exists; a run makes it.")
    url, port = start(asked)
    if port != asked.port:
        say(f"Port {asked.port} is in use; using port {port} instead.")
    if not is_loopback(asked.host):
        print(WARNING.format(host=asked.host, logdir=asked.logdir), file=sys.stderr)
    say(f"TensorBoard on {asked.logdir}: {url}   (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        say()


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern dashboard``."""
    return words.starting(typed.rpartition(" ")[2], words.settings_of(Settings))


def start(asked: Settings) -> tuple[str, int]:
    """Serve in the background of this process; the address and the port.

    Raises:
        DiscernError: no port is free, or the host is not this machine's.
    """
    from tensorboard import program  # start-up time

    # Hides notes such as that TensorFlow is missing.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    for port in range(asked.port, min(asked.port + ATTEMPTS, 65_536)):
        if not _is_free(asked.host, port):
            continue
        server = program.TensorBoard(server_class=_server)
        server.configure(logdir=str(asked.logdir), host=asked.host, port=port)
        try:
            # Hides a note on how events are read.
            with contextlib.redirect_stderr(io.StringIO()):
                return server.launch(), port
        except program.TensorBoardPortInUseError:
            continue
    raise DiscernError(f"port={asked.port} is in use, and so are the ones after it.")


def _server(application: WSGIApplication, flags: Namespace) -> TensorBoardServer:
    """TensorBoard's own server, restricted to requests that name this machine."""
    from tensorboard import program

    return program.WerkzeugServer(OwnHosts(application, flags.host), flags)


def _is_free(host: str, port: int) -> bool:
    """Whether the port is free; TensorBoard would end the process if it is not.

    Raises:
        DiscernError: it cannot be used for another reason than another server.
    """
    try:
        family, kind, protocol, address = address_of(host, port)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise DiscernError(
            f"host={for_terminal(host)} port={port} cannot be served on: {error.strerror}."
        ) from error
    return True
