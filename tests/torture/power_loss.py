"""Power lost at any instant: what was not synced is there, or is not, or is garbage."""

from __future__ import annotations

import copy
import functools
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from torture.case import Case
from torture.disturb import undisturbed, write
from torture.writers import SITUATIONS, Situation, check_again, check_old_or_new

SEEDS = 4
"""Disks that one instant may leave behind, of those that are tried."""

LARGE = "large"
"""The writer whose calls would be a log of some 100 MB."""


class Call(NamedTuple):
    """What a writer asked of the system: a name below its folder's parent, and what with it."""

    kind: str
    name: str
    to: str = ""
    content: bytes = b""
    at: int = 0


class _Inode:
    """A file: its content, and the content that is surely on disk."""

    def __init__(self, content: bytes = b"") -> None:
        self.now = self.synced = content


class Disk:
    """What is asked of it, and what a power loss leaves.

    A file's content is on disk after its fsync, a name after the fsync of its folder. Until then
    any of the names may be there or not, and a content may be cut, zeros, garbage, or there.

    Args:
        place: holds what there is before, all of it on disk.
    """

    def __init__(self, place: Path) -> None:
        self.folders = {"."} | {str(p.relative_to(place)) for p in place.rglob("*") if p.is_dir()}
        files = (path for path in place.rglob("*") if path.is_file())
        found: dict[int, _Inode] = {}
        self.names = {
            str(path.relative_to(place)): found.setdefault(
                path.stat().st_ino, _Inode(path.read_bytes())
            )
            for path in files
        }
        self._on_disk = dict(self.names)
        self._folders_on_disk = set(self.folders)
        self._waiting: list[tuple[Call, _Inode | None]] = []

    def do(self, call: Call) -> None:
        """Do what was asked."""
        inode = self.names.get(call.name)
        if call.kind == "write":
            assert inode is not None
            before = inode.now.ljust(call.at, b"\0")
            inode.now = before[: call.at] + call.content + before[call.at + len(call.content) :]
        elif call.kind == "fsync":
            if inode is not None:
                inode.synced = inode.now
                return
            for waiting in [each for each in self._waiting if _folder(each[0]) == call.name]:
                self._put(*waiting, self._on_disk, self._folders_on_disk)
                self._waiting.remove(waiting)
        else:
            inode = _Inode() if call.kind == "create" else inode
            self._put(call, inode, self.names, self.folders)
            self._waiting.append((call, inode))

    @staticmethod
    def _put(call: Call, inode: _Inode | None, names: dict[str, _Inode], folders: set[str]) -> None:
        if call.kind == "mkdir":
            folders.add(call.name)
        elif call.kind == "unlink":
            names.pop(call.name, None)
        elif inode is not None:
            names[call.to or call.name] = inode
            if call.kind == "rename" and names.get(call.name) is inode:
                del names[call.name]

    def lose_power(self, place: Path, random: Random) -> None:
        """Write what may be left to an empty folder."""
        names, folders = dict(self._on_disk), set(self._folders_on_disk)
        odds = random.choice([0.0, 0.5, 0.5, 1.0])
        for waiting in self._waiting:
            if random.random() < odds:
                self._put(*waiting, names, folders)
        contents = {inode: _left(inode, random) for inode in names.values()}
        for name in sorted(folders):
            if all(str(parent) in folders for parent in Path(name).parents):
                (place / name).mkdir(exist_ok=True)
        for name, inode in names.items():
            if (place / name).parent.is_dir():
                (place / name).write_bytes(contents[inode])


def _folder(call: Call) -> str:
    return str(Path(call.to or call.name).parent)


def _left(inode: _Inode, random: Random) -> bytes:
    if inode.now == inode.synced:
        return inode.now
    length = random.randrange(len(inode.now) + 1)
    return random.choice(
        [
            inode.synced,
            inode.now,
            inode.now[:length],
            bytes(len(inode.now)),
            inode.now[:length] + random.randbytes(len(inode.now) - length),
        ]
    )


