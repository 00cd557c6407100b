"""Downloading a published file, whose publisher may be hostile and whose connection may break.

A download that was broken off goes on where it ended, and only a whole file whose digest is right
gets its name.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from discern.errors import DiscernError, file_errors, first_line
from discern.files.writing import write_whole
from discern.redaction import PLACEHOLDER, redacted_setting

log = logging.getLogger(__name__)

PROBE_SECONDS = 4.0
"""How long mirrors, asked all at once, have to answer at all."""

MAX_BYTES = 1 << 34
"""How long a file may be whose length the server does not tell."""

_STALL_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16


class DownloadError(DiscernError):
    """A publisher does not give a file, or gives another one."""


def fetch(url: str, path: Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Bring the file at ``url`` to ``path``, where nothing is done if it is there already.

    Until it is whole it is called ``NAME.part``, and a later call goes on where this one ended if
    the server still has the same version. Of processes that ask for the same file one downloads
    it and the others wait.

    Args:
        url: an address that urllib opens: ``https://``, ``http://``, ``file://``.
        path: where the file shall be; missing folders are made.
        sha256: hex digest that the file must have, or how it begins.
        md5: hex digest that the file must have.

    Without a digest, the SHA-256 that the file has at first is written to ``NAME.sha256``, as
    ``sha256sum`` does, and the file must have it ever after.

    Returns:
        ``path``.

    Raises:
        DownloadError: the file cannot be had, or another one is given.
        DiscernError: it cannot be written, or another one is there.
    """
    given = {"sha256": sha256, "md5": md5}
    digests = {name: digest.lower() for name, digest in given.items() if digest is not None}
    with file_errors(f"{path} cannot be written"):
        if not _is_present(path, digests):
            with alone(path):
                if not _is_present(path, digests):
                    _download(url, path, digests)
    return path


def fetch_any(urls: Sequence[str], path: Path, **digests: str) -> None:
    """As :func:`fetch`, from the first of some addresses that gives the file.

    Raises:
        DownloadError: none does.
        DiscernError: it cannot be written, or another one is there.
    """
    reasons = []
    for url in urls:
        try:
            fetch(url, path, **digests)
        except DownloadError as error:
            reasons.append(str(error).rstrip("."))
        else:
            return
    raise DownloadError("; ".join(reasons))


def answering_mirrors(mirrors: Sequence[str], name: str) -> list[str]:
    """Those mirrors, in the order given, that say they have the file ``name``.

    Raises:
        DownloadError: none says so within ``PROBE_SECONDS``.
    """
    answers: dict[str, str | None] = {}

    def ask(mirror: str) -> None:
        try:
            request = urllib.request.Request(mirror + name, method="HEAD")
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answers[mirror] = None
        except (OSError, http.client.HTTPException) as error:
            answers[mirror] = _reason(error)

    # Daemon threads, because looking up a host's name can block past any timeout, and must then
    # keep neither this function nor the interpreter from ending.
    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reasons = {mirror: answers.get(mirror, "no answer") for mirror in mirrors}
    answering = [mirror for mirror, reason in reasons.items() if reason is None]
    if not answering:
        raise DownloadError("; ".join(f"{mirror}: {reason}" for mirror, reason in reasons.items()))
    return answering


@contextmanager
def alone(path: Path) -> Iterator[None]:
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
    with file_errors(f"{path} cannot be read"):
        wrong = _difference(path, expected)
        found = None if expected else _digest(path, "sha256")
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
        if not found.startswith(digest):
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
    with file_errors(f"{record} cannot be read"):
        digest = record.read_bytes().split(maxsplit=1)[:1]
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
                raise DownloadError(f"{self.url} cannot be downloaded: HTTP status {status}.")
            if status == 206 and _continues(response.headers, begun, offset):
                return self._save(response, begun, offset)
        return self.get(None)

    def _start(self, response: Any) -> _Version:
        """Begin ``part`` anew, with the version that the response is of."""
        chunked = getattr(response, "chunked", False)
        version = _version(self.url, response.headers, chunked)
        if version.total is None and not chunked and not self.expected:
            raise DownloadError(
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
                if total is None and size > MAX_BYTES:
                    raise DownloadError(f"{self.url} cannot be downloaded: it has no end.")
                progress.update(len(chunk))
        if total is not None and size != total:
            raise DownloadError(
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
        raise DownloadError(
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
        raise DownloadError(f"{url} cannot be downloaded: {_reason(error)}.") from error


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
            raise DownloadError(f"{url} cannot be downloaded: {_reason(error)}.") from error
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
