"""Pickles of strangers, read by a process that can do no harm.

A pickle is a program: whoever reads one does what it says. So no process of discern's own does.
Another one, :mod:`discern.files.pickles_child`, reads it and writes what it holds as safetensors,
without any memory, time, file or network that it could abuse. What it has written is read here, and
checked as if a stranger had written that too.

The limits are those of the system: Linux has all of them, macOS those on time and files.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from discern.console import for_terminal
from discern.errors import DiscernError
from discern.files import pickles_child
from discern.files.reading import open_regular

CHILD = pickles_child.__file__

SECONDS, BYTES_A_SECOND = 2, 5_000_000
"""Processor time that reading may take, and what is read and copied at least in another second."""

PATIENCE = 60.0, 10.0
"""Seconds that the child may take in any case, on a machine that is busy, and for each second of
its processor's time."""

MAX_MESSAGE = 300
"""Characters of what a child says."""

_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""What an interpreter may need to start; of the environment the child sees nothing else."""


class UnreadableError(DiscernError):
    """A child refuses a pickle, crashes, or takes too much time or memory.

    Attributes:
        reason: why, as the end of a sentence.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.reason = for_terminal(reason)[:MAX_MESSAGE]
        super().__init__(f"{path} cannot be read: {self.reason}.")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; refuses others, such as pipes, without waiting.

    Raises:
        DiscernError: it cannot be opened, or is not a regular file.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        yield file


def convert(file: BufferedReader, path: Path, target: Path) -> None:
    """Have a child read a pickle and write what it holds to a new file, for :func:`content_of`.

    Raises:
        UnreadableError: the child refuses it, crashes, or takes too much time or memory.
    """
    fault = _run(file, target)
    if fault is not None:
        raise UnreadableError(path, fault)


def _run(file: BufferedReader, target: Path) -> str | None:
    """Run the child; return what went wrong, as the end of a sentence."""
    seconds = SECONDS + os.fstat(file.fileno()).st_size // BYTES_A_SECOND
    file.seek(0)
    with target.open("xb") as content, tempfile.TemporaryFile() as message:
        try:
            # A new interpreter, for a fork has whatever this process has; and in a session of its
            # own, so that Ctrl-C comes here alone, and run() ends it.
            done = subprocess.run(
                [sys.executable, "-I", "-S", CHILD, str(seconds)],
                stdin=file, stdout=content, stderr=message, start_new_session=True, check=False,
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                timeout=PATIENCE[0] + PATIENCE[1] * seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return _TOO_LONG
        except OSError as error:
            return f"no process can be started to read it ({error.strerror or error})"
        message.seek(0)
        reason = message.read(4 * MAX_MESSAGE).decode("utf-8", "replace")
    if done.returncode == pickles_child.REFUSED and reason:
        return reason
    if done.returncode == -signal.SIGXCPU:
        return _TOO_LONG
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"reading it ended with {name}; it is damaged, or made to do harm"
    if done.returncode > 0:
        return f"the process that reads it ended with status {done.returncode}"
    return None


_TOO_LONG = "it takes longer than a file of its size may"


# What a child has written is a stranger's, too.


def content_of(converted: Path, path: Path) -> Any:
    """What a child has written of the pickle at ``path``. The tensors are mapped from the file.

    Raises:
        UnreadableError: it is damaged, or no child has written it so.
    """
    try:
        with safe_open(converted, "pt") as file:
            metadata = file.metadata()
            storages = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors = [_placed(storages, *place) for place in json.loads(metadata["tensors"])]
        return _value(json.loads(metadata["content"]), tensors)
    except _NOT_OURS as error:
        raise UnreadableError(path, f"what was made of it is damaged ({error})") from error


_NOT_OURS = (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError)


def _placed(
    storages: Mapping[str, Tensor], name: int, offset: int, shape: list[int], strides: list[int]
) -> Tensor:
    """A strided view of a flat storage."""
    storage = storages[str(name)]
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise ValueError("it has numbers below 0")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.numel():
        raise ValueError("it has a tensor outside its storage")
    return storage.as_strided(shape, strides, storage.storage_offset() + offset)


_SEQUENCES = {"list": list, "tuple": tuple, "set": set}


def _value(value: object, tensors: list[Tensor]) -> Any:
    """A plain value, from a list that begins with its kind."""
    if not isinstance(value, list):
        return value
    kind, *parts = value
    if kind == "tensor":
        return tensors[parts[0]]
    if kind == "float":
        return float(parts[0])
    if kind == "dict":
        return {_value(key, tensors): _value(part, tensors) for key, part in parts}
    return _SEQUENCES[kind](_value(part, tensors) for part in parts)
