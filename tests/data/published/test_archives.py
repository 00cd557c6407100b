from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import random
import resource
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from discern.data.published import archives
from discern.data.published.archives import extract, fetch
from discern.errors import DiscernError

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# A publisher's server that can misbehave


class Publisher(ThreadingHTTPServer):
    """Serves ``body`` at any path.

    Attributes:
        body: what is served.
        etag: its ETag, or None for no header.
        requests: the headers of every request so far.
        cut: how many bytes are sent under the length of all before the connection closes.
        stall: whether then nothing is done until ``released`` is set.
        stalled: set when that is so.
        ranges: whether a Range is heeded.
        if_range: whether If-Range is.
        length: how the end of a body is told: "known", "chunked" or "unknown".
        shift: how many bytes too early a range begins.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body, self.etag = BODY, '"1"'
        self.requests: list[dict[str, str]] = []
        self.cut: int | None = None
        self.stall = False
        self.stalled, self.released = threading.Event(), threading.Event()
        self.ranges = self.if_range = True
        self.length = "known"
        self.shift = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.tar.gz"


class _Handler(BaseHTTPRequestHandler):
    server: Publisher
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        self.close_connection = True
        if self.path == "/missing":
            self.send_error(404)
            return
        offset = self._offset()
        if offset is not None and offset >= len(server.body):
            self.send_error(416)
            return
        start = (offset or 0) - (server.shift if offset else 0)
        body = server.body[start:]
        self.send_response(200 if offset is None else 206)
        if offset is not None:
            total = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag is not None:
            self.send_header("ETag", server.etag)
        if server.length == "known":
            self.send_header("Content-Length", str(len(body)))
        elif server.length == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        self.end_headers()
        self._send(body)

    def _offset(self) -> int | None:
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        changed = self.server.if_range and condition not in (None, self.server.etag)
        if wanted is None or not self.server.ranges or changed:
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def _send(self, body: bytes) -> None:
        server = self.server
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(body[: server.cut])
            self.wfile.flush()
            if server.stall:
                server.stalled.set()
                server.released.wait()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "file.tar.gz"


def visible(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}


def cut_short(publisher: Publisher, path: Path, at: int = 100_000, **digests: str) -> None:
    """Have a download end half-way."""
    publisher.cut = at
    with pytest.raises(DiscernError, match=r"closed after .* bytes") as caught:
        fetch(publisher.url, path, **digests)
    publisher.cut = None
    assert publisher.url in str(caught.value)
    assert path.with_name("file.tar.gz.part").read_bytes() == BODY[:at]
    assert not path.exists()


# fetch


def test_a_file_arrives_whole_and_its_digest_is_recorded(path, publisher):
    assert fetch(publisher.url, path) == path
    assert path.read_bytes() == BODY
    assert visible(path.parent) == {"file.tar.gz", "file.tar.gz.sha256"}
    record = path.with_name("file.tar.gz.sha256").read_text()
    assert record == f"{SHA256}  file.tar.gz\n"


def test_a_file_that_is_there_is_not_fetched_again(path, publisher):
    for _ in range(3):
        fetch(publisher.url, path)
    fetch("http://nowhere.invalid/", path, sha256=SHA256.upper(), md5=MD5)
    assert len(publisher.requests) == 1


def test_a_file_that_was_put_there_is_recorded_without_the_network(path):
    path.parent.mkdir()
    path.write_bytes(BODY)
    fetch("http://nowhere.invalid/", path)
    assert SHA256 in path.with_name("file.tar.gz.sha256").read_text()


@pytest.mark.parametrize("digests", [{"sha256": SHA256}, {"md5": MD5}, {"sha256": SHA256.upper()}])
def test_a_digest_that_is_given_is_checked_and_nothing_recorded(path, publisher, digests):
    fetch(publisher.url, path, **digests)
    assert visible(path.parent) == {"file.tar.gz"}


@pytest.mark.parametrize(("name", "right"), [("sha256", SHA256), ("md5", MD5)])
def test_a_download_with_a_wrong_digest_is_removed(path, publisher, name, right):
    wrong = "0123456789ab" + right[12:]
    with pytest.raises(DiscernError, match=rf"{right[:12]} instead of 0123456789ab") as caught:
        fetch(publisher.url, path, **{name: wrong})
    assert str(caught.value).startswith(publisher.url)
    assert visible(path.parent) == set()


def test_a_file_that_is_not_the_one_given_is_named_and_left(path):
    path.parent.mkdir()
    path.write_bytes(OTHER)
    with pytest.raises(DiscernError, match=rf"^{path} .* instead of {SHA256[:12]}; delete it"):
        fetch("http://nowhere.invalid/", path, sha256=SHA256)
    assert path.read_bytes() == OTHER


def test_a_file_that_changed_since_it_was_recorded_is_refused(path, publisher):
    fetch(publisher.url, path)
    path.write_bytes(OTHER)
    found = hashlib.sha256(OTHER).hexdigest()[:12]
    with pytest.raises(
        DiscernError,
        match=rf"^{path} .*{found} instead of {SHA256[:12]}; delete it .*file\.tar\.gz\.sha256",
    ):
        fetch(publisher.url, path)


def test_what_is_fetched_again_must_be_what_was_recorded(path, publisher):
    fetch(publisher.url, path)
    path.unlink()
    publisher.body = OTHER
    with pytest.raises(DiscernError, match=rf"instead of {SHA256[:12]}.* delete .*\.sha256 if"):
        fetch(publisher.url, path)
    assert visible(path.parent) == {"file.tar.gz.sha256"}
    publisher.body = BODY
    assert fetch(publisher.url, path).read_bytes() == BODY


@pytest.mark.parametrize("content", [b"", b"what\n", b"\xff\xfe\x00", SHA256[:63].encode()])
def test_a_record_that_is_none_is_named(path, publisher, content):
    fetch(publisher.url, path)
    path.with_name("file.tar.gz.sha256").write_bytes(content)
    with pytest.raises(DiscernError, match=r"file\.tar\.gz\.sha256 is not a SHA-256 .* delete it"):
        fetch(publisher.url, path)


def test_a_download_broken_off_goes_on_where_it_ended(path, publisher):
    cut_short(publisher, path, at=100_000)
    publisher.cut = 50_000
    with pytest.raises(DiscernError, match="after 150,000 of 300,000 bytes"):
        fetch(publisher.url, path)
    publisher.cut = None
    fetch(publisher.url, path)
    assert path.read_bytes() == BODY
    assert [request.get("Range") for request in publisher.requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
    ]
    assert publisher.requests[-1]["If-Range"] == '"1"'
    assert visible(path.parent) == {"file.tar.gz", "file.tar.gz.sha256"}


def test_a_server_that_ignores_ranges_sends_all_anew(path, publisher):
    cut_short(publisher, path)
    publisher.ranges = False
    assert fetch(publisher.url, path).read_bytes() == BODY


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("size", [300_000, 250_000, 350_000, 80_000, 100_000])
def test_a_file_that_changed_on_the_server_is_fetched_from_its_beginning(
    path, publisher, if_range, size
):
    cut_short(publisher, path)
    publisher.body, publisher.etag = (OTHER * 2)[:size], '"2"'
    publisher.if_range = if_range
    assert fetch(publisher.url, path).read_bytes() == (OTHER * 2)[:size]


def test_a_file_of_another_size_is_fetched_from_its_beginning_whatever_the_etag(path, publisher):
    cut_short(publisher, path)
    publisher.body = OTHER + b"more"
    assert fetch(publisher.url, path).read_bytes() == OTHER + b"more"


def test_a_range_that_begins_elsewhere_is_not_appended(path, publisher):
    cut_short(publisher, path)
    publisher.shift = 10
    assert fetch(publisher.url, path).read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_halves_that_nothing_says_belong_together_are_not_joined(path, publisher, etag):
    publisher.etag = etag
    cut_short(publisher, path)
    publisher.body = OTHER
    assert fetch(publisher.url, path).read_bytes() == OTHER
    assert "Range" not in publisher.requests[-1]


def test_halves_whose_digest_is_known_are_joined(path, publisher):
    publisher.etag = None
    cut_short(publisher, path, sha256=SHA256)
    fetch(publisher.url, path, sha256=SHA256)
    assert publisher.requests[-1]["Range"] == "bytes=100000-"
    assert path.read_bytes() == BODY


def test_a_beginning_from_another_address_is_not_used(path, publisher):
    cut_short(publisher, path)
    fetch(publisher.url + "?mirror", path)
    assert "Range" not in publisher.requests[-1]
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("sidecar", [b"", b"[]", b"{}", b"null", b"\xff"])
def test_a_beginning_that_is_not_known_is_not_used(path, publisher, sidecar):
    cut_short(publisher, path)
    path.with_name("file.tar.gz.part.json").write_bytes(sidecar)
    fetch(publisher.url, path)
    assert "Range" not in publisher.requests[-1]
    assert path.read_bytes() == BODY


def test_a_download_killed_before_it_got_its_name_only_gets_that(path, publisher):
    cut_short(publisher, path)
    with path.with_name("file.tar.gz.part").open("ab") as part:
        part.write(BODY[100_000:])
    before = len(publisher.requests)
    assert fetch(publisher.url, path).read_bytes() == BODY
    assert len(publisher.requests) == before


def test_a_download_that_was_killed_goes_on(path, publisher):
    script = (
        "import sys; from pathlib import Path\n"
        "from discern.data.published.archives import fetch\n"
        "fetch(sys.argv[1], Path(sys.argv[2]))\n"
    )
    publisher.cut, publisher.stall = 200_000, True
    process = subprocess.Popen([sys.executable, "-c", script, publisher.url, str(path)])
    part = path.with_name("file.tar.gz.part")
    try:
        assert publisher.stalled.wait(60)
        while not (part.exists() and part.stat().st_size):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not path.exists()
    publisher.cut, publisher.stall = None, False
    publisher.released.set()
    size = part.stat().st_size
    assert fetch(publisher.url, path).read_bytes() == BODY
    assert publisher.requests[-1]["Range"] == f"bytes={size}-"


def test_of_many_that_ask_at_once_one_downloads(path, publisher):
    publisher.cut, publisher.stall = 300_000, True
    with ThreadPoolExecutor(4) as pool:
        fetched = [pool.submit(fetch, publisher.url, path) for _ in range(4)]
        assert publisher.stalled.wait(60)
        assert not path.exists()
        publisher.released.set()
        assert [future.result() for future in fetched] == [path] * 4
    assert path.read_bytes() == BODY
    assert len(publisher.requests) == 1


def test_a_file_url_works(tmp_path, path):
    source = tmp_path / "source.tar.gz"
    source.write_bytes(BODY)
    path.parent.mkdir()
    path.with_name("file.tar.gz.part").write_bytes(b"rubbish")
    assert fetch(source.as_uri(), path).read_bytes() == BODY


def test_a_body_in_chunks_has_an_end_of_its_own(path, publisher):
    publisher.length = "chunked"
    publisher.cut = 200_000
    with pytest.raises(DiscernError, match=rf"^{publisher.url} cannot be downloaded: .*half-way"):
        fetch(publisher.url, path)
    publisher.cut = None
    assert fetch(publisher.url, path).read_bytes() == BODY


def test_a_body_without_an_end_is_taken_only_with_a_digest(path, publisher):
    publisher.length = "unknown"
    with pytest.raises(DiscernError, match=rf"does not say how long .* put the file at {path}\.$"):
        fetch(publisher.url, path)
    fetch(publisher.url, path, sha256=SHA256)
    assert path.read_bytes() == BODY


def test_without_a_network_the_address_and_the_reason_are_named(tmp_path, path, publisher):
    missing = publisher.url.replace("file.tar.gz", "missing")
    with Publisher() as server:
        closed = server.url
    for url, reason in {
        missing: "HTTP status 404",
        closed: "Connection refused",
        (tmp_path / "absent").as_uri(): "No such file or directory",
        "nothing": "unknown url type: 'nothing'",
        "http://127.0.0.1:1/a b": "URL can't contain control characters",
    }.items():
        with pytest.raises(DiscernError) as caught:
            fetch(url, path)
        assert str(caught.value).startswith(f"{url} cannot be downloaded: {reason}")
        assert str(caught.value).count("\n") == 0
    assert visible(path.parent) == set()


def test_an_error_keeps_what_had_come(path, publisher):
    cut_short(publisher, path)
    with pytest.raises(DiscernError, match="404"):
        fetch(publisher.url.replace("file.tar.gz", "missing"), path)
    fetch(publisher.url, path)
    assert publisher.requests[-1]["Range"] == "bytes=100000-"


def test_a_place_that_cannot_be_written_is_named(tmp_path, publisher):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiscernError, match=r"/file/x\.zip cannot be written: Not a directory\.$"):
        fetch(publisher.url, tmp_path / "file" / "x.zip")
    with pytest.raises(DiscernError, match=rf"^{tmp_path} is not a file"):
        fetch(publisher.url, tmp_path)


@contextlib.contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file can be longer than ``size`` bytes, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_the_download_goes_on_later(path, publisher):
    with (
        full_after(150_000),
        pytest.raises(DiscernError, match=rf"^{path} cannot be written: File too large\.$"),
    ):
        fetch(publisher.url, path)
    assert fetch(publisher.url, path).read_bytes() == BODY
    assert "Range" in publisher.requests[-1]


# extract

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
    refuse(archive, target, "more than|no end")
    make_tar(archive, FILES)
    archive.write_bytes(compress(archive.read_bytes() + bytes(20_000_000)))
    refuse(archive, target, "more than the 1,000,000 bytes")


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
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    for make in (make_zip, make_tar):
        make(archive, {str(number): b"" for number in range(4)})
        refuse(archive, target, "more than 3 members")
    make_tar(archive, {str(number): b"" for number in range(3)})
    extract(archive, target, ROOM)


def test_a_zip_of_more_members_than_16_bits_count_is_extracted(archive, target, monkeypatch):
    count = 2**16 + 10
    make_zip(archive, {f"{number}": b"" for number in range(count)})
    made: list[str] = []
    monkeypatch.setattr(archives, "_write_file", lambda path, *_: made.append(path.name))
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
        "from discern.data.published import archives\n"
        "real, count = archives._write_file, []\n"
        "def write(*arguments):\n"
        "    real(*arguments); count.append(1)\n"
        "    if len(count) == 100: os.kill(os.getpid(), 9)\n"
        "archives._write_file = write\n"
        "archives.extract(Path(sys.argv[1]), Path(sys.argv[2]), 10**7)\n"
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
