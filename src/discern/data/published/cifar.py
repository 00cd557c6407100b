"""CIFAR-10 and CIFAR-100, in the binary version or in the one that torchvision downloads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.published.fetch import advising, fetch
from discern.data.published.unpack import extract
from discern.data.stamps import version_of
from discern.errors import DiscernError, first_line
from discern.files import pickles
from discern.files.places import expanded

SHAPE = (3, 32, 32)
"""Channels, height and width of an image; the channels are red, green and blue."""

_PIXELS = 3 * 32 * 32
# Each binary version has 184 MB.
_MAX_BYTES = 250_000_000


@dataclass(frozen=True)
class Version:
    """One of the forms in which a data set is published: a folder of files.

    Attributes:
        folder: its name.
        train: names of the files of training images, in their order.
        test: name of the file of test images.
        names: name of the file of class names.
        md5: digest of each file in the order of ``files``, or nothing where none is published.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    md5: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return (*self.train, self.test, self.names)


@dataclass(frozen=True)
class Publication:
    """A data set of 3 x 32 x 32 images as its authors published it.

    Attributes:
        title: name for people.
        num_classes: number of classes.
        num_train: number of training images.
        num_test: number of test images.
        url: address of the archive of the binary version.
        md5: digest of that archive.
        binary: the binary version.
        label_bytes: how many bytes stand before an image there; the last is its label.
        python: the Python version.
        labels_key: where that has the labels.
        names_key: where that has the class names.
    """

    title: str
    num_classes: int
    num_train: int
    num_test: int
    url: str
    md5: str
    binary: Version
    label_bytes: int
    python: Version
    labels_key: bytes
    names_key: bytes

    @property
    def archive(self) -> str:
        """Name of the archive of the binary version."""
        return self.url.rpartition("/")[2]

    @property
    def advice(self) -> str:
        """What a user without the files can do, as the end of a sentence."""
        return (
            f"set data.dir or DISCERN_DATA_DIR to a folder that has {self.binary.folder}, "
            f"{self.python.folder} or {self.archive}, or connect to the network"
        )


CIFAR10_PUBLICATION = Publication(
    title="CIFAR-10",
    num_classes=10,
    num_train=50_000,
    num_test=10_000,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    binary=Version(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
    ),
    label_bytes=1,
    python=Version(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        names="batches.meta",
        md5=(
            "c99cafc152244af753f735de768cd75f",
            "d4bba439e000b95fd0a9bffe97cbabec",
            "54ebc095f3ab1f0389bbae665268c751",
            "634d18415352ddfa80567beed471001a",
            "482c414d41f54cd18b22e5b47cb7c3cb",
            "40351d587109b95175f43aff81a1287e",
            "5ff9c542aee3614f3951f8cda6e48888",
        ),
    ),
    labels_key=b"labels",
    names_key=b"label_names",
)

CIFAR100_PUBLICATION = Publication(
    title="CIFAR-100",
    num_classes=100,
    num_train=50_000,
    num_test=10_000,
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    binary=Version(
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
    ),
    label_bytes=2,
    python=Version(
        folder="cifar-100-python",
        train=("train",),
        test="test",
        names="meta",
        md5=(
            "16019d7e3df5f24257cddd939b257f8d",
            "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "7973b15100ade9c7d40fb424638fde48",
        ),
    ),
    labels_key=b"fine_labels",
    names_key=b"fine_label_names",
)


