from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import PIL
import pytest

from discern.data import catalogue, stamps
from discern.data.catalogue import Facts, examine
from discern.data.pictures import PictureError
from photos import oriented, photo, photo_folder, touch_back


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return photo_folder(tmp_path / "photos", per_class=3)


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg"))


@pytest.fixture(autouse=True)
def later(monkeypatch):
    """Every file is as old as those of users mostly are."""
    monkeypatch.setattr(stamps, "SETTLED_NS", -(10**18))


@contextmanager
def nothing_is_read():
    def read(*_):
        raise AssertionError("a file is read")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "file_digest", read)
        yield


def is_remembered(folder: Path) -> bool:
    """Whether nothing is read."""
    known = examine(folder, pictures(folder))
    with nothing_is_read():
        return examine(folder, pictures(folder)) == known


# What is found


def test_the_facts_are_the_files_own_and_in_their_order(folder):
    files = pictures(folder)[::-1]
    facts = examine(folder, files)
    assert [fact.sha256 for fact in facts] == [
        hashlib.sha256(file.read_bytes()).digest() for file in files
    ]
    assert {(fact.width, fact.height, fact.reason) for fact in facts} == {(40, 30, "")}


def test_sizes_are_those_of_the_upright_picture(tmp_path):
    file = oriented(photo(0.1, "sideways"), tmp_path / "sideways.jpg", 6)
    assert [(fact.width, fact.height) for fact in examine(tmp_path, [file])] == [(30, 40)]


