"""Photographs in files, decoded and prepared a batch at a time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from discern.data.augment import random_words
from discern.data.images import Batch
from discern.data.pictures import PictureError, read_picture
from discern.data.preprocessing import CHANNELS, Preprocessing
from discern.data.views import PhotoAugmentation, View, reduction_of
from discern.errors import DiscernError

log = logging.getLogger(__name__)


class ImageFiles(Dataset[tuple[Tensor, Tensor]]):
    """Labelled photographs in files.

    An item is an image, float32 (3, S, S), normalised, with its label, int64 (). ``__getitems__``
    serves many as one batch.

    Args:
        files: N paths.
        labels: int64 (N,).
        keys: int64 (N,), a number for each image by which its augmentation is drawn. It comes from
            the image's content, so that an image keeps its views when others are added.
        preprocessing: what is done to a picture.
        indices: int64 (M,), the images that belong to this data set, or None for all.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor,
        keys: NDArray[np.int64],
        preprocessing: Preprocessing,
        indices: Tensor | None = None,
    ) -> None:
        # One array rather than a list: worker processes would copy a list as they count references.
        self.files = np.array([str(file) for file in files], dtype=np.str_)
        self.labels = labels
        self.keys = keys
        self.preprocessing = preprocessing
        self.indices = indices
        mean, std = (
            torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )
        # (x / 255 - mean) / std as one multiplication and one addition
        self._scale, self._shift = (1 / (255 * std)).float(), (-mean / std).float()

    def __len__(self) -> int:
        return len(self.labels if self.indices is None else self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images as in evaluation, float32 (B, 3, S, S), and labels, int64 (B,), at ``indices``.

        Raises:
            DiscernError: a file can no longer be read.
        """
        chosen = self._of_all(np.array(indices, dtype=np.int64))
        images = self._room(len(chosen))
        for place, index in enumerate(chosen.tolist()):
            path = Path(self.files[index])
            try:
                self._put(self.preprocessing.read(path), images[place])
            except PictureError as error:
                raise DiscernError(f"{path} can no longer be read: {error}.") from error
        return images, self.labels[chosen]

    def augmented(
        self, indices: NDArray[np.int64], augmentation: PhotoAugmentation, seed: int, epoch: int
    ) -> Batch:
        """As ``__getitems__``, each image in its view of an epoch.

        A file that can no longer be read is left out of the batch with a warning: an epoch of
        hours does not end for it.
        """
        chosen = self._of_all(indices)
        words = random_words(seed, epoch, self.keys[chosen.numpy()], draw=0)
        images, read = self._room(len(chosen)), []
        for place, (index, word) in enumerate(zip(chosen.tolist(), words.tolist(), strict=True)):
            path = Path(self.files[index])
            try:
                self._put(self._view(path, augmentation, word), images[place])
                read.append(place)
            except PictureError as error:
                log.warning("%s can no longer be read and is left out: %s.", path, error)
        if not read:
            raise DiscernError(f"{path} and the others of a batch can no longer be read.")
        if len(read) < len(chosen):
            images, chosen = images[read], chosen[read]
        return images, self.labels[chosen]

    def subset(self, indices: Tensor) -> ImageFiles:
        """Those of all images that ``indices``, int64 (M,), name."""
        part = copy.copy(self)
        part.indices = indices
        return part

    def content_keys(self) -> NDArray[np.int64]:
        """Numbers, int64 (M,), that are equal for files of the same content."""
        keys: NDArray[np.int64] = self.keys[self._of_all(np.arange(len(self))).numpy()]
        return keys

    def names(self) -> list[str]:
        """The images' files."""
        return [str(name) for name in self.files[self._of_all(np.arange(len(self))).numpy()]]

    def _put(self, pixels: Tensor, image: Tensor) -> None:
        """Put pixels, uint8 (3, S, S), as the network sees them into an image, float32."""
        # One image at a time stays in the processor's cache, where a batch would not.
        torch.mul(pixels, self._scale, out=image).add_(self._shift)

    def _view(self, path: Path, augmentation: PhotoAugmentation, word: int) -> Tensor:
        # What torchvision draws comes from the global generator, which others use as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(word)
            view: View | None = None
            full = 0

            def reduction(width: int, height: int) -> int:
                nonlocal view, full
                view, full = augmentation.draw(width, height), width
                return reduction_of(view, self.preprocessing.image_size)

            image = read_picture(path, CHANNELS, reduction)
            if view is None:  # not a JPEG
                view, full = augmentation.draw(*image.size), image.width
            return augmentation.show(image, view, full, self.preprocessing)

    def _of_all(self, indices: NDArray[np.int64]) -> Tensor:
        """Indices among all images of the data set, int64 (B,)."""
        chosen = torch.from_numpy(indices)
        return chosen if self.indices is None else self.indices[chosen]

    def _room(self, count: int) -> Tensor:
        """Room for a batch, float32 (count, 3, S, S), the channels last in memory."""
        channels, height, width = self.preprocessing.shape
        if get_worker_info() is None:
            room = torch.empty((count, height, width, channels))
        else:
            # In shared memory at once, as torch's own collation does: a batch is then not copied
            # on its way to the training process.
            values = count * height * width * channels
            shared = torch.UntypedStorage._new_shared(4 * values)  # type: ignore[no-untyped-call]
            room = torch.empty(0).set_(shared).view(count, height, width, channels)
        return room.permute(0, 3, 1, 2)
