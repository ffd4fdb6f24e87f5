"""What a connection is made of: limits, a timer, flow control, a request on the long way, bytes of heads."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import math
import sys
import termios
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from pystor.http.messages import DIRECT, RETRY, Field, Response, Source, bytes_of, encode_fields, text

_log: Final = logging.getLogger("pystor")

PARTED: Final = text(503, "The server is shutting down; nothing was stored, try again", RETRY)
"""What is answered when the time to shut down is over."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take, in seconds and bytes."""

    header_timeout: float = 10.0
    """From the first byte of a request (of a connection's first request: from connecting) to the end of its headers."""
    keep_alive_timeout: float = 75.0
    """How long a connection may stay between two requests."""
    download_idle_timeout: float = 300.0
    """How long a client may take nothing of an answer."""
    max_header_bytes: int = 65536
    """Request line and header fields together; also trailers, and one chunk extension."""
    drain_bytes: int = 1 << 30
    """How much is read and dropped after an answer that did not wait for the body."""
    drain_timeout: float = 60.0
    """How long that may take in all."""


class Refused(Exception):
    """A request that is answered with one line, after which the connection ends."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line


class Timer:
    """A timer that can be put off for the price of an assignment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._due = math.inf
        self._armed = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Call once after `seconds`, instead of whenever it was to call before."""
        self._due = due = self._loop.time() + seconds
        if due < self._armed:
            self._arm()

    def stop(self) -> None:
        """Do not call."""
        self._due = math.inf

    def cancel(self) -> None:
        """Do not call, and let go of the timer."""
        self.stop()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = self._due
        self._handle = self._loop.call_at(self._due, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed = math.inf
        if self._due == math.inf:
            return
        if self._due > self._loop.time() + 0.001:  # the loop's clock ticks in milliseconds
            self._arm()
            return
        self._due = math.inf
        self._call()


class DefaultFields:
    """The header fields every response has (the date), encoded once for as long as uvicorn keeps them."""

    def __init__(self) -> None:
        self._fields: list[Field] | None = None
        self._encoded = b""

    def encoded(self, fields: list[Field]) -> bytes:
        """`fields` as bytes; uvicorn makes a new list each second."""
        if fields is not self._fields:
            self._fields = fields
            self._encoded = b"".join([b"%b: %b\r\n" % field for field in fields])
        return self._encoded


_default_fields: Final = DefaultFields()


def encode_head(response: Response, default_headers: list[Field], *, keep_alive: bool) -> bytes:
    """Status line and header fields, byte for byte as uvicorn writes them for ASGI."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    fields = encode_fields(response.headers) if response.encoded is None else response.encoded
    return b"".join((STATUS_LINE[response.status], _default_fields.encoded(default_headers), fields, end))


class Flow(FlowControl):
    """uvicorn's flow control, with a hold on reading that a waiting application cannot lift."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.held = False

    def hold(self) -> None:
        """Stop reading until `release`."""
        self.held = True
        self.pause_reading()

    def release(self) -> None:
        """Read again."""
        self.held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read again, unless held."""
        if not self.held:
            super().resume_reading()


class ResponseTransport:
    """The transport as a response sees it: closing it goes through the connection, which may have to linger."""

    def __init__(
        self,
        transport: asyncio.Transport,
        write: Callable[[bytes], None],
        send_directly: Callable[[Source], int],
        leave: Callable[[], None],
    ) -> None:
        self._write = write
        self.send_directly = send_directly
        self._held = b""
        self._holds = False
        self.is_closing = transport.is_closing
        self.abort = transport.abort
        self.close = leave

    def hold(self) -> None:
        """Write what comes next together with what comes after that: two packets cost twice as much as one."""
        self._holds = True

    def write(self, data: bytes) -> None:
        """Write, or hold."""
        if self._holds:
            self._held, self._holds = data, False
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._write(data)