def test_what_cannot_be_used_says_why(folder):
    whole = (folder / "cat" / "0.jpg").read_bytes()
    contents = {
        "half.jpg": (whole[: len(whole) // 2], "truncated"),
        "text.jpg": (b"hello", "not a picture"),
        "empty.jpg": (b"", "not a picture"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    names = {name: reason for name, (_, reason) in contents.items()}
    names |= {"gone.jpg": "No such file", "loop.jpg": "symbolic links", "cat": "directory"}
    facts = examine(folder, [folder / name for name in names])
    for fact, reason in zip(facts, names.values(), strict=True):
        assert reason.lower() in fact.reason.lower()
        assert (fact.width, fact.height) == (0, 0)


def test_what_has_no_end_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    (folder / "link.jpg").symlink_to(folder / "pipe")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    facts = examine(folder, [folder / "link.jpg", folder / "zero.jpg"])
    assert [fact.reason for fact in facts] == ["it is not a regular file"] * 2


def test_names_of_any_bytes(folder):
    names = [b"\xff\xfe.jpg", "żółć 猫\n.jpg".encode(), b"-rf '\";DROP.jpg"]
    files = [folder / os.fsdecode(name) for name in names]
    for file in files:
        photo(0.2, "name").save(file)
    assert [fact.reason for fact in examine(folder, files)] == ["", "", ""]


def test_no_files_are_no_facts(folder):
    assert examine(folder, []) == []


# What is remembered


def test_the_second_call_reads_no_file(folder):
    assert is_remembered(folder)


def test_whatever_way_the_folder_is_named(folder, monkeypatch):
    known = examine(folder, pictures(folder))
    monkeypatch.chdir(folder.parent)
    with nothing_is_read():
        assert examine(Path("photos"), pictures(Path("photos"))) == known


def test_a_bad_file_is_remembered_too(folder):
    bad = folder / "bad.jpg"
    bad.write_bytes(b"no picture")
    known = examine(folder, [bad])
    with nothing_is_read():
        assert examine(folder, [bad]) == known


def test_a_changed_file_is_read_anew(folder):
    first, second, *_ = files = pictures(folder)
    before = examine(folder, files)
    first.write_bytes(b"shorter")
    content = bytes(second.stat().st_size)
    time_of_change = second.stat().st_mtime_ns
    second.write_bytes(content)
    os.utime(second, ns=(0, time_of_change + 1))  # a nanosecond later
    after = examine(folder, files)
    assert after[0].sha256 == hashlib.sha256(b"shorter").digest()
    assert after[1].sha256 == hashlib.sha256(content).digest()
    assert after[2:] == before[2:]


def swap(one: Path, other: Path) -> None:
    """Let two files change places, as ``mv`` does, each with the times that it has."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def alike(folder: Path) -> list[Path]:
    """Two pictures of the same size in bytes and the same whole second."""
    files = [folder / "cat" / "a.bmp", folder / "dog" / "b.bmp"]
    for number, file in enumerate(files):
        photo(0.4 * number, "alike").save(file)
        os.utime(file, (1_700_000_000, 1_700_000_000))
    assert len({file.stat().st_size for file in files}) == 1
    return files


@pytest.mark.parametrize("how", ["swapped", "rewritten", "another put in its place", "linked"])
def test_a_file_that_changes_under_the_same_size_and_time_is_read_anew(folder, how):
    one, other = files = alike(folder)
    if how == "linked":
        files = [folder / "link.bmp"]
        files[0].symlink_to(one)
    before = examine(folder, files)
    if how == "swapped":
        swap(one, other)
    elif how == "rewritten":
        touch_back(one, other.read_bytes())
    elif how == "linked":
        files[0].unlink()
        files[0].symlink_to(other)
    else:
        copy = one.with_name("copy")
        copy.write_bytes(other.read_bytes())
        os.utime(copy, (1_700_000_000, 1_700_000_000))
        copy.replace(one)
    after = examine(folder, files)
    assert after != before
    assert [fact.sha256 for fact in after] == [
        hashlib.sha256(file.read_bytes()).digest() for file in files
    ]


class TickingOnceAnHour:
    """The stamps of a file system whose clock stands still."""

    def __init__(self, monkeypatch) -> None:
        known = os.stat

        def stat(path, **options):
            status = known(path, **options)
            stamp = SimpleNamespace(
                **{name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
            )
            stamp.st_mtime_ns = stamp.st_ctime_ns = time.time_ns() // 10**12 * 10**12
            return stamp

        monkeypatch.setattr(catalogue.os, "stat", stat)


def test_what_may_have_changed_within_a_tick_of_the_clock_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(stamps, "SETTLED_NS", 10**13)
    TickingOnceAnHour(monkeypatch)
    file = folder / "cat" / "0.jpg"
    before = examine(folder, [file])
    content = photo(0.7, "other").tobytes()[: file.stat().st_size]
    file.write_bytes(content.ljust(file.stat().st_size, b"x"))
    assert examine(folder, [file]) != before


def test_a_file_that_is_read_again_and_is_the_same_is_not_decoded(folder, monkeypatch):
    known = examine(folder, pictures(folder))
    monkeypatch.setattr(stamps, "SETTLED_NS", 10**18)
    monkeypatch.setattr(catalogue, "check_picture", failing("it is decoded"))
    assert examine(folder, pictures(folder)) == known


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "vfat", "9p", "something new"])
def test_on_a_network_share_each_file_is_read(folder, tmp_path, monkeypatch, caplog, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"40 22 0:51 / {folder} rw,relatime shared:1 - {kind.replace(' ', '_')} server:/x rw\n"
    )
    monkeypatch.setattr(stamps, "_MOUNTS", mounts)
    known = examine(folder, pictures(folder))
    caplog.set_level("INFO")
    assert examine(folder, pictures(folder)) == known
    assert f"6 files are on {kind.replace(' ', '_')}, whose timestamps cannot prove" in caplog.text
    with pytest.raises(AssertionError, match="is read"), nothing_is_read():
        examine(folder, pictures(folder))


def test_where_the_system_does_not_tell_what_is_mounted_stamps_are_believed(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(stamps, "_MOUNTS", tmp_path / "nowhere")
    assert is_remembered(folder)


def test_new_files_are_read_and_others_remembered(folder):
    old = pictures(folder)
    known = examine(folder, old)
    new = folder / "new.jpg"
    photo(0.9, "new", (20, 10)).save(new)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "check_picture", lambda path: (int(path == new), 1, 0.0))
        *others, fact = examine(folder, [*old, new])
    assert others == known
    assert (fact.width, fact.height) == (1, 1)


def failing(message: str, error: BaseException | None = None):
    def check(path):
        raise PictureError(message) from error

    return check


@pytest.mark.parametrize("error", [OSError(errno.EIO, "it failed"), MemoryError()])
def test_a_fault_that_may_pass_is_not_remembered(folder, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "check_picture", failing("it failed", error))
        assert {fact.reason for fact in examine(folder, pictures(folder))} == {"it failed"}
    assert {fact.reason for fact in examine(folder, pictures(folder))} == {""}


def test_another_pillow_tries_again_what_could_not_be_read(folder, monkeypatch):
    good, bad = folder / "cat" / "0.jpg", folder / "bad.jpg"
    bad.write_bytes(b"no picture")
    known = examine(folder, [good, bad])
    monkeypatch.setattr(catalogue, "check_picture", lambda path: (7, 5, 0.0))
    assert examine(folder, [good, bad]) == known
    monkeypatch.setattr(PIL, "__version__", "999.0")
    assert examine(folder, [good, bad]) == [known[0], Facts(known[1].sha256, 7, 5, "")]


def test_a_reason_of_any_characters_is_remembered(folder, monkeypatch):
    monkeypatch.setattr(catalogue, "check_picture", failing("\udcff"))
    first = examine(folder, pictures(folder))
    assert examine(folder, pictures(folder)) == first
    assert first[0].reason == "\\udcff"


# A memory that cannot be used


def memory_file(cache: Path) -> Path:
    (file,) = cache.glob("*.sqlite")
    return file


def damage_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100:-100] = b"\xa5" * (len(content) - 200)
    file.write_bytes(content)


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "no database": lambda file: file.write_bytes(b"garbage" * 1000),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    "overwritten": damage_the_middle,
    "with another's journal": lambda file: (
        file.write_bytes(b"garbage" * 1000),
        file.with_name(f"{file.name}-journal").write_bytes(
            b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 99
        ),
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_memory_is_made_anew(folder, cache, what):
    expected = examine(folder, pictures(folder))
    DAMAGE[what](memory_file(cache))
    assert examine(folder, pictures(folder)) == expected
    assert is_remembered(folder)


HOSTILE = {
    "types": "UPDATE files SET width = 'wide', sha256 = 7",
    "a digest of another length": "UPDATE files SET sha256 = x'00'",
    "sizes of nothing": "UPDATE files SET width = 0",
    "negative sizes": "UPDATE files SET height = -1",
    "nothing": "UPDATE files SET reason = NULL, size = NULL",
    "a reason for a good one": "UPDATE files SET reason = 'because'",
    "no text": "UPDATE files SET reason = CAST(x'ff' AS TEXT)",
    "other columns": "DROP TABLE files; CREATE TABLE files (folder, path)",
    "a view": "DROP TABLE files; CREATE VIEW files AS SELECT 1 AS folder",
    "a trigger": "CREATE TRIGGER t BEFORE INSERT ON files BEGIN SELECT RAISE(ABORT, 'no'); END;"
    "DELETE FROM files",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_memory_of_a_strangers_making_is_not_believed(folder, cache, what):
    expected = examine(folder, pictures(folder))
    with sqlite3.connect(memory_file(cache)) as memory:
        memory.executescript(HOSTILE[what])
    memory.close()
    assert examine(folder, pictures(folder)) == expected


def test_a_cache_folder_that_cannot_be_made_is_done_without(folder, tmp_path, monkeypatch):
    expected = examine(folder, pictures(folder))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        monkeypatch.setenv("DISCERN_CACHE_DIR", str(place))
        assert examine(folder, pictures(folder)) == expected


def test_a_folder_in_the_memorys_place_is_done_without(folder, cache):
    expected = examine(folder, pictures(folder))
    file = memory_file(cache)
    file.unlink()
    file.mkdir()
    assert examine(folder, pictures(folder)) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it must not")
def test_a_memory_that_is_only_to_be_read_is_believed(folder, cache):
    expected = examine(folder, pictures(folder))
    memory_file(cache).chmod(0o444)
    cache.chmod(0o555)
    try:
        assert is_remembered(folder)
        (folder / "new.jpg").write_bytes((folder / "cat" / "0.jpg").read_bytes())
        assert len(examine(folder, pictures(folder))) == len(expected) + 1
    finally:
        cache.chmod(0o755)


def test_a_memory_that_another_holds_is_done_without(folder, cache, monkeypatch):
    expected = examine(folder, pictures(folder))
    monkeypatch.setattr(catalogue, "LOCK_TIMEOUT", 0.05)
    other = sqlite3.connect(memory_file(cache), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    new = photo_folder(folder.parent / "more", per_class=1)
    assert examine(folder, pictures(folder)) == expected
    assert {fact.reason for fact in examine(new, pictures(new))} == {""}
    other.close()
    assert is_remembered(folder)


# Other processes

SCRIPT = """
import sys, time
from pathlib import Path
from discern.data import catalogue
catalogue.FILES_PER_WRITE = 2
check = catalogue.check_picture
def slow(path):
    if path.name == sys.argv[2]:
        time.sleep(600)
    return check(path)
catalogue.check_picture = slow
files = sorted(Path(sys.argv[1]).rglob("*.jpg"))
print([fact.sha256.hex() for fact in catalogue.examine(Path(sys.argv[1]), files)])
"""


def start(folder: Path, hang_at: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), hang_at], stdout=subprocess.PIPE, text=True
    )


def test_processes_at_once_find_the_same(folder):
    photo_folder(folder, per_class=12)
    processes = [start(folder) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    expected = [fact.sha256.hex() for fact in examine(folder, pictures(folder))]
    assert outputs == [f"{expected}\n"] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert is_remembered(folder)


def test_what_a_killed_process_had_found_is_remembered(folder, cache):
    last = pictures(folder)[-1]
    process = start(folder, hang_at=last.rename(last.with_name("z.jpg")).name)
    while not found_by_now(cache) >= 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    files = pictures(folder)
    with nothing_is_read():
        assert {fact.reason for fact in examine(folder, files[:4])} == {""}
    assert {fact.reason for fact in examine(folder, files)} == {""}


def found_by_now(cache: Path) -> int:
    try:
        memory = sqlite3.connect(memory_file(cache))
        count: int = memory.execute("SELECT COUNT(*) FROM files").fetchone()[0]
        memory.close()
        return count
    except (ValueError, sqlite3.Error):  # not there yet
        return 0
