"""Batches of pictures that came in at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Answer(NamedTuple):
    """What the model says of a picture.

    Attributes:
        inverted: whether dark and light were swapped.
        probabilities: of the classes, float32 (K,).
        ranking: the most probable classes, the first one first, int64 (T,).
    """

    inverted: bool
    probabilities: NDArray[np.float32]
    ranking: NDArray[np.int64]


Classify = Callable[[NDArray[np.uint8]], list[Answer]]
"""From pixels, uint8 (M, C, H, W), to M answers."""

AT_ONCE = 2
"""Batches that are classified at a time: the second has begun when the first ends, and no core is
idle while its answers are sent."""


class Batches:
    """Has pictures of several requests classified together.

    A batch is full, or has all that is there when the one before it is done. While other pictures
    are being received and decoded, the first of a batch waits for them, a few milliseconds at most.

    Args:
        classify: called in ``AT_ONCE`` threads.
        size: the most pictures of a batch.
        seconds: the longest wait.
    """

    def __init__(self, classify: Classify, size: int, seconds: float) -> None:
        self._classify = classify
        self._size = size
        self._seconds = seconds
        self._queue: asyncio.Queue[tuple[NDArray[np.uint8], asyncio.Future[Answer]]] = (
            asyncio.Queue()
        )
        self._coming = 0
        self._gathering = asyncio.Lock()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="model")

    @contextmanager
    def coming(self) -> Iterator[None]:
        """The block brings pictures to a queue that may wait for them."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def answer(self, pixels: NDArray[np.uint8]) -> Answer:
        """The answer to a picture, uint8 (C, H, W)."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((pixels, future))
        return await future

    async def run(self) -> None:
        """Classify batches until cancelled."""
        await asyncio.gather(*(self._classify_batches() for _ in range(AT_ONCE)))

    async def _classify_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._gathering:
                batch = await self._next()
            try:
                pixels = np.stack([each for each, _ in batch])
                answers = await loop.run_in_executor(self._threads, self._classify, pixels)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _next(self) -> list[tuple[NDArray[np.uint8], asyncio.Future[Answer]]]:
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        while len(batch) < self._size:
            if self._queue.empty() and (not self._coming or loop.time() >= deadline):
                break
            try:
                async with asyncio.timeout_at(deadline):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch
