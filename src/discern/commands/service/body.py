"""The pictures in the body of a request, read within limits of bytes, memory and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from io import BytesIO
from types import TracebackType
from typing import IO, Self

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from discern.commands.service.limits import MB, Limits, RefusedError, Room
from discern.text import visible

UNRESERVED = 2**16
"""Bytes of a body that are read without room, so that a client that sends a byte a second keeps
none from others."""

MAX_FIELDS = 100
"""Fields of a form beside its files."""

MAX_NAME = 200
"""Characters of a file's name that an answer repeats."""


class Body:
    """The body of a request; what it takes of the room is given back when the block ends.

    Args:
        request: whose body was not read yet.
        limits: of the service.
        room: shared by all requests.
    """

    def __init__(self, request: Request, limits: Limits, room: Room) -> None:
        self._request = request
        self._limits = limits
        self._room = room
        self._taken = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._room.give(self._taken)

    async def pictures(self) -> list[tuple[str, IO[bytes]]]:
        """Name and content, in memory, of each file; the name is empty for a body that is no form.

        Raises:
            RefusedError: there is none, or a limit is exceeded.
            ClientDisconnect: the client has closed the connection.
        """
        headers = self._request.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise RefusedError(
                415, "A body with a Content-Encoding is not read; send the file as it is."
            )
        if headers.get("content-type", "").lower().startswith("multipart/"):
            return await self._form()
        content = BytesIO()
        async for chunk in self._chunks():
            content.write(chunk)
        if not content.tell():
            raise RefusedError(
                400, "The body is empty; it must be a picture, or a form with files."
            )
        return [("", content)]

    async def _form(self) -> list[tuple[str, IO[bytes]]]:
        parser = MultiPartParser(
            self._request.headers,
            self._chunks(),
            # One more than allowed, so that it is refused here.
            max_files=self._limits.files + 1,
            max_fields=MAX_FIELDS,
        )
        parser.spool_max_size = self._limits.body + 1  # none is written to the disk
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise self._too_many() from error
            raise RefusedError(
                400, f"The form cannot be read: {error.message.rstrip('.')}."
            ) from error
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > self._limits.files:
            raise self._too_many()
        if not files:
            raise RefusedError(400, "The form has no file; curl sends one with -F file=@photo.jpg.")
        return [(visible(file.filename or "")[:MAX_NAME], file.file) for file in files]

    def _too_many(self) -> RefusedError:
        return RefusedError(413, f"A request may have {self._limits.files:,} files at most.")

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes in."""
        announced, most = self._announced(), self._limits.body
        loop, read = asyncio.get_running_loop(), 0
        deadline = loop.time() + self._limits.seconds
        more = True
        while more:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self._request.receive()
            except TimeoutError as error:
                sentence = f"The body did not arrive within {self._limits.seconds:g} seconds."
                raise RefusedError(408, sentence, {"Connection": "close"}) from error
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            read += len(chunk)
            if read > most:
                raise self._too_large()
            if read > UNRESERVED and not self._taken:
                asked = loop.time()
                self._taken = await self._room.take(most if announced is None else announced)
                deadline += loop.time() - asked  # the client did not cause this wait
            if chunk:
                yield chunk

    def _announced(self) -> int | None:
        """The length that the request announces, None if it announces none."""
        length = self._request.headers.get("content-length")
        if length is None:
            return None
        if int(length) > self._limits.body:
            raise self._too_large()
        return int(length)

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"The body may have {self._limits.body / MB:g} MB at most.")
