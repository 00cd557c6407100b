"""uvicorn's connections, which wait for no client for ever, and say in JSON what is wrong."""

from __future__ import annotations

import asyncio
import json
import socket
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
"""The option that ends a connection whose other end takes nothing; not every system has it."""


def connection_class(seconds: float) -> type[H11Protocol]:
    """A connection whose client may take so many seconds for a request's head, or to read."""

    class Connection(H11Protocol):
        _until: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            own = transport.get_extra_info("socket")
            # asyncio sets it on sockets that name their protocol; without it the end of an answer
            # waits 40 ms for the client's acknowledgement of its beginning.
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if USER_TIMEOUT is not None:
                own.setsockopt(socket.IPPROTO_TCP, USER_TIMEOUT, int(1000 * seconds))
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unwatch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "This is not a request in HTTP/1.1.")

        def _watch(self) -> None:
            """Bound the time until a request begins, also that of one whose rest is passed over."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._until is None:
                self._until = self.loop.call_later(seconds, self._end)

        def _unwatch(self) -> None:
            if self._until is not None:
                self._until.cancel()
                self._until = None

        def _end(self) -> None:
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                self._refuse(408, f"The request did not arrive within {seconds:g} seconds.")
            else:
                self.transport.abort()

        def _refuse(self, status: int, sentence: str) -> None:
            body = json.dumps({"error": sentence}).encode()
            reason = HTTPStatus(status).phrase.encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            try:
                for event in (
                    h11.Response(status_code=status, headers=headers, reason=reason),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:  # an answer is on its way already
                self.transport.abort()
            else:
                self.transport.close()

    return Connection
