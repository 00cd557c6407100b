"""Finding labelled pictures in a folder: one folder per class, in parts or not, or a table."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from discern.data.part_names import (
    is_unlabelled,
    parse,
    parts_among,
    shards_among,
)
from discern.data.pictures import picture_suffixes
from discern.data.place import check_folder, visible_names
from discern.data.tables import SUFFIXES, Files, NoTableError, Table, read_table
from discern.errors import DiscernError
from discern.files.places import is_file, is_folder
from discern.files.walk import walk
from discern.text import visible

TRAIN = ("train",)
VAL = ("val", "valid", "validation")
TEST = ("test",)
PARTS = {
    **dict.fromkeys(TRAIN, "train"),
    **dict.fromkeys(VAL, "val"),
    **dict.fromkeys(TEST, "test"),
}
"""Folder name -> part of a published data set."""

DOMINANT_SHARE, MIN_FILES = 0.95, 20
"""A class with a larger share of at least so many pictures is suspicious."""

_HINT = (
    "data.parts=none takes each folder for a class, "
    "'data.parts={train:FOLDER,val:FOLDER,test:FOLDER}' says where the parts are, "
    "and data.csv names a table of files and labels"
)

PartFolders = str | Mapping[str, str]
"""The setting ``data.parts``: ``none`` if no folder is a part, or part -> its folder."""


@dataclass(frozen=True)
class Labelled:
    """A file and its label.

    The label is in Unicode's normal form NFC; a byte that is not UTF-8 is escaped, as ``\\xff``.
    """

    path: Path
    label: str


@dataclass
class Listing:
    """The files of a data set, none of them opened.

    Attributes:
        parts: ``train``, and ``val`` and ``test`` if the data set has them -> files, sorted by
            class and name.
        strays: files without a class.
        guesses: sentences on ambiguous names and how they were read.
        doubts: warnings about skipped files and suspicious classes.
    """

    parts: dict[str, list[Labelled]]
    strays: list[Path] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def list_folder(
    folder: Path, table: str | None = None, parts: PartFolders | None = None, trains: bool = True
) -> Listing:
    """The labelled files in ``folder``.

    In this order of preference: the files named in ``table``, or in the folder's tables of files
    and labels (see :func:`discern.data.tables.read_table`); the files in ``train/CLASS/``,
    with folders for validation and test if there are any, under any usual name such as ``Training``
    or ``test_images``; the files in ``CLASS/``. A single folder in a folder is searched in its
    place. Hidden files and classes without files are skipped. Links are followed, except to a
    parent folder or to another class.

    Args:
        folder: the setting ``data.dir``.
        table: name of a table in it.
        parts: what its folders are, in place of a guess by their names.
        trains: whether there must be files to train on.

    Raises:
        DiscernError: there is no such folder, it has no such files, or it is unclear which folders
            are classes.
    """
    check_folder(folder)
    if table is not None:
        found = _from_tables([_read(folder, folder / table)], folder)
    elif parts is not None:
        found = _from_named_parts(folder, parts)
    else:
        place = _unwrapped(folder)
        found = _listed(place, trains)
        if place != folder:
            found.guesses.insert(0, f"data.dir={folder}: the data set is in {place}.")
    _warn_of_classes(found)
    return found


def _listed(place: Path, trains: bool) -> Listing:
    unread: dict[Path, NoTableError] = {}
    tables = _tables_in(place, unread)
    skipped = [_unread(path, reason) for path, reason in unread.items()]
    try:
        found = _from_tables(tables, place) if tables else _from_folders(place, trains)
    except DiscernError as error:
        if tables or not skipped:
            raise
        raise DiscernError(f"{str(error).removesuffix('.')}; {skipped[0]}") from error
    if unread and not any(found.parts.values()):
        raise DiscernError(f"data.dir={place} has no folders of classes, and {skipped[0]}")
    found.doubts += skipped
    return found


def _unread(path: Path, reason: NoTableError) -> str:
    why = str(reason).removeprefix(f"data.csv={path} ").removesuffix(".")
    return f"{path.name} is not read: it {why}."


# Folders


def _from_folders(place: Path, trains: bool) -> Listing:
    names = _subfolders(place)
    parts, unclear = parts_among(names)
    if len(names) == 1 and not parts and len(parse(names[0]).parts) == 1:
        parts = {name: next(iter(parse(name).parts)) for name in names}
    unclear = [name for name in unclear if _has_files(place / name)]
    with_classes = {name for name in parts if _subfolders(_within_part(place / name))}
    others = [name for name in names if name not in parts and _has_files(place / name)]
    has_training = any(parts[name] == "train" for name in with_classes)
    is_plain = (has_training or (with_classes and not trains)) and not unclear
    strange = [name for name in others if not (is_plain and _is_beside(place, name, parts))]
    if (parts or unclear) and strange and (is_plain or unclear or not with_classes):
        _refuse_parts(place, [*parts, *unclear], [n for n in strange if n not in unclear])
    if is_plain:
        found = _from_parts(place, {n: _within_part(place / n) for n in parts}, parts)
        found.doubts += [f"{place / name} is passed over: it is no part." for name in others]
        return found
    # Without training images, val/ and test/ would pass for two classes.
    if with_classes or (parts and not others):
        raise DiscernError(
            f"data.dir={place} has {'/, '.join(parts)}/, but no train/ with a folder for each "
            f"class in it; {_HINT}."
        )
    found = Listing({"train": []})
    _check_classes(place, others)
    _add_classes(found, "train", place)
    return found


def _refuse_parts(place: Path, parts: Sequence[str], others: Sequence[str]) -> NoReturn:
    """Refuse folders that may be parts of the data set or classes of it."""
    shown = ", ".join(f"{name}/" for name in others[:5]) + (", …" if len(others) > 5 else "")
    beside = f" beside {shown}" if others else ""
    raise DiscernError(
        f"data.dir={place} has {', '.join(f'{name}/' for name in parts)}{beside}, and it cannot be "
        f"told whether these are parts of the data set or classes; {_HINT}."
    )


def _is_beside(place: Path, name: str, parts: Mapping[str, str]) -> bool:
    """Whether a folder beside those of parts is clearly not a class, and may be skipped."""
    rests = {parse(part).rest for part in parts}
    inside, _ = parts_among(_subfolders(place / name))
    shares = bool(parse(name).rest) and any(
        rest and parse(name).rest[: len(rest)] == rest for rest in rests
    )
    return shares or bool(inside) or is_unlabelled(name)


def _from_parts(place: Path, folders: Mapping[str, Path], parts: Mapping[str, str]) -> Listing:
    found = Listing({})
    for name, part in parts.items():
        if part in found.parts:
            several = ", ".join(name for name in parts if parts[name] == part)
            raise DiscernError(
                f"data.dir={place} has more than one folder for the same part ({several}); it "
                "must have one, which 'data.parts={train:FOLDER,…}' may name."
            )
        found.parts[part] = []
        _check_classes(folders[name], _subfolders(folders[name]))
        _add_classes(found, part, folders[name])
        if not found.parts[part] and _has_files(folders[name]):
            found.doubts.append(f"{folders[name]} is passed over: it has no folders of classes.")
        elif name.lower() not in PARTS or folders[name] != place / name:
            found.guesses.append(f"{folders[name]} is taken for the part {part}.")
    # Drop parts whose folder is empty.
    found.parts = {part: files for part, files in found.parts.items() if files or part == "train"}
    return found


def _from_named_parts(folder: Path, parts: PartFolders) -> Listing:
    """The files of the folders that the setting ``data.parts`` names, each of a folder a class."""
    if isinstance(parts, str):
        found = Listing({"train": []})
        _add_classes(found, "train", folder)
        return found
    found = Listing({})
    for part, name in parts.items():
        if not is_folder(folder / name):
            raise DiscernError(
                f"data.parts.{part}={name} is no folder in data.dir={folder}; it has "
                f"{', '.join(_subfolders(folder)[:10]) or 'none'}."
            )
        found.parts[part] = []
        _add_classes(found, part, folder / name, set(map(folder.joinpath, parts.values())))
    found.parts = {part: files for part, files in found.parts.items() if files or part == "train"}
    named = {Path(name).parts[0] for name in parts.values() if Path(name).parts}
    others = [name for name in _subfolders(folder) if named and name not in named]
    why = "is passed over: data.parts does not name it"
    found.doubts += [f"{folder / name} {why}." for name in others]
    return found


def _add_classes(
    found: Listing, part: str, folder: Path, without: Iterable[Path] = frozenset()
) -> None:
    classes = [name for name in _subfolders(folder) if folder / name not in without]
    resolved = folder.resolve()
    above = {_identity(place) for place in (resolved, *resolved.parents)}
    places = {name: _identity(folder / name) for name in classes}
    spelled: dict[str, list[str]] = {}
    files = []
    for name in classes:
        seen = above | (set(places.values()) - {places[name]})
        here = [Labelled(file, _text(name)) for file in walk(folder / name, seen)]
        spelled.setdefault(_text(name), []).append(name)
        if not here:
            found.doubts.append(f"{folder / name} is passed over: it has no files.")
        files += here
    if any(len(names) > 1 for names in spelled.values()):
        files = in_order(files)
        found.guesses += [
            f"{len(names)} folders in {folder} are the class {name}, spelled in other bytes."
            for name, names in spelled.items()
            if len(names) > 1
        ]
    found.parts[part] += files
    inside = {*classes, *(path.name for path in without)}
    found.strays += [folder / name for name in visible_names(folder) if name not in inside]


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode of a folder, by which ``walk`` recognizes it behind links."""
    status = folder.stat()
    return status.st_dev, status.st_ino


