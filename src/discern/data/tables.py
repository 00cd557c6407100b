"""Tables of files and labels, in all usual dialects."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from discern.data.part_names import part_of
from discern.errors import DiscernError, first_line
from discern.files.csv_cells import csv_text
from discern.files.places import is_file, is_there
from discern.files.walk import walk
from discern.text import visible

SUFFIXES = (".csv", ".tsv")

_FILE = (
    *("file", "filename", "file_name", "filepath", "filepaths", "file_path", "files", "path"),
    *("image", "image_id", "image_name", "image_path", "image_file", "img", "img_name", "img_path"),
    *("images", "picture", "photo", "id", "id_code", "name"),
)
_LABEL = (
    *("label", "labels", "class", "class_name", "class_id", "classes", "category", "category_name"),
    *("category_id", "target", "diagnosis", "dx", "breed", "species", "tag", "tags", "label_name"),
    *("label_id", "ground_truth", "level", "grade"),
)
_SPLIT = ("split", "subset", "partition", "part", "set", "data_set", "dataset", "usage", "phase")
_FLAGS = {
    **dict.fromkeys(("is_valid", "is_val", "is_validation"), ("val", "train")),
    "is_test": ("test", "train"),
    **dict.fromkeys(("is_train", "is_training", "is_training_image"), ("train", "test")),
}
"""Column -> part for yes, part for no."""
_YES, _NO = {"true", "yes", "1", "1.0", "t", "y"}, {"false", "no", "0", "0.0", "f", "n", ""}
_SEPARATORS = (",", ";", "\t", "|")
_MAX_PROBES = 20
_MAX_BYTES, _MAX_CELLS = 1 << 28, 20_000_000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class Row:
    """A file, its label, and its part if the table names one."""

    line: int
    file: str
    label: str
    part: str | None


@dataclass
class Table:
    """The content of a table.

    Attributes:
        path: where it is.
        files: finds them.
        rows: in its order.
        guesses: sentences on ambiguous columns and how they were read.
        unread: names of the columns that are not used.
    """

    path: Path
    files: Files
    rows: list[Row]
    guesses: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


class NoTableError(DiscernError):
    """A file is no table of files and labels; the sentence names the columns found."""


def read_table(path: Path, files: Files) -> Table:
    """The files and labels in a table.

    Its values are separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16. A column has
    the files, by name or path, with or without suffix; one has the labels, or each class has a
    column of zeros and ones. A column may name the part (``split``) or mark validation
    (``is_valid``).

    Args:
        path: where it is.
        files: finds the pictures.

    Raises:
        NoTableError: it cannot be read, or its columns are unclear.
        DiscernError: a line is wrong.
    """
    header, lines = _cells(path)
    columns = _Columns(
        path, header, [cells for _, cells in lines], lambda value: bool(files.find(value))
    )
    rows = [columns.row(line, cells) for line, cells in lines]
    return Table(path, files, rows, columns.guesses, columns.unread)


# Text


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the number and the cells of each line that is not empty."""
    try:
        text = _text(path)
        _check_cells(max(map(text.count, _SEPARATORS)))  # before they take memory
        separator, skipped = _separator(text)
        _check_cells(text.count(separator))
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
        )
        for _ in range(skipped):
            next(reader)
        header = [visible(cell.strip()) for cell in next(reader, [])]  # they stand in sentences
        lines = []
        for cells in reader:
            if any(cells[len(header) :]):
                raise DiscernError(
                    f"{path}, line {reader.line_num}: it has {len(cells)} cells for "
                    f"{len(header)} columns; a name with a comma in it must be in quotes."
                )
            if any(cell.strip() for cell in cells):
                stripped = [csv_text(cell.strip()) for cell in cells[: len(header)]]
                stripped += [""] * (len(header) - len(stripped))
                lines.append((reader.line_num, stripped))
                _check_cells(len(lines) * len(header))
    except (OSError, csv.Error, UnicodeError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise NoTableError(f"data.csv={path} cannot be read: {why}.") from error
    return header, lines


def _check_cells(count: int) -> None:
    if count > _MAX_CELLS:
        raise csv.Error(f"it has more than {_MAX_CELLS:,} cells")


def _text(path: Path) -> str:
    """The file's text, with the line ends of any system.

    Bytes that are not UTF-8 are kept, since file names may have them.
    """
    text = _decoded(path)
    return text if "\n" in text else text.replace("\r", "\n")


def _decoded(path: Path) -> str:
    if not is_file(path):
        path.stat()
        raise OSError("it is no file")  # a pipe would be waited for without end
    if path.stat().st_size > _MAX_BYTES:
        raise OSError(f"it has more than {_MAX_BYTES >> 20} MiB")
    content = path.read_bytes()
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    # Without a mark, every other byte of plain text is zero.
    if content[1:64:2].count(0) > len(content[1:64:2]) // 2:
        return content.decode("utf-16-le")
    if content[0:64:2].count(0) > len(content[0:64:2]) // 2:
        return content.decode("utf-16-be")
    return content.decode("utf-8-sig", "surrogateescape")


def _separator(text: str) -> tuple[str, int]:
    """The separator of cells, and the number of lines before the header that declare it."""
    first, _, rest = text.partition("\n")
    if re.fullmatch(r"\"?sep=(.)\"?\s*", first):  # as Excel writes it
        return first.strip().strip('"')[4], 1
    line = first if first.strip() else rest.partition("\n")[0]

    def known(separator: str) -> tuple[int, int]:
        cells = csv.reader([line], delimiter=separator, skipinitialspace=True)
        names = [_plain(cell) for cell in next(cells, [])]
        return sum(name in _FILE or name in _LABEL for name in names), len(names)

    return max(_SEPARATORS, key=known), 0


def _plain(name: str) -> str:
    return re.sub(r"[\s\-.]+", "_", name.strip().lower())


# Columns


class _Columns:
    """The meaning of each column."""

    def __init__(
        self,
        path: Path,
        header: Sequence[str],
        lines: Sequence[Sequence[str]],
        is_file: Callable[[str], bool],
    ) -> None:
        self.path, self.header, self.lines = path, header, lines
        self.guesses: list[str] = []
        self.names = [_plain(name) for name in header]
        if not {*_FILE, *_LABEL} & {*self.names} and any(map(is_file, header)):
            raise self._refused("its first line has a file in it, and must have the names of the "
                                "columns")  # fmt: skip
        self.parts = self._parts()
        self.file = self._file(is_file)
        self.one_hot: list[int] = []
        self.label = self._label()

    def row(self, line: int, cells: Sequence[str]) -> Row:
        file, label = cells[self.file], self._label_of(line, cells)
        if not file or not label:
            raise DiscernError(f"{self.path}, line {line}: a file or its label is missing.")
        return Row(line, file, label, self._part_of(line, cells))

    @property
    def unread(self) -> list[str]:
        """Names of the columns that are not used."""
        asked = {self.file, self.label, *self.parts, *self.one_hot, *self._named(_LABEL)}
        return [name for number, name in enumerate(self.header) if name and number not in asked]

    # Columns

    def _refused(self, why: str) -> NoTableError:
        shown = ", ".join(self.header[:20]) or "of an empty file"
        more = f" and {len(self.header) - 20:,} more" if len(self.header) > 20 else ""
        return NoTableError(
            f"data.csv={self.path} has the columns {shown}{more}: {why}; it must have file and "
            "label, and may have split."
        )

    def _column(self, number: int) -> list[str]:
        return [cells[number] for cells in self.lines]

    def _named(self, names: Sequence[str]) -> list[int]:
        """Columns with these names, in the order of the names."""
        return [number for name in names for number, own in enumerate(self.names) if own == name]

    def _parts(self) -> dict[int, tuple[str, str] | None]:
        """Columns that name the part -> the parts for yes and no, if they are flags."""
        for number in self._named(_SPLIT):
            if self.names[number] == "split" or any(map(part_of, self._column(number))):
                return {number: None}
        return {number: _FLAGS[self.names[number]] for number in self._named(tuple(_FLAGS))}

    def _file(self, is_file: Callable[[str], bool]) -> int:
        if not self.lines and not {*_FILE} & {*self.names}:
            raise self._refused("none is known to name files")
        probes = self.lines[:: max(1, len(self.lines) // _MAX_PROBES)]

        def found(number: int) -> float:
            values = [cells[number] for cells in probes if cells[number]]
            return sum(map(is_file, values)) / max(1, len(values))

        named = [number for number in self._named(_FILE) if number not in self.parts]
        if named:
            return named[0] if self.names[named[0]] == "file" else max(named, key=found)
        others = [n for n in range(len(self.header)) if n not in self.parts and found(n) > 0.5]
        if not others:
            raise self._refused("none is known to name files, and no values of one are files here")
        self.guesses.append(f"{self.path.name}: the column {self.header[others[0]]} has the files.")
        return others[0]

    def _label(self) -> int:
        """The column of the labels, or -1 if each class has its own column."""
        taken = {self.file, *self.parts}
        named = [number for number in self._named(_LABEL) if number not in taken]
        if named:
            return named[0] if len(named) == 1 else self._one_label_column(named)
        rest = [number for number in range(len(self.header)) if number not in taken]
        flags = [number for number in rest if self._is_binary(number)]
        if len(flags) > 1:
            self.one_hot = self._only_hot(flags)
            shown = ", ".join(self.header[number] for number in self.one_hot[:10])
            self.guesses.append(f"{self.path.name}: each class has a column ({shown}).")
            return -1
        if len(rest) == 1 and self._is_categorical(rest[0]):
            self.guesses.append(
                f"{self.path.name}: the column {self.header[self.file]} has the files, "
                f"{self.header[rest[0]]} the labels."
            )
            return rest[0]
        raise self._refused("none is known to have the labels")

    def _one_label_column(self, named: list[int]) -> int:
        """The column of class names if others hold the same as numbers; else one called label."""
        first, *others = named
        for other in others:
            pairs = set(zip(self._column(first), self._column(other), strict=True))
            is_same = len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
            if not is_same and self.names[first] != "label":
                raise self._refused(
                    f"{self.header[first]} and {self.header[other]} may be the labels, and differ"
                )
            if is_same and _are_numbers(self._column(first)) > _are_numbers(self._column(other)):
                first = other
        unread = ", ".join(self.header[number] for number in named if number != first)
        self.guesses.append(
            f"{self.path.name}: the column {self.header[first]} has the labels; {unread} is not "
            "read."
        )
        return first

    def _is_binary(self, number: int) -> bool:
        values = set(self._column(number))
        return bool(values) and all(_zero_or_one(value) is not None for value in values)

    def _only_hot(self, flags: list[int]) -> list[int]:
        for line, cells in enumerate(self.lines):
            ones = [self.header[number] for number in flags if _zero_or_one(cells[number])]
            if len(ones) != 1:
                several = " and ".join(ones[:3]) or "none of them"
                raise self._refused(
                    f"in row {line + 1} a picture is of {several}, and it must be of one class"
                )
        return flags

    def _is_categorical(self, number: int) -> bool:
        values = self._column(number)
        return not _are_numbers(values) and 1 < len(set(values)) <= len(values) / 2

    # Lines

    def _label_of(self, line: int, cells: Sequence[str]) -> str:
        if not self.one_hot:
            return cells[self.label]
        (number,) = [number for number in self.one_hot if _zero_or_one(cells[number])]
        return self.header[number]

    def _part_of(self, line: int, cells: Sequence[str]) -> str | None:
        if not self.parts:
            return None
        found = {self._cell_part(line, number, meaning, cells[number]) for number, meaning in
                 self.parts.items()} - {None}  # fmt: skip
        # A flag says no for all parts but one.
        found = found - {"train"} if len(found) > 1 else found
        if len(found) > 1:
            raise DiscernError(f"{self.path}, line {line}: it is of two parts.")
        return found.pop() if found else "train"

    def _cell_part(
        self, line: int, number: int, meaning: tuple[str, str] | None, value: str
    ) -> str | None:
        if meaning is not None:
            if value.lower() in _YES | _NO:
                return meaning[0] if value.lower() in _YES else meaning[1]
            allowed = "true or false"
        elif not value or (part := part_of(value)) is not None:
            return part if value else None
        else:
            allowed = "one of train, val, valid, validation, test"
        raise DiscernError(
            f"{self.path}, line {line}: {self.header[number]}={visible(value)} is not allowed; it "
            f"must be {allowed}."
        )


def _zero_or_one(value: str) -> int | None:
    if value.lower() in ("true", "false"):  # as pandas.get_dummies writes them
        return int(value.lower() == "true")
    try:
        number = float(value.replace(",", "."))
    except ValueError:
        return None
    return int(number) if number in (0, 1) else None


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        return all(float(value.replace(",", ".")) is not None for value in values if value)
    except ValueError:
        return False


# Files


class Files:
    """Finds the files that a table names, by path, by name, or by name without suffix.

    Args:
        table: the folder of the table, from which paths begin.
        folder: the data set's folder, in which names are looked for.
        suffixes: of pictures, in lower case.
    """

    def __init__(self, table: Path, folder: Path, suffixes: set[str]) -> None:
        self.table, self.folder, self._suffixes = table, folder, suffixes
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, value: str, part: str | None = None) -> list[Path]:
        """The files that a value may mean: one if it is clear, none if there is no such file."""
        if is_file(path := self.table / value):
            return [self._as_walked(path, value)]
        steps = [step for step in _DRIVE.sub("", value).replace("\\", "/").split("/") if step]
        steps = [step for step in steps if step != "."]
        if not steps or "\0" in value:
            return []
        if "\\" in value and is_file(path := self.table.joinpath(*steps)):
            return [self._as_walked(path, value)]
        return self._closest(self._candidates(steps[-1]), steps[:-1], part)

    def _as_walked(self, path: Path, value: str) -> Path:
        """The path by which a walk through the folder finds the file, if it is inside."""
        if ".." not in value and not Path(value).is_absolute():
            return path
        plain = self.folder / os.path.relpath(path, self.folder)
        # A step back from a link leads elsewhere.
        is_inside = ".." not in plain.relative_to(self.folder).parts
        return plain if is_inside and _is_same(plain, path) else path

    def pictures(self) -> Iterator[Path]:
        """All files of the data set that should be pictures."""
        return (file for files in self._index().values() for file in files)

    def _candidates(self, name: str) -> list[Path]:
        index = self._index()
        exact = [path for path in index.get(_stem(name, self._suffixes), ()) if path.name == name]
        return exact or index.get(name, [])

    def _closest(self, found: list[Path], above: list[str], part: str | None) -> list[Path]:
        """The files in the named folders, and among these the files of a part if there are any."""

        def agrees(path: Path) -> bool:
            # The table may begin its paths further up or further down than the data set.
            own = path.relative_to(self.folder).parts[:-1]
            pairs = zip(reversed(own), reversed(above), strict=False)
            return all(one == other for one, other in pairs)

        found = [path for path in found if agrees(path)]
        if len(found) > 1 and part is not None:
            found = [path for path in found if self._is_of(path, part)] or found
        return found

    def _is_of(self, path: Path, part: str) -> bool:
        return any(part_of(step) == part for step in path.relative_to(self.folder).parts[:-1])

    def _index(self) -> dict[str, list[Path]]:
        """Name without suffix -> pictures."""
        if self._by_name is None:
            self._by_name = {}
            for path in walk(self.folder):
                if path.suffix.lower() in self._suffixes:
                    self._by_name.setdefault(path.stem, []).append(path)
        return self._by_name


def _stem(name: str, suffixes: set[str]) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in suffixes else name


def _is_same(one: Path, other: Path) -> bool:
    return is_there(one) and os.path.samefile(one, other)  # noqa: PTH121
