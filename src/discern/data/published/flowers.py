"""Oxford 102 Flowers, as published."""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from discern.data.folders import Labelled, Listing
from discern.data.image_folder import ImageFolder
from discern.data.published.fetch import fetch
from discern.data.published.publication import (
    Site,
    download_hint,
    fetch_folder,
    published_bytes,
    root_of,
)
from discern.data.published.wanted import FLOWERS
from discern.errors import DiscernError

_ARCHIVE = "102flowers.tgz"
_LABELS = "imagelabels.mat"
_SPLIT = "setid.mat"
_IMAGES = "jpg"
# The pictures have 350 MB.
_MAX_BYTES = 1_000_000_000
# Part -> name of its list in setid.mat.
_PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}
CLASS_NAMES = tuple(datasets.Flowers102.classes)
"""The published English names, in the order of the labels."""


class Flowers102(ImageFolder):
    """Photographs of 102 kinds of flowers: 1,020 for training, 1,020 validation, 6,149 test.

    The files are in torchvision's folder ``flowers-102`` of ``dir``, or directly in ``dir``;
    missing ones are downloaded. Reading the labels needs SciPy.

    Args:
        **options: see ``ImageFolder``; ``csv``, ``parts`` and ``test_size`` have no effect, nor has
            ``val_size``, as the data set comes in three parts.
    """

    published: ClassVar[Site] = FLOWERS.site

    def prepare_data(self) -> None:
        """Download and unpack what is missing.

        Raises:
            DiscernError: it cannot be downloaded.
        """
        root = root_of(self.dir, FLOWERS.folder, _LABELS)
        for name in (_LABELS, _SPLIT):
            if not (root / name).exists():
                with download_hint(
                    root / name, f"{FLOWERS.title} is not in {self.dir}", FLOWERS.advice
                ):
                    fetch(self.published.url + name, root / name, md5=self.published.md5[name])
        if not (root / _IMAGES).exists():
            fetch_folder(
                self.published.url + _ARCHIVE, root / _ARCHIVE, root / _IMAGES,
                max_bytes=_MAX_BYTES, missing=f"{FLOWERS.title} is not in {self.dir}",
                advice=FLOWERS.advice,
                md5=self.published.md5[_ARCHIVE],
            )  # fmt: skip

    def _title(self) -> str:
        return FLOWERS.title

    def _listing(self) -> Listing:
        root = root_of(self.dir, FLOWERS.folder, _LABELS)
        split = self._read(root / _SPLIT)
        labels = self._read(root / _LABELS)["labels"].tolist()
        return Listing(
            {
                part: [
                    Labelled(root / _IMAGES / f"image_{number:05}.jpg", CLASS_NAMES[label - 1])
                    for label, number in sorted((labels[n - 1], n) for n in split[key].tolist())
                ]
                for part, key in _PARTS.items()
            }
        )

    def _in_label_order(self, names: set[str]) -> list[str]:
        return list(CLASS_NAMES)

    def _read(self, path: Path) -> dict[str, NDArray[np.int64]]:
        """The arrays in one of the publisher's files, by name; numbers begin with 1.

        SciPy is given no other file.
        """
        from scipy.io import loadmat

        if not path.exists():
            raise DiscernError(f"{FLOWERS.title} is not in {self.dir}: {FLOWERS.advice}.")
        content = published_bytes(path, self.published.md5[path.name])
        arrays: dict[str, NDArray[np.int64]] = loadmat(io.BytesIO(content), squeeze_me=True)
        return arrays