# Wrappers, and folders that are not classes


def _unwrapped(folder: Path) -> Path:
    """The folder itself, or the single folder in it, and so on."""
    seen = set()
    while (identity := _identity(folder)) not in seen:
        seen.add(identity)
        filled = [name for name in _subfolders(folder) if _has_files(folder / name)]
        if len(filled) != 1 or _has_own_data(folder):
            break
        below = folder / filled[0]
        parts, _ = parts_among(_subfolders(below))
        if parse(filled[0]).parts and not (len(parts) > 1 and "train" in parts.values()):
            break
        if not (_subfolders(below) or any(_is_named_table(name) for name in visible_names(below))):
            break
        folder = below
    return folder


def _within_part(folder: Path) -> Path:
    """The folder of a part, or the one in it with the same or a neutral name."""
    while True:
        filled = [name for name in _subfolders(folder) if _has_files(folder / name)]
        if len(filled) != 1 or _has_own_data(folder):
            return folder
        name, parsed = filled[0], parse(filled[0])
        repeats = bool(parsed.parts) and parsed.parts == parse(folder.name).parts
        if not (repeats or parsed.is_neutral or name.lower() == folder.name.lower()):
            return folder
        folder = folder / name


def _has_own_data(folder: Path) -> bool:
    """Whether there are pictures or tables directly in a folder."""
    suffixes = picture_suffixes()
    return any(
        Path(name).suffix.lower() in suffixes or _is_named_table(name)
        for name in visible_names(folder)
    )


