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
from discern.data.published.publication import Site, published_bytes
from discern.data.published.wanted import FLOWERS
from discern.errors import DiscernError

_LABELS = "imagelabels.mat"
_SPLIT = "setid.mat"
_IMAGES = "jpg"
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
        FLOWERS.download(self.dir, self.published)

    def _title(self) -> str:
        return FLOWERS.title

    def _listing(self) -> Listing:
        root = FLOWERS.root(self.dir)
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
            raise DiscernError(f"{FLOWERS.is_not_in(self.dir)}: {FLOWERS.advice}.")
        content = published_bytes(path, self.published.md5[path.name])
        arrays: dict[str, NDArray[np.int64]] = loadmat(io.BytesIO(content), squeeze_me=True)
        return arrays
