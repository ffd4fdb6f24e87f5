"""The application: a request comes in by ASGI or a shorter way, a response value goes out. One logic, three ways."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from pystor.errors import StorError
from pystor.events import BlobServed, Observer, RequestEnded, RequestFailed
from pystor.http import pages, statuses
from pystor.http.arriving import Arrived, Arriving, Message, Receive
from pystor.http.blobs import Blobs
from pystor.http.heads import Sent
from pystor.http.messages import (
    DIRECT,
    METHODS,
    Conditions,
    Request,
    Response,
    Stream,
    bytes_of,
    gather_fields,
    text,
)
from pystor.http.wire import Limits
from pystor.pool import Pool

_T = TypeVar("_T")

Send: TypeAlias = Callable[[Message], Awaitable[Any]]

_log: Final = logging.getLogger("pystor")

_READ: Final = b"GET, HEAD, OPTIONS"
_READ_AND_POST: Final = b"GET, HEAD, POST, OPTIONS"

_READING: Final = {b"GET": "GET", b"HEAD": "HEAD"}
_BLOB_TARGET_LENGTH: Final = 65

_SLOW: Final = 1.0
"""Seconds for which a client takes nothing before what was read ahead for it is given back."""


class Service(Protocol):
    """What runs beside the requests for as long as a worker does."""

    async def start(self) -> None:
        """Begin; nothing that is away is waited for."""
        ...

    async def stop(self) -> None:
        """End, soon."""
        ...


class App:
    """The service as an ASGI application."""

    def __init__(
        self,
        pool: Pool,
        blobs: Blobs,
        *,
        observe: Observer,
        limits: Limits,
        upload_idle_timeout: float,
        services: Sequence[Service] = (),
        metrics: Callable[[], Awaitable[Response]] | None = None,
    ) -> None:
        """`upload_idle_timeout` is in seconds; `services` start with the application; `metrics` answers `/metrics`."""
        self.limits: Final = limits
        self._pool: Final = pool
        self._health: Final = pages.Health(pool.members())
        self._blobs: Final = blobs
        self._observe: Final = observe
        self._upload_idle_timeout: Final = upload_idle_timeout
        self._services: Final = services
        self._metrics: Final = metrics

    def answer(self, method: bytes, target: bytes, conditions: Conditions, client: str) -> Response | None:
        """Answer a GET or HEAD of a blob without waiting.

        None if that cannot be done: the request is then to come by the other way.
        """
        if len(target) != _BLOB_TARGET_LENGTH or not target.isascii():
            return None
        return self._blobs.fast_path.answer(_READING[method], target, conditions, client)

    async def take(self, sent: Sent, client: str) -> Response:
        """Answer a POST or PUT of a blob whose body is here in full."""
        began = time.perf_counter()
        body = Arrived(sent.body)
        method, path = sent.method.decode("ascii"), sent.target.decode("ascii")
        response = await self._respond(Request(method, path, sent.headers, body))
        size, seconds = len(bytes_of(response)), time.perf_counter() - began
        self._report(method, path, response, client, received=body.received, sent=size, seconds=seconds)
        return response

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        began = time.perf_counter()
        headers = gather_fields(scope["headers"])
        body = Arriving(receive, self._upload_idle_timeout, asked=b"expect" not in headers)
        request = Request(scope["method"], scope["path"], headers, body)
        response = await self._respond(request)
        sending = time.perf_counter()
        direct = DIRECT in (scope.get("extensions") or ())
        sent, whole = await _send(request, response, receive, send, direct=direct)
        now = time.perf_counter()
        self._report(
            request.method,
            request.path,
            response,
            (scope.get("client") or ("",))[0],
            received=body.received,
            sent=sent,
            seconds=now - began,
            sending=now - sending if whole else None,
        )

    def refused(self, method: str, path: str, response: Response, client: str) -> None:
        """Tell of a request that was answered by the connection."""
        self._report(method, path, response, client, received=0, sent=len(bytes_of(response)), seconds=0.0)

    def _report(
        self,
        method: str,
        path: str,
        response: Response,
        client: str,
        *,
        received: int,
        sent: int,
        seconds: float,
        sending: float | None = None,
    ) -> None:
        """Tell of a request: the bytes of both bodies, and the seconds that it took in all.

        `sending` are the seconds in which a blob was sent; None: there was none, or it was cut.
        """
        status, origin = response.status, response.origin
        if origin is None:
            self._observe(RequestEnded(method, path, status, seconds, received, sent, client))
            return
        digest, storage, tier = origin
        self._observe(RequestEnded(method, path, status, seconds, received, sent, client, digest, storage, tier))
        if sending is not None and status in (200, 206):
            self._observe(BlobServed(digest, storage, tier, sent, sending, method == "HEAD"))

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                for service in self._services:
                    await service.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                for service in reversed(self._services):
                    await service.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._route(request)
        except StorError as error:
            return statuses.response_for(error)
        except Exception:  # noqa: BLE001  nothing that is thrown inside reaches a client
            _log.exception("%s %s failed", request.method, request.path)
            self._observe(RequestFailed("get" if request.method in ("GET", "HEAD") else "post"))
            return statuses.internal_error()

    async def _route(self, request: Request) -> Response:
        path = request.path
        if path == "/":
            return await self._front(request)
        if path in ("/status", "/live") or (path == "/metrics" and self._metrics is not None):
            return await self._page(request)
        if "/" in path[1:]:
            return text(404, f"There is nothing at '{path}'; files are at /SHA")
        match request.method:
            case "GET" | "HEAD":
                return await self._blobs.get(request)
            case "POST" | "PUT":
                return await self._blobs.post(request)
        return _other_method(request, METHODS)

    async def _front(self, request: Request) -> Response:
        match request.method:
            case "GET" | "HEAD":
                return pages.front(request)
            case "POST":
                return await self._blobs.post_unnamed(request)
        return _other_method(request, _READ_AND_POST)

    async def _page(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _other_method(request, _READ)
        if request.path == "/live":
            return pages.live()
        if request.path == "/metrics" and self._metrics is not None:
            return await self._metrics()
        return await pages.status(request, self._pool, self._health, self._observe)


def _other_method(request: Request, allowed: bytes) -> Response:
    return statuses.options(allowed) if request.method == "OPTIONS" else statuses.method_not_allowed(allowed)


async def _send(
    request: Request, response: Response, receive: Receive, send: Send, *, direct: bool
) -> tuple[int, bool]:
    """Send a response: the one place that does. Tells how many bytes of its body went, and whether that was all."""
    start = {"type": "http.response.start", "status": response.status, "headers": response.headers}
    if isinstance(response.body, bytes | memoryview):
        size = 0 if request.method == "HEAD" else len(response.body)
        await send({**start, "whole": size > 0})
        await send({"type": "http.response.body", "body": response.body})
        return size, True
    async with aclosing(response.body) as pieces:
        await send(start)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            return await _send_pieces(request, pieces, gone, send, direct=direct)
        finally:
            gone.cancel()


async def _send_pieces(
    request: Request, pieces: Stream, gone: asyncio.Future[None], send: Send, *, direct: bool
) -> tuple[int, bool]:
    """Send a body by turns: what the socket takes straight from the page cache, then a piece, which waits for room."""
    sent = 0
    rest = aiter(pieces)
    try:
        while True:
            if direct:
                sent += await _patiently(send({"type": DIRECT, "source": pieces.send_directly}), pieces)
            piece = await anext(rest, b"")
            if not piece:
                break
            await _patiently(send({"type": "http.response.body", "body": piece, "more_body": True}), pieces)
            sent += len(piece)
            if gone.done():
                return sent, False
    except StorError as error:
        # Returning without an end cuts the connection: a body that cannot go on must not look complete.
        _log.error("%s %s was cut: %s", request.method, request.path, error)
        return sent, False
    await send({"type": "http.response.body", "body": b""})
    return sent, True


async def _patiently(sending: Awaitable[_T], pieces: Stream) -> _T:
    """Send some of a body, which holds nothing that can be had again while a slow client is waited for."""
    slow = asyncio.get_running_loop().call_later(_SLOW, pieces.pause)
    try:
        return await sending
    finally:
        slow.cancel()


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone; without it, a whole file would be read for nobody."""
    while (await receive())["type"] != "http.disconnect":
        pass
