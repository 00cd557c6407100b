"""CIFAR-10 and CIFAR-100, in the form that torchvision downloads."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import datasets

from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.published.publication import fetch_folder, published_bytes
from discern.data.published.wanted import cifar_advice
from discern.data.stamps import version_of
from discern.errors import DiscernError, file_errors
from discern.files.places import expanded

SHAPE = (3, 32, 32)
"""Channels, height and width of an image; the channels are red, green and blue."""

# Each archive holds 186 MB.
_MAX_BYTES = 250_000_000

_Part = dict[str, Any]
"""An array ``data``, lists of numbers and lists of names."""

Published = type[datasets.CIFAR10]
"""torchvision's facts on a data set: its address, its files and their MD5."""


class CIFAR10(InMemoryDataModule):
    """Photographs of 10 kinds of things: 50,000 for training, 10,000 for test, 3 x 32 x 32.

    ``dir`` is searched for torchvision's folder, for the files themselves, and for their archive;
    else the archive is downloaded to it. The class names are read from the files in ``setup``.

    Args:
        dir: folder of data sets.
        options: see ``InMemoryDataModule``.
    """

    full_name: ClassVar[str] = "CIFAR-10"
    published: ClassVar[Published] = datasets.CIFAR10
    input_shape = SHAPE

    def __init__(
        self,
        *,
        dir: str | Path = "data",  # noqa: A002 - it is the name of the setting
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.dir = expanded(dir)

    def prepare_data(self) -> None:
        """Download and unpack what is needed and missing.

        Raises:
            DiscernError: it is needed and cannot be downloaded.
        """
        published = self.published
        if _find(published, self.dir) is not None:
            return
        folder, archive = self.dir / published.base_folder, self.dir / published.filename
        if folder.exists():
            missing = [name for name in _files(published) if not (folder / name).is_file()]
            raise DiscernError(
                f"{folder} is not complete, it has no {missing[0]}: delete it to have it made anew."
            )
        fetch_folder(
            published.url, archive, folder, max_bytes=_MAX_BYTES,
            missing=f"{self.full_name} is not in {self.dir}", advice=self._advice(),
            md5=published.tgz_md5,
        )  # fmt: skip

    def load_images(self) -> LoadedImages:
        """Read the files.

        Raises:
            DiscernError: they are missing or not as published.
        """
        folder = _find(self.published, self.dir)
        if folder is None:
            raise DiscernError(f"{self.full_name} is not in {self.dir}: {self._advice()}.")
        with file_errors(f"{folder} cannot be read"):
            versions = tuple(version_of(folder / name) for name in _files(self.published))
        arrays, digests, names = _read(
            self.published,  # type: ignore[arg-type]
            folder.resolve(), versions,
        )  # fmt: skip
        self.class_names = list(names)
        train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
        return LoadedImages(
            title=self.full_name,
            source_used="full",
            digests=digests,
            train_images=train_images,
            train_labels=train_labels.long(),
            test_images=test_images,
            test_labels=test_labels.long(),
        )

    def _advice(self) -> str:
        """The end of a sentence on what a user without the files can do."""
        return cifar_advice(self.published.base_folder, self.published.filename)


class CIFAR100(CIFAR10):
    """Photographs of 100 kinds of things, the fine labels, in the format of CIFAR-10."""

    full_name = "CIFAR-100"
    published = datasets.CIFAR100


def _files(published: Published) -> dict[str, str]:
    """Name -> MD5 of each file."""
    images = dict((*published.train_list, *published.test_list))
    return {**images, published.meta["filename"]: published.meta["md5"]}


def _find(published: Published, folder: Path) -> Path | None:
    """The first folder that has all files; None if there is none.

    Raises:
        DiscernError: ``folder``, the setting ``data.dir``, cannot be read.
    """
    with file_errors(f"data.dir={folder} cannot be read as a folder"):
        if folder.exists():
            os.listdir(folder)  # noqa: PTH208 - fails where the folder is a file or is closed
        for place in (folder / published.base_folder, folder):
            if all((place / name).is_file() for name in _files(published)):
                return place
    return None


# Runs of one process, such as the jobs of a sweep, share the arrays of both data sets.
@lru_cache(maxsize=2)
def _read(
    published: Published, folder: Path, versions: tuple[Hashable, ...]
) -> tuple[tuple[NDArray[np.uint8], ...], tuple[str, ...], tuple[str, ...]]:
    """Images (N, 3, 32, 32) and labels (N,) of training and test, all uint8 and not to be changed,
    the hex SHA-256 of each array, and the names of the classes.

    Args:
        published: the data set.
        folder: of its files.
        versions: of its files.

    Raises:
        DiscernError: a file cannot be read or is not as published.
    """
    train, test = (
        _joined([_content(folder / name, md5) for name, md5 in files])
        for files in (published.train_list, published.test_list)
    )
    arrays = (*train, *test)
    digests = tuple(hashlib.sha256(array.data).hexdigest() for array in arrays)
    about = _content(folder / published.meta["filename"], published.meta["md5"])
    return arrays, digests, tuple(about[published.meta["key"]])


def _joined(parts: Sequence[_Part]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, *SHAPE)
    key = "labels" if "labels" in parts[0] else "fine_labels"
    return images, np.concatenate([np.array(part[key], np.uint8) for part in parts])


def _content(path: Path, md5: str) -> _Part:
    """The content of a file, a pickle of Python 2; only the published file is unpickled."""
    unpickled: _Part = pickle.loads(published_bytes(path, md5), encoding="latin1")
    return unpickled
