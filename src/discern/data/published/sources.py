"""Finding a published data set: in a folder, on the system, from a mirror, or as the sample."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from discern.data.published.download import DownloadError, download
from discern.data.published.idx import idx_sha256, read_idx
from discern.data.published.publication import DIMENSIONS, Publication
from discern.data.stamps import version_of
from discern.errors import DiscernError

log = logging.getLogger(__name__)

Source = Literal["auto", "full", "sample"]
"""The setting ``data.source``: whichever can be had, the published files, or the sample."""


def parse_source(source: str) -> Source:
    """``source`` as a known source.

    Raises:
        DiscernError: it is none.
    """
    if source not in get_args(Source):
        raise DiscernError(
            f"data.source={source} is not known: use {', '.join(get_args(Source)[:-1])} or "
            f"{get_args(Source)[-1]}."
        )
    return cast(Source, source)


def find_files(publication: Publication, folder: Path) -> dict[str, Path] | None:
    """The four files, by published name, in the first place that has them all, or None.

    The places are those under ``folder``, the setting ``data.dir``, and then the system's.

    Raises:
        DiscernError: ``folder`` is there and cannot be looked into.
    """
    try:
        if folder.exists():
            os.listdir(folder)  # noqa: PTH208 - fails where the folder is a file or is closed
        for place in (_own_folder(publication, folder), folder, *publication.system_folders):
            files = _files_in(place)
            if len(files) == len(DIMENSIONS):
                return files
    except OSError as error:
        raise DiscernError(
            f"data.dir={folder} cannot be read as a folder: {error.strerror or error}."
        ) from error
    return None


def obtain(publication: Publication, folder: Path, source: Source, sample: bool) -> None:
    """Download what is missing of ``publication`` into ``folder``, unless the sample is asked for.

    Where that is impossible, one line in the log says that the sample takes its place, if the
    source is ``auto`` and there is a ``sample``.

    Raises:
        DiscernError: the files cannot be had and nothing may take their place.
    """
    if source == "sample" or find_files(publication, folder) is not None:
        return
    own = _own_folder(publication, folder)
    present = _files_in(own)
    try:
        download(publication, [name for name in DIMENSIONS if name not in present], own)
    except DownloadError as error:
        if source == "full" or not sample:
            raise DiscernError(
                f"{publication.title} is not in {folder} and cannot be downloaded ({error}): "
                f"{publication.advice}."
            ) from error
        log.debug("The download failed: %s.", error)
        log.warning(
            "%s is not in %s and cannot be downloaded: its packaged sample is used.",
            publication.title,
            folder,
        )


def read_files(publication: Publication, files: Mapping[str, Path]) -> dict[str, NDArray[np.uint8]]:
    """The array in each of ``files``, by published name; the arrays are shared, not to be changed.

    Raises:
        DiscernError: a file cannot be read or is not as published.
    """
    with ThreadPoolExecutor(len(files)) as pool:
        contents = dict(zip(files, pool.map(_read, files.values(), files), strict=True))
    for name, (_, found) in contents.items():
        expected = publication.sha256[name]
        if found != expected:
            raise DiscernError(
                f"{files[name]} is not the {publication.title} file of that name: its SHA-256 "
                f"starts with {found[:12]} instead of {expected[:12]}."
            )
    return {name: array for name, (array, _) in contents.items()}


def _own_folder(publication: Publication, folder: Path) -> Path:
    """Where torchvision keeps a data set under the folder it is given."""
    return folder / publication.folder / "raw"


def _files_in(folder: Path) -> dict[str, Path]:
    """The published files that lie in ``folder``, uncompressed where there is a choice."""
    found = {}
    for name in DIMENSIONS:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                found[name] = path
                break
    return found


def _read(path: Path, name: str) -> tuple[NDArray[np.uint8], str]:
    """Array in the file at ``path`` and the SHA-256 of the file, uncompressed."""
    try:
        version = version_of(path)
    except OSError as error:
        raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _read_version(path.resolve(), version, DIMENSIONS[name])


# Runs of one process, such as the jobs of a sweep, share the arrays of both data sets.
@lru_cache(maxsize=8)
def _read_version(path: Path, version: Hashable, dimensions: int) -> tuple[NDArray[np.uint8], str]:
    """As ``_read``, for one version of the file."""
    array = read_idx(path, dimensions)
    return array, idx_sha256(array)
