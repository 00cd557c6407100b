"""Detecting changes of a file without reading it.

Size and mtime are not enough: two files of the same size and second can be swapped. Every write or
replacement changes the inode or the ctime, which no program can set. They are conclusive if the
file system keeps them and its clock has moved on since.
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
"""A file modified this shortly before the check may change again within the same tick of its file
system's clock, which is up to a second."""

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
    """The version of a file: size in bytes, times in nanoseconds since 1970, inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


GONE = Stamp(-1, -1, -1, -1)
"""The stamp of a missing file."""


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file; each number fits into 64 bits with a sign."""
    inode = status.st_ino if status.st_ino < 2**63 else status.st_ino - 2**64
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


def is_settled(stamp: Stamp, looked_ns: int) -> bool:
    """Whether a write after the check would change the stamp."""
    return max(stamp.mtime_ns, stamp.ctime_ns) + SETTLED_NS < looked_ns


_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


class FileSystems:
    """The kinds of the mounted file systems."""

    def __init__(self) -> None:
        self._mounts = dict(_mounts())
        self._kinds: dict[int, str] = {}

    def kind(self, path: bytes, device: int) -> str:
        """Kind of a file's file system, such as ``ext4``; empty if unknown.

        Args:
            path: of a file.
            device: ``st_dev`` of the file.
        """
        if device not in self._kinds:
            self._kinds[device] = self._kind_at(os.path.realpath(path))
        return self._kinds[device]

    def keeps_stamps(self, path: bytes, device: int) -> bool:
        """Whether an unchanged stamp means unchanged content."""
        # Where there is no list of mounts, as on macOS, the disk is most often the machine's own.
        return not self._mounts or self.kind(path, device) in KEEPING

    def _kind_at(self, path: bytes) -> str:
        while path not in self._mounts and path != os.path.dirname(path):  # noqa: PTH120
            path = os.path.dirname(path)  # noqa: PTH120 - bytes
        return self._mounts.get(path, "")


def _mounts() -> list[tuple[bytes, str]]:
    """Mount points and the kind of each file system; the last one at a mount point counts."""
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
    """A value that changes with a file's content: its stamp, with its digest if that is needed.

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
