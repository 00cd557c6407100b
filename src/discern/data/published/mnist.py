"""MNIST and the data sets published in its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from discern.data.module import InMemoryDataModule, LoadedImages
from discern.data.published import publication, sources
from discern.data.published.idx import idx_sha256
from discern.data.published.packaged import read_sample
from discern.errors import DiscernError
from discern.files.places import expanded


class MNIST(InMemoryDataModule):
    """Handwritten digits: 60,000 images for training, 10,000 for test, 1 x 28 x 28, 10 classes.

    The files are looked for in ``dir`` (in ``MNIST/raw`` under it, or directly in it), then where
    the system installs them, then downloaded to ``MNIST/raw`` under ``dir``. Each is checked
    against its published digest.

    Args:
        dir: folder of data sets.
        source: ``full`` for the published files, ``sample`` for the packaged sample of 8,000 and
            1,500 images, ``auto`` for the files if they can be had and else the sample.
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
        self.source = sources.parse_source(source)
        self.class_names = list(self.published.class_names)
        self._prepared = False

    def prepare_data(self) -> None:
        """Download the files where they are needed and missing; tried once.

        Raises:
            DiscernError: they are needed and cannot be had.
        """
        if not self._prepared:
            sources.obtain(self.published, self.dir, self.source, self.has_sample)
            self._prepared = True

    def load_images(self) -> LoadedImages:
        """Read the files.

        Raises:
            DiscernError: they are missing or not as published.
        """
        title = self.published.title
        if self.source != "sample":
            files = sources.find_files(self.published, self.dir)
            if files is not None:
                arrays = sources.read_files(self.published, files)
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
    """The arrays as tensors, which share their memory."""

    def images(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name]).unsqueeze(1)

    def labels(name: str) -> torch.Tensor:
        return torch.from_numpy(arrays[name]).long()

    return LoadedImages(
        title=title,
        source_used=source_used,
        digests=tuple(digests[name] for name in publication.DIMENSIONS),
        train_images=images(publication.TRAIN_IMAGES),
        train_labels=labels(publication.TRAIN_LABELS),
        test_images=images(publication.TEST_IMAGES),
        test_labels=labels(publication.TEST_LABELS),
    )
