"""Cats and dogs, as published by the course, Microsoft or Kaggle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from discern.data.folders import PARTS, Labelled, Listing, in_order
from discern.data.image_folder import ImageFolder
from discern.data.place import check_folder, visible_names
from discern.data.published.publication import fetch_folder
from discern.data.published.wanted import (
    CATDOG_ADVICE,
    CATDOG_CLASSES,
    CATDOG_COURSE,
    CATDOG_LAYOUTS,
    CATDOG_MICROSOFT,
    CATDOG_NUMBERED,
    CATDOG_TITLE,
    CATDOG_URL,
)
from discern.errors import DiscernError, file_errors
from discern.files.walk import walk

# The course's pictures have less than one gigabyte.
_MAX_BYTES = 4_000_000_000


class CatDog(ImageFolder):
    """Photographs of cats and dogs, in any of the published layouts.

    ``dir`` is searched for the course's ``Cat_Dog_data/{train,test}/{cat,dog}``,
    Microsoft's ``PetImages/{Cat,Dog}``, either's content directly in it, or Kaggle's
    ``cat.0.jpg``, ``dog.0.jpg`` and so on in ``train/`` or directly in it; Kaggle's test pictures
    have no labels and are skipped. Else the course's archive is downloaded to ``dir``.

    Args:
        url: address of an archive of ``Cat_Dog_data``.
        sha256: hex digest of that archive; None to record the first one's and compare later ones.
        **options: see ``ImageFolder``. A table in ``csv``, or folders in ``parts``, replace these
            layouts; their labels are cat and dog.
    """

    def __init__(self, *, url: str = CATDOG_URL, sha256: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.url = url
        self.sha256 = sha256

    def prepare_data(self) -> None:
        """Download and unpack the course's archive unless a layout is there.

        Raises:
            DiscernError: it is needed and cannot be downloaded, or a layout is incomplete.
        """
        if self.names_files or _find(self.dir, trains=self.measured is None) is not None:
            return
        folder = self.dir / CATDOG_COURSE
        if folder.exists():
            raise DiscernError(
                f"{folder} is not complete, it has no train/ with cat/ and dog/: delete it to have "
                "it made anew."
            )
        archive = folder.with_suffix(".zip")
        fetch_folder(
            self.url, archive, folder, max_bytes=_MAX_BYTES,
            missing=f"{CATDOG_TITLE} are not in {self.dir}", advice=CATDOG_ADVICE,
            sha256=self.sha256,
        )  # fmt: skip

    def _title(self) -> str:
        return CATDOG_TITLE

    def _listing(self) -> Listing:
        if self.names_files:
            setting = f"data.dir={self.dir}" if self.csv is None else f"data.csv={self.csv}"
            return _renamed(super()._listing(), setting)
        found = _find(self.dir, trains=self.measured is None)
        if found is None:
            raise DiscernError(f"{CATDOG_TITLE} are not in {self.dir}: {CATDOG_ADVICE}.")
        return found


def _find(folder: Path, trains: bool = True) -> Listing | None:
    """The files of the first layout found in ``folder``, or None.

    Args:
        folder: the setting ``data.dir``.
        trains: whether both classes must be among the training pictures.

    Raises:
        DiscernError: ``folder`` cannot be read, or every layout in it lacks training pictures of a
            class.
    """
    lacking = None
    with file_errors(f"data.dir={folder} cannot be read"):
        if not folder.exists():
            return None
        check_folder(folder)
        for name, form in _FORMS:
            listing = form(folder / name)
            parts = ["train"] if trains else list(listing.parts)
            missing = {"cat", "dog"} - {e.label for part in parts for e in listing.parts[part]}
            if not missing:
                return listing
            if lacking is None and any(listing.parts.values()):
                lacking = folder / name, " or a ".join(sorted(missing))
    if lacking is not None:
        raise DiscernError(
            f"{lacking[0]} has no training pictures of a {lacking[1]}; data.dir={folder} must have "
            f"{CATDOG_LAYOUTS}."
        )
    return None


def _in_parts(folder: Path) -> Listing:
    """Files of ``train/cat/`` and ``train/dog/``, and of other parts if there are any."""
    listing = Listing({"train": []})
    for name, part in PARTS.items():
        found = _in_classes(folder / name)
        if found.parts["train"]:
            listing.parts.setdefault(part, []).extend(found.parts["train"])
            listing.strays += found.strays
    return listing


def _in_classes(folder: Path) -> Listing:
    """Files of ``cat/`` and ``dog/``, or Microsoft's ``Cat/`` and ``Dog/``."""
    files, strays = [], []
    for path in _visible(folder):
        label = CATDOG_CLASSES.get(path.name.lower())
        if label is not None and path.is_dir():
            files += [Labelled(file, label) for file in walk(path)]
        elif path.name not in PARTS:
            strays.append(path)
    return Listing({"train": in_order(files)}, strays)


def _numbered(folder: Path) -> Listing:
    """Files such as ``cat.0.jpg``; folders beside them are skipped."""
    files, strays = [], []
    for path in _visible(folder):
        match = CATDOG_NUMBERED.fullmatch(path.name)
        if match is not None:
            files.append(Labelled(path, match[1].lower()))
        elif not path.is_dir():
            strays.append(path)
    return Listing({"train": in_order(files)}, strays)


_FORMS: tuple[tuple[str, Callable[[Path], Listing]], ...] = (
    (CATDOG_COURSE, _in_parts), (CATDOG_MICROSOFT, _in_classes), ("", _in_parts), ("", _in_classes),
    ("train", _numbered), ("", _numbered),
)  # fmt: skip


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in visible_names(folder)] if folder.is_dir() else []


def _renamed(listing: Listing, setting: str) -> Listing:
    """The listing with its labels spelled as cat and dog."""
    for entry in (entry for files in listing.parts.values() for entry in files):
        if entry.label.lower() not in CATDOG_CLASSES:
            raise DiscernError(f"{setting} has the label {entry.label}; it must be cat or dog.")
    parts = {
        part: [Labelled(entry.path, CATDOG_CLASSES[entry.label.lower()]) for entry in files]
        for part, files in listing.parts.items()
    }
    return replace(listing, parts=parts)
