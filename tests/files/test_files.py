from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import stat
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.files.csv_cells import csv_cell, csv_text, write_csv
from discern.files.reading import read_bytes, read_json
from discern.files.removing import remove_tree
from discern.files.writing import write_whole
from discern.text import printable, visible
from hostile.texts import CHOSEN


def test_a_file_is_written_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with write_whole(path) as file:
        file.write("é\n")
    assert path.read_bytes() == "é\n".encode()
    with write_whole(path, "wb") as file:
        file.write(b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def write_in_part(path, error) -> None:
    with write_whole(path) as file:
        file.write("new, but not all of")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error):
        write_in_part(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ValueError, match="no"):
        write_in_part(tmp_path / "file", ValueError("no"))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with write_whole(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def unfinished(folder, name="file"):
    return folder / f".{name}.{'0f' * 8}.unfinished"


def test_what_a_dead_writer_left_goes_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    unfinished(folder).write_text("half")
    unfinished(folder, "link").symlink_to(outside)
    unfinished(folder, "folder").mkdir()
    others = ["file.0f0f.unfinished", ".file.unfinished", ".file.abcdefgh", "x.unfinished", ".part"]
    for name in others:
        (folder / name).write_text("a user's")
    with write_whole(folder / "file") as file:
        file.write("new")
    assert outside.read_text() == "kept"
    kept = {unfinished(folder, "link").name, unfinished(folder, "folder").name, *others, "file"}
    assert {path.name for path in folder.iterdir()} == kept


def test_what_another_writer_is_writing_stays(tmp_path):
    with write_whole(tmp_path / "one") as one:
        with write_whole(tmp_path / "other") as other:
            other.write("other")
        one.write("one")
    assert (tmp_path / "one").read_text() == "one"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "other"}


@pytest.mark.parametrize(("age", "left"), [(0, True), (90_000, False)])
def test_without_locks_the_age_says_what_is_abandoned(tmp_path, monkeypatch, age, left):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    unfinished(tmp_path).write_text("half")
    os.utime(unfinished(tmp_path), (time.time() - age,) * 2)
    with write_whole(tmp_path / "file") as file:
        file.write("new")
    assert unfinished(tmp_path).exists() == left


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        with write_whole(tmp_path / "whole") as file:
            file.write("")
        (tmp_path / "plain").write_text("")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), write_whole(tmp_path / "file" / "below"):
        pass


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, outside: path.symlink_to(outside),
        lambda path, outside: path.symlink_to(path.name),
        lambda path, outside: path.symlink_to("/dev/zero"),
        lambda path, outside: os.mkfifo(path),
        lambda path, outside: path.mkdir(),
        lambda path, outside: path.write_bytes(bytes(101)),
        lambda path, outside: None,
    ],
)
def test_only_a_regular_file_of_the_folder_and_no_larger_is_read(tmp_path, spoil):
    (tmp_path / "outside").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    spoil(folder / "file", tmp_path / "outside")
    with pytest.raises(OSError, match=r"file"):
        read_bytes(folder / "file", 100, folder)


def test_a_file_in_the_folder_is_read_also_through_a_link_within(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", 100, tmp_path) == bytes(100)
    assert read_bytes(tmp_path / "link", 100) == bytes(100)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 60 + "]" * 60,
        "[" + "[]," * 2_000_000 + "1]",
        "1" + "0" * 30,
        "\ufeff1",
        "",
    ],
)
def test_json_that_nests_or_amplifies_is_none(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "file")


def test_a_folder_is_removed_however_deep_and_no_link_is_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep", dir_fd=here)
        os.symlink(tmp_path / "kept", "link", dir_fd=here)
        there = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    remove_tree(top)
    assert not top.exists()
    assert (tmp_path / "kept" / "file").exists()


@given(st.text() | st.sampled_from(CHOSEN))
def test_no_cell_is_a_formula_and_each_is_read_back(text):
    file = io.StringIO(newline="")
    write_csv(file, [[text, 1.5]])
    file.seek(0)
    ((cell, number),) = csv.reader(file)
    assert number == "1.5"
    assert (
        cell[:1] not in set("=+-@\t\r\n＝＋－＠")
        or cell.replace(".", "").lstrip("+-")[:1].isdigit()
    )
    assert csv_text(cell) == text.encode("utf-8", "backslashreplace").decode()


def test_numbers_stay_numbers():
    assert [*map(csv_cell, (-0.5, "-0.5", "+1e3", -3, None, float("nan")))] == [
        "-0.5", "-0.5", "+1e3", "-3", "", "",
    ]  # fmt: skip


@given(st.text(st.characters()) | st.sampled_from(CHOSEN))
def test_a_terminal_obeys_nothing_of_a_text(text):
    for shown, kept in ((visible(text), ""), (visible(text, lines=True), "\n\t")):
        controls = {c for c in shown if unicodedata.category(c) in ("Cc", "Cs")} - set(kept)
        assert not controls
        assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2028\u2029")


def test_a_path_is_shown_on_one_line_without_controls_and_with_all_that_people_write():
    named = Path("a\nb\x1b]0;x\x07\x9b\u2028/שלום\u200f 猫\u202f😀é.jpg")
    assert printable(named) == "a\\nb\\x1b]0;x\\x07\\u009b\\u2028/שלום\u200f 猫\u202f😀é.jpg"
    assert printable(Path(os.fsdecode(b"\xff.jpg"))) == "\\xff.jpg"
