"""A data set small enough to be published by a test."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

from discern.data.published.publication import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Publication,
)


def _images(count: int) -> bytes:
    return struct.pack(">4I", 2051, count, 28, 28) + bytes(i % 251 for i in range(count * 784))


def _labels(count: int) -> bytes:
    return struct.pack(">2I", 2049, count) + bytes(i % 10 for i in range(count))


CONTENTS = {
    TRAIN_IMAGES: _images(40),
    TRAIN_LABELS: _labels(40),
    TEST_IMAGES: _images(20),
    TEST_LABELS: _labels(20),
}


PACKED = {name: gzip.compress(data, mtime=0) for name, data in CONTENTS.items()}


def published(mirrors: tuple[str, ...] = (), system_folders: tuple[Path, ...] = ()) -> Publication:
    """The data set of ``CONTENTS``."""
    return Publication(
        title="Tiny",
        folder="Tiny",
        class_names=tuple("0123456789"),
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()},
        md5={name: hashlib.md5(data).hexdigest() for name, data in PACKED.items()},
        mirrors=mirrors,
        system_folders=system_folders,
        advice="do something",
    )


def put_files(folder: Path, *, compressed: bool = False) -> None:
    """Write the four files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in CONTENTS.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(PACKED[name])
        else:
            (folder / name).write_bytes(data)
