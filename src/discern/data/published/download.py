"""Downloading published files, each checked before it is given its name."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from discern.data.published.idx import idx_header, idx_sha256, parse_idx
from discern.data.published.publication import DIMENSIONS, Publication
from discern.errors import DiscernError

PROBE_SECONDS = 4.0
"""How long the mirrors, asked all at once, have to answer at all."""

STALE_SECONDS = 600.0
"""Age at which a temporary file is taken for one that a killed run left behind."""

_STALL_SECONDS = 10.0
_CHUNK_BYTES = 1 << 16
# The largest file, training images, is 47 MB uncompressed.
_MAX_DOWNLOAD_BYTES = 64_000_000


class DownloadError(Exception):
    """No mirror gave a file; the message says why, without a final full stop."""


def download(publication: Publication, names: Sequence[str], folder: Path) -> None:
    """Bring the named files of ``publication`` into ``folder``, uncompressed.

    A file has its name only once it is whole and its digest is right. Nothing is tried twice.

    Raises:
        DownloadError: no mirror answers within ``PROBE_SECONDS``, or none gives a file that is
            right.
        DiscernError: the folder cannot be written to.
    """
    mirrors = answering_mirrors(publication.mirrors, f"{names[0]}.gz")
    for name in names:
        _store(_fetch(mirrors, name, publication.sha256[name]), folder / name)


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


def _fetch(mirrors: Sequence[str], name: str, sha256: str) -> NDArray[np.uint8]:
    """Array in the file ``name``, from the first mirror that gives it as published."""
    reasons = []
    for mirror in mirrors:
        url = f"{mirror}{name}.gz"
        try:
            body = _get(url, name)
            array = parse_idx(BytesIO(body), len(body), url, DIMENSIONS[name])
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {_reason(error)}")
            continue
        except DiscernError as error:
            reasons.append(str(error).rstrip("."))
            continue
        found = idx_sha256(array)
        if found == sha256:
            return array
        reasons.append(f"{url}: SHA-256 {found[:12]} instead of {sha256[:12]}")
    raise DownloadError("; ".join(reasons))


def _get(url: str, name: str) -> bytes:
    """Body at ``url``, with a progress bar on a terminal, cut off at ``_MAX_DOWNLOAD_BYTES``."""
    body = bytearray()
    with urllib.request.urlopen(url, timeout=_STALL_SECONDS) as response:
        total = response.length
        with tqdm(desc=name, total=total, unit="B", unit_scale=True, disable=None) as progress:
            while len(body) < _MAX_DOWNLOAD_BYTES and (chunk := response.read(_CHUNK_BYTES)):
                body += chunk
                progress.update(len(chunk))
    return bytes(body)


def _store(array: NDArray[np.uint8], path: Path) -> None:
    """Write the IDX file at ``path``, under a temporary name until it is whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(idx_header(array.shape))
                file.write(array.reshape(-1).data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DiscernError(
            f"{path} cannot be written: {error.strerror or error}; set data.dir or "
            "DISCERN_DATA_DIR to a folder that can."
        ) from error


def _remove_stale(folder: Path) -> None:
    """Remove temporary files too old to belong to another run that is downloading now."""
    for temporary in folder.glob(".*.part"):
        if time.time() - temporary.stat().st_mtime > STALE_SECONDS:
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The cause of a failed request, in few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
