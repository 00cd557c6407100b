"""Downloading a published file from a server that may be hostile, over a connection that may break.

An interrupted download resumes. The file gets its name only once it is complete and its digest is
right.
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
import urllib.response
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path

from tqdm import tqdm

from discern.errors import DiscernError, file_errors, first_line
from discern.files.locks import locked_in_turn
from discern.files.writing import sync_folder, write_whole
from discern.redaction import PLACEHOLDER, redacted_setting

log = logging.getLogger(__name__)

PROBE_SECONDS = 4.0
"""Timeout for mirrors, which are all asked at once."""

MAX_BYTES = 1 << 34
"""Limit for a file whose length the server does not announce."""

_STALL_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16


Response = http.client.HTTPResponse | urllib.response.addinfourl
"""Of http and https; of file and of errors."""


class DownloadError(DiscernError):
    """A server does not provide a file, or provides another one."""


def fetch(url: str, path: Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Download the file at ``url`` to ``path``, unless it is there already.

    Until it is complete it is called ``NAME.part``, and a later call resumes it if the server still
    has the same version. If several processes want the same file, one downloads it and the others
    wait.

    Args:
        url: an address that urllib opens: ``https://``, ``http://``, ``file://``.
        path: of the file; missing folders are created.
        sha256: hex digest that the file must have, or its beginning.
        md5: hex digest that the file must have.

    Without a digest, the SHA-256 of the first download is written to ``NAME.sha256``, as
    ``sha256sum`` does, and later files must match it.

    Returns:
        ``path``.

    Raises:
        DownloadError: the file cannot be downloaded, or its digest is wrong.
        DiscernError: it cannot be written, or another file is there.
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
    """As :func:`fetch`, from the first of several addresses that provides the file.

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
    """The mirrors, in the order given, that have the file ``name``.

    Raises:
        DownloadError: none answers so within ``PROBE_SECONDS``.
    """
    reasons = unavailable([f"{mirror}{name}" for mirror in mirrors], PROBE_SECONDS)
    answering = [mirror for mirror in mirrors if f"{mirror}{name}" not in reasons]
    if not answering:
        raise DownloadError(
            "; ".join(f"{mirror}: {reasons[f'{mirror}{name}']}" for mirror in mirrors)
        )
    return answering


NO_ANSWER = "no answer"
"""Why a file is unavailable whose server has said nothing in time."""

REFUSED = "HTTP status"
"""Beginning of the reason where a server is there, and does not provide the file."""


WITHOUT_SECRETS = "an address is kept without its secrets; type all of it again, as data.url=URL"


def unavailable(urls: Sequence[str], seconds: float) -> dict[str, str]:
    """The addresses that do not provide their files, and why; they are asked at the same time.

    Args:
        urls: addresses that urllib opens.
        seconds: after which those that have not answered are given up.
    """
    answers: dict[str, str | None] = {}

    def ask(url: str) -> None:
        if PLACEHOLDER in url:
            answers[url] = WITHOUT_SECRETS
            return
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answers[url] = None
        except (OSError, http.client.HTTPException) as error:
            answers[url] = _reason(error)

    # Daemon threads, because looking up a host's name can block past any timeout, and must then
    # keep neither this function nor the interpreter from ending.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    reasons = {url: answers.get(url, NO_ANSWER) for url in urls}
    return {url: reason for url, reason in reasons.items() if reason is not None}


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock for creating ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    with locked_in_turn(path.with_name(f".{path.name}.lock"), f"is making {path}"):
        yield


# Digests


def _is_present(path: Path, digests: Mapping[str, str]) -> bool:
    """Whether the file is there; DiscernError if it is not the expected one."""
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
        with suppress(OSError):  # the folder may be read-only
            _write_record(path, found)
    return True


def _digest(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(name, usedforsecurity=False)
        ).hexdigest()


def _difference(path: Path, expected: Mapping[str, str]) -> str:
    """The difference between the file's digests and the expected ones, in words; empty if none."""
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
    """Name -> recorded digest of the file; empty if none is recorded."""
    record = _record(path)
    if not record.exists():
        return {}
    with file_errors(f"{record} cannot be read"):
        digest = record.read_bytes().split(maxsplit=1)[:1]
    # sha256sum puts a backslash before a line with an escaped file name.
    match = re.fullmatch(rb"\\?([0-9a-fA-F]{64})", digest[0] if digest else b"")
    if match is None:
        raise DiscernError(
            f"{record} is not a SHA-256 as sha256sum writes it; delete it to have it written anew."
        )
    return {"sha256": match[1].decode().lower()}