TRACED = (
    "openat,write,pwrite64,lseek,ftruncate,fsync,fdatasync,rename,link,unlink,mkdir,close,fallocate"
)
"""Calls that change what is on a disk, or say of which file they are."""


@functools.cache
def recorded(situation: Situation) -> tuple[Disk, list[Call]]:
    """The disk before a writer begins, and all that it asks of it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name, "run")
        situation.prepare(folder)
        disk = Disk(Path(name))
        done = write(situation, folder, "-e", f"trace={TRACED}", "-xx", "-s", "10000000")
        assert done.status == 0, done.said
        return disk, list(_calls(done.log, name))


_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", re.MULTILINE)


_BEGUN = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")


def _joined(log: str) -> str:
    """The log with each call on one line, also where two threads were in one at a time."""
    begun: dict[str, str] = {}
    lines = []
    for line in log.splitlines():
        if found := _BEGUN.match(line):
            begun[found[1]] = found[2]
        elif found := _ENDED.match(line):
            lines.append(f"{found[1]} {begun.pop(found[1], '')}{found[2]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def _calls(log: str, place: str) -> Iterator[Call]:
    """The calls in the log of strace that concern the folder ``place``."""
    opened: dict[int, str] = {}
    position: dict[int, int] = {}
    for kind, arguments, result in _LINE.findall(_joined(log)):
        texts = [
            bytes.fromhex(text.replace("\\x", "")) for text in re.findall('"(.*?)"', arguments)
        ]
        number = int(result)
        if number < 0:
            continue
        paths = [text.decode(errors="replace") for text in texts]
        inside = [str(Path(path).relative_to(place)) for path in paths if _is_in(path, place)]
        first = arguments.partition(",")[0]
        file = int(first) if first.isdigit() else -1
        if kind == "openat":
            opened.pop(number, None)
            if inside:
                opened[number], position[number] = inside[0], 0
                if "O_TRUNC" in arguments or ("O_CREAT" in arguments and "O_EXCL" in arguments):
                    yield Call("create", inside[0])
        elif kind == "close":
            opened.pop(file, None)
        elif kind in ("mkdir", "unlink", "rename", "link"):
            if inside:
                yield Call(kind, *inside)
        elif file in opened:
            if kind == "lseek":
                position[file] = number
            elif kind == "write":
                yield Call("write", opened[file], "", texts[0][:number], position[file])
                position[file] += number
            elif kind in ("fsync", "fdatasync"):
                yield Call("fsync", opened[file])
            else:
                raise AssertionError(f"{kind} is a call that is not replayed")


def _is_in(path: str, place: str) -> bool:
    return Path(path).is_relative_to(place)


def cases(situations: Collection[Situation] = SITUATIONS) -> Iterator[Case]:
    """Power lost after each call of a writer, with some of the disks that this may leave."""
    for situation in situations:
        if situation.writer == LARGE:
            continue
        for number in range(len(recorded(situation)[1]) + 1):
            for seed in range(SEEDS):
                name = f"power lost after call {number} of {situation}, disk {seed}"
                yield Case(name, functools.partial(_check, situation, number, seed))


def _check(situation: Situation, number: int, seed: int, place: Path) -> None:
    known = undisturbed(situation)
    disk = _disk_after(situation, number)
    disk.lose_power(place, Random(f"{situation} {number} {seed}"))
    folder = place / "run"
    if number == len(recorded(situation)[1]):
        found = situation.of.states(folder)
        assert found == known.new, "what was said to be written is not there"
    check_old_or_new(situation, folder, known.old, known.new)
    check_again(situation, folder, known.new)


def _disk_after(situation: Situation, number: int) -> Disk:
    before, calls = recorded(situation)
    disk = copy.deepcopy(before)
    for call in calls[:number]:
        disk.do(call)
    return disk
