"""Unpacking an archive, which may be hostile or damaged, whole or not at all, inside its folder."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from discern.data.published.fetch import alone
from discern.errors import DiscernError, first_line

MAX_MEMBERS = 5_000_000
"""How many files and folders an archive may hold; ImageNet has 1.3 million."""

_CHUNK_BYTES = 1 << 16
_MAX_DEPTH = 100
_MAX_HEADER_BYTES = 1 << 16
_MAX_PADDING_BYTES = 1 << 22


class _UnfitError(Exception):
    """An archive is not to be unpacked; the message says why, without a final full stop."""


@dataclass(frozen=True)
class _Member:
    """What an archive has under a name.

    Attributes:
        name: its path, as the archive has it.
        kind: ``stat.S_IFREG`` for a file, ``stat.S_IFDIR`` for a folder; nothing else is written.
        size: bytes of a file, as the archive declares it.
        open: opens a file's content.
    """

    name: str
    kind: int
    size: int
    open: Callable[[], Any]


def extract(archive: Path, target: Path, max_bytes: int, *, folder: str | None = None) -> None:
    """Unpack a zip, tar, tar.gz, tar.bz2 or tar.xz to the folder ``target``, unless it is there.

    The folder has its name only once all is in it. Files get the usual permissions and the time of
    their writing. Of processes that ask for the same folder one unpacks and the others wait.

    Args:
        archive: told by its content, not by its name.
        target: the folder to be made, as are those above it.
        max_bytes: what all files together may have.
        folder: the folder in the archive that becomes ``target``; all else in it is dropped.

    Raises:
        DiscernError: the archive cannot be read, is damaged or encrypted, holds more than
            ``max_bytes`` or ``MAX_MEMBERS``, or has a member that is neither file nor folder, that
            leads outside or that would overwrite another; or ``target`` cannot be written.
    """
    try:
        if not target.exists():
            with alone(target):
                if not target.exists():
                    _extract(archive, target, max_bytes, folder)
    except OSError as error:
        raise DiscernError(f"{target} cannot be written: {error.strerror or error}.") from error


def _extract(archive: Path, target: Path, max_bytes: int, folder: str | None) -> None:
    temporary = target.with_name(f".{target.name}.part")
    if temporary.exists():  # a killed extraction left it
        shutil.rmtree(temporary)
    try:
        temporary.mkdir()
        with _opened(archive) as file:
            _write(_members(file), temporary, max_bytes)
        source = temporary if folder is None else temporary / folder
        if not source.is_dir():
            raise _UnfitError(f"it has no folder {folder}")
        source.rename(target)
    except _UnfitError as error:
        raise DiscernError(f"{archive} cannot be extracted: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _opened(archive: Path) -> IO[bytes]:
    try:
        return archive.open("rb")
    except OSError as error:
        raise DiscernError(f"{archive} cannot be read: {error.strerror or error}.") from error


def _write(members: Iterator[_Member], folder: Path, max_bytes: int) -> None:
    """Write the members into the empty ``folder``."""
    left, number = max_bytes, 0
    for number, member in enumerate(members, 1):
        if number > MAX_MEMBERS:
            raise _UnfitError(f"it has more than {MAX_MEMBERS:,} members")
        path, name = folder.joinpath(*_parts(member.name)), _shown(member.name)
        if member.kind == stat.S_IFLNK:
            raise _UnfitError(f"its member {name} is a link")
        if member.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise _UnfitError(f"its member {name} is neither a file nor a folder")
        left -= member.size
        if left < 0:
            raise _too_large(max_bytes)
        try:
            if member.kind == stat.S_IFDIR:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_file(path, member)
        # Also where two names differ, but are one to the file system.
        except (FileExistsError, NotADirectoryError) as error:
            raise _UnfitError(f"its member {name} would overwrite another") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise _UnfitError(f"its member {name} has too long a name") from error
    if not number:
        raise _UnfitError("it holds nothing")


def _write_file(path: Path, member: _Member) -> None:
    """Write a new file, of no more bytes than declared, whatever the archive holds."""
    written = 0
    with path.open("xb") as file:
        for chunk in _content(member):
            written += file.write(chunk)
            if written > member.size:
                break
    if written != member.size:
        raise _UnfitError(
            f"it is damaged: its member {_shown(member.name)} has not the {member.size:,} bytes "
            "that it declares"
        )


def _content(member: _Member) -> Iterator[bytes]:
    with (
        _unfit_if_damaged(f"it is damaged in its member {_shown(member.name)}"),
        member.open() as content,
    ):
        while chunk := content.read(_CHUNK_BYTES):
            yield chunk


_DRIVE = re.compile(r"[A-Za-z]:")


def _parts(name: str) -> list[str]:
    """The parts of a member's path under its folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    reason = ""
    if name.startswith("/") or any(_DRIVE.match(part) for part in parts):
        reason = "has an absolute path"
    elif ".." in parts:
        reason = "leads outside of the folder"
    elif "\\" in name or "\0" in name:
        reason = "has a path that systems read in different ways"
    elif len(parts) > _MAX_DEPTH:
        reason = f"lies more than {_MAX_DEPTH} folders deep"
    if reason:
        raise _UnfitError(f"its member {_shown(name)} {reason}")
    return parts


