from __future__ import annotations

import http.client
import re
import socket
import urllib.request

import pytest

from discern.commands.dashboard import Settings, completions, start
from discern.commands.hosts import is_own
from discern.errors import DiscernError
from starter import begin, invoke, kill, said, until


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("port=x", "port=x must be a whole number from 1 to 65,535."),
        ("port=0", "port=0 must be a whole number from 1 to 65,535."),
        ("port=65536", "port=65536 must be"),
        ("port=" + "0" * 5000 + "1", "port=000"),
        ("logdir=" + "x" * 300, "logdir=xxx"),
        ("host=a..b", "host=a..b is not the name of a host."),
        ("host=" + "x" * 300, "host=xxx"),
        ("prot=1", "prot=1 is not a setting of discern dashboard; did you mean port"),
        ("logs", "logs is not a setting of discern dashboard; "),
        ("host=", "host= must be a host's name or address"),
        ("logdir=nowhere", "logdir=nowhere must be a folder that exists"),
        ("host=203.0.113.7", "host=203.0.113.7 port=6006 cannot be served on: "),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(tmp_path, word, said):
    (tmp_path / "outputs").mkdir()
    done = invoke("dashboard", word, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {said}")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_folder(tmp_path):
    done = invoke("dashboard", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "logdir=outputs" in done.stdout


def test_the_next_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url, served = start(Settings(tmp_path, port))
        assert served > port
        assert url == f"http://127.0.0.1:{served}/"
        assert urllib.request.urlopen(url, timeout=30).status == 200


def test_no_port_is_left(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 65_535))
        with pytest.raises(DiscernError, match="port=65535 is in use"):
            start(Settings(tmp_path, 65_535))


def test_the_shell_is_told_the_settings():
    assert completions("") == ["logdir=", "port=", "host="]
    assert completions("port=7 lo") == ["logdir="]


def asked(port: int, host: str | None) -> int:
    """The status of a request with this Host header, or with none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", "/data/environment", skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    return connection.getresponse().status


def test_only_requests_that_name_this_machine_are_answered(tmp_path):
    _, port = start(Settings(tmp_path, 6106))
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert asked(port, f"{host}:{port}") == asked(port, host) == 200
    assert asked(port, "localhost:8000") == 200  # through an SSH tunnel
    others = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2")
    for host in (*others, "x@localhost", "localhost:6106:1", "", socket.gethostname()):
        assert asked(port, host) == 403, host
        assert asked(port, f"{host}:{port}") == 403, host
    assert asked(port, None) == 403


def test_an_address_in_the_request_line_counts_as_the_host(tmp_path):
    _, port = start(Settings(tmp_path, 6106))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "http://evil.example/data/environment", headers={"Host": "localhost"})
    assert connection.getresponse().status == 403


def test_a_server_for_all_answers_to_names_of_this_machine_alone():
    name = socket.gethostname()
    for host in ("0.0.0.0", "::"):
        assert all(is_own(each, host) for each in (name, f"{name}:6006", "127.0.0.1", "127.0.0.5"))
        assert not any(is_own(each, host) for each in ("evil.example", "203.0.113.7", ""))
    assert is_own("runs.lab:6006", "runs.lab")
    assert not is_own("evil.example", "runs.lab")


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_who_may_see_it_is_said(tmp_path, host, warned):
    (tmp_path / "outputs").mkdir()
    number = begin(tmp_path, "dashboard", f"host={host}", "port=6206")
    until(lambda: re.search("http://", said(tmp_path)), number)
    kill(number)
    assert (f"WARNING: host={host} shows everything in outputs" in said(tmp_path)) is warned
