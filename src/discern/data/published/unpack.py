"""Unpacking an archive that may be hostile or damaged, completely or not at all."""

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
from typing import IO, TYPE_CHECKING

from discern.data.published.fetch import alone
from discern.errors import DiscernError, file_errors, first_line
from discern.files.writing import sync_folder

if TYPE_CHECKING:
    from _typeshed import SupportsRead

MAX_MEMBERS = 5_000_000
"""Limit for the files and folders in an archive; ImageNet has 1.3 million."""

_CHUNK_BYTES = 1 << 16
_MAX_DEPTH = 100
_MAX_HEADER_BYTES = 1 << 16
_MAX_PADDING_BYTES = 1 << 22


class _RefusedError(Exception):
    """An archive is refused; the message gives the reason, without a full stop."""


@dataclass(frozen=True)
class _Member:
    """An entry of an archive.

    Attributes:
        name: its path in the archive.
        kind: ``stat.S_IFREG`` for a file, ``stat.S_IFDIR`` for a folder; others are refused.
        size: bytes of a file, as the archive declares it.
        open: opens a file's content.
    """

    name: str
    kind: int
    size: int
    open: Callable[[], IO[bytes] | None]


def extract(archive: Path, target: Path, max_bytes: int, *, folder: str | None = None) -> None:
    """Unpack a zip, tar, tar.gz, tar.bz2 or tar.xz to the folder ``target``, unless it is there.

    The folder gets its name once it is complete. Files get default permissions and the current
    time. If several processes want the same folder, one unpacks and the others wait.

    Args:
        archive: its format is recognized by its content.
        target: the folder to create, with its parents.
        max_bytes: limit for all files together.
        folder: the folder in the archive that becomes ``target``; the rest is dropped.

    Raises:
        DiscernError: the archive cannot be read, is damaged or encrypted, holds more than
            ``max_bytes`` or ``MAX_MEMBERS``, or has a member that is neither file nor folder, that
            leads outside or that would overwrite another; or ``target`` cannot be written.
    """
    with file_errors(f"{target} cannot be written"):
        if not target.exists():
            with alone(target):
                if not target.exists():
                    _extract(archive, target, max_bytes, folder)


