"""Places that are not as usual: read-only, moved or removed folders, other homes, TMPDIR, clocks.

A run there ends with the result of any other run, or with one sentence and a status other than 0.
Root ignores modes: commands that are to be refused by them drop root's capabilities. A clock that
is off is Python's own, since libfaketime 0.9.10 breaks ``time.sleep``. Without the right to mount,
the cases of a full file system are left out.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

import starter
from discern.models.saved import read
from discern.runs.folder import read_run
from run_files import TINY
from torture.case import Case

Said = subprocess.CompletedProcess[str]

EPOCHS = 3
SMALL = (*TINY[1:], "data.source=sample", "data.fraction=0.25", f"trainer.max_epochs={EPOCHS}",
         "report=false", "seed=1")  # fmt: skip
TRAIN = ("train", *(each for each in SMALL if each != TINY[4]))
HALF = ("train", *TRAIN[1:-3], "trainer.max_epochs=1", "report=false", "seed=1")

YEAR = 365 * 24 * 3600


# What must hold


@cache
def undisturbed() -> tuple[dict[str, Tensor], list[list[str]]]:
    """The weights and the losses of the run that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        done = starter.invoke(*TRAIN, "hydra.run.dir=run", cwd=Path(folder), draws=False)
        assert done.returncode == 0, done.stderr
        return result_in(Path(folder) / "run")


def result_in(run: Path) -> tuple[dict[str, Tensor], list[list[str]]]:
    """The last weights, and epoch, step and losses of each row."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [[row[name] for name in ("epoch", "step", "train/loss", "val/loss")]
                for row in csv.DictReader(file)]  # fmt: skip
    return read(run / "checkpoints" / "last.safetensors")["state_dict"], rows


def assert_right(run: Path) -> None:
    """The run is whole, and equal to the undisturbed one to the bit."""
    facts = json.loads((run / "summary.json").read_text())
    assert facts["state"] == "done", facts
    for name, seconds in facts["seconds"].items():
        assert 0 <= seconds < 600, f"{name} took {seconds} s"
    assert (run / "config.yaml").is_file()
    read(run / "checkpoints" / "best.safetensors")
    (weights, rows), (usual, usual_rows) = result_in(run), undisturbed()
    assert rows == usual_rows, (rows, usual_rows)
    assert weights.keys() == usual.keys()
    assert all(torch.equal(weights[name], usual[name]) for name in usual)
    assert_no_leftovers(run)


def assert_no_leftovers(folder: Path) -> None:
    left = [str(path) for path in folder.rglob(".*") if path.suffix not in (".lock", "")]
    assert not left, left


def assert_refused(done: Said, *words: str) -> None:
    """One sentence and a status other than 0."""
    assert done.returncode not in (0, -9, -11), (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines, done.stdout
    for word in words:
        assert word in done.stderr, (word, done.stderr)


def right_or_refused(done: Said, run: Path) -> None:
    if done.returncode == 0:
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert_right(run)
    else:
        assert_refused(done)


# Read-only

WITHOUT_RIGHTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("effective", "permitted", "inheritable")]
header, data = Header(0x20080522, 0), (Data * 2)()
assert libc.capget(ctypes.byref(header), data) == 0
for bit in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    for name in ("effective", "permitted", "inheritable"):
        setattr(data[0], name, getattr(data[0], name) & ~(1 << bit))
assert libc.capset(ctypes.byref(header), data) == 0
from discern.commands.cli import main
sys.argv = ["discern", *sys.argv[1:]]
main()
"""
"""Runs ``discern …`` as a user whom modes bind."""


def bound(*arguments: str, cwd: Path, **env: str) -> Said:
    return starter.invoke("-c", WITHOUT_RIGHTS, *arguments, cwd=cwd, draws=False, **env)


def lock(*paths: Path) -> None:
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    probe = starter.invoke(
        "-c", WITHOUT_RIGHTS.partition("from discern")[0] + "print(os.access(sys.argv[1], 2))",
        str(paths[0]), cwd=Path("/"),
    )  # fmt: skip
    assert probe.stdout.strip() == "False", "the fault did not fire"


