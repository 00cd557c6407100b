from __future__ import annotations

import socket
import urllib.request

import pytest

from discern.dashboard.server import Wish, completions, start
from discern.errors import DiscernError
from starter import invoke


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("port=x", "port=x must be a whole number from 1 to 65535."),
        ("port=0", "port=0 must be a whole number from 1 to 65535."),
        ("port=65536", "port=65536 must be"),
        ("prot=1", "prot=1 is no setting of discern dashboard; did you mean port"),
        ("logs", "logs is no setting of discern dashboard; "),
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
        url, served = start(Wish(tmp_path, port))
        assert served > port
        assert url == f"http://127.0.0.1:{served}/"
        assert urllib.request.urlopen(url, timeout=30).status == 200


def test_no_port_is_left(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 65_535))
        with pytest.raises(DiscernError, match="port=65535 is in use"):
            start(Wish(tmp_path, 65_535))


def test_the_shell_is_told_the_settings():
    assert completions("") == ["logdir=", "port=", "host="]
    assert completions("port=7 lo") == ["logdir="]
