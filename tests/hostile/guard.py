"""Run a command of discern's on a stranger's files, and see all that it does.

A process forks for some cases, and looks at each: how it ends, what it prints, how long it takes,
how much memory, and through Python's audit events whatever it starts, connects to, writes, removes
or opens outside of the folders that it was given.
"""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hostile.folders import SECRET

SECONDS = 5.0
"""Of processor time that a case may take, and four times as much by the clock."""

MEGABYTES = 1000
"""Of memory that a case may take beyond what is imported."""


@dataclass
class Case:
    """A command on a stranger's files.

    Attributes:
        name: what is hostile about them.
        make: writes them into a new folder.
        command: its words, ``{}`` in them being that folder.
        files: so many hostile ones there are.
    """

    name: str
    make: Callable[[Path], None]
    command: tuple[str, ...]
    files: int = 1


@dataclass
class Outcome:
    """What a case did.

    Attributes:
        files: so many hostile ones it had to do with.
        wrong: what it should not have done, in words.
    """

    name: str
    command: str
    files: int = 1
    wrong: list[str] = field(default_factory=list)
    status: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    printed: str = ""


def outcomes(cases: Iterable[Case], folder: Path, at_once: int = 25) -> Iterable[Outcome]:
    """Run cases in forks of this process, some in each; everything they need is imported.

    Args:
        folder: a new folder in it is each case's; it is removed where nothing was wrong.
    """
    waiting: list[Case] = []
    for case in cases:
        waiting.append(case)
        if len(waiting) == at_once:
            yield from _all_of(waiting, folder)
            waiting = []
    yield from _all_of(waiting, folder)


def _all_of(cases: list[Case], folder: Path) -> Iterable[Outcome]:
    """In one fork, and in another from the case after the one in which it died."""
    while cases:
        done = list(_fork(cases, folder))
        cases = cases[len(done) :]
        yield from done


def _fork(cases: list[Case], folder: Path) -> Iterable[Outcome]:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.close(read)
        _serve(cases, folder, write)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        for case in cases:
            answer = _line(told, SECONDS * 4)
            if answer is None:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                how = os.waitstatus_to_exitcode(status)
                wrong = "it hung" if how == -signal.SIGKILL else f"the process ended with {how}"
                yield Outcome(case.name, " ".join(case.command), case.files, [wrong])
                return
            outcome = Outcome(**json.loads(answer))
            yield outcome
            if outcome.megabytes > MEGABYTES:  # what it took may not have been given back
                break
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _line(told: Any, seconds: float) -> bytes | None:
    """What the child says; None where it ends or says nothing."""
    if not select.select([told], [], [], seconds)[0]:
        return None
    return told.readline() or None


def _serve(cases: list[Case], folder: Path, write: int) -> None:
    watch = _Watch()
    sys.addaudithook(watch)
    with os.fdopen(write, "w") as tell:
        for case in cases:
            try:
                outcome = _one(case, folder, watch)
            except BaseException:
                why = "the guard: " + traceback.format_exc()
                outcome = Outcome(case.name, "", case.files, [why])
            tell.write(json.dumps(asdict(outcome)) + "\n")
            tell.flush()
    os._exit(0)


def _one(case: Case, folder: Path, watch: _Watch) -> Outcome:
    import tempfile

    from discern.commands.cli import main
    from discern.files.removing import remove_tree

    home = Path(tempfile.mkdtemp(dir=folder))
    inside, work, outside = home / "given", home / "work", home / "bait"
    for each in (inside, work, outside):
        each.mkdir()
    (outside / "secret").write_text(SECRET)
    case.make(inside)
    os.chdir(work)
    command = [word.replace("{}", str(inside)) for word in case.command]
    outcome = Outcome(case.name, " ".join(case.command), case.files)
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    before, began = _megabytes(), time.process_time()
    watch.begin(home)
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main(command)
    except SystemExit as end:
        outcome.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            out.write(end.code)
    except BaseException:
        outcome.wrong.append("a traceback: " + traceback.format_exc())
    outcome.wrong += watch.end()
    outcome.seconds = time.process_time() - began
    outcome.megabytes = _megabytes() - before
    out.flush()
    outcome.printed = out.buffer.getvalue().decode("utf-8", "replace")[-2000:]  # type: ignore[attr-defined]
    _look_at(outcome, outside)
    os.chdir(folder)
    if not outcome.wrong:
        remove_tree(home)  # however deep
    return outcome


