"""Published data sets: their files, digests and mirrors, and how these are fetched and checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from discern.data.place import check_folder
from discern.errors import DiscernError, file_errors


@dataclass(frozen=True)
class Site:
    """The address and digests of published files.

    Attributes:
        url: address of their folder.
        md5: name of a file -> its digest.
    """

    url: str
    md5: Mapping[str, str]


def root_of(folder: Path, name: str, file: str | Path) -> Path:
    """The folder of a data set's files: the one of that name in ``folder``, or ``folder`` itself.

    Args:
        folder: the setting ``data.dir``.
        name: of the data set's folder.
        file: that is in it.

    Raises:
        DiscernError: ``folder`` cannot be read.
    """
    with file_errors(f"data.dir={folder} cannot be read"):
        if folder.exists():
            check_folder(folder)
        inside = folder / name
        return folder if (folder / file).is_file() and not (inside / file).is_file() else inside


@contextmanager
def download_hint(path: Path, missing: str, advice: str) -> Iterator[None]:
    """Add advice to the error of a failed download of ``path``; not if a wrong file is there.

    Args:
        path: the file that is fetched.
        missing: the beginning of a sentence that names what is missing.
        advice: the end of that sentence, on what the user can do.
    """
    try:
        yield
    except DiscernError as error:
        if path.exists():
            raise
        raise not_downloaded(missing, error, advice) from error


def not_downloaded(missing: str, problem: object, advice: str) -> DiscernError:
    """The error for a file that is missing and cannot be downloaded."""
    return DiscernError(f"{missing}, and {str(problem).rstrip('.')}: {advice}.")


def fetch_folder(
    url: str,
    archive: Path,
    target: Path,
    *,
    max_bytes: int,
    missing: str,
    advice: str,
    **digests: str | None,
) -> None:
    """Download an archive and unpack the folder in it that is named as ``target``.

    Args:
        url: address of the archive.
        archive: path that it is kept at; used if it is there.
        target: the folder that is made.
        max_bytes: limit for all files of the archive together.
        missing, advice: see :func:`download_hint`.
        **digests: see :func:`discern.data.published.fetch.fetch`.

    Raises:
        DiscernError: the archive cannot be downloaded or unpacked.
    """
    from discern.data.published.fetch import fetch  # start-up time, here and below
    from discern.data.published.unpack import extract

    with download_hint(archive, missing, advice):
        fetch(url, archive, **digests)
    extract(archive, target, max_bytes, folder=target.name)


def published_bytes(path: Path, md5: str) -> bytes:
    """The content of a file, checked to be the published one.

    Raises:
        DiscernError: it cannot be read, or is another file.
    """
    with file_errors(f"{path} cannot be read"):
        content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DiscernError(
            f"{path} is not the file that was published: its MD5 starts with "
            f"{found[:12]} instead of {md5[:12]}; delete it to have it downloaded again."
        )
    return content


TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
DIMENSIONS = {TRAIN_IMAGES: 3, TRAIN_LABELS: 1, TEST_IMAGES: 3, TEST_LABELS: 1}
"""Number of dimensions of the array in each of the four files."""


@dataclass(frozen=True)
class Publication:
    """A data set in four IDX files of 28 x 28 grey images and their labels.

    Attributes:
        title: name for people.
        folder: name of its folder under ``data.dir``, which is torchvision's.
        class_names: names of the classes, in the order of their labels.
        sha256: hex SHA-256 of each file, uncompressed.
        md5: hex MD5 of each file, gzipped.
        mirrors: addresses, each ending in a slash, of the gzipped files.
        system_folders: folders in which a system package installs the files.
        advice: the end of a sentence on what a user without the files can do.
    """

    title: str
    folder: str
    class_names: tuple[str, ...]
    sha256: Mapping[str, str]
    md5: Mapping[str, str]
    mirrors: tuple[str, ...]
    system_folders: tuple[Path, ...]
    advice: str

    def not_to_be_had(self, folder: Path, reason: object) -> DiscernError:
        """The error for files that are not in ``folder`` and cannot be downloaded."""
        return DiscernError(
            f"{self.title} is not in {folder} and cannot be downloaded ({reason}): {self.advice}."
        )

    def find(self, folder: Path) -> dict[str, Path] | None:
        """The four files, by published name, in the first place that has them all, or None.

        The places are those under ``folder``, the setting ``data.dir``, and then the system's.

        Raises:
            DiscernError: ``folder`` cannot be read.
        """
        with file_errors(f"data.dir={folder} cannot be read as a folder"):
            if folder.exists():
                os.listdir(folder)  # noqa: PTH208 - fails where the folder is a file or is closed
            for place in (self.own_folder(folder), folder, *self.system_folders):
                files = self.files_in(place)
                if len(files) == len(DIMENSIONS):
                    return files
        return None

    def own_folder(self, folder: Path) -> Path:
        """The folder under ``folder`` that torchvision keeps the data set in."""
        return folder / self.folder / "raw"

    def files_in(self, folder: Path) -> dict[str, Path]:
        """The published files in ``folder``, uncompressed if there is a choice."""
        choices = {name: (folder / name, folder / f"{name}.gz") for name in DIMENSIONS}
        found = {name: next(filter(Path.is_file, paths), None) for name, paths in choices.items()}
        return {name: path for name, path in found.items() if path is not None}


MNIST = Publication(
    title="MNIST",
    folder="MNIST",
    class_names=tuple("0123456789"),
    sha256={
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    md5={
        TRAIN_IMAGES: "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        TRAIN_LABELS: "d53e105ee54ea40749a09fcbcd1e9432",
        TEST_IMAGES: "9fb629c4189551a2d022fa330f9573f3",
        TEST_LABELS: "ec29112dd5afa0611ce80d1b7f02629c",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    system_folders=(),
    advice=(
        "set data.dir or DISCERN_DATA_DIR to a folder that has the files, connect to the network, "
        "or use data.source=sample"
    ),
)

FASHION_MNIST = Publication(
    title="Fashion-MNIST",
    folder="FashionMNIST",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    sha256={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    md5={
        TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
        TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
        TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310",
    },
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    # Debian's package dataset-fashion-mnist
    system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
    advice=(
        "apt install dataset-fashion-mnist, set data.dir or DISCERN_DATA_DIR to a folder that has "
        "the files, or connect to the network"
    ),
)
