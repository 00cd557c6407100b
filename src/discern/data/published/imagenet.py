"""ImageNet's classification task of 2012, unpacked to one folder per class."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from discern.data.folders import Labelled, Listing, in_order
from discern.data.image_folder import ImageFolder
from discern.data.place import check_folder, visible_names
from discern.errors import DiscernError, file_errors, first_line
from discern.files.walk import walk

FOLDER = "imagenet"
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")

_NAMES = "LOC_synset_mapping.txt"
_VAL_LABELS = "LOC_val_solution.csv"
_WNID = re.compile(r"n\d{8}")
# SHA-256 of the 1,000 classes of 2012, sorted, a line each.
_ALL_CLASSES = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


class ImageNetFolder(ImageFolder):
    """ImageNet's 1,000 classes, or other classes of it: ``{train,val}/nXXXXXXXX/*.JPEG``.

    Training and validation use the pictures in ``train/``; those in ``val/`` are the test split, on
    which results are published. Without ``val/`` the test split is held out of the training
    pictures too. The parts are searched for in ``dir``, in ``dir/imagenet``, and in the folder
    ``ILSVRC/Data/CLS-LOC`` of either, as in Kaggle's archive, whose ``val/`` has no folders but
    labels in ``LOC_val_solution.csv``. A ``test/`` has no labels and is skipped.

    Labels are in the usual order of WordNet's numbers. A class gets its first name in
    ``LOC_synset_mapping.txt``; else, if it is one of the 1,000, torchvision's name; else its
    number. The number is added to a name that two classes share.

    Args:
        **options: see ``ImageFolder``. A table in ``csv``, or folders in ``parts``, replace these
            parts; labels are numbers such as n01440764, or any names.
    """

    def _title(self) -> str:
        return "ImageNet" if _are_all(self._wnids) else f"ImageNet, {len(self._wnids):,} classes"

    def _listing(self) -> Listing:
        check_folder(self.dir)
        place, listing = self._found()
        wnids = {entry.label for files in listing.parts.values() for entry in files}
        trained = {entry.label for entry in listing.parts.get("train", ())}
        self._wnids = sorted(trained or wnids)
        names = _unique(_names(place, self._wnids) | {w: w for w in wnids - set(self._wnids)})
        self._numbers = {name: wnid for wnid, name in names.items()}
        parts = {
            part: [Labelled(entry.path, names[entry.label]) for entry in files]
            for part, files in listing.parts.items()
        }
        return replace(listing, parts=parts)

    def _in_label_order(self, names: set[str]) -> list[str]:
        return sorted(names, key=self._numbers.__getitem__)

    def _found(self) -> tuple[Path, Listing]:
        """The folder that may have Kaggle's text files, and the pictures, labelled with numbers."""
        if self.names_files:
            return self.dir, super()._listing()
        for place in (self.dir, self.dir / FOLDER):
            for root in (place, place / KAGGLE):
                listing = Listing({"train": []})
                _add_classes(listing, "train", root / "train")
                if listing.parts["train"] or self.measured is not None:
                    _add_val(listing, root / "val", place / _VAL_LABELS)
                if listing.parts["train"] or "test" in listing.parts:
                    return place, listing
        raise DiscernError(
            f"data.dir={self.dir} has no ImageNet; it must be a folder with "
            "train/nXXXXXXXX/*.JPEG and val/nXXXXXXXX/*.JPEG, such as train/n01440764."
        )


def _are_all(wnids: Sequence[str]) -> bool:
    """Whether these, sorted, are the 1,000 classes of 2012."""
    return hashlib.sha256("\n".join(wnids).encode()).hexdigest() == _ALL_CLASSES


# Files


def _add_classes(listing: Listing, part: str, folder: Path) -> None:
    """Add the files of the class folders in ``folder``, and anything else as strays."""
    files = []
    for name in visible_names(folder) if folder.is_dir() else ():
        if _WNID.fullmatch(name) and (folder / name).is_dir():
            files += [Labelled(file, name) for file in walk(folder / name)]
        else:
            listing.strays.append(folder / name)
    if files:
        listing.parts[part] = files


def _add_val(listing: Listing, folder: Path, solution: Path) -> None:
    """Add the files of ``val/`` as the part ``test``.

    Raises:
        DiscernError: there are files, but no label for any of them.
    """
    names = visible_names(folder) if folder.is_dir() else []
    if not names:
        return
    if any(_WNID.fullmatch(name) for name in names):
        _add_classes(listing, "test", folder)
        return
    if not solution.is_file():
        raise DiscernError(
            f"{folder} has no folders of classes; it must have val/nXXXXXXXX/*.JPEG, or Kaggle's "
            f"{_VAL_LABELS} must be in {solution.parent}."
        )
    labels, files = dict(_solution(solution)), []
    for name in names:
        label = labels.get(Path(name).stem)
        if label is None:
            listing.strays.append(folder / name)
        else:
            files.append(Labelled(folder / name, label))
    if not files:
        raise DiscernError(f"{solution} has no label for any of the pictures in {folder}.")
    listing.parts["test"] = in_order(files)


def _solution(path: Path) -> Iterator[tuple[str, str]]:
    """Names of Kaggle's validation pictures, without suffix, and their classes.

    A line is ``ILSVRC2012_val_00000001,n01751748 111 108 230 366``: after the class come boxes.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file, strict=True):
                wnid = row[1].partition(" ")[0] if len(row) == 2 else ""
                if _WNID.fullmatch(wnid):
                    yield row[0], wnid
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DiscernError(f"{path} cannot be read: {first_line(error)}.") from error


# Names


def _names(place: Path, wnids: Sequence[str]) -> dict[str, str]:
    """Number of each class -> its name, which may not be unique."""
    if (place / _NAMES).is_file():
        known = dict(_mapping(place / _NAMES))
        return {wnid: known.get(wnid, wnid) for wnid in wnids}
    if _are_all(wnids):
        from torchvision.models import ResNet18_Weights  # takes a second

        categories = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
        return dict(zip(wnids, categories, strict=True))
    return {wnid: wnid for wnid in wnids}


def _mapping(path: Path) -> Iterator[tuple[str, str]]:
    """Classes and their first names; a line is ``n01440764 tench, Tinca tinca``."""
    with file_errors(f"{path} cannot be read"):
        lines = path.read_text("utf-8").splitlines()
    for line in lines:
        wnid, _, names = line.strip().partition(" ")
        name = names.partition(",")[0].strip()
        if _WNID.fullmatch(wnid) and name:
            yield wnid, name


def _unique(names: dict[str, str]) -> dict[str, str]:
    """The same, with the number added to names that are equal up to case.

    Two classes are called crane, two maillot, and there are a Cardigan and a cardigan.
    """
    counts = Counter(name.casefold() for name in names.values())
    return {
        wnid: f"{name} ({wnid})" if counts[name.casefold()] > 1 else name
        for wnid, name in names.items()
    }
