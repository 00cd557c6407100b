"""Photographs in any folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from discern.data.catalogue import Facts, examine
from discern.data.folders import Labelled, Listing, list_folder
from discern.data.image_files import ImageFiles
from discern.data.images import AugmentedImages
from discern.data.module import ImageDataModule, Parts
from discern.data.preprocessing import Preprocessing
from discern.data.splits import stratified_split
from discern.data.views import PHOTO_AUGMENTATIONS
from discern.errors import DiscernError
from discern.files import printable
from discern.places import expanded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadFile:
    """A file of the data set that is not used, and why."""

    path: Path
    label: str
    reason: str


class TooManyBadFilesError(DiscernError):
    """More files than ``data.max_bad`` cannot be used; ``bad`` lists them."""

    def __init__(self, message: str, bad: Sequence[BadFile]) -> None:
        super().__init__(message)
        self.bad = list(bad)


def picture_suffixes() -> set[str]:
    """Suffixes, in small letters, of files that should be pictures, whether Pillow reads them."""
    formats = Image.registered_extensions()
    # Pillow writes PDF but does not read it, and knows films only by their names.
    read = {suffix for suffix, name in formats.items() if name in Image.OPEN and name != "MPEG"}
    return read | {".heic", ".heif", ".jxl"}


@dataclass(frozen=True)
class Photo:
    """A file that can be used, and what is known of it."""

    path: Path
    label: str
    facts: Facts


class ImageFolder(ImageDataModule):
    """Photographs in ``dir``: a folder a class, in parts or not, or a CSV file.

    Args:
        dir: the folder; see :func:`discern.data.folders.list_folder` for what is found in it.
        image_size, resize, interpolation, mean, std: see
            :class:`discern.data.preprocessing.Preprocessing`; ``resize`` None scales the shorter
            side to 8/7 of ``image_size``, as is usual.
        test_size: number (an int) or fraction (a float) of the training images that are held out
            for the test where the data set has no part for it; with 0 there is none.
        max_bad: the fraction of the pictures that may be unreadable.
        csv: name in ``dir`` of the CSV file of files and labels; None to find it.
        num_workers: processes that load batches; None for one a core, at most eight.
        **options: see ``ImageDataModule``.
    """

    augmentations = PHOTO_AUGMENTATIONS

    def __init__(
        self,
        *,
        dir: str | Path = "data",  # noqa: A002 - it is the name of the setting
        image_size: int = 224,
        resize: int | None = None,
        interpolation: str = "bilinear",
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        test_size: int | float = 0.1,
        max_bad: float = 0.01,
        csv: str | None = None,
        num_workers: int | None = None,
        **options: Any,
    ) -> None:
        if num_workers is None:
            num_workers = min(8, os.cpu_count() or 1)
        super().__init__(num_workers=num_workers, **options)
        self.dir = expanded(dir)
        self.photos = Preprocessing(
            image_size,
            round(image_size * 8 / 7) if resize is None else resize,
            interpolation,
            tuple(mean),
            tuple(std),
        )
        if self.photos.resize < image_size:
            raise DiscernError(
                f"data.resize={resize} is not allowed; it must be at least data.image_size, "
                f"{image_size}."
            )
        self.test_size = test_size
        self.max_bad = max_bad
        self.csv = csv
        self.input_shape = self.photos.shape
        self.bad_files: list[BadFile] = []
        """Files that are not used, once the module is set up."""
        self.parts: dict[str, list[Photo]] = {}
        """The files that are used, in the parts that the data set comes in."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Scaling, cut, mean and standard deviation; the size cut out is ``input_shape``'s."""
        photos = self.photos
        return {
            "mean": list(photos.mean),
            "std": list(photos.std),
            "resize": photos.resize,
            "interpolation": photos.interpolation,
        }

    def setup(self, stage: str | None = None) -> None:
        """As of the base class; warns of images that are in training and elsewhere alike."""
        new = not self.parts
        super().setup(stage)
        if not new:
            return
        seen = self.train_dataset.content_keys()
        for split, images in (("val", self.val_dataset), ("test", self.test_dataset)):
            known = int(np.isin(images.content_keys(), seen).sum())
            if known:
                log.warning(
                    "%s of the %s images of split=%s are in training as well; discern inspect "
                    "lists them.",
                    f"{known:,}",
                    f"{len(images):,}",
                    split,
                )

    def _seen_in_training(self) -> AugmentedImages:
        """As training sees them; even unchanged, an image whose file is gone is left out."""
        return AugmentedImages(self._served(self.train_dataset), self.augmentation, self.seed)

    def _title(self) -> str:
        """Name for people of the data."""
        return printable(Path(self.dir.resolve().name))

    def _listing(self) -> Listing:
        """The data set's files."""
        return list_folder(self.dir, self.csv)

    def _in_label_order(self, names: set[str]) -> list[str]:
        """The classes in the order of their labels, from the names that training images have."""
        return sorted(names)

    def _load_parts(self) -> Parts:
        listing = self._listing()
        files = [entry for part in listing.parts.values() for entry in part]
        if not files:
            raise DiscernError(
                f"data.dir={self.dir} has no pictures; it must have a folder for each class, or a "
                "CSV file with the columns file and label."
            )
        facts = iter(examine(self.dir, [entry.path for entry in files]))
        self.bad_files = [
            BadFile(path, "", "not in the folder of a class") for path in listing.strays
        ]
        self.parts = {
            part: self._usable(entries, [next(facts) for _ in entries])
            for part, entries in listing.parts.items()
        }
        self._check_bad()
        self.class_names = self._check_classes()
        if "test" not in self.parts:
            self._hold_out_test()
        images = {part: self._images(photos) for part, photos in self.parts.items()}
        digests = tuple(_digest(self.parts[part]) for part in ("train", "test"))
        return Parts(
            self._title(), "folder", digests, images["train"], images.get("val"), images["test"]
        )

    def _usable(self, entries: Sequence[Labelled], facts: Sequence[Facts]) -> list[Photo]:
        photos = []
        for entry, fact in zip(entries, facts, strict=True):
            if fact.reason:
                self.bad_files.append(BadFile(entry.path, entry.label, fact.reason))
            else:
                photos.append(Photo(entry.path, entry.label, fact))
        return photos

    def _check_bad(self) -> None:
        """Refuse a data set of which too much cannot be used."""
        # A text or a film beside the pictures is no picture that went bad.
        suffixes = picture_suffixes()
        bad = [b for b in self.bad_files if b.label and b.path.suffix.lower() in suffixes]
        good = sum(map(len, self.parts.values()))
        if not good:
            raise TooManyBadFilesError(
                f"data.dir={self.dir} has no picture that can be read", self.bad_files
            )
        if len(bad) > self.max_bad * (good + len(bad)):
            raise TooManyBadFilesError(
                f"data.max_bad={self.max_bad:g} is exceeded: {len(bad):,} of {good + len(bad):,} "
                f"pictures in {self.dir} cannot be read, such as {bad[0].path} ({bad[0].reason})",
                self.bad_files,
            )
        if self.bad_files:
            log.warning(
                "%s of %s files in %s are not used; bad_files.csv says why.",
                f"{len(self.bad_files):,}",
                f"{good + len(self.bad_files):,}",
                self.dir,
            )

    def _check_classes(self) -> list[str]:
        names = self._in_label_order({photo.label for photo in self.parts["train"]})
        if len(names) < 2:
            found = f"only the class {names[0]}" if names else "no class"
            raise DiscernError(
                f"data.dir={self.dir} has {found} in its training images; it must have two or more."
            )
        for part in ("val", "test"):
            others = {photo.label for photo in self.parts.get(part, ())} - set(names)
            if others:
                raise DiscernError(
                    f"data.dir={self.dir} has classes for {part} that its training images do not "
                    f"have: {', '.join(sorted(others)[:5])}."
                )
        return names

    def _hold_out_test(self) -> None:
        photos = self.parts["train"]
        kept, held_out = stratified_split(
            self._labels(photos), self.test_size, self.seed, "data.test_size"
        )
        self.parts["train"] = [photos[index] for index in kept.tolist()]
        self.parts["test"] = [photos[index] for index in held_out.tolist()]

    def _labels(self, photos: Iterable[Photo]) -> torch.Tensor:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[photo.label] for photo in photos], dtype=torch.int64)

    def _images(self, photos: Sequence[Photo]) -> ImageFiles:
        joined = b"".join(photo.facts.sha256 for photo in photos)
        digests = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)
        files = [photo.path for photo in photos]
        return ImageFiles(files, self._labels(photos), digests, self.photos)


def _digest(photos: Iterable[Photo]) -> str:
    """Hex SHA-256 that changes with any pixel, label or the order."""
    total = hashlib.sha256()
    for photo in photos:
        total.update(photo.facts.sha256 + photo.label.encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()
