"""HTTP/1.1 on the wire: uvicorn's protocol with limits around it, and with shorter ways than ASGI beside it."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from pystor.http.connection import BETWEEN, BODY, HEAD, WHOLE
from pystor.http.dispatch import Dispatch
from pystor.http.heads import Head, Heads
from pystor.http.messages import METHODS, conditions_of
from pystor.http.wire import Refused, collect, content_length, path_and_query, without_upgrade

PIECE: Final = 8192
"""Bytes parsed at once outside of a body of known length: what one read may put into the queue is bounded by it."""

_MANY_CHUNKS: Final = 16
"""More of them in a piece are so small that they take longer than others do."""

_NOTED: Final = frozenset({b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_FAST: Final = frozenset({b"GET", b"HEAD"})
_SENDING: Final = frozenset({b"POST", b"PUT"})
_P: Final = ord("P")
_NO_METHOD: Final = ("Invalid method", "Expected space after method")  # as the parser says it
_HTTP_2: Final = "Pause on PRI/Upgrade"  # the same, of a client that begins with HTTP/2
_OTHER_METHOD: Final = re.compile(rb"[\r\n]*(?!(?:GET|HEAD|POST|PUT|OPTIONS) )[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: [/*h]|\Z)")
"""How a request with a method of others begins, as far as it has come; what is no request at all begins otherwise.

