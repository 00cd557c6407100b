"""The check of the Host header by dashboard and service: only names of this machine are served.

Otherwise a web page whose host name is made to resolve to 127.0.0.1 could read all runs through its
visitor's browser (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from discern.console import for_terminal
from discern.errors import DiscernError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.IGNORECASE)


class OwnHosts:
    """A WSGI application that refuses requests for another host with status 403.

    The port may differ, as that of an SSH tunnel does.

    Args:
        application: answers all other requests.
        host: the host that it is served on.
    """

    def __init__(self, application: WSGIApplication, host: str) -> None:
        self._application = application
        self._host = host

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
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
    # A request for an address cannot come from DNS rebinding.
    return not is_loopback(host) and (name in _own_names() or _is_own_address(name.strip("[]")))


def address_of(host: str, port: int) -> tuple[int, int, int, tuple[Any, ...]]:
    """The family, kind and protocol of a socket at a host's first address, and that address.

    Raises:
        DiscernError: no host can have that name.
        OSError: there is none of that name.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except UnicodeError as error:  # a part of it is empty, or longer than any
        raise DiscernError(f"host={for_terminal(host)} is not the name of a host.") from error
    return family, kind, protocol, address


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at ``host``."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(each[4][0]).split("%")[0]).is_loopback for each in found)


def _own_names() -> tuple[str, ...]:
    return socket.gethostname().lower(), socket.getfqdn().lower()


def _is_own_address(name: str) -> bool:
    """Whether it is an address of this machine, to which a socket can be bound."""
    try:
        version = ipaddress.ip_address(name).version
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((name, 0))
    except (OSError, ValueError):
        return False
    return True
