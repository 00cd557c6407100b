"""What a request may ask for, and the memory that all of them share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

MB = 2**20


@dataclass(frozen=True)
class Limits:
    """The most that the service takes.

    Attributes:
        body: bytes of a request's body.
        files: pictures of a request.
        seconds: that a client may take to send a request, and to receive the answer.
        requests: at once; further ones are refused.
        top: classes of ``top`` in an answer, unless the request says how many.
    """

    body: int
    files: int
    seconds: float
    requests: int
    top: int


class RefusedError(Exception):
    """A request that is not answered: its status, and why, as a sentence."""

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


class Room:
    """Memory for the bodies of requests, handed out in the order in which it is asked for."""

    def __init__(self, capacity: int) -> None:
        self._capacity = self._left = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> int:
        """Wait for so many bytes, or for all of the room; how many it came to."""
        size = min(size, self._capacity)
        if not self._waiting and size <= self._left:
            self._left -= size
            return size
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            raise
        return size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._left += size
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.cancelled():
                if wanted > self._left:
                    return
                self._left -= wanted
                granted.set_result(None)
            self._waiting.popleft()