It is looked for where a read begins: behind a request that came with it, such a method is answered with 400.
"""

_heads: Final = Heads()


class StorProtocol(Dispatch):
    """What is asked on a connection."""

    __slots__ = (
        "_carried",
        "_chunked",
        "_chunks",
        "_connection_named",
        "_declined",
        "_left",
        "_length",
        "_long_way",
        "_moved",
        "_noted",
        "_piece",
        "_plain",
        "_retell",
        "_sent",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._piece = min(PIECE, self._limits.max_header_bytes)
        self._moved = False  # something other than a header field has come out of the parser
        self._carried = 0  # bytes since then
        self._chunks = 0  # that have begun in a piece
        self._plain: Head | None = None  # a request that was answered at once, and the connection goes on
        self._sent: Head | None = None  # a request with a body of known length, and the connection goes on
        self._declined = False  # what is parsed has been offered to the fast path already
        self._noted = False  # a field of this head makes a difference here:
        self._long_way = False
        self._connection_named = False
        self._chunked = False
        self._length = 0
        self._left = 0  # bytes of a body of known length that are still to come
        self._retell = b""  # a head that asked for an upgrade, without that

    # Bytes to the parser

    def data_received(self, data: bytes) -> None:
        """Take what came; most often it is one whole request."""
        if self._phase != BETWEEN or len(data) > self._piece or self._deaf or self._unparsed:
            self._consume(data)
            return
        free = not (self._running or self._last or self.flow.write_paused or self.server_state.parting)
        if free and self._go_unparsed(data):
            return
        self._parse(data)
        self._declined = False
        if self._plain is not None:
            _heads.learn(data, self._plain)
        elif self._sent is not None and self._phase == BETWEEN:
            _heads.learn(data, self._sent, self._length)

    def _go_unparsed(self, data: bytes) -> bool:
        """Take one of the shorter ways, if `data` is a whole request with a head that is known."""
        if data[0] == _P:
            sent = _heads.find_sent(data)
            if sent is None:
                return False
            self._greeted = True
            self._go_short_way(sent)
            return True
        asked = _heads.find(data)
        if asked is None:
            return False
        self._greeted = True
        method, target, conditions = asked
        gone = self._go_fast(method, target, conditions, keep_alive=True)
        self._declined = not gone
        return gone

    def _parse(self, data: bytes) -> None:
        self._plain = self._sent = None  # they may be those of a request that came in pieces
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed(self._after(upgrade, data))
        except httptools.HttpParserError as error:
            self._reject(error, data)
        if self._phase == HEAD:
            self._carried = len(data)
            self._await_head()

    def _consume(self, data: bytes) -> None:
        """Parse in pieces, and no further than the first request that has to wait for another's answer.

        What takes long for its size, heads and many small chunks, is parsed one piece in a turn of the event loop:
        thousands of them may come in one read, while everybody else waits.
        """
        view = memoryview(data)
        while view:
            if self._deaf:
                self._drop(len(view))
                return
            if self.pipeline or self._phase == WHOLE or self._unparsed:
                self._put_off(view)
                return
            piece = view[: max(self._piece, self._left)]
            view = view[len(piece) :]
            self._chunks = 0
            self._feed_and_measure(piece)
            if view and (self._phase != BODY or self._chunks > _MANY_CHUNKS) and not self._deaf:
                self._put_off(view)
                self.loop.call_soon(self._go_on)
                return

    def _put_off(self, view: memoryview) -> None:
        self._unparsed += view
        self._flow.hold()

    def _feed_and_measure(self, piece: memoryview) -> None:
        """Bound what the parser collects, or skips, without telling."""
        self._moved = False
        self._feed(piece)
        # A head that began in this piece is measured when it is complete; something must say so.
        self._carried = int(self._phase == HEAD) if self._moved else self._carried + len(piece)
        if self._phase == BETWEEN:
            self._carried = 0
            return
        if self._carried > self._limits.max_header_bytes:
            self._refuse(431, self._too_large())
        elif self._phase == HEAD and self._moved:
            self._await_head()

    def _feed(self, data: bytes | memoryview) -> None:
        while data and not self._deaf:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._after(upgrade, data)
            except httptools.HttpParserError as error:
                self._reject(error, data)
            else:
                return

    def _after(self, upgrade: httptools.HttpParserUpgrade, data: bytes | memoryview) -> bytes | memoryview:
        """Return what is left to be parsed of `data`: no upgrade is offered, what follows is HTTP/1.1 as before."""
        rest = data[upgrade.args[0] :]
        if not self._retell:
            return rest
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        told, self._retell = self._retell, b""
        return told + rest

    def _await_head(self) -> None:
        """A head has begun. The first one has been awaited since the client connected."""
        if self._running is None and self._greeted:
            self._timer.start(self._limits.header_timeout)

    def _reject(self, error: httptools.HttpParserError, data: bytes | memoryview) -> None:
        cause = error.__context__
        if isinstance(cause, Refused):
            self._refuse(cause.status, cause.line)
        elif isinstance(error, httptools.HttpParserCallbackError):
            self.logger.error("A request could not be handled", exc_info=cause)
            self._refuse(500, "Internal Server Error")
        elif str(error).startswith(_NO_METHOD) and _OTHER_METHOD.match(data):
            self._refuse(405, f"This method is not known; use one of {METHODS.decode()}", (b"allow", METHODS))
        elif str(error) == _HTTP_2:
            self._refuse(400, "HTTP/2 is not spoken here; ask by HTTP/1.1")
        else:
            self._refuse(400, f"This is not a valid HTTP/1.1 request: {error}")

    # What the parser finds

    def on_message_begin(self) -> None:
        """Begin a request."""
        self.url = b""
        self.headers = []
        if self._last:
            self._surplus = self._deaf = True
            return
        self._phase = HEAD
        self._moved = True
        if self._noted:
            self._noted = self._long_way = self._connection_named = self._chunked = self.expect_100_continue = False
            self._length = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field, and note those that make a difference here."""
        name = name.lower()
        if name in _NOTED:
            self._note(name, value)
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        self._noted = True
        if self._reading is not None:
            raise Refused(400, f"{name.decode()} is no field for a trailer")
        if name == b"connection":
            self._connection_named = True
            return
        self._long_way = True
        if name == b"content-length":
            self._length = content_length(value)
        elif name == b"transfer-encoding":
            if value.strip(b" \t").lower() != b"chunked":  # else what is stored is not what was meant
                raise Refused(400, "Only chunked is known as a Transfer-Encoding; send the file as it is")
            self._chunked = True
        elif name == b"expect":
            expects = value.lower() == b"100-continue"
            self.expect_100_continue = expects and self.parser.get_http_version() != "1.0"  # RFC 9110, 10.1.1

    def on_headers_complete(self) -> None:
        """Answer at once if that is possible, else start the long way."""
        if self._surplus:
            return
        if self._carried:
            self._carried = 0
            self._check_fields()
        if not self.url.isascii():
            raise Refused(400, "The request's target must be ASCII; percent-encode the rest")
        method: bytes = self.parser.get_method()
        if method == b"POST" and self.parser.get_http_version() == "1.0":
            self._check_length()
        self._greeted = True
        keep_alive: bool = self.parser.should_keep_alive() and not self.server_state.parting
        if keep_alive and self._connection_named:
            keep_alive = self.parser.get_http_version() != "1.0"
        waits = self._long_way or self._declined or self._running is not None or self.flow.write_paused
        fast = not waits and method in _FAST
        if not fast or not self._go_fast(method, self.url, conditions_of(self.headers), keep_alive=keep_alive):
            self._go_long_way(method, keep_alive)
        elif keep_alive:
            self._plain = method, self.url, self.headers

    def on_chunk_header(self) -> None:
        """Note that a chunk begins."""
        self._moved = True
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        """Collect a part of a body, or drop it when the answer is already given."""
        self._moved = True
        cycle = self._reading
        if cycle is None:
            return
        if self._left:
            self._left -= len(body)
        if cycle.response_complete:
            self._drop(len(body))
            return
        collect(cycle, body)
        if cycle.is_full:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End a request."""
        if self._retell:
            return
        if self._reading is not None and self.headers:  # they are trailers by now
            self._check_fields()
        self._phase = BETWEEN
        cycle, self._reading = self._reading, None
        if cycle is None:
            return
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        else:
            self._rest()

    def _check_fields(self) -> None:
        """Measure as a whole what came in pieces."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self._limits.max_header_bytes:
            raise Refused(431, self._too_large())

    def _check_length(self) -> None:
        """See that the end of a body without a name is told: there is nothing to tell it from an empty one by."""
        unnamed = path_and_query(self.url)[0] == b"/"
        if unnamed and not self._chunked and all(name != b"content-length" for name, _ in self.headers):
            raise Refused(411, "Send Content-Length: HTTP/1.0 has no other way to tell it")

    def _too_large(self) -> str:
        return f"The request line and headers are larger than {self._limits.max_header_bytes} bytes"

    def _go_long_way(self, method: bytes, keep_alive: bool) -> None:
        self._sent = None
        if self.parser.should_upgrade() and (self._length or self._chunked) and method != b"CONNECT":
            self._retell = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
            return
        self._timer.stop()
        self._moved = True
        self._phase = BODY
        self._left = self._length
        self._last = not keep_alive or method == b"CONNECT"
        if method in _SENDING and keep_alive and not self.expect_100_continue:
            self._sent = method, self.url, self.headers
        self.cycle = self._reading = cycle = self._cycle(method)
        self.headers = []  # trailers are not headers
        if self._running is None:
            self._run(cycle)
        else:
            self.pipeline.appendleft((cycle, self.app))
            self._flow.hold()
