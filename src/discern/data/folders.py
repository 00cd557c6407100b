"""Finding labelled pictures in a folder: a folder a class, in parts or not, or a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

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
    """A file and what it shows; a byte of the label that is no UTF-8 is shown, as ``\\xff``."""

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


def list_folder(folder: Path, table: str | None = None, trains: bool = True) -> Listing:
    """The labelled files in ``folder``.

    They are, in this order of preference: those named in the CSV file ``table`` or in the only CSV
    file of the folder that has the columns ``file`` and ``label``; those in ``train/CLASS/``, with
    ``val/``, ``valid/`` or ``validation/`` and ``test/`` where they exist, in capitals or not;
    those in ``CLASS/``. What is hidden is passed over, and so is a class without files. Links are
    followed, but not to a folder that this one is in, nor to another class.

    Args:
        folder: the folder.
        table: name in it of the CSV file; None to find it.
        trains: whether there must be files to train on.

    Raises:
        DiscernError: there is no such folder, or nothing of the kind in it.
    """
    check_folder(folder)
    path = folder / table if table is not None else _table_in(folder)
    if path is not None:
        return _from_table(path)
    parts = {name: PARTS[name.lower()] for name in _subfolders(folder) if name.lower() in PARTS}
    with_classes = {name for name in parts if _subfolders(folder / name)}
    if any(parts[name] == "train" for name in with_classes) or (with_classes and not trains):
        return _from_parts(folder, parts)
    # Without training images, val/ and test/ would pass for two classes.
    if with_classes or (parts and len(parts) == len(_subfolders(folder))):
        raise DiscernError(
            f"data.dir={folder} has {'/, '.join(parts)}/, but no train/ with a folder for each "
            "class in it."
        )
    found = Listing({"train": []})
    _add_classes(found, "train", folder)
    return found


def check_folder(folder: Path) -> None:
    """Raise a DiscernError where ``data.dir`` is no folder that can be listed."""
    if not os.path.isdir(folder):  # noqa: PTH112 - is_dir raises for some paths
        what = "is a file" if os.path.exists(folder) else "does not exist"  # noqa: PTH110
        raise DiscernError(f"data.dir={folder} {what}; it must be a folder of pictures.")
    _visible(folder)


def _from_parts(folder: Path, parts: Mapping[str, str]) -> Listing:
    found = Listing({})
    for name, part in parts.items():
        if part in found.parts:
            several = ", ".join(name for name in parts if parts[name] == part)
            raise DiscernError(
                f"data.dir={folder} has more than one folder for the same part ({several}); it "
                "must have one."
            )
        found.parts[part] = []
        _add_classes(found, part, folder / name)
    # An empty folder for a part is as good as none.
    found.parts = {part: files for part, files in found.parts.items() if files or part == "train"}
    return found


def _add_classes(found: Listing, part: str, folder: Path) -> None:
    classes = _subfolders(folder)
    resolved = folder.resolve()
    above = {_identity(place) for place in (resolved, *resolved.parents)}
    places = {name: _identity(folder / name) for name in classes}
    for name in classes:
        files = walk(folder / name, above | (set(places.values()) - {places[name]}))
        found.parts[part] += [Labelled(file, _text(name)) for file in files]
    inside = set(classes)
    found.strays += [folder / name for name in _visible(folder) if name not in inside]


def _identity(folder: Path) -> tuple[int, int]:
    """What ``walk`` knows a folder by, whatever links lead to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _subfolders(folder: Path) -> list[str]:
    return [name for name in _visible(folder) if os.path.isdir(folder / name)]  # noqa: PTH112


def _visible(folder: Path) -> list[str]:
    """Names in a folder that are not hidden, sorted."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names are wanted
    except OSError as error:
        raise DiscernError(f"data.dir: {folder} cannot be read: {error.strerror}.") from error
    return sorted(name for name in names if not name.startswith("."))


def _text(name: str) -> str:
    """A name as text that can be written; of one that is no UTF-8 the bytes are shown."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


# A table of files


def _table_in(folder: Path) -> Path | None:
    """The CSV file of a folder that names files and labels."""
    tables = [folder / name for name in _visible(folder) if name.lower().endswith(".csv")]
    tables = [path for path in tables if _is_table(path)]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DiscernError(
            f"data.dir={folder} has several tables of files and labels ({names}); data.csv must "
            "name one."
        )
    return tables[0] if tables else None


def _is_table(path: Path) -> bool:
    try:
        with _open_table(path) as file:
            header = next(csv.reader(file), [])
    except (OSError, csv.Error):
        return False
    return {"file", "label"} <= {cell.strip() for cell in header}


def _open_table(path: Path) -> IO[str]:
    """Open a CSV file; bytes that are no UTF-8 stay what they are in the names of files.

    Raises:
        OSError: it is no file, or cannot be opened.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - is_file raises for some paths
        path.stat()
        raise OSError("it is no file")  # a pipe would be waited for without end
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _from_table(path: Path) -> Listing:
    found: dict[Path, tuple[str, Labelled]] = {}
    for line, row in _rows(path):
        split = row.get("split") or "train"
        part = PARTS.get(split.lower())
        if part is None:
            raise DiscernError(
                f"{path}, line {line}: split={split} is not allowed; it must be one of "
                f"{', '.join(PARTS)}."
            )
        if not row["file"] or not row["label"]:
            raise DiscernError(f"{path}, line {line}: a file or its label is missing.")
        entry = Labelled(path.parent / row["file"], _text(row["label"]))
        part_before, before = found.setdefault(entry.path, (part, entry))
        if (part_before, before) != (part, entry):
            raise DiscernError(
                f"{path}, line {line}: {row['file']} is {entry.label} for {part} here and "
                f"{before.label} for {part_before} in a line before."
            )
    _check_all_there(path, list(found))
    parts: dict[str, list[Labelled]] = {"train": []}
    for part, entry in found.values():
        parts.setdefault(part, []).append(entry)
    return Listing({part: _in_order(files) for part, files in parts.items()})


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number of the line, and name of the column -> cell."""
    try:
        with _open_table(path) as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            if not {"file", "label"} <= set(header):
                raise DiscernError(
                    f"data.csv={path} has the columns {', '.join(header) or 'of an empty file'}; "
                    "it must have file and label, and may have split."
                )
            for cells in reader:
                if any(cells[len(header) :]):
                    raise DiscernError(
                        f"{path}, line {reader.line_num}: it has {len(cells)} cells for "
                        f"{len(header)} columns; a name with a comma in it must be in quotes."
                    )
                if any(cells):
                    row = dict(zip(header, map(str.strip, cells), strict=False))
                    yield reader.line_num, {"file": "", "label": "", **row}
    except (OSError, csv.Error) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise DiscernError(f"data.csv={path} cannot be read: {why}.") from error


def _check_all_there(path: Path, files: list[Path]) -> None:
    missing = [file for file in files if not os.path.isfile(file)]  # noqa: PTH113
    if missing:
        more = f" and {len(missing) - 1:,} more files" if len(missing) > 1 else ""
        raise DiscernError(f"{path} names {missing[0]}{more}, which cannot be found.")


def _in_order(files: Iterable[Labelled]) -> list[Labelled]:
    return sorted(files, key=lambda entry: (entry.label, entry.path))