def _has_files(folder: Path) -> bool:
    return is_folder(folder) and next(walk(folder), None) is not None


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    """Refuse folders that are parts or pieces of a data set rather than its classes."""
    names = [name for name in names if _has_files(folder / name)]
    parts, unclear = parts_among(names)
    # One alone, such as flowers_train, is a part if its pictures are in folders.
    alone = [n for n in names if parse(n).parts and n not in parts and _subfolders(folder / n)]
    if parts or unclear or alone:
        seen = [*parts, *unclear, *(name for name in alone if name not in unclear)]
        _refuse_parts(folder, seen, [name for name in names if name not in seen])
    if shards := shards_among(names) or _neutral_names(folder, names):
        raise DiscernError(
            f"data.dir: the folders {', '.join(shards[:5])} in {folder} look like pieces of a data "
            f"set, not like classes; {_HINT}."
        )
    inside = {name: {_text(sub) for sub in _subfolders(folder / name)} for name in names}
    of_parts = [name for name, subs in inside.items() if parts_among(subs)[0]]
    if of_parts and (
        len(of_parts) == len(names)
        or any(len(set(parts_among(inside[name])[0].values())) > 1 for name in of_parts)
    ):
        example = f"{of_parts[0]}/{next(iter(sorted(parts_among(inside[of_parts[0]])[0])))}"
        raise DiscernError(
            f"data.dir: the folders in {folder} have parts of the data set in them, such as "
            f"{example}, where parts must have classes in them; {_HINT}."
        )
    shared = set.intersection(*inside.values()) if inside else set()
    if len(names) > 1 and len(shared) > 1 and all(subs == shared for subs in inside.values()):
        raise DiscernError(
            f"data.dir: the folders {', '.join(names[:5])} in {folder} all have the same folders "
            f"in them ({', '.join(sorted(shared)[:5])}), which may be the classes; {_HINT}."
        )


def _neutral_names(folder: Path, names: Sequence[str]) -> list[str]:
    """Names such as images or masks, if all are, or those of them that have folders in them."""
    found = [name for name in names if parse(name).is_neutral]
    return found if found == list(names) else [n for n in found if _subfolders(folder / n)]


def _warn_of_classes(found: Listing) -> None:
    """Warn of suspicious classes."""
    counts = Counter(entry.label for entry in found.parts.get("train", ()))
    total = sum(counts.values())
    if len(counts) > 1 and total >= MIN_FILES:
        ((name, most),) = counts.most_common(1)
        if most > DOMINANT_SHARE * total:
            found.doubts.append(
                f"The class {name} has {most:,} of {total:,} training files, nearly all."
            )
    for name in counts:
        parsed = parse(name)
        if parsed.is_neutral:
            found.doubts.append(f"The class {name} is named like any folder of pictures.")
        elif parsed.parts:
            found.doubts.append(f"The class {name} has a word in its name that may mean a part.")
    folded = Counter(name.casefold() for name in counts)
    for name in (name for name, count in folded.items() if count > 1):
        alike = " and ".join(sorted(own for own in counts if own.casefold() == name))
        found.doubts.append(f"The classes {alike} differ in nothing but capitals.")