def _extract(archive: Path, target: Path, max_bytes: int, folder: str | None) -> None:
    temporary = target.with_name(f".{target.name}.part")
    if temporary.exists():  # a killed extraction left it
        shutil.rmtree(temporary)
    try:
        temporary.mkdir()
        with file_errors(f"{archive} cannot be read"):
            file = archive.open("rb")
        with file:
            _write(_members(file), temporary, max_bytes)
        source = temporary if folder is None else temporary / folder
        if not source.is_dir():
            raise _RefusedError(f"it has no folder {folder}")
        os.sync()  # thousands of files: one after the other would take minutes
        source.rename(target)
        sync_folder(target.parent)
    except _RefusedError as error:
        raise DiscernError(f"{archive} cannot be extracted: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(members: Iterator[_Member], folder: Path, max_bytes: int) -> None:
    """Write the members into the empty ``folder``."""
    left, number = max_bytes, 0
    for number, member in enumerate(members, 1):
        if number > MAX_MEMBERS:
            raise _RefusedError(f"it has more than {MAX_MEMBERS:,} members")
        path, name = folder.joinpath(*_parts(member.name)), _shown(member.name)
        if member.kind == stat.S_IFLNK:
            raise _RefusedError(f"its member {name} is a link")
        if member.kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise _RefusedError(f"its member {name} is neither a file nor a folder")
        left -= member.size
        if left < 0:
            raise _too_large(max_bytes)
        try:
            if member.kind == stat.S_IFDIR:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_file(path, member)
        # Also for two names that the file system does not distinguish.
        except (FileExistsError, NotADirectoryError) as error:
            raise _RefusedError(f"its member {name} would overwrite another") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise _RefusedError(f"its member {name} has too long a name") from error
    if not number:
        raise _RefusedError("it holds nothing")


def _write_file(path: Path, member: _Member) -> None:
    """Write a new file, of no more bytes than declared, whatever the archive holds."""
    written, damaged = 0, f"it is damaged in its member {_shown(member.name)}"
    with path.open("xb") as file:
        with _refused_if_damaged(damaged):
            content = member.open()
        assert content is not None
        with content:
            while written <= member.size:
                with _refused_if_damaged(damaged):
                    chunk = content.read(_CHUNK_BYTES)
                if not chunk:
                    break
                written += file.write(chunk)
    if written != member.size:
        raise _RefusedError(
            f"it is damaged: its member {_shown(member.name)} has not the {member.size:,} bytes "
            "that it declares"
        )


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
        raise _RefusedError(f"its member {_shown(name)} {reason}")
    return parts


def _shown(name: str) -> str:
    """An untrusted name, quoted for a message."""
    return repr(name if len(name) <= 100 else f"{name[:100]}…")


def _too_large(max_bytes: int) -> _RefusedError:
    return _RefusedError(f"it holds more than the {max_bytes:,} bytes that are allowed")


# Exceptions that the archive readers raise on damaged and hostile files.
_DAMAGE = (
    OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tarfile.TarError,
    struct.error, NotImplementedError, RuntimeError, ValueError, OverflowError, MemoryError,
)  # fmt: skip


@contextmanager
def _refused_if_damaged(what: str = "it is damaged") -> Iterator[None]:
    """Turn an archive reader's exception into :class:`_RefusedError`."""
    try:
        yield
    except _DAMAGE as error:
        raise _RefusedError(f"{what}: {first_line(error)}") from error


def _members(file: IO[bytes]) -> Iterator[_Member]:
    with _refused_if_damaged():
        magic = file.read(6)
        file.seek(0)
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_members(file)
        else:
            yield from _tar_members(_Limited(_uncompressed(file, magic)))


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    archive, announced = zipfile.ZipFile(file), _announced_members(file)
    members = archive.infolist()
    if announced not in (len(members), len(members) % 2**16):  # some writers count modulo 65,536
        raise _RefusedError(f"it is damaged: it lists {len(members):,} of {announced:,} members")
    for member in members:
        # zipfile cuts its own name at a zero byte.
        name = member.orig_filename
        if member.flag_bits & 0x2041:  # encryption, strong encryption, masked headers
            raise _RefusedError(f"its member {_shown(name)} is encrypted")
        kind = stat.S_IFMT(member.external_attr >> 16) or stat.S_IFREG
        if name.endswith("/") and kind == stat.S_IFREG:
            kind = stat.S_IFDIR
        yield _Member(name, kind, member.file_size, partial(archive.open, member))


def _announced_members(file: IO[bytes]) -> int:
    """Number of members in the end record of a zip.

    zipfile does not check it, and a damaged length in the directory can hide later members.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2**16 - 22 - 76))  # a comment, the end record, those of zip64
    tail = file.read()
    end = tail.rindex(b"PK\x05\x06")
    large = end - 76
    if large >= 0 and tail[large:].startswith(b"PK\x06\x06"):
        return int(struct.unpack_from("<Q", tail, large + 32)[0])
    return int(struct.unpack_from("<H", tail, end + 10)[0])


def _uncompressed(file: IO[bytes], magic: bytes) -> SupportsRead[bytes]:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return lzma.LZMAFile(file) if magic.startswith(b"\xfd7zXZ") else file


class _Limited:
    """An uncompressed tar archive of which at most ``left`` more bytes are read.

    tarfile would read a name of a terabyte into memory.
    """

    def __init__(self, file: SupportsRead[bytes]) -> None:
        self.file = file
        self.left = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        content: bytes = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise _RefusedError("it is damaged: it has more than its headers declare")
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


def _tar_members(file: _Limited) -> Iterator[_Member]:
    file.left = _MAX_HEADER_BYTES
    with _refused_if_damaged("it is neither a zip nor a tar archive, or damaged"):
        archive = tarfile.open(  # noqa: SIM115 - it has nothing to close
            fileobj=file,  # type: ignore[call-overload]
            mode="r|", tarinfo=_Header, encoding="utf-8",
        )  # fmt: skip
    while (member := archive.next()) is not None:
        # tarfile would keep all members in memory.
        archive.members.clear()
        link = member.islnk() or member.issym()
        kind = stat.S_IFDIR if member.isdir() else stat.S_IFLNK if link else 0
        if member.type in tarfile.REGULAR_TYPES and not member.issparse():
            kind = stat.S_IFREG
        size = member.size if kind == stat.S_IFREG else 0
        file.left = size + tarfile.RECORDSIZE  # which tarfile reads at once
        yield _Member(member.name, kind, size, partial(archive.extractfile, member))
        file.left = _MAX_HEADER_BYTES
    # Read on to the checksum of the compression, after the end.
    file.left = _MAX_PADDING_BYTES
    while file.read(_CHUNK_BYTES):
        pass