class Cycle(RequestResponseCycle):
    """One request on the long way."""

    body: bytes | bytearray  # type: ignore[assignment]  # uvicorn hands on bytes(body), which copies no bytes
    transport: ResponseTransport  # type: ignore[assignment]  # the part of a transport that a cycle uses

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the application that no more should be read; it takes none after its answer."""
        return len(self.body) > HIGH_WATER_LIMIT and not self.response_complete

    def disconnect(self) -> None:
        """Let the application know that the client is gone."""
        self.disconnected = True
        self.message_event.set()

    async def run_asgi(self, app: Any) -> None:
        """Run `app`; when the time to shut down is over it is cancelled, and a client still waiting gets a 503."""

        async def until_cancelled(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                await self._give_up()

        await super().run_asgi(until_cancelled)

    async def _give_up(self) -> None:
        if self.response_started or self.flow.write_paused:
            self.disconnected = True
            self.transport.abort()
            return
        self.keep_alive = False
        await self.send({"type": "http.response.start", "status": PARTED.status, "headers": PARTED.headers})
        await self.send({"type": "http.response.body", "body": bytes_of(PARTED), "more_body": False})

    async def send(self, message: Any) -> Any:
        """Send an ASGI event. A start that is `whole` is followed by all of its body at once, which is not empty.

        A client that was never told to go on (100) may send its body or not, so nothing can follow on its connection.
        `DIRECT` tells how many bytes of the body its source, a `Source`, has sent.
        """
        if message["type"] == DIRECT:
            return await self._send_directly(message["source"])
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False
        if message.get("whole"):
            self.transport.hold()
        return await super().send(message)

    async def _send_directly(self, source: Source) -> int:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or self.chunked_encoding is not False or self.scope["method"] == "HEAD":
            return 0
        sent = self.transport.send_directly(source)
        self.expected_content_length -= sent
        return sent


class ShortRequest:
    """A request that came in one piece, on the short way."""

    __slots__ = ("disconnected", "keep_alive")
    response_complete: Final = False
    message_event: Final = asyncio.Event()
    """uvicorn sets it when the client is gone; nobody waits for it."""

    def __init__(self) -> None:
        self.keep_alive = True
        self.disconnected = False

    def disconnect(self) -> None:
        """Answer nobody."""
        self.disconnected = True

    async def run(self, answering: Awaitable[Response]) -> Response:
        """Wait for the answer; if the time to shut down is over, or it fails, give one of last resort instead."""
        try:
            return await answering
        except asyncio.CancelledError:
            return PARTED
        except Exception:  # noqa: BLE001  as on the long way: nothing that is thrown inside reaches a client
            _log.exception("The short way failed")
            self.keep_alive = False
            return text(500, "Internal Server Error")


def content_length(value: bytes) -> int:
    """Read a Content-Length; the parser takes 64 bits, and no blob needs the last of them."""
    value = value.strip(b" \t")
    if not value.isdigit() or len(value) > 19 or int(value) >= 1 << 63:
        raise Refused(400, "The Content-Length is not a possible number of bytes")
    return int(value)


def path_and_query(target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request's target in any of its four forms (RFC 9112, 3.2)."""
    path, _, query = target.partition(b"#")[0].partition(b"?")
    if not path.startswith((b"/", b"*")):
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return path, query


def without_upgrade(method: bytes, target: bytes, version: str, fields: list[Field]) -> bytes:
    """Write a request's head again, without its offer to change the protocol."""
    kept = b"".join([b"%b: %b\r\n" % field for field in fields if field[0] != b"upgrade"])
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode("ascii"), kept)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Count what was written and the client has not acknowledged: here, and if there is some, in the kernel too."""
    waiting = transport.get_write_buffer_size()
    if not waiting:
        return 0
    queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return waiting + int.from_bytes(queued, sys.byteorder)


def collect(cycle: Cycle, body: bytes) -> None:
    """Add to what the application has not taken yet; a single part is handed on as it is, without a copy."""
    if not cycle.body:
        cycle.body = body
    elif isinstance(cycle.body, bytes):
        cycle.body = bytearray().join((cycle.body, body))
    else:
        cycle.body += body
