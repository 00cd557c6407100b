"""A mirror on this machine that a test can make misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from idx_files import PACKED


class Mirror:
    """Serves the files of ``PACKED``.

    Attributes:
        bodies: what is served, by name.
        requests: the method and name of every request so far.
        cut: serve only half of a body under the length of the whole.
        stalled: set once a half has been served where ``stall`` asks to hold the other back.
        stall: serve half of a body, then nothing until ``released`` is set.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies = {f"{name}.gz": data for name, data in PACKED.items()}
        self.requests: list[tuple[str, str]] = []
        self.cut = False
        self.stall = False
        self.stalled = threading.Event()
        self.released = threading.Event()


class _Server(ThreadingHTTPServer):
    mirror: Mirror


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        body = self._answer()
        mirror = self.server.mirror
        half = len(body) // 2
        with contextlib.suppress(OSError):  # the client may be gone
            self.wfile.write(body[:half])
            if mirror.stall:
                self.wfile.flush()
                mirror.stalled.set()
                mirror.released.wait()
            if not mirror.cut:
                self.wfile.write(body[half:])

    def _answer(self) -> bytes:
        name = self.path.removeprefix("/")
        self.server.mirror.requests.append((self.command, name))
        body = self.server.mirror.bodies.get(name, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    """A mirror that answers until the context ends."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.mirror = Mirror(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.mirror
        finally:
            server.mirror.released.set()
            server.shutdown()
            thread.join()


def closed_url() -> str:
    """Address of a mirror that is not there: nothing listens on its port."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        return f"http://127.0.0.1:{server.server_port}/"


@contextlib.contextmanager
def mirrored(
    monkeypatch: pytest.MonkeyPatch, data_set: Any, site: dict[str, bytes]
) -> Iterator[Mirror]:
    """Have a data set fetched from a mirror that serves these files."""
    with serving() as mirror:
        mirror.bodies |= site
        here = dataclasses.replace(data_set.published, url=mirror.url)
        monkeypatch.setattr(data_set, "published", here)
        yield mirror


def publish(monkeypatch: pytest.MonkeyPatch, data_set: Any, site: dict[str, bytes]) -> None:
    """Let tiny files pass for a published data set, at an address that does not answer."""
    digests = {name: hashlib.md5(content).hexdigest() for name, content in site.items()}
    tiny = dataclasses.replace(data_set.published, url=closed_url(), md5=digests)
    monkeypatch.setattr(data_set, "published", tiny)
