"""Finding labelled pictures in a folder: a folder a class, in parts or not, or a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from discern.data.search import walk
from discern.errors import DiscernError, first_line

TRAIN = ("train",)
VAL = ("val", "valid", "validation")
TEST = ("test",)
PARTS = {
    **dict.fromkeys(TRAIN, "train"),
    **dict.fromkeys(VAL, "val"),
    **dict.fromkeys(TEST, "test"),
}
"""Name of a folder, or word in a CSV file -> the part of the data set that it means."""


@dataclass(frozen=True)
class Labelled:
    """A file and what it shows."""

    path: Path
    label: str


@dataclass
class Listing:
    """The files of a data set, none of them opened.

    Attributes:
        parts: ``train``, and ``val`` and ``test`` where the data set has them -> files in the order
            of classes and names.
        strays: files that belong to no class.
    """

    parts: dict[str, list[Labelled]]
    strays: list[Path] = field(default_factory=list)


def list_folder(folder: Path, table: str | None = None) -> Listing:
    """The labelled files in ``folder``.

    They are, in this order of preference: those named in the CSV file ``table`` or in the only CSV
    file of the folder that has the columns ``file`` and ``label``; those in ``train/CLASS/``, with
    ``val/``, ``valid/`` or ``validation/`` and ``test/`` where they exist; those in ``CLASS/``.
    What is hidden is passed over, and so is a class without files.

    Raises:
        DiscernError: there is no such folder, or nothing of the kind in it.
    """
    check_folder(folder)
    path = folder / table if table is not None else _table_in(folder)
    if path is not None:
        return _from_table(path)
    if any(_subfolders(folder / name) for name in TRAIN):
        return _from_parts(folder)
    found = Listing({"train": []})
    _add_classes(found, "train", folder)
    if not found.parts["train"] and any((folder / name).is_dir() for name in PARTS):
        raise DiscernError(
            f"data.dir={folder} has no train/ with a folder for each class in it, which its "
            "other parts need beside them."
        )
    return found


def check_folder(folder: Path) -> None:
    """Raise a DiscernError where ``data.dir`` is no folder that can be listed."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DiscernError(f"data.dir={folder} {what}; it must be a folder of pictures.")
    try:
        os.listdir(folder)  # noqa: PTH208 - fails where the folder is closed
    except OSError as error:
        raise DiscernError(f"data.dir={folder} cannot be read: {error.strerror}.") from error


def _from_parts(folder: Path) -> Listing:
    found = Listing({})
    for name, part in PARTS.items():
        if not (folder / name).is_dir():
            continue
        if part in found.parts:
            raise DiscernError(
                f"data.dir={folder} has more than one folder for validation; it must be one of "
                f"{', '.join(VAL)}."
            )
        found.parts[part] = []
        _add_classes(found, part, folder / name)
    # An empty folder for a part is as good as none.
    found.parts = {part: files for part, files in found.parts.items() if files or part == "train"}
    return found


def _add_classes(found: Listing, part: str, folder: Path) -> None:
    classes = _subfolders(folder)
    for name in classes:
        found.parts[part] += [Labelled(file, name) for file in walk(folder / name)]
    inside = set(classes)
    found.strays += [
        folder / name for name in _visible(folder) if name not in inside and name not in PARTS
    ]


def _subfolders(folder: Path) -> list[str]:
    return [name for name in _visible(folder) if (folder / name).is_dir()]


def _visible(folder: Path) -> list[str]:
    """Names in a folder that are not hidden, sorted; none where it is not there."""
    if not folder.is_dir():
        return []
    names = os.listdir(folder)  # noqa: PTH208 - names are wanted
    return sorted(name for name in names if not name.startswith("."))


# A table of files


def _table_in(folder: Path) -> Path | None:
    """The CSV file of a folder that names files and labels."""
    tables = [folder / name for name in _visible(folder) if name.lower().endswith(".csv")]
    tables = [path for path in tables if path.is_file() and _is_table(path)]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DiscernError(
            f"data.dir={folder} has several tables of files and labels ({names}); data.csv must "
            "name one."
        )
    return tables[0] if tables else None


def _is_table(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return {"file", "label"} <= {cell.strip() for cell in header}


def _from_table(path: Path) -> Listing:
    found: dict[str, dict[Path, Labelled]] = {"train": {}}
    for line, row in _rows(path):
        part = PARTS.get(row.get("split") or "train")
        if part is None:
            raise DiscernError(
                f"{path}, line {line}: split={row['split']} is not allowed; it must be one of "
                f"{', '.join(PARTS)}."
            )
        if not row["file"] or not row["label"]:
            raise DiscernError(f"{path}, line {line}: a file or its label is missing.")
        entry = Labelled(path.parent / row["file"], row["label"])
        before = found.setdefault(part, {}).setdefault(entry.path, entry)
        if before != entry:
            raise DiscernError(
                f"{path}, line {line}: {row['file']} is {row['label']} here and {before.label} in "
                "a line before."
            )
    _check_all_there(path, [file for part in found.values() for file in part])
    return Listing({part: _in_order(files.values()) for part, files in found.items()})


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line, and name of the column -> cell."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            if not {"file", "label"} <= set(header):
                raise DiscernError(
                    f"data.csv={path} has the columns {', '.join(header) or 'of an empty file'}; "
                    "it must have file and label, and may have split."
                )
            for cells in reader:
                if cells:
                    row = dict(zip(header, map(str.strip, cells), strict=False))
                    yield reader.line_num, {"file": "", "label": "", **row}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DiscernError(f"data.csv={path} cannot be read: {first_line(error)}.") from error


def _check_all_there(path: Path, files: list[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1:,} more files" if len(missing) > 1 else ""
        raise DiscernError(f"{path} names {missing[0]}{more}, which cannot be found.")


def _in_order(files: Iterable[Labelled]) -> list[Labelled]:
    return sorted(files, key=lambda entry: (entry.label, entry.path))