# Downloading


@dataclass(frozen=True)
class _Version:
    """The version of a file that a download began with, from the server's headers.

    Attributes:
        url: its address without secrets, which differ between downloads.
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
        """The value for ``If-Range``; a weak ETag does not guarantee the same bytes."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified


@dataclass(frozen=True)
class _Download:
    """A file being downloaded.

    Attributes:
        url: its address.
        path: of the complete file.
        expected: its digests by name, if any.
    """

    url: str
    path: Path
    expected: Mapping[str, str]

    @property
    def part(self) -> Path:
        """The bytes downloaded so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def sidecar(self) -> Path:
        """The version that ``part`` belongs to."""
        return self.path.with_name(f"{self.path.name}.part.json")

    def begun(self) -> _Version | None:
        """The version that ``part`` belongs to, if the download can be resumed.

        If the server does not identify versions, only a digest shows whether two halves match.
        """
        try:
            version = _Version(**json.loads(self.sidecar.read_text("utf-8")))
            size = self.part.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return None
        checkable = version.validator is not None or bool(self.expected)
        same = version.url == redacted_setting(self.url) and checkable
        return version if same and version.total and 0 < size <= version.total else None

    def get(self, begun: _Version | None) -> None:
        """Download the rest of the version begun, or the whole file."""
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

    def _start(self, response: Response) -> _Version:
        """Start ``part`` anew with the version of the response."""
        chunked = getattr(response, "chunked", False)
        version = _version(self.url, response.headers, chunked)
        if version.total is None and not chunked and not self.expected:
            raise DownloadError(
                f"{self.url} cannot be downloaded: the server does not announce its length, so "
                f"that its end looks like a broken connection; put the file at {self.path}."
            )
        # In this order ``part`` never belongs to another version than the sidecar.
        self.part.open("wb").close()
        with write_whole(self.sidecar) as file:
            json.dump(asdict(version), file)
        return version

    def _save(self, response: Response, version: _Version, offset: int) -> None:
        """Append the response's body to the ``offset`` bytes downloaded before."""
        size, total = offset, version.total
        with (
            self.part.open("ab") as file,
            tqdm(
                desc=self.path.name,
                total=total,
                initial=offset,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as progress,  # fmt: skip
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
    """Download the file, and record its digest if none is expected."""
    if PLACEHOLDER in url:
        raise DiscernError(f"{url} cannot be downloaded: {WITHOUT_SECRETS}.")
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
    sync_folder(path.parent)
    download.sidecar.unlink(missing_ok=True)


def _opened_url(url: str, begun: _Version | None, offset: int) -> Response:
    """The server's response to a request for the rest of the version begun, or for the whole."""
    headers = {}
    if begun is not None:
        headers["Range"] = f"bytes={offset}-"
        if begun.validator is not None:
            headers["If-Range"] = begun.validator
    try:
        request = urllib.request.Request(url, headers=headers)
        response: Response = urllib.request.urlopen(request, timeout=_STALL_SECONDS)
        return response
    except (OSError, http.client.HTTPException, ValueError) as error:
        # 416: the file has become shorter
        if isinstance(error, urllib.error.HTTPError) and error.code == 416 and begun is not None:
            return error
        raise DownloadError(f"{url} cannot be downloaded: {_reason(error)}.") from error


def _version(url: str, headers: Message, chunked: bool) -> _Version:
    def header(name: str) -> str | None:
        # Ignore what could not be sent back as a header.
        value = headers.get(name)
        return value if value and value.isprintable() else None

    length = None if chunked else header("Content-Length")
    total = int(length) if length is not None and length.isdecimal() else None
    return _Version(redacted_setting(url), total, header("ETag"), header("Last-Modified"))


def _continues(headers: Message, begun: _Version, offset: int) -> bool:
    """Whether a partial response is the whole rest of the version begun."""
    assert begun.total is not None
    span = f"bytes {offset}-{begun.total - 1}/{begun.total}"
    same = all(
        old is None or headers.get(name) in (None, old)
        for name, old in (("ETag", begun.etag), ("Last-Modified", begun.modified))
    )
    return same and headers.get("Content-Range", "").strip() == span


def _body(response: Response, url: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DownloadError(f"{url} cannot be downloaded: {_reason(error)}.") from error
        if not chunk:
            return
        yield chunk


def _reason(error: Exception) -> str:
    """The cause of a failed request, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"{REFUSED} {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed half-way"
    if isinstance(cause, BaseException):
        return getattr(cause, "strerror", None) or first_line(cause)
    return str(cause)
