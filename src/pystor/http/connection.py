"""How a connection lives and ends: its phases, what bounds each of them, and answers of last resort.

A connection is between two requests, in the head of one, or in its body. One `Timer` bounds each of these.
It ends without a reset where the client may still be sending: closing a socket with unread bytes throws away what the
client has not read yet, so our half ends first and what still comes is read past, within bounds ("lingering").
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from contextlib import suppress
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pystor.http.crowd import Crowd
from pystor.http.messages import Field, Response, Source, bytes_of, text
from pystor.http.wire import Cycle, Flow, Limits, ResponseTransport, ShortRequest, Timer, encode_head, unsent_bytes
from pystor.outbox import LARGEST, Outbox

BETWEEN: Final = 0
HEAD: Final = 1
BODY: Final = 2
WHOLE: Final = 3  # a request is read, body and all, and nothing is parsed until it is answered

UNSENT: Final = 16 << 10
"""Bytes that may wait for a slow reader before no more are made for it."""

LINGER: Final = 5.0
"""Seconds without a byte from the client after which the end of a connection is no longer delayed for it."""


class SharedState(ServerState):
    """What the connections of a server share."""

    outbox: Outbox
    """Made when the server starts, in its event loop."""

    crowd: Crowd
    """Made when the server starts."""

    parting: bool = False
    """Whether the server is about to end: each connection is told so with its next answer."""


class Connection(HttpToolsProtocol):
    """A connection's life, whatever is asked on it."""

    # uvicorn has 28 attributes: with more than 30 in its dictionary each object finds its methods anew, each time.
    __slots__ = (
        "_deaf",
        "_dropped",
        "_ended",
        "_flow",
        "_greeted",
        "_last",
        "_limits",
        "_linger_until",
        "_lingering",
        "_outbox",
        "_peer",
        "_phase",
        "_posted",
        "_reader",
        "_reading",
        "_refusal",
        "_response_transport",
        "_running",
        "_socket",
        "_surplus",
        "_timer",
        "_unparsed",
        "_unsent",
        "_untaken",
    )

    server_state: SharedState

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits: Limits = config.loaded_app.limits
        self._timer = Timer(self.loop, self._on_timeout)
        self._reader = Timer(self.loop, self._look_at_reader)
        self._untaken = 0  # bytes that waited for the reader when the timer was started
        self._phase = BETWEEN
        self._greeted = False  # a whole head was read
        self._running: Cycle | ShortRequest | None = None  # whose answer is being made
        self._reading: Cycle | None = None  # whose body is being read
        self._unparsed = b""  # what came while a request was waiting for another's answer
        self._refusal = b""  # what is said last, after the answers that are still to be made
        self._last = False  # the newest request ends the connection
        self._surplus = False  # something came after it
        self._deaf = False  # what comes is dropped unparsed
        self._ended = False  # the client has sent all it will
        self._lingering = False
        self._linger_until = 0.0
        self._dropped = 0
        self._unsent = 0
        self._peer = ""
        self._socket = -1
        self._outbox = self.server_state.outbox
        self._posted = -1  # the outbox's turn in which something of this connection is

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin."""
        super().connection_made(transport)
        # What a slow reader has not taken yet is held once; the next piece is read when it is gone.
        transport.set_write_buffer_limits(high=UNSENT)
        self.flow = self._flow = Flow(transport)
        self._response_transport = ResponseTransport(transport, self._write_piece, self._send_directly, self._leave)
        self._peer = self.client[0] if self.client else ""
        self._socket = transport.get_extra_info("socket").fileno()
        self._timer.start(self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: everyone who waits for this client hears of it."""
        self._send_posted()
        self._socket = -1
        self._timer.cancel()
        self._reader.cancel()
        waiting = [self._running, *(cycle for cycle, _ in self.pipeline)]
        self.pipeline.clear()
        for cycle in waiting:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnect()  # type: ignore[union-attr]  # only Cycles are put there
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps its half open
        """Take the end of what the client sends; it may still read. True keeps our half open."""
        self._ended = True
        if self._lingering:
            return False
        if self._phase == HEAD:
            self._refuse(400, "The request ended before its headers did")
        elif self._phase == BODY:
            self._refuse(400, "The body ended before its declared length; nothing was stored")
        if self._running is None:
            return False
        self._last = True
        if not self._refusal:
            self.cycle.keep_alive = False
        return True

    def shutdown(self) -> None:
        """End as soon as what was asked for is answered."""
        self._last = True
        if self._running is not None:
            self.cycle.keep_alive = False
            return
        self._end(expecting=self._phase == BODY or self._surplus or bool(self._unparsed))
        if self._lingering:
            self._timer.start(1.0)

    # Bytes to the socket

    def _write(self, head: bytes, body: bytes | memoryview = b"") -> None:
        """Write, behind what was written before; the body is not looked at afterwards."""
        size = len(head) + len(body)
        self._send_posted()
        if self.transport.get_write_buffer_size():
            self.transport.write(b"".join((head, body)))
        elif self._outbox.takes(size):
            self._posted = self._outbox.post(self._socket, head, body, self.transport.write)
        else:
            self._write_now(head, body, size)

    def _write_piece(self, piece: bytes) -> None:
        """Write a part of an answer, which is not copied if it is large."""
        if len(piece) <= LARGEST and not self.transport.is_closing():
            self._write(piece)
        else:
            self._send_posted()
            self.transport.write(piece)

    def _send_directly(self, source: Source) -> int:
        """Let a source write to the socket, unless something is to go before; tell how many bytes it wrote."""
        self._send_posted()
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            return 0
        return source(self._socket)

    def _write_now(self, head: bytes, body: bytes | memoryview, size: int) -> None:
        sent = 0
        with suppress(OSError):  # of which the transport takes note by itself
            sent = os.writev(self._socket, (head, body))
        if sent < size:
            self.transport.write(b"".join((head, body))[sent:])

    def _send_posted(self) -> None:
        """Send what was posted, before something else is done with the socket."""
        if self._posted == self._outbox.turn:
            self._outbox.flush()

    # Bounds

    def pause_writing(self) -> None:
        """Have no more made for a client that does not take it; bound for how long."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on: the client has taken most of it."""
        super().resume_writing()
        self._reader.stop()

    def _await_reader(self) -> None:
        self._untaken = unsent_bytes(self.transport)
        self._reader.start(self._limits.download_idle_timeout)

    def _look_at_reader(self) -> None:
        """A client that stands still would keep files open, and their disks from being unmounted."""
        if unsent_bytes(self.transport) < self._untaken:
            self._await_reader()
        else:
            self.transport.abort()

    def _rest(self) -> None:
        """Bound what comes next, if all that was asked for is answered."""
        if self._running is not None or self._is_ending():
            return
        if self._refusal:
            self._say_last()
        elif self._phase == BODY:
            self._dropped = 0
            self._timer.start(self._limits.drain_timeout)
        elif self._phase == HEAD:
            self._timer.start(self._limits.header_timeout)
        else:
            self._timer.start(self._limits.keep_alive_timeout)

    def _on_timeout(self) -> None:
        if self._is_ending():
            self._give_up()
        elif self._phase == HEAD or not self._greeted:
            self._refuse(408, f"The request's headers took longer than {self._limits.header_timeout:g} seconds")
        else:
            self._close()

    def _give_up(self) -> None:
        """The end was waited for long enough, unless the client is still taking what was written."""
        unsent = unsent_bytes(self.transport)
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self._timer.start(min(LINGER, self._limits.drain_timeout))
        else:
            self.transport.abort()

    def _drop(self, size: int) -> None:
        """Read past what nobody waits for, within bounds; while an answer is being made, do not read it at all."""
        if self._running is not None:
            self._flow.hold()
            return
        self._dropped += size
        if self._dropped > self._limits.drain_bytes:
            self._close()
        elif self._lingering:
            self._timer.start(min(LINGER, self._linger_until - self.loop.time()))

    # The end

    def _refuse(self, status: int, line: str, *fields: Field) -> None:
        """Answer `line` in its turn, and end the connection; whose body it was sees a client that is gone."""
        self._deaf = True
        if self._surplus or self._is_ending():
            return
        cycle, self._reading = self._reading, None
        named = self._named(cycle)
        self._phase = BETWEEN
        if cycle is not None and cycle is self._running:
            self._running = None
            cycle.disconnect()
        elif cycle is not None and not cycle.response_complete:
            self.pipeline.popleft()
        if cycle is not None and cycle.response_started:
            self._linger() if cycle.response_complete else self._close()
            return
        response = text(status, line, *fields)
        if cycle is None or not cycle.disconnected:  # else the application has begun with it, and tells of it
            self._tell_refused(named, response)
        self._refusal = encode_head(response, self.server_state.default_headers, keep_alive=False) + bytes_of(response)
        if self._running is None:
            self._say_last()
        else:
            self._flow.hold()

    @abstractmethod
    def _named(self, cycle: Cycle | None) -> tuple[str, str]:
        """Tell method and path of what is refused, as far as known; the cycle is that whose body is being read."""

    @abstractmethod
    def _tell_refused(self, named: tuple[str, str], response: Response) -> None:
        """Tell of what never came to the application."""

    def _say_last(self) -> None:
        self._write(self._refusal)
        self._linger()

    def _is_ending(self) -> bool:
        return self._lingering or self.transport.is_closing()

    def _leave(self) -> None:
        """End the connection after an answer; who did not ask for that may have sent more."""
        self._end(expecting=self._phase == BODY or self._surplus or self.server_state.parting)

    def _end(self, *, expecting: bool) -> None:
        """End the connection after what was written, unless it is ending; `expecting`: more may come."""
        if self._is_ending():
            return
        if expecting:
            self._linger()
        else:
            self._close()

    def _linger(self) -> None:
        """End our half, and read past what still comes: closing now would reset what the client has not read."""
        if self._ended:
            self._close()
            return
        self._deaf = self._last = self._lingering = True
        self._unparsed = b""
        self._dropped = 0
        self._send_posted()
        self._unsent = unsent_bytes(self.transport)
        self._linger_until = self.loop.time() + self._limits.drain_timeout
        self.transport.write_eof()
        self._flow.release()
        self._timer.start(min(LINGER, self._limits.drain_timeout))

    def _close(self) -> None:
        """End the connection after what was written, which the client may take its time to read, but not forever."""
        self._deaf = self._last = True
        self._send_posted()
        self.transport.close()
        self._unsent = unsent_bytes(self.transport)
        self._timer.start(self._limits.drain_timeout)