# Names


def _subfolders(folder: Path) -> list[str]:
    return [name for name in visible_names(folder) if is_folder(folder / name)]


def _text(name: str) -> str:
    """A name as printable text; bytes that are not UTF-8, and control characters, are escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return visible(unicodedata.normalize("NFC", text))


def in_order(files: Iterable[Labelled]) -> list[Labelled]:
    """Files in the order of classes and names."""
    return sorted(files, key=lambda entry: (entry.label, entry.path))


# Tables of files


def _is_named_table(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _tables_in(place: Path, unread: dict[Path, NoTableError]) -> list[Table]:
    """The tables of a folder that name its files and labels: one, or one for each part.

    Args:
        place: the folder.
        unread: receives the other tables, and why each is not read.
    """
    tables = []
    for path in (place / name for name in visible_names(place) if _is_named_table(name)):
        if not is_file(path):
            continue
        if {"submission", "submit"} & set(parse(path.stem).rest):
            unread[path] = NoTableError("is named like an answer to be submitted.")
            continue
        try:
            tables.append(_read(place, path, unread))
        except NoTableError as error:
            unread[path] = error
    plain = [table for table in tables if not table.guesses] or tables
    parts = {table.path: parse(table.path.stem).parts for table in plain}
    training = [table for table in plain if not parts[table.path] or "train" in parts[table.path]]
    if not training:
        unread |= {t.path: NoTableError("is not for training, and no other is.") for t in tables}
        return []
    one_each = {next(iter(named)) for named in parts.values() if len(named) == 1}
    if len(plain) > 1 and len(one_each) < len(plain):
        names = ", ".join(table.path.name for table in plain)
        raise DiscernError(
            f"data.dir={place} has several tables of files and labels ({names}); data.csv must "
            "name one."
        )
    unread |= {
        table.path: NoTableError("is less plainly a table of files and labels.")
        for table in tables
        if table not in plain
    }
    return plain


def _read(place: Path, path: Path, unread: dict[Path, NoTableError] | None = None) -> Table:
    """A table of files in ``place``; with ``unread`` one that no setting names."""
    table = read_table(path, Files(path.parent, place, picture_suffixes()))
    if unread is None or any(table.files.find(row.file) for row in table.rows):
        return table
    if any(_has_files(place / name) for name in _subfolders(place)):
        raise NoTableError("names no file that is here.")
    return table


def _from_tables(tables: Sequence[Table], place: Path) -> Listing:
    listing = Listing({"train": []})
    named: dict[Path, tuple[str, Labelled]] = {}
    for table in tables:
        (default,) = parse(table.path.stem).parts if len(tables) > 1 else ("train",)
        if len(tables) > 1:
            listing.guesses.append(f"{table.path.name} is taken for the part {default}.")
        listing.guesses += table.guesses
        if table.unread:
            listing.guesses.append(f"{table.path.name}: {_columns(table.unread)} not read.")
        _add_rows(named, table, default)
    for part, entry in named.values():
        listing.parts.setdefault(part, []).append(entry)
    listing.parts = {part: in_order(files) for part, files in listing.parts.items()}
    others = [path for path in tables[0].files.pictures() if path not in named]
    if others:
        names = " and ".join(table.path.name for table in tables)
        does = "does" if len(tables) == 1 else "do"
        listing.doubts.append(
            f"Files that are passed over, since {names} {does} not name them: {len(others):,}, "
            f"such as {others[0]}."
        )
    return listing


def _columns(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"the column {shown} is" if len(names) == 1 else f"the columns {shown} are"


def _add_rows(named: dict[Path, tuple[str, Labelled]], table: Table, default: str) -> None:
    missing = []
    for row in table.rows:
        part = row.part or default
        files = table.files.find(row.file, part)
        if not files:
            missing.append(table.path.parent / row.file)
            continue
        if len(files) > 1:
            raise DiscernError(
                f"{table.path}, line {row.line}: {row.file} may be {files[0]} or {files[1]}; its "
                "folder must be named too."
            )
        entry = Labelled(files[0], _text(row.label))
        part_before, before = named.setdefault(entry.path, (part, entry))
        if (part_before, before) != (part, entry):
            raise DiscernError(
                f"{table.path}, line {row.line}: {row.file} is {entry.label} for {part} here and "
                f"{before.label} for {part_before} in a line before."
            )
    if missing:
        more = f" and {len(missing) - 1:,} more files" if len(missing) > 1 else ""
        raise DiscernError(f"{table.path} names {missing[0]}{more}, which cannot be found.")
