"""Fetching an archive from a publisher and unpacking it, where either may be hostile or broken off.

A download that was broken off goes on where it ended, and only a whole file whose digest is right
gets its name. An archive is unpacked whole or not at all, and never outside its folder.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import http.client
import json
import logging
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from discern.errors import DiscernError, first_line
from discern.files.writing import write_whole
from discern.redaction import PLACEHOLDER, redacted_setting

log = logging.getLogger(__name__)

MAX_MEMBERS = 5_000_000
"""How many files and folders an archive may hold; ImageNet has 1.3 million."""

_STALL_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16
_MAX_DEPTH = 100
_MAX_HEADER_BYTES = 1 << 16
_MAX_PADDING_BYTES = 1 << 22


def fetch(url: str, path: Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Bring the file at ``url`` to ``path``, where nothing is done if it is there already.

    Until it is whole it is called ``NAME.part``, and a later call goes on where this one ended if
    the server still has the same version. Of processes that ask for the same file one downloads
    it and the others wait.

    Args:
        url: an address that urllib opens: ``https://``, ``http://``, ``file://``.
        path: where the file shall be; missing folders are made.
        sha256: hex digest that the file must have.
        md5: hex digest that the file must have.

    Without a digest, the SHA-256 that the file has at first is written to ``NAME.sha256``, as
    ``sha256sum`` does, and the file must have it ever after.

    Returns:
        ``path``.

    Raises:
        DiscernError: the file cannot be had or written, or its digest is wrong.
    """
    given = {"sha256": sha256, "md5": md5}
    digests = {name: digest.lower() for name, digest in given.items() if digest is not None}
    try:
        if not _is_present(path, digests):
            with _alone(path):
                if not _is_present(path, digests):
                    _download(url, path, digests)
    except OSError as error:
        raise DiscernError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


