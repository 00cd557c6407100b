"""Whether a file is still what it was when it was last looked at, without reading it.

Size and time of change alone do not tell: two files of the same size and second can change places.
Whatever writes to a file, or puts another in its place, changes its inode or its ctime, which
nobody can set. Where the file system keeps these, and its clock has moved on since, they tell.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

SETTLED_NS = 2_000_000_000
"""A file that has changed so shortly before it was looked at may have changed again within the same
tick of its file system's clock, which is a second on some."""

KEEPING = frozenset(
    {
        *("apfs", "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs"),
        *("nilfs2", "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "ubifs", "udf"),
        *("ufs", "xfs", "zfs"),
    }
)
"""File systems of this machine that keep inode and ctime. On a network share another machine's
clock makes them, and they arrive late; on FAT they are made up."""


class Stamp(NamedTuple):
    """What changes with a file: size in bytes, times in nanoseconds since 1970, inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


GONE = Stamp(-1, -1, -1, -1)
"""The stamp of what is not there."""


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file; each number fits into 64 bits with a sign."""
    inode = status.st_ino if status.st_ino < 2**63 else status.st_ino - 2**64
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


def is_settled(stamp: Stamp, looked_ns: int) -> bool:
    """Whether what is written after the look gets another stamp."""
    return max(stamp.mtime_ns, stamp.ctime_ns) + SETTLED_NS < looked_ns


_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


class FileSystems:
    """Of which kind the file systems of files are, as they are mounted now."""

    def __init__(self) -> None:
        self._mounts = dict(_mounts())
        self._kinds: dict[int, str] = {}

    def kind(self, path: bytes, device: int) -> str:
        """Such as ``ext4``; empty where the system does not tell.

        Args:
            path: of a file.
            device: ``st_dev`` of the file.
        """
        if device not in self._kinds:
            self._kinds[device] = self._kind_at(os.path.realpath(path))
        return self._kinds[device]

    def keeps_stamps(self, path: bytes, device: int) -> bool:
        """Whether a file that has kept its stamp has kept its content."""
        # Where there is no list of mounts, as on macOS, the disk is most often the machine's own.
        return not self._mounts or self.kind(path, device) in KEEPING

    def _kind_at(self, path: bytes) -> str:
        while path not in self._mounts and path != os.path.dirname(path):  # noqa: PTH120
            path = os.path.dirname(path)  # noqa: PTH120 - bytes
        return self._mounts.get(path, "")


def _mounts() -> list[tuple[bytes, str]]:
    """Where file systems are mounted, and the kind of each; the last at a place is seen."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return []
    # 36 35 98:0 /root /mount\040point rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    halves = [line.partition(b" - ") for line in lines]
    return [
        (_OCTAL.sub(_character, first.split()[4]), last.split()[0].decode("ascii", "replace"))
        for first, _, last in halves
        if len(first.split()) > 4 and last.split()
    ]


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8) % 256])


def version_of(path: Path) -> Hashable:
    """What is equal for a file as long as its content is: its stamp, or else its digest besides.

    Raises:
        OSError: the file cannot be read.
    """
    looked_ns, status = time.time_ns(), path.stat()
    stamp = stamp_of(status)
    if is_settled(stamp, looked_ns) and FileSystems().keeps_stamps(
        os.fsencode(path), status.st_dev
    ):
        return stamp
    with path.open("rb") as file:
        return stamp, hashlib.file_digest(file, "sha256").digest()