class CIFAR10(InMemoryDataModule):
    """Photographs of 10 kinds of things: 50,000 for training, 10,000 for test, 3 x 32 x 32.

    The files are looked for in ``dir``: the folder of the binary version, that of the Python
    version, which is torchvision's, either's files directly in it, or the archive of the binary
    version. Else that archive is downloaded to ``dir``. The class names are read from the files, so
    they are known after ``setup``.

    Args:
        dir: folder of data sets.
        options: see ``InMemoryDataModule``.
    """

    published: ClassVar[Publication] = CIFAR10_PUBLICATION
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
            DiscernError: it is needed and cannot be had.
        """
        published = self.published
        if _find(published, self.dir) is not None:
            return
        folder, archive = self.dir / published.binary.folder, self.dir / published.archive
        if folder.exists():
            missing = [name for name in published.binary.files if not (folder / name).is_file()]
            raise DiscernError(
                f"{folder} is not complete, it has no {missing[0]}: delete it to have it made anew."
            )
        with advising(archive, f"{published.title} is not in {self.dir}", published.advice):
            fetch(published.url, archive, md5=published.md5)
        extract(archive, folder, _MAX_BYTES, folder=folder.name)

    def load_images(self) -> LoadedImages:
        """Read the files.

        Raises:
            DiscernError: they are missing or not as published.
        """
        published = self.published
        found = _find(published, self.dir)
        if found is None:
            raise DiscernError(f"{published.title} is not in {self.dir}: {published.advice}.")
        contents = _read(published, *found)
        self.class_names = list(contents.class_names)
        train_images, train_labels, test_images, test_labels = map(
            torch.from_numpy, (*contents.train, *contents.test)
        )
        return LoadedImages(
            title=published.title,
            source_used="full",
            digests=contents.digests,
            train_images=train_images,
            train_labels=train_labels.long(),
            test_images=test_images,
            test_labels=test_labels.long(),
        )


class CIFAR100(CIFAR10):
    """Photographs of 100 kinds of things, the fine labels, in the format of CIFAR-10."""

    published = CIFAR100_PUBLICATION


def _find(published: Publication, folder: Path) -> tuple[Version, Path] | None:
    """The first version that is there whole, and its folder.

    Raises:
        DiscernError: ``folder``, the setting ``data.dir``, is there and cannot be looked into.
    """
    try:
        if folder.exists():
            os.listdir(folder)  # noqa: PTH208 - fails where the folder is a file or is closed
        for version in (published.binary, published.python):
            for place in (folder / version.folder, folder):
                if all((place / name).is_file() for name in version.files):
                    return version, place
    except OSError as error:
        raise DiscernError(
            f"data.dir={folder} cannot be read as a folder: {error.strerror or error}."
        ) from error
    return None


_Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class _Contents:
    """What all files of a data set hold.

    Attributes:
        train: images, uint8 (N, 3, 32, 32), and labels, uint8 (N,).
        test: the same of the test set.
        class_names: in the order of the labels.
        digests: hex SHA-256 of the four arrays.
    """

    train: _Part
    test: _Part
    class_names: tuple[str, ...]
    digests: tuple[str, ...]


def _read(published: Publication, version: Version, folder: Path) -> _Contents:
    """What the files of a version hold; the arrays are shared, not to be changed.

    Raises:
        DiscernError: a file cannot be read or is not as published.
    """
    versions = []
    for name in version.files:
        try:
            versions.append(version_of(folder / name))
        except OSError as error:
            raise _unreadable(folder / name, error) from error
    return _read_versions(published, version, folder.resolve(), tuple(versions))


# Runs of one process, such as the jobs of a sweep, share the arrays of both data sets.
@lru_cache(maxsize=2)
def _read_versions(
    published: Publication, version: Version, folder: Path, versions: tuple[Hashable, ...]
) -> _Contents:
    """As ``_read``, for these versions of the files."""
    if version is published.binary:
        reader: _Binary | _Python = _Binary(published, folder)
    else:
        reader = _Python(published, folder)
    names = reader.class_names()
    if len(names) != published.num_classes:
        raise DiscernError(
            f"{folder / version.names} is not as published: it names {len(names)} classes instead "
            f"of {published.num_classes}."
        )
    train = _joined(reader, folder, version.train, published.num_train, len(names))
    test = _joined(reader, folder, (version.test,), published.num_test, len(names))
    digests = tuple(hashlib.sha256(array.data).hexdigest() for array in (*train, *test))
    return _Contents(train, test, tuple(names), digests)


def _joined(
    reader: _Binary | _Python, folder: Path, files: Sequence[str], count: int, num_classes: int
) -> _Part:
    """Images and labels of files that together, in equal parts, hold ``count`` of them."""
    images, labels = np.empty((count, *SHAPE), np.uint8), np.empty(count, np.uint8)
    each = count // len(files)
    for number, name in enumerate(files):
        # An image's pixels, (_PIXELS,), are in the order of its channels, then rows.
        pixels, found = reader.images(name, each)
        if found.max(initial=0) >= num_classes:
            raise DiscernError(
                f"{folder / name} is not as published: it has the label {found.max()}, and there "
                f"are {num_classes} classes."
            )
        place = slice(number * each, (number + 1) * each)
        images[place] = pixels.reshape(-1, *SHAPE)
        labels[place] = found
    return images, labels


@dataclass(frozen=True)
class _Binary:
    """Reads the binary version: an image is its label or labels, then its pixels, a byte each."""

    published: Publication
    folder: Path

    def images(self, name: str, count: int) -> _Part:
        """Pixels, uint8 (N, 3072), and labels, uint8 (N,), of a file of ``count`` images."""
        path, row = self.folder / name, self.published.label_bytes + _PIXELS
        content = _bytes_of(path)
        if len(content) != count * row:
            raise DiscernError(
                f"{path} is not as published: it has {len(content):,} bytes instead of "
                f"{count * row:,}."
            )
        rows = np.frombuffer(content, np.uint8).reshape(count, row)
        return rows[:, -_PIXELS:], rows[:, -_PIXELS - 1]

    def class_names(self) -> list[str]:
        """A line each."""
        lines = _bytes_of(self.folder / self.published.binary.names).decode(errors="replace")
        return [line.strip() for line in lines.splitlines() if line.strip()]


@dataclass(frozen=True)
class _Python:
    """Reads the Python version: pickles of Python 2, which a child process reads."""

    published: Publication
    folder: Path

    def images(self, name: str, count: int) -> _Part:
        """Pixels, uint8 (N, 3072), and labels, uint8 (N,), of a file of ``count`` images."""
        content = self._content(name)
        try:
            pixels = content["data"].numpy()
            labels = np.array(content[self.published.labels_key.decode()], np.uint8)
            if pixels.shape != (count, _PIXELS) or labels.shape != (count,):
                raise ValueError(f"it has not {count:,} images and labels")
        except Exception as error:
            raise _not_published(self.folder / name, error) from error
        return pixels, labels

    def class_names(self) -> list[str]:
        """As listed in the pickle."""
        name = self.published.python.names
        content = self._content(name)
        try:
            return [title.strip() for title in content[self.published.names_key.decode()]]
        except Exception as error:
            raise _not_published(self.folder / name, error) from error

    def _content(self, name: str) -> Any:
        path, version = self.folder / name, self.published.python
        with pickles.opened(path) as file:
            found = hashlib.file_digest(file, _md5).hexdigest()
            expected = version.md5[version.files.index(name)]
            if found != expected:
                raise DiscernError(
                    f"{path} is not the {self.published.title} file of that name: its MD5 starts "
                    f"with {found[:12]} instead of {expected[:12]}."
                )
            try:
                return pickles.load(file, path, "numpy")
            except pickles.UnreadableError as error:
                raise _not_published(path, ValueError(error.reason)) from error


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DiscernError:
    return DiscernError(f"{path} cannot be read: {error.strerror or error}.")


def _not_published(path: Path, error: Exception) -> DiscernError:
    return DiscernError(f"{path} is not as published: {first_line(error)}.")