@contextmanager
def advising(path: Path, missing: str, advice: str) -> Iterator[None]:
    """Say what can be done where :func:`fetch` cannot have ``path``; one that is wrong says so.

    Args:
        path: the file that is fetched.
        missing: what is not there, as the beginning of a sentence.
        advice: what a user without it can do, as the end of one.
    """
    try:
        yield
    except DiscernError as error:
        if path.exists():
            raise
        raise DiscernError(f"{missing}, and {str(error).rstrip('.')}: {advice}.") from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from making ``path`` at the same time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("Waiting for another process, which is making %s.", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# Digests


def _is_present(path: Path, digests: Mapping[str, str]) -> bool:
    """Whether the file is there; DiscernError if it is another than expected."""
    if not path.exists():
        return False
    if not path.is_file():
        raise DiscernError(f"{path} is not a file; it must be an archive, or not be there.")
    expected = digests or _recorded(path)
    try:
        wrong = _difference(path, expected)
        found = None if expected else _digest(path, "sha256")
    except OSError as error:
        raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
    if wrong:
        record = "" if digests else f", or {_record(path).name} beside it if the change is meant"
        raise DiscernError(
            f"{path} is not the file expected: its {wrong}; delete it to have it downloaded again"
            f"{record}."
        )
    if found is not None:
        with suppress(OSError):  # the folder may be someone else's, and read-only
            _write_record(path, found)
    return True


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()


def _difference(path: Path, expected: Mapping[str, str]) -> str:
    """How the file's digests differ from those expected, in words; empty if they do not."""
    for name, digest in expected.items():
        found = _digest(path, name)
        if found != digest:
            title = {"sha256": "SHA-256", "md5": "MD5"}[name]
            return f"{title} starts with {found[:12]} instead of {digest[:12]}"
    return ""


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_record(path: Path, digest: str) -> None:
    with write_whole(_record(path)) as file:
        file.write(f"{digest}  {path.name}\n")


def _recorded(path: Path) -> dict[str, str]:
    """The digest that was recorded for the file, by its name; nothing if none was."""
    record = _record(path)
    if not record.exists():
        return {}
    try:
        digest = record.read_bytes().split(maxsplit=1)[:1]
    except OSError as error:
        raise DiscernError(f"{record} cannot be read: {error.strerror or error}.") from error
    # sha256sum puts a backslash before a line whose file name it had to escape.
    match = re.fullmatch(rb"\\?([0-9a-fA-F]{64})", digest[0] if digest else b"")
    if match is None:
        raise DiscernError(
            f"{record} is not a SHA-256 as sha256sum writes it; delete it to have it written anew."
        )
    return {"sha256": match[1].decode().lower()}


# Downloading


@dataclass(frozen=True)
class _Version:
    """The version of a file that a download was begun with, as the server told it.

    Attributes:
        url: its address, without what may be secret and differs from one download to the next.
        total: its size in bytes.
        etag: its ETag.
        modified: its Last-Modified.
    """

    url: str
    total: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may hold: a weak ETag does not say that the bytes are the same."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


@dataclass(frozen=True)
class _Download:
    """A file that is being fetched.

    Attributes:
        url: where from.
        path: where to.
        expected: its digests by name; there may be none.
    """

    url: str
    path: Path
    expected: Mapping[str, str]

    @property
    def part(self) -> Path:
        """What has come of the file so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def sidecar(self) -> Path:
        """Which version of the file ``part`` is of."""
        return self.path.with_name(f"{self.path.name}.part.json")

    def begun(self) -> _Version | None:
        """The version that ``part`` is the beginning of, if the download can go on from there.

        Where the server gives nothing to tell versions apart, only a digest tells whether two
        halves belong together.
        """
        try:
            version = _Version(**json.loads(self.sidecar.read_text("utf-8")))
            size = self.part.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return None
        told = version.validator is not None or bool(self.expected)
        same = version.url == redacted_setting(self.url) and told
        return version if same and version.total and 0 < size <= version.total else None

    def get(self, begun: _Version | None) -> None:
        """Download the rest of the version that was begun, or the whole."""
        offset = 0 if begun is None else self.part.stat().st_size
        with _opened_url(self.url, begun, offset) as response:
            status = getattr(response, "status", None)  # file:// has none
            if status in (200, None):
                return self._save(response, self._start(response), 0)
            if begun is None:
                raise DiscernError(f"{self.url} cannot be downloaded: HTTP status {status}.")
            if status == 206 and _continues(response.headers, begun, offset):
                return self._save(response, begun, offset)
        return self.get(None)

    def _start(self, response: Any) -> _Version:
        """Begin ``part`` anew, with the version that the response is of."""
        chunked = getattr(response, "chunked", False)
        version = _version(self.url, response.headers, chunked)
        if version.total is None and not chunked and not self.expected:
            raise DiscernError(
                f"{self.url} cannot be downloaded: the server does not say how long it is, so that "
                f"its end cannot be told from a broken connection; put the file at {self.path}."
            )
        # In this order a part is never taken for the beginning of a version that it is not of.
        self.part.open("wb").close()
        with write_whole(self.sidecar) as file:
            json.dump(asdict(version), file)
        return version

    def _save(self, response: Any, version: _Version, offset: int) -> None:
        """Append the response's body to the ``offset`` bytes that are there."""
        size, total = offset, version.total
        bar: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": None}
        with (
            self.part.open("ab") as file,
            tqdm(desc=self.path.name, total=total, initial=offset, **bar) as progress,
        ):
            for chunk in _body(response, self.url):
                file.write(chunk)
                size += len(chunk)
                progress.update(len(chunk))
        if total is not None and size != total:
            raise DiscernError(
                f"{self.url} cannot be downloaded: the connection was closed after {size:,} of "
                f"{total:,} bytes; try again."
            )


def _download(url: str, path: Path, digests: Mapping[str, str]) -> None:
    """Make the file at ``path``, and the record of its digest where it has none."""
    if PLACEHOLDER in url:
        raise DiscernError(
            f"{url} cannot be downloaded: an address is kept without its secrets; type all of it "
            "again, as data.url=URL."
        )
    download = _Download(url, path, digests or _recorded(path))
    part, begun = download.part, download.begun()
    if begun is None or part.stat().st_size != begun.total:
        download.get(begun)
    wrong = _difference(part, download.expected)
    if wrong:
        part.unlink()
        download.sidecar.unlink(missing_ok=True)
        record = "" if digests else f", or delete {_record(path)} if the change is meant"
        raise DiscernError(
            f"{url} is not the file expected: its {wrong}; the download was removed, try again"
            f"{record}."
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    if not download.expected:
        _write_record(path, _digest(part, "sha256"))
    part.replace(path)
    download.sidecar.unlink(missing_ok=True)


def _opened_url(url: str, begun: _Version | None, offset: int) -> Any:
    """The server's response to a request for the rest of the version begun, or for the whole."""
    headers = {}
    if begun is not None:
        headers["Range"] = f"bytes={offset}-"
        if begun.validator is not None:
            headers["If-Range"] = begun.validator
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=_STALL_SECONDS)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # 416: the file has become so short that it has no such rest
        if isinstance(error, urllib.error.HTTPError) and error.code == 416 and begun is not None:
            return error
        raise DiscernError(f"{url} cannot be downloaded: {_reason(error)}.") from error


def _version(url: str, headers: Mapping[str, str], chunked: bool) -> _Version:
    def header(name: str) -> str | None:
        # What could not be sent back as a header is no use.
        value = headers.get(name)
        return value if value and value.isprintable() else None

    length = None if chunked else header("Content-Length")
    total = int(length) if length is not None and length.isdecimal() else None
    return _Version(redacted_setting(url), total, header("ETag"), header("Last-Modified"))


def _continues(headers: Mapping[str, str], begun: _Version, offset: int) -> bool:
    """Whether a partial response is all the rest of the version that was begun."""
    assert begun.total is not None
    span = f"bytes {offset}-{begun.total - 1}/{begun.total}"
    same = all(
        old is None or headers.get(name) in (None, old)
        for name, old in (("ETag", begun.etag), ("Last-Modified", begun.modified))
    )
    return same and headers.get("Content-Range", "").strip() == span


def _body(response: Any, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DiscernError(f"{url} cannot be downloaded: {_reason(error)}.") from error
        if not chunk:
            return
        yield chunk


def _reason(error: Exception) -> str:
    """The cause of a failed request, in few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed half-way"
    if isinstance(cause, BaseException):
        return getattr(cause, "strerror", None) or first_line(cause)
    return str(cause)


# Extracting


class _UnfitError(Exception):
    """An archive is not to be extracted; the message says why, without a final full stop."""


@dataclass(frozen=True)
class _Member:
    """A file or folder in an archive.

    Attributes:
        name: its path, as the archive has it.
        size: of a file, in bytes, as the archive declares it; None for a folder.
        content: of a file, read as it is iterated.
    """

    name: str
    size: int | None
    content: Iterator[bytes]


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
            with _alone(target):
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
            _write(_members(file, max_bytes), temporary, max_bytes)
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


def _members(file: IO[bytes], max_bytes: int) -> Iterator[_Member]:
    with _telling("it is damaged"):
        magic = file.read(6)
        file.seek(0)
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_members(file, max_bytes)
    return _tar_members(_Stream(_uncompressed(file, magic), max_bytes))


def _uncompressed(file: IO[bytes], magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    return file


def _write(members: Iterator[_Member], folder: Path, max_bytes: int) -> None:
    """Write the members into the empty ``folder``."""
    left, number = max_bytes, 0
    for number, member in enumerate(members, 1):
        if number > MAX_MEMBERS:
            raise _UnfitError(f"it has more than {MAX_MEMBERS:,} members")
        left -= member.size or 0
        if left < 0:
            raise _too_large(max_bytes)
        path = folder.joinpath(*_parts(member.name))
        try:
            if member.size is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_file(path, member, member.size)
        # Also where two names differ, but are one to the file system.
        except (FileExistsError, NotADirectoryError) as error:
            raise _UnfitError(
                f"its member {_shown(member.name)} would overwrite another"
            ) from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _UnfitError(
                    f"its member {_shown(member.name)} has too long a name"
                ) from error
            raise
    if not number:
        raise _UnfitError("it holds nothing")


def _write_file(path: Path, member: _Member, size: int) -> None:
    """Write a new file, of no more bytes than declared, whatever the archive holds."""
    written = 0
    with path.open("xb") as file:
        for chunk in member.content:
            written += len(chunk)
            if written > size:
                break
            file.write(chunk)
    if written != size:
        raise _UnfitError(
            f"it is damaged: its member {_shown(member.name)} has not the {size:,} bytes that it "
            "declares"
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
def _telling(what: str) -> Iterator[None]:
    """Turn what a reader of archives raises into :class:`_UnfitError`."""
    try:
        yield
    except _DAMAGE as error:
        raise _UnfitError(f"{what}: {first_line(error)}") from error


def _zip_members(file: IO[bytes], max_bytes: int) -> Iterator[_Member]:
    with _telling("it is damaged"):
        archive = zipfile.ZipFile(file)
        announced = _announced_members(file)
    members = archive.infolist()
    if announced not in (len(members), len(members) % 2**16):  # some writers count no further
        raise _UnfitError(f"it is damaged: it lists {len(members):,} of {announced:,} members")
    if len(members) > MAX_MEMBERS:
        raise _UnfitError(f"it has more than {MAX_MEMBERS:,} members")
    if sum(member.file_size for member in members) > max_bytes:
        raise _too_large(max_bytes)
    for member in members:
        # zipfile cuts its own name at a zero byte.
        name = member.orig_filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise _UnfitError(f"its member {_shown(name)} is a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _UnfitError(f"its member {_shown(name)} is neither a file nor a folder")
        if member.flag_bits & 0x2041:  # encryption, strong encryption, masked headers
            raise _UnfitError(f"its member {_shown(name)} is encrypted")
        size = None if name.endswith("/") else member.file_size
        yield _Member(name, size, _zip_content(archive, member))


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


def _zip_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of a member; zipfile compares their CRC at their end."""
    damaged = f"it is damaged in its member {_shown(member.orig_filename)}"
    with _telling(damaged):
        content = archive.open(member)
    with content:
        while True:
            with _telling(damaged):
                chunk = content.read(_CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


class _Stream:
    """A tar archive, uncompressed, read from its beginning to its end, never back.

    tarfile believes a header that says that the next header has a terabyte, or starts a kilobyte
    before; this does not let it.

    Args:
        file: gives the bytes.
        max_bytes: what all files together may have; ``limit`` is that and what goes with them.
    """

    def __init__(self, file: Any, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._position = 0
        self.limit = max_bytes + _MAX_HEADER_BYTES
        self.last_header = b""

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, which are a header's, or fewer at the end."""
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise _UnfitError("it is damaged: it has a header of an impossible size")
        self.last_header = self.take(size)
        return self.last_header

    def seek(self, position: int) -> None:
        """Read on to ``position``."""
        if position < self._position:
            raise _UnfitError("it is damaged: it has a header of an impossible size")
        while self._position < position:
            if not self.take(min(_CHUNK_BYTES, position - self._position)):
                raise _UnfitError("it is damaged: it ends too early")

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes, or fewer at the end."""
        with _telling("it is damaged"):
            content: bytes = self._file.read(size)
        self._position += len(content)
        if self._position > self.limit:
            raise _too_large(self._max_bytes)
        return content


def _tar_members(stream: _Stream) -> Iterator[_Member]:
    with _telling("it is neither a zip nor a tar archive, or damaged"):
        archive = tarfile.TarFile(fileobj=stream, encoding="utf-8")  # type: ignore[arg-type]
    while True:
        with _telling("it is damaged"):
            member = archive.next()
        if member is None:
            break
        # tarfile would keep all members in memory, and start again from them.
        archive.members.clear()  # type: ignore[attr-defined]
        stream.limit += _MAX_HEADER_BYTES
        name = member.name
        if member.islnk() or member.issym():
            raise _UnfitError(f"its member {_shown(name)} is a link")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise _UnfitError(f"its member {_shown(name)} is neither a file nor a folder")
        if member.size < 0:
            raise _UnfitError(f"it is damaged: its member {_shown(name)} has a negative size")
        size = member.size if member.isreg() else None
        yield _Member(name, size, _tar_content(stream, member))
    # tarfile takes a header that it cannot read for the end, which is a block of zeros.
    if stream.last_header != bytes(tarfile.BLOCKSIZE):
        raise _UnfitError("it is damaged: it has no end, or a wrong header")
    # What was compressed has its checksum behind the end.
    stream.limit += _MAX_PADDING_BYTES
    while stream.take(_CHUNK_BYTES):
        pass


def _tar_content(stream: _Stream, member: tarfile.TarInfo) -> Iterator[bytes]:
    left = member.size
    while left and (chunk := stream.take(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk
