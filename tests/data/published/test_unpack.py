from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from discern.data.published import unpack
from discern.data.published.unpack import extract
from discern.errors import DiscernError
from disk import full_after, visible

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


FILES = {"a.txt": b"one", "deep/er/b.bin": BODY, "deep/empty": b""}
ROOM = 1_000_000

Maker = Callable[[Path, dict[str, bytes]], None]


def make_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("deep") if "deep/empty" in files else None
        for name, content in files.items():
            archive.writestr(name, content)


def make_tar(path: Path, files: dict[str, bytes], compress: Callable[[bytes], bytes] = bytes):
    put_tar(path, [(tarfile.TarInfo(name), content) for name, content in files.items()], compress)


def put_tar(
    path: Path,
    members: list[tuple[tarfile.TarInfo, bytes]],
    compress: Callable[[bytes], bytes] = bytes,
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    path.write_bytes(compress(buffer.getvalue()))


MAKERS: dict[str, Maker] = {
    "zip": make_zip,
    "tar": make_tar,
    "gz": lambda path, files: make_tar(path, files, gzip.compress),
    "bz2": lambda path, files: make_tar(path, files, bz2.compress),
    "xz": lambda path, files: make_tar(path, files, lzma.compress),
}
EACH = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
BOTH = pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "in" / "target"


def contents_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refuse(archive: Path, target: Path, match: str, max_bytes: int = ROOM) -> None:
    """Check that an archive is refused, and that nothing of it is left anywhere."""
    before = {path for path in archive.parent.rglob("*") if not path.name.endswith(".lock")}
    with pytest.raises(DiscernError, match=match) as caught:
        extract(archive, target, max_bytes)
    assert str(caught.value).startswith(f"{archive} cannot be extracted: ")
    assert str(caught.value).isprintable()
    after = {path for path in archive.parent.rglob("*") if not path.name.endswith(".lock")}
    assert after - before <= {target.parent}
    assert not target.exists()


@EACH
def test_all_files_are_extracted_with_their_contents(archive, target, make):
    make(archive, FILES)
    extract(archive, target, ROOM)
    assert contents_of(target) == FILES
    assert visible(target.parent) == {"target"}


@EACH
def test_as_many_bytes_as_are_allowed_are_extracted_and_not_one_more(archive, target, make):
    make(archive, FILES)
    size = sum(map(len, FILES.values()))
    refuse(archive, target, f"more than the {size - 1:,} bytes", max_bytes=size - 1)
    extract(archive, target, size)
    assert contents_of(target) == FILES


@EACH
def test_a_target_that_is_there_is_left_alone(archive, target, make):
    make(archive, FILES)
    target.mkdir(parents=True)
    (target / "mine").write_bytes(b"")
    extract(archive, target, ROOM)
    assert contents_of(target) == {"mine": b""}


@BOTH
def test_a_folder_of_the_archive_becomes_the_target(archive, target, make):
    make(archive, FILES)
    extract(archive, target, ROOM, folder="deep")
    assert contents_of(target) == {"er/b.bin": BODY, "empty": b""}
    assert visible(target.parent) == {"target"}
    with pytest.raises(DiscernError, match="it has no folder absent"):
        extract(archive, target.with_name("other"), ROOM, folder="absent")


@BOTH
def test_names_that_mean_the_folder_itself_or_no_more_are_fine(archive, target, make):
    make(archive, {"./a//b": b"1", "..c/d..": b"2", "é\nü": b"3"})
    extract(archive, target, ROOM)
    assert contents_of(target) == {"a/b": b"1", "..c/d..": b"2", "é\nü": b"3"}


@BOTH
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leads outside"),
        ("a/../../evil", "leads outside"),
        ("a/../evil", "leads outside"),
        ("..", "leads outside"),
        ("/etc/evil", "absolute path"),
        ("//host/evil", "absolute path"),
        ("C:/evil", "absolute path"),
        ("c:evil", "absolute path"),
        ("a/C:/evil", "absolute path"),
        ("..\\evil", "different ways"),
        ("a\\..\\..\\evil", "different ways"),
        ("\\evil", "different ways"),
        ("a/" * 101 + "evil", "folders deep"),
        ("e" * 300, "too long a name"),
        (".", "would overwrite"),
        ("\x1b[2J/../evil", r"'\\x1b\[2J/../evil' leads outside"),
    ],
)
def test_a_member_that_leads_astray_is_refused(archive, target, make, name, reason):
    make(archive, {"good": b"1", name: b"2"})
    refuse(archive, target, reason)


def test_a_name_with_a_zero_byte_is_refused(archive, target):
    make_zip(archive, {"evilXname": b""})
    archive.write_bytes(archive.read_bytes().replace(b"evilXname", b"evil\0name"))
    refuse(archive, target, r"'evil\\x00name' has a path that systems read")


@BOTH
def test_folders_that_lead_outside_are_refused_too(archive, target, make):
    if make is make_zip:
        make_zip(archive, {"../evil/": b""})
    else:
        info = tarfile.TarInfo("../evil")
        info.type = tarfile.DIRTYPE
        put_tar(archive, [(info, b"")])
    refuse(archive, target, "leads outside")


@BOTH
@pytest.mark.parametrize(
    "files", [("a", "./a"), ("a/b", "a//b"), ("a", "a/b"), ("a/b", "a")], ids="/".join
)
def test_a_member_that_would_overwrite_another_is_refused(archive, target, make, files):
    make(archive, dict.fromkeys(files, b""))
    refuse(archive, target, f"'{files[1]}' would overwrite another")


def test_the_same_member_twice_is_refused(archive, target):
    put_tar(archive, [(tarfile.TarInfo("a"), b"1"), (tarfile.TarInfo("a"), b"2")])
    refuse(archive, target, "'a' would overwrite another")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")
    refuse(archive, target, "'a' would overwrite another")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is neither a file nor a folder"),
        (tarfile.BLKTYPE, "is neither a file nor a folder"),
        (tarfile.FIFOTYPE, "is neither a file nor a folder"),
        (b"Z", "is neither a file nor a folder"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(archive, target, tmp_path, kind, reason):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("way")
    link.type, link.linkname = kind, str(outside)
    put_tar(archive, [(link, b""), (tarfile.TarInfo("way/evil"), b"1")])
    refuse(archive, target, f"'way' {reason}")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (0o120777, "is a link"),
        (0o010644, "is neither"),
        (0o020644, "is neither"),
        (0o140644, "is neither"),
    ],
)
def test_links_and_devices_in_a_zip_are_refused(archive, target, tmp_path, mode, reason):
    link = zipfile.ZipInfo("way")
    link.external_attr = mode << 16
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(link, str(tmp_path))
        file.writestr("way/evil", b"1")
    refuse(archive, target, f"'way' {reason}")


def test_a_sparse_file_is_refused(archive, target):
    buffer = tarfile.TarInfo("sparse").tobuf(tarfile.GNU_FORMAT)
    header = bytearray(buffer[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o\0" % 10**9  # its real size
    put_checksum(header)
    archive.write_bytes(bytes(header) + bytes(1024))
    refuse(archive, target, "'sparse' is neither")


def put_checksum(header: bytearray) -> None:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])


def test_a_zip_whose_headers_lie_about_the_size_is_refused(archive, target):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(10_000_000))
    content = archive.read_bytes()
    assert len(content) < 20_000
    size, lie = struct.pack("<I", 10_000_000), struct.pack("<I", 10)
    archive.write_bytes(content.replace(size, lie))
    refuse(archive, target, "damaged in its member 'bomb'")
    archive.write_bytes(content.replace(size, struct.pack("<I", 20_000_000)))
    refuse(archive, target, "'bomb'", max_bytes=30_000_000)
    archive.write_bytes(content)
    refuse(archive, target, "more than the 1,000,000 bytes")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_inflates_without_files_is_refused(archive, target, compress):
    info = tarfile.TarInfo("folder")
    info.type, info.size = tarfile.DIRTYPE, 20_000_000
    archive.write_bytes(compress(info.tobuf() + bytes(20_000_000)))
    refuse(archive, target, "more than its headers declare")
    make_tar(archive, FILES)
    archive.write_bytes(compress(archive.read_bytes() + bytes(20_000_000)))
    refuse(archive, target, "more than its headers declare")


@pytest.mark.parametrize("size", [-512, -1, 1 << 40])
@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S", b"Z"])
def test_a_tar_whose_headers_lie_about_the_size_is_refused(archive, target, kind, size):
    header = bytearray(tarfile.TarInfo("lie").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = kind
    header[124:136] = (
        b"\xff" * 4 + struct.pack(">q", size)
        if size < 0
        else (b"\x80" + bytes(3) + struct.pack(">q", size))
    )
    put_checksum(header)
    archive.write_bytes(bytes(header) + bytes(2048))
    refuse(archive, target, ".")


def test_headers_that_go_on_and_on_are_refused(archive, target):
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.XHDTYPE
    put_checksum(header)
    archive.write_bytes(bytes(header) * 5000 + bytes(2048))
    refuse(archive, target, "damaged")


def test_too_many_members_are_refused(archive, target, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 3)
    for make in (make_zip, make_tar):
        make(archive, {str(number): b"" for number in range(4)})
        refuse(archive, target, "more than 3 members")
    make_tar(archive, {str(number): b"" for number in range(3)})
    extract(archive, target, ROOM)


def test_a_zip_of_more_members_than_16_bits_count_is_extracted(archive, target, monkeypatch):
    count = 2**16 + 10
    make_zip(archive, {f"{number}": b"" for number in range(count)})
    made: list[str] = []
    monkeypatch.setattr(unpack, "_write_file", lambda path, *_: made.append(path.name))
    extract(archive, target, ROOM)
    assert made == [f"{number}" for number in range(count)]


def test_a_zip_whose_directory_hides_members_is_refused(archive, target):
    make_zip(archive, {"a": b"1", "b": b"2", "c": b"3"})
    content = bytearray(archive.read_bytes())
    comment = content.index(b"PK\x01\x02") + 32
    content[comment : comment + 2] = struct.pack("<H", 10_000)
    archive.write_bytes(content)
    refuse(archive, target, "it lists 1 of 3 members")


@pytest.mark.parametrize("flag", [0x1, 0x41])
def test_an_encrypted_zip_is_refused(archive, target, flag):
    make_zip(archive, {"secret": b"1"})
    content = bytearray(archive.read_bytes())
    content[6] |= flag  # of the local header
    content[content.index(b"PK\x01\x02") + 8] |= flag  # of the directory
    archive.write_bytes(content)
    refuse(archive, target, "'secret' is encrypted")


@EACH
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_refused(archive, target, make, part):
    make(archive, FILES | {"last": OTHER})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    refuse(archive, target, ".")


@EACH
def test_an_archive_cut_between_members_is_refused(archive, target, make):
    make(archive, FILES)
    content = archive.read_bytes()
    archive.write_bytes(content[: content.rstrip(b"\0").__len__() // 512 * 512])
    refuse(archive, target, ".")


@pytest.mark.parametrize("make", [make_zip, *[MAKERS[name] for name in ("gz", "bz2", "xz")]])
@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_changed_byte_is_refused(archive, target, make, place):
    make(archive, FILES | {"last": OTHER})
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= 1
    archive.write_bytes(content)
    refuse(archive, target, "damaged")


def test_the_checksum_behind_the_end_of_a_tar_is_checked(archive, target):
    make_tar(archive, FILES, gzip.compress)
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    refuse(archive, target, "CRC check failed")


def test_a_stored_file_with_a_wrong_checksum_is_refused(archive, target):
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("name", b"contents")
    archive.write_bytes(archive.read_bytes().replace(b"contents", b"c0ntents"))
    refuse(archive, target, "'name'.*CRC")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(archive, target):
    make_tar(archive, {"a": b"1", "b": b"2"})
    content = bytearray(archive.read_bytes())
    content[1024 + 100] ^= 1
    archive.write_bytes(content)
    refuse(archive, target, "damaged")


@pytest.mark.parametrize("content", [b"", b"<html>log in</html>", bytes(10_240), b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(archive, target, content):
    archive.write_bytes(content)
    refuse(archive, target, ".")


def test_a_tar_that_ends_with_a_zip_is_a_tar(archive, target, tmp_path):
    make_zip(tmp_path / "inner", FILES)
    inner = (tmp_path / "inner").read_bytes()
    make_tar(archive, {"inner.zip": inner})
    extract(archive, target, ROOM)
    assert contents_of(target) == {"inner.zip": inner}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_random_damage_ends_in_a_sentence_or_in_the_right_files(archive, target, make):
    files = {"a": b"one" * 50, "b/c": BODY[:500]}
    make(archive, files)
    content = archive.read_bytes()
    numbers = random.Random(2)
    for trial in range(150):
        damaged = bytearray(content)
        for _ in range(numbers.randint(1, 4)):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        archive.write_bytes(damaged)
        place = target.with_name(f"target{trial}")
        try:
            extract(archive, place, ROOM)
        except DiscernError:
            assert not place.exists()
        else:
            # Of a plain tar, only the headers have a checksum.
            if make is not make_tar:
                assert set(contents_of(place).values()) == set(files.values())


def test_an_archive_that_cannot_be_read_is_named(archive, target):
    with pytest.raises(DiscernError, match=rf"^{archive} cannot be read: No such file"):
        extract(archive, target, ROOM)
    assert not target.exists()


@EACH
def test_a_full_disk_is_told_and_leaves_nothing(archive, target, make):
    make(archive, FILES)
    with (
        full_after(150_000),
        pytest.raises(DiscernError, match=rf"^{target} cannot be written: File too large\.$"),
    ):
        extract(archive, target, ROOM)
    assert visible(target.parent) == set()
    assert [path.name for path in target.parent.iterdir()] == [".target.lock"]


def test_a_target_that_cannot_be_written_is_named(archive, tmp_path):
    make_zip(archive, FILES)
    for target in (archive / "target", archive / "in" / "target"):
        with pytest.raises(DiscernError, match=rf"^{target} cannot be written: Not a directory\.$"):
            extract(archive, target, ROOM)


def test_what_a_killed_extraction_left_is_replaced(archive, target):
    make_tar(archive, {f"{number}/file": b"1" * 1000 for number in range(200)})
    script = (
        "import os, sys; from pathlib import Path\n"
        "from discern.data.published import unpack\n"
        "real, count = unpack._write_file, []\n"
        "def write(*arguments):\n"
        "    real(*arguments); count.append(1)\n"
        "    if len(count) == 100: os.kill(os.getpid(), 9)\n"
        "unpack._write_file = write\n"
        "unpack.extract(Path(sys.argv[1]), Path(sys.argv[2]), 10**7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(archive), str(target)], check=False)
    assert ended.returncode == -9
    assert visible(target.parent) == set()
    left = target.with_name(".target.part")
    assert len(contents_of(left)) == 100
    (left / "stale").write_bytes(b"")
    extract(archive, target, 10**7)
    assert len(contents_of(target)) == 200
    assert not left.exists()


def test_of_many_that_extract_at_once_one_does(archive, target):
    make_tar(archive, {f"{number}": b"1" for number in range(500)})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: extract(archive, target, ROOM), range(4)))
    assert len(contents_of(target)) == 500
    assert visible(target.parent) == {"target"}