def _shown(name: str) -> str:
    """A name as a message may hold it: a stranger chose its characters."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _too_large(max_bytes: int) -> _UnfitError:
    return _UnfitError(f"it holds more than the {max_bytes:,} bytes that are allowed")


# All that the readers of archives were seen to raise on damaged and hostile files.
_DAMAGE = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError,
    struct.error, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError,
)  # fmt: skip


@contextmanager
def _unfit_if_damaged(what: str = "it is damaged") -> Iterator[None]:
    """Turn what a reader of archives raises into :class:`_UnfitError`."""
    try:
        yield
    except _DAMAGE as error:
        raise _UnfitError(f"{what}: {first_line(error)}") from error


def _members(file: IO[bytes]) -> Iterator[_Member]:
    with _unfit_if_damaged():
        magic = file.read(6)
        file.seek(0)
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_members(file)
        else:
            yield from _tar_members(_Limited(_uncompressed(file, magic)))


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    archive, announced = zipfile.ZipFile(file), _announced_members(file)
    members = archive.infolist()
    if announced not in (len(members), len(members) % 2**16):  # some writers count no further
        raise _UnfitError(f"it is damaged: it lists {len(members):,} of {announced:,} members")
    for member in members:
        # zipfile cuts its own name at a zero byte.
        name = member.orig_filename
        if member.flag_bits & 0x2041:  # encryption, strong encryption, masked headers
            raise _UnfitError(f"its member {_shown(name)} is encrypted")
        kind = stat.S_IFMT(member.external_attr >> 16) or stat.S_IFREG
        if name.endswith("/") and kind == stat.S_IFREG:
            kind = stat.S_IFDIR
        yield _Member(name, kind, member.file_size, partial(archive.open, member))


def _announced_members(file: IO[bytes]) -> int:
    """How many members a zip says that it has, at its end.

    zipfile does not compare, and a damaged length in the directory can hide all that follow.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 22 - 76))  # a comment, the end record, those of zip64
    tail = file.read()
    end = tail.rindex(b"PK\x05\x06")
    large = end - 76
    if large >= 0 and tail[large:].startswith(b"PK\x06\x06"):
        return int(struct.unpack_from("<Q", tail, large + 32)[0])
    return int(struct.unpack_from("<H", tail, end + 10)[0])


def _uncompressed(file: IO[bytes], magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if magic.startswith(b"\xfd7zXZ") else file


class _Limited:
    """A tar archive, uncompressed, of which no more is read than ``left`` bytes.

    tarfile would keep a name of a terabyte in memory.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.left = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        content: bytes = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise _UnfitError("it is damaged: it has more than its headers declare")
        return content


class _Header(tarfile.TarInfo):
    """A header whose damage or absence is not taken for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Header:
        """The next member's header; a block of zeros is the archive's end."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


_TAR_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG, tarfile.AREGTYPE: stat.S_IFREG, tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR, tarfile.LNKTYPE: stat.S_IFLNK, tarfile.SYMTYPE: stat.S_IFLNK,
}  # fmt: skip


def _tar_members(file: _Limited) -> Iterator[_Member]:
    file.left = _MAX_HEADER_BYTES
    with _unfit_if_damaged("it is neither a zip nor a tar archive, or damaged"):
        archive = tarfile.open(  # noqa: SIM115 - it has nothing to close
            fileobj=file,  # type: ignore[call-overload]
            mode="r|", tarinfo=_Header, encoding="utf-8",
        )  # fmt: skip
    while (member := archive.next()) is not None:
        # tarfile would keep all members in memory, and start again from them.
        archive.members.clear()
        kind = 0 if member.issparse() else _TAR_KINDS.get(member.type, 0)
        size = member.size if kind == stat.S_IFREG else 0
        file.left = size + tarfile.RECORDSIZE  # which tarfile reads at once
        yield _Member(member.name, kind, size, partial(archive.extractfile, member))
        file.left = _MAX_HEADER_BYTES
    # What was compressed has its checksum behind the end.
    file.left = _MAX_PADDING_BYTES
    while file.read(_CHUNK_BYTES):
        pass
