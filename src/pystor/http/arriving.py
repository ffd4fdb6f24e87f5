"""A body on its way in: as ASGI tells of it, or here already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from pystor.errors import IncompleteBody, StalledBody
from pystor.patience import PUNCTUAL

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]


class Arriving:
    """The body of one request as ASGI tells of it, a `RequestBody`."""

    def __init__(self, receive: Receive, idle_timeout: float, *, asked: bool) -> None:
        """`asked`: the client sends without being asked to; else it is asked when the first piece is waited for."""
        self._receive: Final = receive
        self._idle_timeout: Final = idle_timeout
        self._asked: Final = asked
        self._first: Message | None = None
        self.received = 0
        """Bytes that have come."""

    def at_once(self) -> bytes | None:
        """Give the whole body if it is here; to be called before `pieces`, which give it as well."""
        if not self._asked:
            return None
        self._first = message = _now(self._receive)
        if message is None or message["type"] == "http.disconnect" or message.get("more_body", False):
            return None
        body: bytes = bytes(message.get("body", b""))
        self.received = len(body)
        return body

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give the pieces as they come; raises `IncompleteBody` and `StalledBody`."""
        self.received = 0
        more = True
        while more:
            message, self._first = self._first or await self._next(), None
            if message["type"] == "http.disconnect":
                raise IncompleteBody("The body ended before its declared length; nothing was stored")
            piece = message.get("body", b"")
            self.received += len(piece)
            yield piece
            more = message.get("more_body", False)

    async def _next(self) -> Message:
        """Wait for more; anew, once, if this process was paused: what came meanwhile is not read yet."""
        loop, limit = asyncio.get_running_loop(), self._idle_timeout
        for _ in range(2):
            due = loop.time() + limit
            try:
                async with asyncio.timeout(limit):
                    return await self._receive()
            except TimeoutError:
                if loop.time() - due < PUNCTUAL:
                    break
        raise StalledBody(f"Nothing came for {limit:g} s; nothing was stored, send it again")


class Arrived:
    """The body of a request that came in one piece, a `RequestBody`."""

    def __init__(self, content: bytes) -> None:
        self._content: Final = content
        self.received = 0
        """Bytes that were taken."""

    def at_once(self) -> bytes:
        """Give all of it."""
        self.received = len(self._content)
        return self._content

    async def pieces(self) -> AsyncIterator[bytes]:
        """Give all of it."""
        yield self.at_once()


def _now(receive: Receive) -> Message | None:
    """Take what can be received without waiting; None, and nothing is taken, if that is nothing."""
    asking = receive().__await__()
    try:
        next(asking)
    except StopIteration as answer:
        message: Message = answer.value
        return message
    asking.close()
    return None
