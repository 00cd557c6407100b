"""Reading files of ``torch.save`` that others have written.

A child reads the file (:mod:`discern.files.pickles`), once: what it has written is kept in the
cache folder under the file's SHA-256.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import zlib
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discern.data.stamps import stamp_of, version_of
from discern.errors import DiscernError
from discern.files import pickles
from discern.files.derived import mark_used, remove
from discern.models import torch_file_folder as kept_files


def read(path: Path) -> Any:
    """What a file of ``torch.save`` holds: plain values, and dense tensors on the CPU.

    Of what ``torch.load(path, weights_only=True)`` gives it lacks what is of no use in a file of
    weights: bytes, devices and types are texts, counters and ordered dictionaries are dictionaries.

    Raises:
        DiscernError: the file is missing, damaged, or holds anything else.
    """
    with pickles.opened(path) as file:
        opened = os.fstat(file.fileno())
        digest = sha256_of(path)
        for kept in kept_files.converted(digest):
            with suppress(OSError, pickles.UnreadableError):
                if kept_files.is_named(kept, _checksum(kept)):
                    mark_used(kept)
                    return pickles.content_of(kept, path)
            remove(kept)
        with tempfile.TemporaryDirectory(dir=_place(), prefix=kept_files.BEGUN) as new:
            target = Path(new, "content")
            pickles.convert(file, path, target)
            if stamp_of(path.stat()) != stamp_of(opened):
                raise DiscernError(f"{path} changes while it is read; another process writes it.")
            return pickles.content_of(_keep(target, digest), path)


def _place() -> Path | None:
    """The cache folder, or None for the system's temporary folder if it cannot be written."""
    folder = kept_files.folder()
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def _keep(target: Path, digest: str) -> Path:
    """Move a converted file to the cache if possible; return its path."""
    named = target.with_name(kept_files.name(digest, _checksum(target)))
    target.rename(named)
    folder = target.parent.parent
    with suppress(OSError):
        if folder == kept_files.folder():
            named.rename(folder / named.name)
            kept_files.make_room(folder / named.name)
            return folder / named.name
    return named


def _checksum(path: Path) -> str:
    """The CRC-32 of a file: fast, and enough against accidental damage."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise a DiscernError that names the first of a file's weights that is not finite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DiscernError(f"{path} has weights that are not finite: {name[:100]}.")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; computed once as long as the file stays as it is.

    Raises:
        OSError: it cannot be read.
    """
    return _sha256_of(path.absolute(), version_of(path))


@functools.lru_cache(maxsize=64)
def _sha256_of(path: Path, _: Hashable) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_state(path: Path, state: Mapping[object, object]) -> None:
    """Raise a DiscernError where a state dict holds anything but tensors by their names."""
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise DiscernError(f"{path} is not a checkpoint: its state_dict holds more than tensors.")
