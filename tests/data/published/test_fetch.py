from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from discern.data.published import fetch as fetch_module
from discern.data.published.fetch import DownloadError, fetch
from discern.errors import DiscernError
from disk import full_after, visible

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
        stall: whether then the rest waits until ``released`` is set.
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
        server, cut = self.server, self.server.cut
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(body[:cut])
            self.wfile.flush()
            if server.stall:
                server.stalled.set()
                server.released.wait()
                self.wfile.write(body[cut:])


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
        "from discern.data.published.fetch import fetch\n"
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
    publisher.cut, publisher.stall = 200_000, True
    with ThreadPoolExecutor(4) as pool:
        fetched = [pool.submit(fetch, publisher.url, path) for _ in range(4)]
        try:
            assert publisher.stalled.wait(60)
            assert not path.exists()
        finally:
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
    with pytest.raises(DiscernError, match=rf"does not announce.* put the file at {path}\.$"):
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


def test_a_full_disk_is_told_and_the_download_goes_on_later(path, publisher):
    with (
        full_after(150_000),
        pytest.raises(DiscernError, match=rf"^{path} cannot be written: File too large\.$"),
    ):
        fetch(publisher.url, path)
    assert fetch(publisher.url, path).read_bytes() == BODY
    assert "Range" in publisher.requests[-1]


def test_a_body_without_end_is_given_up(path, publisher, monkeypatch):
    publisher.length = "chunked"
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 100_000)
    with pytest.raises(DownloadError, match="it has no end"):
        fetch(publisher.url, path)
    assert not path.exists()


def test_a_digest_may_be_known_by_its_beginning(path, publisher):
    assert fetch(publisher.url, path, sha256=SHA256[:8]) == path
    path.unlink()
    with pytest.raises(DownloadError, match="is not the file expected"):
        fetch(publisher.url, path, sha256="0" * 8)
