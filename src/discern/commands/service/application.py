"""The routes of the service, and their answers in JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import IO

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from discern.commands.hosts import is_loopback, is_own
from discern.commands.service.batches import Answer, Batches
from discern.commands.service.body import Body
from discern.commands.service.description import openapi, page
from discern.commands.service.limits import Limits, RefusedError, Room
from discern.commands.service.model import Entry, ServedModel
from discern.data.costs import SETTING
from discern.data.pictures import PictureError
from discern.version import __version__

Read = NDArray[np.uint8] | Answer | str
"""The pixels of a picture, uint8 (C, H, W), or what the model says of it, or why neither is had."""

ROOM = 2**28
"""Bytes of the bodies that are in memory at a time, unless a single one may have more."""


class Service:
    """Answers requests with what a model says of their pictures.

    Args:
        model: the model.
        limits: of requests.
        batch: pictures that are classified at a time, at most.
        wait: seconds that a picture may wait for others.
        host: that the service is bound to.
        started: called when requests are accepted.
    """

    def __init__(
        self,
        model: ServedModel,
        limits: Limits,
        batch: int,
        wait: float,
        host: str,
        started: Callable[[], None],
    ) -> None:
        self._model = model
        self._limits = limits
        self._host = host if is_loopback(host) else None
        self._started = started
        self._room = Room(max(ROOM, limits.body))
        self._batches = Batches(model.classify, batch, wait)
        threads = os.cpu_count() or 1
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._turns = asyncio.Semaphore(threads)
        self._open = 0

    def application(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/", self._root),
                Route("/predict", self.predict, methods=["POST"]),
                Route("/health", self.health),
                Route("/docs", self._docs),
                Route("/openapi.json", self._openapi),
            ],
            exception_handlers={
                RefusedError: self._refused,
                HTTPException: self._not_routed,
                Exception: self._failed,
            },
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(self._batches.run())
        self._started()
        yield
        running.cancel()

    # Routes

    async def predict(self, request: Request) -> Response:
        """``POST /predict``."""
        self._check_host(request)
        top = self._top(request)
        if self._open >= self._limits.requests:
            sentence = f"{self._open:,} requests are being answered; try again in a second."
            raise RefusedError(503, sentence, {"Retry-After": "1"})
        self._open += 1
        try:
            with self._batches.coming():
                async with Body(request, self._limits, self._room) as body:
                    files = await body.pictures()
                    found = await asyncio.gather(
                        *(self._pixels(each, request) for _, each in files)
                    )
                    names = [name for name, _ in files]
                    del files  # the bodies, for which others may wait
            entries = await asyncio.gather(*(self._entry(each, top) for each in found))
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        finally:
            self._open -= 1
        return self._answer(names, entries)

    async def health(self, request: Request) -> Response:
        """``GET /health``."""
        self._check_host(request)
        card = self._model.card
        return as_json(
            {
                "status": "ok",
                "model": self._model.name,
                "data": card.data.get("title"),
                "classes": card.class_names,
                "input_shape": card.input_shape,
                "version": __version__,
            }
        )

    async def _root(self, request: Request) -> Response:
        self._check_host(request)
        return RedirectResponse("/docs")

    async def _docs(self, request: Request) -> Response:
        self._check_host(request)
        html, policy = page(self._model, self._limits)
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def _openapi(self, request: Request) -> Response:
        self._check_host(request)
        return as_json(openapi(self._model, self._limits))

    def _check_host(self, request: Request) -> None:
        """Refuse pages whose host name was made to resolve to this machine (DNS rebinding)."""
        if self._host is not None and not is_own(request.headers.get("host", ""), self._host):
            raise RefusedError(
                403, "This host is not served here: use the address of discern serve."
            )

    def _top(self, request: Request) -> int:
        classes = len(self._model.card.class_names)
        query = request.query_params
        for name in query:
            if name != "top":
                raise RefusedError(
                    400, "The address may have ?top=K, and nothing else behind /predict."
                )
        text = query.get("top")
        if text is None:
            return min(self._limits.top, classes)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= 1):
            raise RefusedError(400, "top must be a whole number, 1 or above.")
        return min(int(text), classes)

    # From files to entries

    async def _pixels(self, content: IO[bytes], request: Request) -> Read:
        """What was read of a picture, or why it cannot be read.

        Raises:
            ClientDisconnect: the client has gone while others were in turn.
        """
        if not content.seek(0, os.SEEK_END):
            return "an empty file"
        waited = self._turns.locked()
        async with self._turns:
            if waited and await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._decoders, self._model.read, content)
            except PictureError as error:
                return str(error).removesuffix(f"; {SETTING} allows more")  # not to the client

    async def _entry(self, read: Read, top: int) -> Entry:
        if isinstance(read, str):
            return {"error": f"{read[:1].upper()}{read[1:].rstrip('.')}."}
        answer = read if isinstance(read, Answer) else await self._batches.answer(read)
        entry = self._model.entry(answer, top)
        return {"error": "The model's outputs are not finite."} if entry is None else entry

    def _answer(self, names: list[str], entries: list[Entry]) -> Response:
        predictions = [{"file": name, **each} for name, each in zip(names, entries, strict=True)]
        content: dict[str, object] = {"predictions": predictions}
        if any("label" in each for each in entries):
            return as_json(content)
        content["error"] = f"No picture could be classified. {entries[0]['error']}"
        return as_json(content, 422)

    # Requests that are not answered

    async def _refused(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return as_json({"error": error.sentence}, error.status, error.headers)

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentences = {
            404: "There is nothing here; there are /predict, /health and /docs.",
            405: f"{request.method[:20]} is not possible here; /predict takes POST, the rest GET.",
        }
        sentence = sentences.get(error.status_code, f"{error.detail}.")
        return as_json({"error": sentence}, error.status_code, error.headers)

    async def _failed(self, _: Request, error: Exception) -> Response:
        return as_json({"error": "The service failed; its own terminal says why."}, 500)


def as_json(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response; names that are not UTF-8, which have lone surrogates, are escaped."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")
