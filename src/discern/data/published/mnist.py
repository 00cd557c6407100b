"""MNIST and the data sets published in its format."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import shutil
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.published import publication
from discern.data.published.fetch import DownloadError, answering_mirrors, fetch_any
from discern.data.published.idx import idx_sha256, read_idx
from discern.data.published.publication import DIMENSIONS, Publication
from discern.data.stamps import version_of
from discern.errors import DiscernError, file_errors
from discern.files.places import expanded
from discern.files.writing import write_whole

SOURCES = ("auto", "full", "sample")
"""Values of ``data.source``: whichever is available, the published files, or the sample."""


class MNIST(InMemoryDataModule):
    """Handwritten digits: 60,000 images for training, 10,000 for test, 1 x 28 x 28, 10 classes.

    The files are looked for in ``dir`` (in ``MNIST/raw`` under it, or directly in it), then where
    the system installs them, then downloaded to ``MNIST/raw`` under ``dir``. Each is checked
    against its published digest.

    Args:
        dir: folder of data sets.
        source: ``full`` for the published files, ``sample`` for the packaged sample of 8,000 and
            1,500 images, ``auto`` for the files if they are available, else the sample.
        **options: see ``InMemoryDataModule``.

    Raises:
        DiscernError: ``source`` is not known.
    """

    published: ClassVar[publication.Publication] = publication.MNIST
    has_sample: ClassVar[bool] = True
    input_shape = (1, 28, 28)

    def __init__(
        self,
        *,
        dir: str | Path = "data",  # noqa: A002 - it is the name of the setting
        source: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.dir = expanded(dir)
        if source not in SOURCES:
            raise DiscernError(f"data.source={source} is not known: use auto, full or sample.")
        self.source = source
        self.class_names = list(self.published.class_names)
        self._prepared = False

    def prepare_data(self) -> None:
        """Download the files if they are needed and missing; tried once.

        Raises:
            DiscernError: they are needed and cannot be downloaded.
        """
        if not self._prepared:
            download_missing(self.published, self.dir, self.source, self.has_sample)
            self._prepared = True

    def load_images(self) -> LoadedImages:
        """Read the files.

        Raises:
            DiscernError: they are missing or not as published.
        """
        title = self.published.title
        if self.source != "sample":
            files = self.published.find(self.dir)
            if files is not None:
                arrays = read_files(self.published, files)
                return _loaded(title, "full", arrays, self.published.sha256)
            if self.source == "full" or not self.has_sample:
                raise DiscernError(f"{title} is not in {self.dir}: {self.published.advice}.")
        if not self.has_sample:
            raise DiscernError(
                f"data.source=sample is not possible for {title}, which has no packaged sample: "
                f"{self.published.advice}, and use data.source=auto or full."
            )
        arrays = read_sample()
        digests = {name: idx_sha256(array) for name, array in arrays.items()}
        return _loaded(f"{title} sample", "sample", arrays, digests)


class FashionMNIST(MNIST):
    """Articles of clothing in the format of MNIST and with its settings, without a sample.

    Raises:
        DiscernError: ``source`` is not known.
    """

    published = publication.FASHION_MNIST
    has_sample = False


def _loaded(
    title: str,
    source_used: str,
    arrays: Mapping[str, NDArray[np.uint8]],
    digests: Mapping[str, str],
) -> LoadedImages:
    """The arrays as tensors that share their memory."""

    train_images, train_labels, test_images, test_labels = (
        torch.from_numpy(arrays[name]) for name in DIMENSIONS
    )
    return LoadedImages(
        title,
        train_images.unsqueeze(1),
        train_labels.long(),
        test_images.unsqueeze(1),
        test_labels.long(),
        source_used,
        tuple(digests[name] for name in DIMENSIONS),
    )


SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist.npz"


SAMPLE_SHA256 = "712d65f1fa1ac1adeb7dbc2019bafe136ed53fc75095a50c58429a5d9c74e921"


@cache
def read_sample() -> dict[str, NDArray[np.uint8]]:
    """Arrays of the sample under the names of the published files; shared, not to be changed.

    Raises:
        DiscernError: the file is missing or is not the one released.
    """
    try:
        content = SAMPLE_FILE.read_bytes()
    except OSError as error:
        raise DiscernError(
            f"{SAMPLE_FILE} cannot be read ({error.strerror or error}): reinstall discern."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SAMPLE_SHA256:
        raise DiscernError(
            f"{SAMPLE_FILE} is damaged, its SHA-256 starts with {found[:12]} instead of "
            f"{SAMPLE_SHA256[:12]}: reinstall discern."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in DIMENSIONS}


log = logging.getLogger(__name__)


def download(publication: Publication, names: Sequence[str], folder: Path) -> None:
    """Download the named files of ``publication`` to ``folder``, and unpack them.

    Raises:
        DownloadError: no mirror answers in time, or none has the right file.
        DiscernError: the folder cannot be written to.
    """
    mirrors = answering_mirrors(publication.mirrors, f"{names[0]}.gz")
    for name in names:
        packed = folder / f"{name}.gz"
        fetch_any([f"{url}{packed.name}" for url in mirrors], packed, md5=publication.md5[name])
        with gzip.open(packed) as source, write_whole(folder / name, "wb") as file:
            shutil.copyfileobj(source, file)


def download_missing(publication: Publication, folder: Path, source: str, sample: bool) -> None:
    """Download the missing files of ``publication`` to ``folder``, unless the source is the sample.

    If that fails, the source is ``auto`` and there is a ``sample``, the log says that the sample is
    used instead.

    Raises:
        DiscernError: the files cannot be downloaded and there is no substitute.
    """
    if source == "sample" or publication.find(folder) is not None:
        return
    own = publication.own_folder(folder)
    present = publication.files_in(own)
    try:
        download(publication, [name for name in DIMENSIONS if name not in present], own)
    except DownloadError as error:
        if source == "full" or not sample:
            raise publication.not_to_be_had(folder, error) from error
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


def _read(path: Path, name: str) -> tuple[NDArray[np.uint8], str]:
    """Array in the file at ``path`` and the SHA-256 of the file, uncompressed."""
    with file_errors(f"{path} cannot be read"):
        version = version_of(path)
    return _read_version(path.resolve(), version, DIMENSIONS[name])


# Runs of one process, such as the jobs of a sweep, share the arrays of both data sets.
@lru_cache(maxsize=8)
def _read_version(path: Path, version: Hashable, dimensions: int) -> tuple[NDArray[np.uint8], str]:
    """As ``_read``, for one version of the file."""
    array = read_idx(path, dimensions)
    return array, idx_sha256(array)
