"""Photographs in any folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from discern.data.catalogue import Facts, about_depths, examine
from discern.data.folders import Labelled, Listing, PartFolders, list_folder
from discern.data.image_files import ImageFiles
from discern.data.images import AugmentedImages
from discern.data.module import ImageDataModule, Parts
from discern.data.pictures import picture_suffixes
from discern.data.preprocessing import Preprocessing
from discern.data.views import PHOTO_AUGMENTATIONS
from discern.errors import DiscernError
from discern.files.places import expanded
from discern.text import printable

log = logging.getLogger(__name__)


_NUMBER = re.compile(r"[+-]?[0-9]{1,300}([.][0-9]{1,300})?")


@dataclass(frozen=True)
class BadFile:
    """An unused file of the data set, with the reason."""

    path: Path
    label: str
    reason: str


class TooManyBadFilesError(DiscernError):
    """More files than ``data.max_bad`` cannot be used; ``bad`` lists them."""

    def __init__(self, message: str, bad: Sequence[BadFile]) -> None:
        super().__init__(message)
        self.bad = list(bad)


@dataclass(frozen=True)
class Photo:
    """A used file, with its facts."""

    path: Path
    label: str
    facts: Facts


class ImageFolder(ImageDataModule):
    """Photographs in ``dir``: one folder per class, in parts or not, or a CSV file.

    Args:
        dir: the folder; see :func:`discern.data.folders.list_folder` for the layouts.
        image_size, resize, interpolation, mean, std: see
            :class:`discern.data.preprocessing.Preprocessing`; ``resize`` None scales the shorter
            side to 8/7 of ``image_size``, as is usual.
        test_size: number (an int) or fraction (a float) of the training images that are held out
            for the test if the data set has no part for it; with 0 there is no test.
        max_bad: largest fraction of the pictures that may be unreadable.
        csv: name of the table of files and labels in ``dir``; None to search for one.
        parts: ``none`` if each folder is a class; or part -> its folder in ``dir``; None to guess
            by the folders' names.
        num_workers: processes that load batches; None for one per core, at most eight.
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
        parts: PartFolders | None = None,
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
        self.named_parts = parts
        self.input_shape = self.photos.shape
        self.bad_files: list[BadFile] = []
        """Unused files, known after ``setup``."""
        self.parts: dict[str, list[Photo]] = {}
        """The used files, in the data set's parts."""
        self.remarks: list[str] = []
        """Sentences on guesses, skipped files and doubts in finding them."""

    @property
    def preprocessing(self) -> dict[str, object]:
        """Scaling, cut, mean and standard deviation; the size cut out is ``input_shape``'s."""
        photos = self.photos
        return {
            "mean": list(photos.mean),
            "std": list(photos.std),
            "resize": photos.resize,
            "interpolation": photos.interpolation,
        }

    def _seen_in_training(self) -> AugmentedImages:
        """Training images; also without augmentation, unreadable files are left out."""
        return AugmentedImages(self._served(self.train_dataset), self.augmentation, self.seed)

    def _title(self) -> str:
        """Name for people of the data."""
        return printable(Path(self.dir.resolve().name))

    @property
    def names_files(self) -> bool:
        """Whether settings name the files, in place of the data set's own layout."""
        return self.csv is not None or self.named_parts is not None

    def _listing(self) -> Listing:
        """The data set's files."""
        return list_folder(self.dir, self.csv, self.named_parts, trains=self.measured is None)

    def _in_label_order(self, names: set[str]) -> list[str]:
        """The classes in the order of their labels, from the names that training images have."""
        return sorted(names, key=in_number_order(names))

    def _load_parts(self) -> Parts:
        listing = self._listing()
        self.remarks = [*listing.guesses, *listing.doubts]
        for sentence in listing.guesses:
            log.info("%s", sentence)
        for sentence in listing.doubts:
            log.warning("%s", sentence)
        files = [entry for part in listing.parts.values() for entry in part]
        if not files:
            strays = len(listing.strays)
            what = f"{strays:,} files, but none in the folder of a class" if strays else "no files"
            raise DiscernError(
                f"data.dir={self.dir} has {what}; it must have a folder for each class, or a "
                "CSV file with the columns file and label."
            )
        known = examine(self.dir, [entry.path for entry in files])
        if (depths := about_depths(known)) is not None:
            self.remarks.append(depths)
            log.info("%s", depths)
        facts = iter(known)
        self.bad_files = [
            BadFile(path, "", "not in the folder of a class") for path in listing.strays
        ]
        self.parts = {
            part: self._usable(entries, [next(facts) for _ in entries])
            for part, entries in listing.parts.items()
        }
        self._check_bad()
        self.class_names = self._check_classes()
        images = {part: self._images(photos) for part, photos in self.parts.items()}
        digests = tuple(_digest(self.parts.get(part, ())) for part in ("train", "val", "test"))
        return Parts(
            self._title(),
            "folder",
            digests,
            images.get("train", self._images([])),
            images.get("val"),
            images.get("test"),
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
        """Refuse a data set of which too many files cannot be used."""
        # A text or a video beside the pictures is not a bad picture.
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
        """The classes in the order of their labels."""
        sources = ["train"] if self.measured is None else list(self.parts)
        found = {photo.label for part in sources for photo in self.parts.get(part, ())}
        names = self._in_label_order(found)
        if len(names) < 2 and self.measured is None:
            which = f"only the class {names[0]}" if names else "no class"
            raise DiscernError(
                f"data.dir={self.dir} has {which} in its training images; it must have two or more."
            )
        for part in ("val", "test"):
            others = {photo.label for photo in self.parts.get(part, ())} - set(names)
            if others:
                raise DiscernError(
                    f"data.dir={self.dir} has classes for {part} that its training images do not "
                    f"have: {', '.join(sorted(others)[:5])}."
                )
        known = None if self.known is None else self.known.class_names
        # The model's order counts: numbers and letters may once have been sorted in another way.
        return known if known is not None and sorted(known) == sorted(names) else names

    def _labels(self, photos: Iterable[Photo]) -> torch.Tensor:
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[photo.label] for photo in photos], dtype=torch.int64)

    def _images(self, photos: Sequence[Photo]) -> ImageFiles:
        joined = b"".join(photo.facts.sha256 for photo in photos)
        digests = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)
        files = [photo.path for photo in photos]
        return ImageFiles(files, self._labels(photos), digests, self.photos, root=self.dir)


def _digest(photos: Iterable[Photo]) -> str:
    """Hex SHA-256 that changes with any pixel or label, but not with file names."""
    rows = (p.facts.sha256 + p.label.encode("utf-8", "surrogateescape") + b"\0" for p in photos)
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def in_number_order(names: Iterable[str]) -> Callable[[str], tuple[Fraction, str]] | None:
    """Sort key for names that are all numbers, such as -1, 2 and 10.0; None for other names."""
    if all(map(_NUMBER.fullmatch, names)):
        return lambda name: (Fraction(name), name)
    return None