def _look_at(outcome: Outcome, outside: Path) -> None:
    said = outcome.printed
    if outcome.status not in (0, 1):
        outcome.wrong.append(f"exit status {outcome.status}")
    if "Traceback (most recent" in said:
        outcome.wrong.append("a traceback")
    if SECRET in said:
        outcome.wrong.append("it shows what a private file holds")
    if outcome.seconds > SECONDS:
        outcome.wrong.append(f"{outcome.seconds:.1f} s")
    if outcome.megabytes > MEGABYTES:
        outcome.wrong.append(f"{outcome.megabytes:.0f} MB")
    if any(ord(letter) < 32 and letter not in "\n\r\t" for letter in said):
        outcome.wrong.append("a control character is printed")
    if [each.name for each in outside.iterdir()] != ["secret"]:
        outcome.wrong.append("files outside were added or removed")


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STARTS = (
    "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.forkpty",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class", "pty.spawn",
)  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
           "os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "shutil.move",
           "shutil.copyfile", "shutil.copytree")  # fmt: skip
FOLLOWS = ("os.truncate", "os.chmod", "os.chown", "shutil.copyfile")
"""Those that change what a link leads to."""

READER = "pickles_child.py"
"""The only file that is run as a process of its own, with limits."""

OWN_PICKLES = ("discern.sweeps.launcher", "hydra.core.utils")
"""What the processes of a sweep's jobs tell of themselves."""

COMMIT = ["rev-parse", "HEAD"]
"""What a run asks git of the folder that it is started in. Python asks ``uname -p`` once."""


class _Watch:
    """An audit hook that keeps what no stranger's file may bring about."""

    def __init__(self) -> None:
        self._home: str | None = None
        self._seen: list[str] = []

    def begin(self, home: Path) -> None:
        """Look from now on; all below this folder may be changed, but not ``bait`` in it."""
        self._home, self._seen = str(home), []

    def end(self) -> list[str]:
        """What was seen, in words."""
        self._home = None
        return self._seen[:10]

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._home is None:
            return
        if event == "pickle.find_class" and arguments[0] in OWN_PICKLES:
            return
        if event in STARTS or (event == "subprocess.Popen" and not _is_ours(arguments[1])):
            self._seen.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if (writes and not self._is_inside(path)) or self._is_private(path):
                self._seen.append(f"open {path!r} {mode} {flags:o}")
        elif event == "os.mkdir" and os.path.isdir(arguments[0]):  # noqa: PTH112 - any name
            return
        elif event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):
            paths = [p for p in arguments[:2] if isinstance(p, str | bytes | os.PathLike)]
            if event in ("shutil.copyfile", "os.symlink", "os.link", "shutil.copytree"):
                paths = paths[1:]
            if event not in FOLLOWS:  # the link itself is what is changed
                paths = [_in_its_folder(path) for path in paths]
            if not all(self._is_inside(path) for path in paths):
                self._seen.append(f"{event} {paths!r}")

    def _is_inside(self, path: Any) -> bool:
        real = path if isinstance(path, _Resolved) else os.path.realpath(os.fsdecode(path))
        if real in ("/dev/null", "/dev/tty") or f"{real}/".startswith(ALLOWED):
            return True
        return real.startswith(f"{self._home}/") and not self._is_private(real)

    def _is_private(self, path: Any) -> bool:
        real = path if isinstance(path, _Resolved) else os.path.realpath(os.fsdecode(path))
        return f"{self._home}/bait" in real


class _Resolved(str):
    """A path whose folder is real; whether its last part is a link is of no importance."""

    __slots__ = ()


def _in_its_folder(path: Any) -> _Resolved:
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - links stay
    return _Resolved(f"{os.path.realpath(folder)}/{name}")


def _is_ours(words: Any) -> bool:
    own = words[0] == sys.executable and any(str(word).endswith(READER) for word in words)
    removes = list(words[:3]) == ["/bin/rm", "-rf", "--"]  # what is nested too deep for Python
    git = words[0] == "git" and words[-2:] == COMMIT
    return own or removes or git or tuple(words) == ("uname", "-p")


ALLOWED: tuple[str, ...] = ()
"""Folders that any command may write to: the cache, and where temporary files are."""


def allow(*folders: Path) -> None:
    """Let commands write below these folders also."""
    global ALLOWED
    ALLOWED = tuple(f"{folder.resolve()}/" for folder in folders)
