"""The service as a process of its own, among requests of all kinds."""

from __future__ import annotations

import asyncio
import csv
import http.client
import importlib.util
import io
import json
import os
import re
import resource
import signal
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commands.test_predict import save_model, save_transfer_model
from discern.commands import serve
from discern.commands.service.batches import Answer, Batches
from discern.commands.service.limits import Room
from discern.data.published.mnist import read_sample
from discern.errors import DiscernError
from discern.exports.export import export
from discern.models.saved import load
from starter import begin, end, invoke, kill, said, until

DIGITS = read_sample()["t10k-images-idx3-ubyte"]
TIMEOUT = 2
BODY = 2


class Server(NamedTuple):
    """One that runs: its folder, process and port."""

    folder: Path
    number: int
    port: int


def start(folder: Path, model: Path, *words: str) -> Server:
    number = begin(folder, "serve", f"ckpt_path={model}", "port=0", *words)
    until(lambda: "answers at" in said(folder), number)
    match = re.search(r"answers at http://127\.0\.0\.1:(\d+)/predict", said(folder))
    assert match, said(folder)
    return Server(folder, number, int(match[1]))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model of digits, served with tight limits."""
    folder = tmp_path_factory.mktemp("digits")
    model = save_model(folder / "model.safetensors")
    limits = (f"timeout={TIMEOUT}", f"max_body_mb={BODY}", "max_files=5", "max_picture_mb=16")
    server = start(folder, model, *limits)
    yield server
    os.kill(server.number, signal.SIGINT)
    assert end(server.number) == 0
    assert "Traceback" not in said(folder)


def picture(array: np.ndarray, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


GOOD = picture(DIGITS[0])
JPEG = picture(np.zeros((99, 99, 3), np.uint8), "jpeg")
FORM = {"Content-Type": "multipart/form-data"}


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes and side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        rest = kind + data
        return len(data).to_bytes(4) + rest + zlib.crc32(rest).to_bytes(4)

    size = side.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", size), (b"IDAT", pixels), (b"IEND", b""))
    )


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a form."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    return b"".join(parts) + b"--edge--\r\n", headers


def in_form(*files: tuple[str, bytes]) -> dict[str, Any]:
    """What :func:`ask` sends a form with."""
    return dict(zip(("body", "headers"), form(*files), strict=True))


def ask(
    server: Server,
    body: Any = None,
    headers: dict[str, str] | None = None,
    path: str = "/predict",
    method: str = "POST",
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
    connection.request(method, path, body, headers or {})
    return answer_of(connection.getresponse())


def answer_of(response: http.client.HTTPResponse) -> tuple[int, dict[str, Any]]:
    text = response.read().decode()
    assert response.headers["Content-Type"] == "application/json"
    assert "Traceback" not in text
    assert "/tmp" not in text
    found = json.loads(text)
    if response.status != 200:
        assert found["error"].endswith("."), found
    return response.status, found


# Answers


def predicted(folder: Path, model: Path, files: dict[str, bytes]) -> list[dict[str, str]]:
    """The rows of predictions.csv."""
    (folder / "files").mkdir()
    for name, content in files.items():
        (folder / "files" / name).write_bytes(content)
    words = (f"ckpt_path={model}", "input=files", "out=out", "pictures=0")
    done = invoke("predict", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_same(entries: list[dict[str, Any]], rows: list[dict[str, str]]) -> None:
    assert len(entries) == len(rows)
    for entry, row in zip(entries, rows, strict=True):
        assert entry["file"] == Path(row["file"]).name
        assert entry["label"] == row["label"]
        assert entry["inverted"] == (row["inverted"] == "true")
        for place, each in enumerate(entry["top"], 1):
            assert each["label"] == row[f"top{place}"]
            said = float(row[f"top{place}_probability"])
            assert each["probability"] == pytest.approx(said, abs=1e-6)
            assert entry["probabilities"][each["label"]] == each["probability"]
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_model_of_digits_says_what_predict_says(digits, tmp_path):
    scan = 255 - DIGITS[1].repeat(3, 0).repeat(3, 1)
    files = {
        "a.png": GOOD,
        "b.jpg": picture(np.stack([scan] * 3, 2), "jpeg"),  # colour, dark on light, larger
        "c.png": picture(DIGITS[2].astype(np.uint16) * 200),
        "d.gif": picture(DIGITS[3][:20], "gif"),
    }
    rows = predicted(tmp_path, digits.folder / "model.safetensors", files)
    status, found = ask(digits, *form(*files.items()))
    assert status == 200
    check_same(found["predictions"], rows)
    assert found["predictions"][1]["inverted"]
    assert len(found["predictions"][0]["top"]) == 5


@pytest.mark.parametrize("form_of_model", ["checkpoint", "exported"])
def test_a_model_of_photographs_says_what_predict_says(tmp_path, form_of_model):
    model = save_transfer_model(tmp_path / "model.safetensors")
    if form_of_model == "exported":
        model = export(load(model), tmp_path / "exported").path
    engine = "engine=torch" if form_of_model == "checkpoint" else "engine=auto"
    random = np.random.default_rng(0)
    photograph = random.integers(0, 256, (300, 200, 3), np.uint8)
    files = {"a.jpg": picture(photograph, "jpeg"), "b.png": GOOD}  # and a grey one
    rows = predicted(tmp_path, model, files)
    server = start(tmp_path, model, engine, "batch=2")
    status, found = ask(server, *form(*files.items()))
    kill(server.number)
    assert status == 200
    check_same(found["predictions"], rows)


def test_a_body_may_be_the_picture_itself(digits):
    _, in_form = ask(digits, *form(("a.png", GOOD)))
    for kind in ({}, {"Content-Type": "image/png"}, {"Content-Type": "text/plain"}):
        status, found = ask(digits, GOOD, kind)
        assert status == 200
        assert found["predictions"][0] == {**in_form["predictions"][0], "file": ""}
    status, found = ask(digits, iter([GOOD[:50], GOOD[50:]]))  # chunked
    assert (status, found["predictions"][0]["label"]) == (200, "class 8")


@pytest.mark.parametrize(("top", "listed"), [("1", 1), ("3", 3), ("100", 10)])
def test_the_request_says_how_many_classes_are_listed(digits, top, listed):
    _, found = ask(digits, GOOD, path=f"/predict?top={top}")
    probabilities = [each["probability"] for each in found["predictions"][0]["top"]]
    assert len(probabilities) == listed
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_file_that_is_no_picture_leaves_the_others_their_answers(digits):
    files = (("a.png", GOOD), ("notes.png", b"notes"), ("\x1b[2J.png", GOOD))
    status, found = ask(digits, *form(*files))
    first, second, third = found["predictions"]
    assert status == 200
    assert "label" in first
    assert second == {
        "file": "notes.png",
        "error": "Not a picture in a format that Pillow reads.",
    }
    assert third["file"] == "\\x1b[2J.png"


def test_what_the_service_says_of_itself(digits):
    status, health = ask(digits, path="/health", method="GET")
    assert status == 200
    assert health["status"] == "ok"
    assert len(health["classes"]) == 10
    _, described = ask(digits, path="/openapi.json", method="GET")
    assert described["paths"]["/predict"]["post"]["responses"].keys() >= {"200", "413", "422"}
    connection = http.client.HTTPConnection("127.0.0.1", digits.port, timeout=100)
    connection.request("GET", "/docs")
    response = connection.getresponse()
    page = response.read().decode()
    assert "curl -F file=@photo.jpg" in page
    # Nothing is fetched from elsewhere, even if the page were to ask for it.
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


# Requests that cannot be answered

WRONG: dict[str, tuple[int, str, dict[str, Any]]] = {
    "junk": (422, "Not a picture", {"body": b"\x00\xff" * 500}),
    "a text named .png": (422, "Not a picture", in_form(("a.png", b"notes"))),
    "nothing": (400, "The body is empty", {"body": b""}),
    "an empty file": (422, "An empty file", in_form(("a.png", b""))),
    "half a JPEG": (422, "No picture could be classified", {"body": JPEG[:500]}),
    "a bomb": (422, "More than 8,388,608 pixels.", {"body": bomb(60_000)}),
    "a small bomb": (422, "more than 16 MB.", {"body": bomb(2_500)}),
    "no file": (400, "The form has no file", in_form()),
    "a form without an edge": (400, "The form cannot be read: ", {"body": b"x", "headers": FORM}),
    "a form of junk": (400, "The form cannot be read: ", {"body": b"x" * 99, "headers": form()[1]}),
    "too many files": (413, "may have 5 files", in_form(*[("a", GOOD)] * 6)),
    "far too many files": (413, "may have 5 files", in_form(*[("a", GOOD)] * 60)),
    "too long": (413, "may have 2 MB", {"body": bytes(3 << 20)}),
    "too long in pieces": (413, "may have 2 MB", {"body": iter([bytes(1 << 20)] * 3)}),
    "packed": (415, "Content-Encoding", {"body": GOOD, "headers": {"Content-Encoding": "gzip"}}),
    "another method": (405, "GET is not possible here", {"method": "GET"}),
    "another address": (404, "There is nothing here", {"path": "/predict/../../etc/passwd"}),
    "no number": (400, "top must be", {"body": GOOD, "path": "/predict?top=x"}),
    "none at all": (400, "top must be", {"body": GOOD, "path": "/predict?top=0"}),
    "another setting": (400, "?top=K", {"body": GOOD, "path": "/predict?tpo=1"}),
    "another host": (403, "This host is not served", {"headers": {"Host": "evil.example"}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(digits, kind):
    status, sentence, request = WRONG[kind]
    if kind == "too long in pieces":
        request = {"body": iter([bytes(1 << 20)] * 3)}
    found = ask(digits, **request)
    assert found[0] == status
    assert sentence in found[1]["error"]
    assert ask(digits, GOOD)[0] == 200


def sent(server: Server, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=100)
    connection.sendall(data)
    return connection


def reply(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return answer_of(response)


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


NO_HTTP = (
    b"\x16\x03\x01\r\n\r\n",
    b"GET\r\n\r\n",
    b"x" * 100_000,
    HEAD + b"Content-Length: -1\r\n\r\n",
)


@pytest.mark.parametrize("data", NO_HTTP)
def test_what_is_no_http_is_refused(digits, data):
    with sent(digits, data) as connection:
        assert reply(connection)[0] == 400


def test_a_gigabyte_is_refused_before_it_comes(digits):
    before = memory(digits)
    with sent(digits, HEAD + b"Content-Length: 1073741824\r\n\r\n") as connection:
        assert reply(connection)[0] == 413
        with suppress(OSError):  # and what comes all the same is kept nowhere
            for _ in range(100):
                connection.sendall(bytes(1 << 20))
    assert memory(digits) < before + (30 << 20)


def memory(server: Server) -> int:
    """Bytes of memory that the process has had at most."""
    status = Path(f"/proc/{server.number}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]


@pytest.mark.parametrize("begun", [HEAD, HEAD + b"Content-Length: 100\r\n\r\nhalf"])
def test_a_slow_client_is_told_so(digits, begun):
    with sent(digits, begun) as connection:
        assert reply(connection)[0] == 408
        assert connection.recv(1) == b""


def test_a_connection_serves_several_requests(digits):
    connection = http.client.HTTPConnection("127.0.0.1", digits.port, timeout=100)
    for body, status in (
        (GOOD, 200),
        (b"junk", 422),
        (GOOD, 200),
        (bytes(3 << 20), 413),
        (GOOD, 200),
    ):
        connection.request("POST", "/predict", body)
        own = connection.sock
        assert answer_of(connection.getresponse())[0] == status
        assert connection.sock is own


REQUESTS = 1_000

BAD = (
    (b"\x00junk\r\n\r\n", True),
    (HEAD, True),  # and never more
    (HEAD + b"Content-Length: 9\r\n\r\nabc", True),
    (HEAD + b"Content-Length: 9\r\n\r\nabc", False),  # and gone
    (HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, False),
    (HEAD + b"Content-Length: 1073741824\r\n\r\n" + bytes(100_000), True),
    (HEAD + b"Content-Length: %d\r\n\r\n" % len(bomb(2_500)) + bomb(2_500), True),
    (HEAD + b"Content-Length: 0\r\n\r\n", True),
)
"""Bytes that a client sends, and whether it stays until the good ones are answered."""


def test_a_thousand_at_once_are_all_answered(tmp_path):
    server = start(tmp_path, save_model(tmp_path / "model.safetensors"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        expected = ask(server, GOOD)[1]
        found = asyncio.run(_many(server))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    good = [json.loads(each) for each in found if each is not None]
    assert len(good) == REQUESTS // 2
    for each in good:
        assert each["predictions"][0]["label"] == expected["predictions"][0]["label"]
    assert ask(server, GOOD)[1] == expected
    kill(server.number)
    assert said(tmp_path).count("\n") == 1


async def _many(server: Server) -> list[bytes | None]:
    """The answers to good requests, beside bad ones, all on connections that are open at once."""
    all_open, left = asyncio.Barrier(REQUESTS), [REQUESTS // 2]
    answered = asyncio.Event()

    async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = re.search(rb"content-length: (\d+)", head)[1]  # type: ignore[index]
        content = await reader.readexactly(int(length))
        left[0] -= 1
        if not left[0]:
            answered.set()
        return content

    async def one(number: int) -> bytes | None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await all_open.wait()
        try:
            if number % 2 == 0:
                return await good(reader, writer)
            data, stays = BAD[number // 2 % len(BAD)]
            writer.write(data)
            if stays:
                await answered.wait()
        finally:
            writer.transport.abort()
        return None

    return await asyncio.gather(*map(one, range(REQUESTS)))


FILES = st.tuples(st.text("ab/\\\x00\xe4", max_size=9), st.binary(max_size=99))


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda a, b: GOOD[:a] + b + GOOD[a:], st.integers(0, len(GOOD)), st.binary()),
        st.lists(FILES, max_size=5).map(lambda files: form(*files)[0]),
    ),
    st.sampled_from(["image/png", form()[1]["Content-Type"], "multipart/form-data; boundary=\xe4"]),
)
def test_any_body_has_an_answer(digits, body, kind):
    status, found = ask(digits, body, {"Content-Type": kind})
    assert status in (200, 400, 422)
    assert "predictions" in found or "error" in found


# Its end


def test_what_is_in_flight_at_the_end_is_answered(tmp_path):
    server = start(tmp_path, save_model(tmp_path / "model.safetensors"))
    body, headers = form(*[("a.png", picture(np.zeros((2000, 2000), np.uint8)))] * 20)
    head = HEAD + b"Content-Type: %s\r\n" % headers["Content-Type"].encode()
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    idle = sent(server, b"")
    with sent(server, head + body[:-9]) as connection, idle:
        until(lambda: ask(server, path="/health", method="GET")[0] == 200, server.number)
        os.kill(server.number, signal.SIGTERM)
        assert idle.recv(1) == b""  # it accepts no more, and has closed what was idle
        connection.sendall(body[-9:])
        status, found = reply(connection)
    assert status == 200
    assert len(found["predictions"]) == 20
    assert end(server.number) == 0
    assert said(tmp_path).count("\n") <= 2


# Settings


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), ""),
        (("port=80",), "ckpt_path is missing; "),
        (("ckpt_path=nowhere",), "ckpt_path=nowhere does not exist; "),
        (("ckpt_path=[a,b]",), "ckpt_path=[a,b] is of several models, and discern serve takes one"),
        (("ckpt_path=model", "port=x"), "port=x must be a whole number from 0 to 65,535."),
        (("ckpt_path=model", "port=" + "0" * 5000), "port=000"),
        (("ckpt_path=model", "host=a..b"), "host=a..b is not the name of a host."),
        (("ckpt_path=" + "x" * 300,), "ckpt_path=xxx"),
        (("ckpt_path=model", "batch=0"), "batch=0 must be a whole number from 1 to 1,024."),
        (("ckpt_path=model", "engine=x"), "engine=x must be auto, torch, onnxruntime or openvino."),
        (("ckpt_path=model", "invert=x"), "invert=x must be auto, true or false."),
        (("ckpt_path=model", "prot=1"), "prot=1 is not a setting of discern serve; did you mean"),
        (("ckpt_path=model", "host="), "host= must not be empty."),
        (("ckpt_path=model", "host=203.0.113.7"), "host=203.0.113.7 port=8000 cannot be"),
        (("ckpt_path=model", "port=PORT"), "port=PORT is in use; port=0 takes a free one."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_sentence(tmp_path, words, sentence):
    save_model(tmp_path / "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = invoke("serve", *(word.replace("PORT", port) for word in words), cwd=tmp_path)
    if not words:
        assert (done.returncode, done.stdout) == (0, serve.HELP)
        return
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {sentence.replace('PORT', port)}")
    assert done.stderr.count("\n") == 1


def test_without_its_extra_it_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    with pytest.raises(DiscernError, match=r"package uvicorn, .* pip install 'discern\[serve\]'"):
        serve.run(["ckpt_path=best"])


def test_who_may_use_it_is_said(tmp_path):
    model = save_model(tmp_path / "model.safetensors")
    number = begin(tmp_path, "serve", f"ckpt_path={model}", "port=0", "host=0.0.0.0")
    until(lambda: "answers at" in said(tmp_path), number)
    kill(number)
    assert "WARNING: host=0.0.0.0 answers anyone who can reach this machine" in said(tmp_path)


def test_the_shell_is_told_the_settings():
    assert serve.completions("ckpt_path=best ho") == ["host="]


# Parts


def test_room_is_given_in_the_order_in_which_it_is_asked_for():
    async def run() -> list[str]:
        room, order = Room(10), []

        async def ask_for(name: str, size: int) -> None:
            taken = await room.take(size)
            order.append(name)
            await asyncio.sleep(0)
            room.give(taken)

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            for name, size in (("a", 6), ("b", 6), ("c", 1), ("more than there is", 99), ("d", 1)):
                tasks.create_task(ask_for(name, size))
            gone = tasks.create_task(ask_for("gone", 5))
            await asyncio.sleep(0)
            gone.cancel()
        assert await room.take(10) == 10
        return order

    assert asyncio.run(run()) == ["a", "b", "c", "more than there is", "d"]


def test_what_comes_together_is_classified_together():
    sizes = []

    def classify(pixels: np.ndarray) -> list[Answer]:
        sizes.append(len(pixels))
        if pixels.max() == 9:
            raise ValueError("no such digit")
        return [Answer(False, each.reshape(-1), np.arange(1)) for each in pixels]

    async def run() -> None:
        batches = Batches(classify, 4, 1)
        running = asyncio.create_task(batches.run())
        pictures = [np.full((1, 1, 1), number, np.uint8) for number in range(10)]
        first = [asyncio.create_task(batches.answer(each)) for each in pictures[:6]]
        answers = [int(each.probabilities[0]) for each in await asyncio.gather(*first)]
        assert answers == [0, 1, 2, 3, 4, 5]
        with pytest.raises(ValueError, match="no such digit"):
            await batches.answer(pictures[9])
        assert int((await batches.answer(pictures[3])).probabilities[0]) == 3
        running.cancel()

    asyncio.run(run())
    assert sorted(sizes) == [1, 1, 2, 4]