def unlock(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def first_part(cwd: Path, name: str = "run") -> Path:
    """A run of one epoch."""
    done = starter.invoke(*HALF, f"hydra.run.dir={name}", cwd=cwd, draws=False)
    assert done.returncode == 0, done.stderr
    return cwd / name


def read_only(check: Callable[[Path], None], folder: Path) -> None:
    try:
        check(folder)
    finally:
        unlock(folder)


def parent_is_read_only(folder: Path) -> None:
    (folder / "outputs").mkdir()
    lock(folder / "outputs")
    done = bound(*TRAIN, "hydra.run.dir=outputs/run", cwd=folder)
    assert_refused(done, "outputs")


def working_directory_is_read_only(folder: Path) -> None:
    lock(folder)
    assert_refused(bound(*TRAIN, cwd=folder), "outputs")


def continue_in_read_only(parts: tuple[str, ...], folder: Path) -> None:
    run = first_part(folder)
    before = (run / "checkpoints" / "last.safetensors").read_bytes()
    lock(*(run / part for part in parts))
    done = bound(*TRAIN, "hydra.run.dir=run", "ckpt_path=run", cwd=folder)
    unlock(folder)
    if done.returncode == 0:
        assert_right(run)
    else:
        assert_refused(done)
        assert (run / "checkpoints" / "last.safetensors").read_bytes() == before
        assert_no_leftovers(run)


def continue_from_read_only(folder: Path) -> None:
    run = first_part(folder, "old")
    lock(run, *run.rglob("*"))
    done = bound(*TRAIN, "hydra.run.dir=run", "ckpt_path=old", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_right(folder / "run")


def becomes_read_only(part: str, folder: Path) -> None:
    done = starter.invoke(
        "-c", WITHOUT_RIGHTS, *TRAIN, "hydra.run.dir=run", meanwhile(f"chmod {part}"), cwd=folder,
        draws=False, PYTHONPATH=path_of_tests(),
    )  # fmt: skip
    unlock(folder)
    if done.returncode == 0:
        assert_right(folder / "run")
    else:
        assert_refused(done)
        read(folder / "run" / "checkpoints" / "last.safetensors")
        assert_no_leftovers(folder / "run")


def command_on_read_only(arguments: tuple[str, ...], works: bool, folder: Path) -> None:
    run = first_part(folder)
    lock(run, *run.rglob("*"))
    done = bound(*arguments, cwd=folder)
    if works:
        assert done.returncode == 0, (done.stdout, done.stderr)
    if done.returncode:
        assert_refused(done)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr


def unreadable(name: str, arguments: tuple[str, ...], folder: Path) -> None:
    run = first_part(folder)
    (run / name).chmod(0)
    done = bound(*arguments, cwd=folder)
    if done.returncode:
        assert_refused(done)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr


def data_are_read_only(folder: Path) -> None:
    from photos import photos_in_turn

    photos_in_turn(folder / "photos" / "train", 24)
    lock(folder / "photos", *(folder / "photos").rglob("*"))
    done = bound(
        "train", "data=image_folder", "data.dir=photos", "data.image_size=8", "model.hidden=[4]",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=csv", "data.num_workers=0",
        "hydra.run.dir=run", "report=false", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_run(folder / "run").state == "done"


# Moved or removed


def meanwhile(what: str) -> str:
    return f"trainer.callbacks=[{{_target_: torture.places_callback.After, what: '{what}'}}]"


def path_of_tests() -> str:
    return os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])


def moved_between(to: Callable[[Path], Path], folder: Path) -> None:
    run = first_part(folder)
    place = to(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(run, place)
    quoted = f"'{place}'"
    try:
        done = starter.invoke(
            *TRAIN, f"hydra.run.dir={quoted}", f"ckpt_path={quoted}", cwd=folder, draws=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert_right(place)
        assert not run.exists()
    finally:
        if not place.is_relative_to(folder):
            shutil.rmtree(place.parent)


def moved_into_new(folder: Path) -> None:
    """Continued in a third place from where it was moved to."""
    shutil.move(first_part(folder), folder / "archive")
    done = starter.invoke(*TRAIN, "hydra.run.dir=run", "ckpt_path=archive", cwd=folder, draws=False)
    assert done.returncode == 0, done.stderr
    assert_right(folder / "run")


def linked(folder: Path) -> None:
    run = first_part(folder)
    shutil.move(run, folder / "archive")
    run.symlink_to("archive")
    done = starter.invoke(*TRAIN, "hydra.run.dir=run", "ckpt_path=run", cwd=folder, draws=False)
    right_or_refused(done, folder / "archive")


def link_loop(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    done = starter.invoke(*TRAIN, "ckpt_path=a", "hydra.run.dir=run", cwd=folder, draws=False)
    assert_refused(done, "ckpt_path=a")


def moved_during(what: str, folder: Path) -> None:
    """The folder of a run that is going on is renamed, removed or replaced."""
    cwd = folder / "work"
    cwd.mkdir()
    done = starter.invoke(
        *TRAIN, f"hydra.run.dir={folder / 'place' / 'run'}", meanwhile(what), cwd=cwd, draws=False,
        PYTHONPATH=path_of_tests(),
    )  # fmt: skip
    assert (folder / "fired").exists(), (done.stdout, done.stderr)
    places = [folder / "place" / "run", folder / "place" / "moved", folder / "elsewhere" / "run"]
    if done.returncode == 0:
        whole = [place for place in places if (place / "summary.json").exists()]
        assert len(whole) == 1, (whole, done.stdout, done.stderr)
        assert_right(whole[0])
    else:
        assert_refused(done)


def no_working_directory(arguments: tuple[str, ...], folder: Path) -> None:
    """Commands typed in a folder that has been removed."""
    program = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from discern.commands.cli import main\nmain()"
    )
    run = folder / "run"
    needed = [each.replace("RUN", str(run)) for each in arguments]
    if "RUN" in str(arguments) and arguments[0] != "train":
        first_part(folder)
    done = starter.invoke("-c", program, *needed, cwd=folder, draws=False)
    if done.returncode:
        assert_refused(done)
    elif arguments[0] == "train":
        assert_right(run)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr


# Other homes and temporary folders


def with_environment(env: dict[str, str], mounts: bool, folder: Path) -> None:
    env = {name: value.replace("HERE", str(folder)) for name, value in env.items()}
    (folder / "file").write_text("x")
    small = folder / "small"
    small.mkdir()
    locked = folder / "locked"
    locked.mkdir()
    if mounts:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], check=True)
    try:
        if mounts:
            with (small / "full").open("wb") as file:
                file.write(bytes(4096))
        lock(locked)
        done = bound(*TRAIN, "hydra.run.dir=run", cwd=folder, **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert_right(folder / "run")
    finally:
        if mounts:
            subprocess.run(["umount", small], check=True)
        unlock(folder)


def without_home(folder: Path) -> None:
    program = (
        "import os; os.environ.pop('HOME', None)\nfrom discern.commands.cli import main\nmain()"
    )
    done = starter.invoke("-c", program, *TRAIN, "hydra.run.dir=run", cwd=folder, draws=False)
    assert done.returncode == 0, done.stderr
    assert_right(folder / "run")


def unknown_user(folder: Path) -> None:
    """A user without an entry in the list of users and without a home, as in a container."""
    program = (
        "import os, pwd; os.environ.pop('HOME', None)\n"
        "def unknown(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        "from discern.commands.cli import main\nmain()"
    )
    done = starter.invoke("-c", program, *TRAIN, "hydra.run.dir=run", cwd=folder, draws=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert_right(folder / "run")


# Clocks


CLOCKED = """
import datetime, sys, time
sys.clock = [float(sys.argv.pop(1))]
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def today(cls):
        return cls.now()
usual, seconds, nanoseconds = datetime.datetime, time.time, time.time_ns
time.time = lambda: seconds() + sys.clock[0]
time.time_ns = lambda: nanoseconds() + int(sys.clock[0]) * 10**9
for name in ("localtime", "gmtime"):
    def shifted(given=None, known=getattr(time, name)):
        return known(time.time() if given is None else given)
    setattr(time, name, shifted)
shown = time.strftime
time.strftime = lambda form, given=None: shown(form, time.localtime() if given is None else given)
for module in [*sys.modules.values()]:
    for name, value in [*getattr(module, "__dict__", {}).items()]:
        if value is usual and module is not sys.modules["__main__"]:
            setattr(module, name, Shifted)
        elif value is seconds and module is not time:
            setattr(module, name, time.time)
from discern.commands.cli import main
sys.argv = ["discern", *sys.argv[1:]]
main()
"""
"""Runs ``discern …`` by a clock that is so many seconds off; ``sys.clock`` changes it meanwhile."""


def at(offset: int, *arguments: str, cwd: Path) -> Said:
    """``discern …`` by a clock that is off; so are the times of the files that it writes."""
    before = {path for path in cwd.rglob("*") if path.is_file()}
    done = starter.invoke("-c", CLOCKED, str(offset), *arguments, cwd=cwd, draws=False,
                          PYTHONPATH=path_of_tests())  # fmt: skip
    for path in {path for path in cwd.rglob("*") if path.is_file()} - before:
        time = path.stat().st_mtime + offset
        os.utime(path, (time, time))
    return done


def clock(first: int | None, then: int, change: int | None, folder: Path) -> None:
    """A run in two parts, by two clocks, and perhaps one that jumps during the second."""
    if first is not None:
        done = at(first, *HALF, "hydra.run.dir=run", cwd=folder)
        assert done.returncode == 0, done.stderr
    more = [] if first is None else ["ckpt_path=run"]
    more += [] if change is None else [meanwhile(f"clock {change}")]
    done = at(then, *TRAIN, "hydra.run.dir=run", *more, cwd=folder)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert (folder / "fired").exists() or change is None
    assert_right(folder / "run")
    began = read_run(folder / "run").began
    assert began is not None
    listed = at(then if change is None else change, "runs", "dir=.", "--json", cwd=folder)
    assert listed.returncode == 0, listed.stderr
    (one,) = json.loads(listed.stdout)
    assert one["state"] == "done"
    assert 0 <= (one.get("seconds") or 0) < 600


def clock_and_time_limit(change: int, folder: Path) -> None:
    """A limit of hours is not reached by a clock that jumps a year."""
    done = at(0, *TRAIN, "hydra.run.dir=run", "trainer.max_time=00:05:00:00",
              meanwhile(f"clock {change}"), cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "fired").exists()
    assert_right(folder / "run")


def clock_and_sweep(clock: int, then: int, folder: Path) -> None:
    """A sweep is resumed by another clock: nothing that is done is run again."""
    sweep = ("train", "-m", *SMALL[:-1], "trainer.max_epochs=1", "optimizer.lr=1e-3,1e-2",
             "hydra.sweep.dir=sweep")  # fmt: skip
    sweep = tuple(each for each in sweep if each not in (TINY[4], f"trainer.max_epochs={EPOCHS}"))
    done = at(clock, *sweep, cwd=folder)
    assert done.returncode == 0, done.stderr
    before = {path: path.stat().st_mtime_ns for path in folder.glob("sweep/lr=*/summary.json")}
    assert len(before) == 2
    done = at(then, "train", "-m", "sweep.resume=sweep", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def clock_and_prune(folder: Path) -> None:
    """A run of next year is not old, nor is its age negative."""
    done = at(YEAR, *HALF, "hydra.run.dir=outputs/run", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = at(0, "prune", "older_than=1d", "dir=outputs", cwd=folder)
    assert "Traceback" not in done.stdout + done.stderr
    assert (folder / "outputs" / "run" / "summary.json").exists(), done.stdout


def cases() -> Iterator[Case]:
    """All of them."""
    guarded = partial(partial, read_only)
    yield Case("read-only outputs", guarded(parent_is_read_only))
    yield Case("read-only working directory", guarded(working_directory_is_read_only))
    for parts in (("",), ("checkpoints",), ("", "checkpoints"), ("metrics.csv", "summary.json"),
                  ("checkpoints/last.safetensors", "checkpoints/best.safetensors")):  # fmt: skip
        name = " and ".join(part or "folder" for part in parts)
        yield Case(
            f"continue with read-only {name}", guarded(partial(continue_in_read_only, parts))
        )
    yield Case("continue from a read-only run", guarded(continue_from_read_only))
    for part in ("", "checkpoints"):
        name = part or "the run's folder"
        yield Case(f"{name} becomes read-only", guarded(partial(becomes_read_only, part)))
    for arguments, works in (
        (("runs", "dir=."), True),
        (("report", "run"), False),
        (("evaluate", "ckpt_path=run", "hydra.run.dir=new"), False),
        (("predict", "ckpt_path=run", "input=run", "out=run/new"), False),
        (("compare", "run", "run"), False),
        (("prune", "dir=.", "older_than=0d"), False),
    ):
        yield Case(
            f"{arguments[0]} of a read-only run",
            guarded(partial(command_on_read_only, arguments, works)),
        )
    for name in ("summary.json", "config.yaml", "metrics.csv"):
        yield Case(f"runs with unreadable {name}",
                   guarded(partial(unreadable, name, ("runs", "dir=."))))  # fmt: skip
    yield Case("continue from an unreadable checkpoint", guarded(partial(
        unreadable, "checkpoints/last.safetensors", (*TRAIN, "ckpt_path=run", "hydra.run.dir=new"),
    )))  # fmt: skip
    yield Case("read-only data", guarded(data_are_read_only))

    places: dict[str, Callable[[Path], Path]] = {
        "renamed": lambda folder: folder / "other",
        "a name with spaces": lambda folder: folder / "a run, moved (2) ü",
        "deeper": lambda folder: folder / "a" / "b" / "c" / "run",
        "another file system": lambda folder: Path(tempfile.mkdtemp(dir="/dev/shm")) / "run",
    }
    for name, to in places.items():
        yield Case(f"moved between the parts: {name}", partial(moved_between, to))
    yield Case("moved between the parts, continued in a new folder", moved_into_new)
    yield Case("moved between the parts, with a link", linked)
    yield Case("a loop of links", link_loop)
    for what in ("rename", "rename and mkdir", "move away", "remove", "remove checkpoints",
                 "rename checkpoints", "remove cwd", "rename parent"):  # fmt: skip
        yield Case(f"during the run: {what}", partial(moved_during, what))
    for arguments in (
        (*TRAIN, "hydra.run.dir=RUN"), (*TRAIN, "hydra.run.dir=run"), ("runs", "dir=RUN"),
        ("runs",), ("evaluate", "ckpt_path=RUN"), ("report", "RUN"),
    ):  # fmt: skip
        name = f"{arguments[0]} {arguments[-1]}" if len(arguments) > 1 else arguments[0]
        yield Case(f"without a working directory: {name}", partial(no_working_directory, arguments))

    mounts = _can_mount()
    environments: dict[str, dict[str, str]] = {
        "TMPDIR missing": {"TMPDIR": "HERE/none"},
        "TMPDIR a file": {"TMPDIR": "HERE/file"},
        "TMPDIR read-only": {"TMPDIR": "HERE/locked"},
        "TMPDIR empty": {"TMPDIR": ""},
        **({"TMPDIR full": {"TMPDIR": "HERE/small"}} if mounts else {}),
        "HOME missing": {"HOME": "HERE/none"},
        "HOME a file": {"HOME": "HERE/file"},
        "HOME read-only": {"HOME": "HERE/locked"},
        **({"HOME full": {"HOME": "HERE/small"}} if mounts else {}),
        "cache read-only": {"XDG_CACHE_HOME": "HERE/locked", "DISCERN_CACHE_DIR": "HERE/locked/x"},
    }
    for name, env in environments.items():
        yield Case(name, partial(with_environment, env, name.endswith("full")))
    yield Case("HOME not set", without_home)
    yield Case("a user without an entry", unknown_user)

    for first, then, change in (
        (None, -YEAR, None), (None, YEAR, None), (None, 0, -YEAR), (None, 0, YEAR),
        (0, -YEAR, None), (0, YEAR, None), (YEAR, 0, -YEAR),
    ):  # fmt: skip
        name = f"clock: {'' if first is None else f'first {first} s, '}then {then} s"
        name += "" if change is None else f", jump to {change} s"
        yield Case(name, partial(clock, first, then, change))
    for change in (YEAR, -YEAR):
        yield Case(f"clock: jump of {change} s and max_time", partial(clock_and_time_limit, change))
    yield Case("clock: a sweep resumed a year back", partial(clock_and_sweep, 0, -YEAR))
    yield Case("clock: prune of a run of next year", clock_and_prune)


@cache
def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", folder]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    return True
