"""Whom the dashboard answers: requests that name this machine, and no other name.

A page of somebody else's, whose name suddenly means 127.0.0.1, would otherwise read all runs by the
browser of whoever looks at it (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""WSGI's."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class OwnHosts:
    """A WSGI application that refuses, with status 403, what asks for another host.

    The port may be another one: an SSH tunnel has its own.

    Args:
        application: answers the others.
        host: where it is served.
    """

    def __init__(self, application: Application, host: str) -> None:
        self._application = application
        self._host = host

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request."""
        if is_own(environ.get("HTTP_HOST", ""), self._host):
            return self._application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This host is not served here: use the address that discern dashboard printed.\n"]


def is_own(header: str, host: str) -> bool:
    """Whether a request's Host header names a server at ``host``."""
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    name = match[1].lower()
    if name in LOOPBACK or name in (host.lower(), f"[{host.lower()}]"):
        return True
    # Whoever asked for an address has not been led there by a name.
    return not is_loopback(host) and (name in _own_names() or _is_own_address(name.strip("[]")))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at ``host``."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in found)


def _own_names() -> tuple[str, ...]:
    return socket.gethostname().lower(), socket.getfqdn().lower()


def _is_own_address(name: str) -> bool:
    """Whether it is an address, and one of this machine's, at which a socket can be had."""
    try:
        version = ipaddress.ip_address(name).version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((name, 0))
    except (OSError, ValueError):
        return False
    return True
