"""Oxford-IIIT Pet, as published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from discern.data.folders import Labelled, Listing
from discern.data.image_folder import ImageFolder
from discern.data.published.publication import Site
from discern.data.published.wanted import PETS
from discern.errors import DiscernError, file_errors

NUM_CLASSES = 37

_IMAGES = "images"
_TRAIN = PETS.sign
_TEST = _TRAIN.with_name("test.txt")
# A breed and a picture's number, the number of the breed, and two more numbers; no path separators.
_LINE = re.compile(r"(([A-Za-z_]+)_\d+) (\d{1,2})(?: \d+)*")


class OxfordPets(ImageFolder):
    """Photographs of 37 breeds of cats and dogs: 3,680 for training, 3,669 for the test.

    The files are in torchvision's folder ``oxford-iiit-pet`` of ``dir``, or directly in ``dir``;
    missing ones are downloaded.

    Args:
        **options: see ``ImageFolder``; ``csv``, ``parts`` and ``test_size`` have no effect.
    """

    published: ClassVar[Site] = PETS.site

    def prepare_data(self) -> None:
        """Download and unpack what is missing.

        Raises:
            DiscernError: it cannot be downloaded.
        """
        PETS.download(self.dir, self.published)

    def _title(self) -> str:
        return PETS.title

    def _listing(self) -> Listing:
        root = PETS.root(self.dir)
        if not root.exists():
            raise DiscernError(f"{PETS.is_not_in(self.dir)}: {PETS.advice}.")
        entries = {"train": list(_entries(root / _TRAIN)), "test": list(_entries(root / _TEST))}
        self._breeds = _breeds(root / _TRAIN, entries["train"])
        if _breeds(root / _TEST, entries["test"]) != self._breeds:
            raise DiscernError(
                f"{root / _TEST} is not as published: its breeds are not those of {_TRAIN.name}."
            )
        return Listing(
            {
                part: [
                    Labelled(root / _IMAGES / f"{entry.image}.jpg", entry.breed)
                    for entry in sorted(found, key=lambda entry: (entry.label, entry.image))
                ]
                for part, found in entries.items()
            }
        )

    def _in_label_order(self, names: set[str]) -> list[str]:
        return self._breeds


@dataclass(frozen=True)
class _Entry:
    """A line of the annotations.

    Attributes:
        image: name of the picture's file, without its suffix.
        breed: its class.
        label: the breed's number, from 1.
    """

    image: str
    breed: str
    label: int


def _entries(path: Path) -> Iterator[_Entry]:
    if not path.exists():
        raise DiscernError(
            f"{path.parent} is not complete, it has no {path.name}: delete it to have it made anew."
        )
    with file_errors(f"{path} cannot be read"):
        lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise DiscernError(
                f"{path}, line {number}: it is not as published, such as Abyssinian_100 1 1 1."
            )
        yield _Entry(match[1], match[2].replace("_", " ").title(), int(match[3]))


def _breeds(path: Path, entries: list[_Entry]) -> list[str]:
    """The breeds in the order of their numbers, which are 1 to 37."""
    pairs = {(entry.label, entry.breed) for entry in entries}
    numbers = sorted(label for label, _ in pairs)
    if numbers != list(range(1, NUM_CLASSES + 1)) or len({breed for _, breed in pairs}) < len(
        pairs
    ):
        raise DiscernError(
            f"{path} is not as published: it has not {NUM_CLASSES} breeds, each with its number."
        )
    return [breed for _, breed in sorted(pairs)]
