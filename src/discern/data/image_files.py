"""Photographs in files, decoded and prepared a batch at a time."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info

from discern.data.augment import View, Words, random_words
from discern.data.images import Batch, Images, keys_of
from discern.data.pictures import PictureError, check_picture, read_whole
from discern.data.preprocessing import CHANNELS, Pixels, Preprocessing
from discern.data.views import Crop, PhotoAugmentation, reduction_of
from discern.errors import DiscernError, first_line
from discern.files.reading import open_regular
from discern.text import printable

log = logging.getLogger(__name__)


class UnreadableFileError(DiscernError):
    """A file was readable when the data set was checked, and no longer is."""

    def __init__(self, message: str) -> None:
        # torch recreates a worker process's exception from the text of its whole traceback.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class ImageFiles(Images):
    """Labelled photographs in files.

    An item is an image, float32 (3, S, S), normalised, with its label, int64 (). ``__getitems__``
    serves many as one batch.

    Args:
        files: N paths.
        labels: int64 (N,).
        digests: uint8 (N, 32), SHA-256 of each file. They seed the augmentation, so that an image
            keeps its views when others are added.
        preprocessing: of a picture.
        indices: int64 (M,), the images in this data set; None for all.
        root: the folder of the data set, to which file names are relative.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Tensor,
        digests: NDArray[np.uint8],
        preprocessing: Preprocessing,
        indices: Tensor | None = None,
        root: Path | None = None,
    ) -> None:
        # An array: worker processes would copy a list by counting references to its elements.
        self.files = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)
        self.labels = labels
        self.digests = digests
        self.preprocessing = preprocessing
        self.indices = indices
        self.root = b"" if root is None else os.fsencode(root) + b"/"

    def __getitems__(self, indices: list[int]) -> Batch:
        """Images as in evaluation, float32 (B, 3, S, S), and labels, int64 (B,), at ``indices``.

        Raises:
            UnreadableFileError: a file can no longer be read.
        """
        chosen = self.of_all(np.array(indices, dtype=np.int64))
        pixels = self._room(len(chosen))
        for place, index in enumerate(chosen.tolist()):
            path = self._path(index)
            with _readable(path):
                pixels[place] = self.preprocessing.read(path)
        return self._as_seen(pixels), self.labels[chosen]

    def augmented(
        self,
        indices: NDArray[np.int64],
        view: View | None,
        repeats: NDArray[np.int64] | None = None,
    ) -> Batch:
        """As ``__getitems__``, each image in its view.

        A file that can no longer be read is left out of the batch with a warning, rather than to
        end an epoch of hours. If none is left, the next readable image of the data set replaces
        them.

        Raises:
            UnreadableFileError: no file of the data set can be read.
        """
        chosen = self.of_all(indices)
        words = _draws(_words(self.digests[chosen.numpy()]), view, repeats)
        pixels, read = self._room(len(chosen)), []
        for place, (index, word) in enumerate(zip(chosen.tolist(), words.tolist(), strict=True)):
            path = self._path(index)
            try:
                pixels[place] = self._view(path, view, word)
                read.append(place)
            except PictureError as error:
                log.warning("%s can no longer be read and is left out: %s.", printable(path), error)
        if not read:
            substitute = np.array([self._next_readable(int(indices[-1]))], dtype=np.int64)
            return self.augmented(substitute, view)
        if len(read) < len(chosen):
            pixels, chosen = pixels[read], chosen[read]
        return self._as_seen(pixels), self.labels[chosen]

    def identified(self, indices: NDArray[np.int64], view: View | None) -> tuple[Tensor, Words]:
        """Images as in evaluation or in a view, float32 (B, 3, S, S), and their IDs, (B, 2).

        Each file is read once: the ID is that of the bytes that are decoded.

        Raises:
            UnreadableFileError: a file can no longer be read.
        """
        paths = [self._path(index) for index in self.of_all(indices).tolist()]
        contents = [_content(path) for path in paths]
        digests = [hashlib.sha256(content).digest() for content in contents]
        words = _words(np.frombuffer(b"".join(digests), np.uint8).reshape(len(paths), -1))
        pixels = self._room(len(paths))
        draws = _draws(words, view).tolist()
        for place, (path, content, draw) in enumerate(zip(paths, contents, draws, strict=True)):
            with _readable(path):
                pixels[place] = self._view(io.BytesIO(content), view, draw)
        return self._as_seen(pixels), words if view is None else view.ids(words)

    def _next_readable(self, index: int) -> int:
        """Index of the next image whose file can be read."""
        for following in range(index + 1, index + len(self)):
            place = following % len(self)
            try:
                check_picture(self._path(int(self.of_all(np.array([place]))[0])))
                return place
            except PictureError:
                continue
        path = printable(self._path(int(self.of_all(np.array([index]))[0])))
        raise UnreadableFileError(f"{path} and all other training images can no longer be read.")

    def smaller(self, side: int) -> ImageFiles:
        """The same images scaled to ``side``, which takes less decoding."""
        now = self.preprocessing
        if side >= now.image_size:
            return self
        part = copy.copy(self)
        resize = max(side, round(now.resize * side / now.image_size))
        part.preprocessing = replace(now, image_size=side, resize=resize)
        return part

    def identify(self, view: View | None = None) -> Words:
        """IDs of the images, (M, 2), by their files' contents and their view."""
        words = _words(self.digests if self.indices is None else self.digests[self.indices.numpy()])
        return words if view is None else view.ids(words)

    def names(self) -> list[str]:
        """The images' files, as text."""
        return [printable(Path(os.fsdecode(file))) for file in self._own_files()]

    def pictures(self, indices: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """The photographs at ``indices``, each uint8 (H, W, 3); large ones are reduced.

        Raises:
            UnreadableFileError: a file can no longer be read.
        """
        found = []
        for index in self.of_all(indices).tolist():
            path = self._path(index)
            with _readable(path):
                found.append(self.preprocessing.picture(path))
        return found

    def name_keys(self) -> NDArray[np.int64]:
        """Numbers, int64 (M,), of the files' names below the folder of the data set."""
        names = (file.removeprefix(self.root) for file in self._own_files())
        digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
        return np.frombuffer(digests, dtype="<i8").astype(np.int64)

    def _own_files(self) -> list[bytes]:
        files = self.files if self.indices is None else self.files[self.indices.numpy()]
        return list(files.tolist())

    def _path(self, index: int) -> Path:
        """The file of an image of the whole data set."""
        return Path(os.fsdecode(self.files[index]))

    def _view(self, source: Path | IO[bytes], view: View | None, draw: int) -> Tensor:
        if view is None:
            return self.preprocessing.read(source)
        augmentation = view.augmentation
        assert isinstance(augmentation, PhotoAugmentation)
        # torchvision draws from the global generator, which others use as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw)
            crop: Crop | None = None

            def reduction(width: int, height: int) -> int:
                nonlocal crop
                crop = augmentation.draw(width, height)
                return reduction_of(crop, self.preprocessing.image_size)

            picture = read_whole(source, CHANNELS, reduction)
            if crop is None:  # only a JPEG can be reduced
                crop = augmentation.draw(*picture.full)
            return augmentation.show(picture.image, crop, picture.full[0], self.preprocessing)

    def _room(self, count: int) -> Tensor:
        """Memory for the pixels of a batch, uint8 (count, 3, S, S), channels last."""
        channels, height, width = self.preprocessing.shape
        if get_worker_info() is None:
            room = torch.empty((count, height, width, channels), dtype=torch.uint8)
        else:
            # In shared memory, as by torch's own collation, so that the batch is not copied on its
            # way to the training process.
            values = count * height * width * channels
            shared = torch.UntypedStorage._new_shared(values)  # type: ignore[no-untyped-call]
            room = (
                torch.empty(0, dtype=torch.uint8).set_(shared).view(count, height, width, channels)
            )
        return room.permute(0, 3, 1, 2)

    def _as_seen(self, pixels: Tensor) -> Tensor:
        """The network's input; from a worker process :class:`Pixels`, which the loader opens."""
        if get_worker_info() is None:
            return self.preprocessing.normalised(pixels)
        return Pixels(pixels, self.preprocessing)  # type: ignore[return-value]


def _words(digests: NDArray[np.uint8]) -> Words:
    """The first two words of digests, (B, 2)."""
    return np.ascontiguousarray(digests[:, :16]).view("<u8")


def _draws(words: Words, view: View | None, repeats: NDArray[np.int64] | None = None) -> Words:
    """The seed, (B,), by which the view of each image is drawn."""
    seed, epoch = (0, 0) if view is None else (view.seed, view.epoch)
    return random_words(seed, epoch, keys_of(words), 0, repeats)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn a PictureError into an :class:`UnreadableFileError` for that file."""
    try:
        yield
    except PictureError as error:
        raise UnreadableFileError(f"{printable(path)} can no longer be read: {error}.") from error


def _content(path: Path) -> bytes:
    with _readable(path):
        try:
            with open_regular(path) as file:
                return file.read()
        except OSError as error:
            raise PictureError(error.strerror or first_line(error)) from error
