"""Three ways lead from a connection into the application.

- the fast one, `Application.answer`, is synchronous; what it returns is written at once, without a task or a timer;
- the short one, `Application.take`, takes a body that came in one piece together with its head;
- the long one is ASGI, as in uvicorn, with uvicorn's back-pressure both ways.

Answers leave in the order of the requests whichever way those take.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, Final, Protocol
from urllib.parse import unquote

from pystor.http.connection import BETWEEN, HEAD, WHOLE, Connection
from pystor.http.heads import Sent
from pystor.http.messages import DIRECT, Conditions, Response, bytes_of
from pystor.http.wire import Cycle, Limits, ShortRequest, encode_head, path_and_query

_BODILESS: Final = frozenset({204, 304})
_EXTENSIONS: Final[dict[str, dict[object, object]]] = {DIRECT: {}}


class Application(Protocol):
    """What is served: an ASGI application with two shorter ways beside ASGI."""

    @property
    def limits(self) -> Limits:
        """The limits of every connection."""
        ...

    def answer(self, method: bytes, target: bytes, conditions: Conditions, client: str) -> Response | None:
        """Answer a GET or HEAD at once, with a body of bytes, or return None: it has to wait, go the long way.

        `target` is as sent, ASCII. The long way must give the same answer.
        """
        ...

    async def take(self, sent: Sent, client: str) -> Response:
        """Answer a request whose body is here in full, with a body of bytes; as the long way does."""
        ...

    def refused(self, method: str, path: str, response: Response, client: str) -> None:
        """Take note of a request that was answered here: the method is `other`, and the path `-`, if not known."""
        ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as an ASGI application."""
        ...


class Dispatch(Connection):
    """A connection whose requests are answered."""

    app: Application

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin, if there is room for one more."""
        super().connection_made(transport)
        self.server_state.crowd.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.server_state.crowd.leave(self)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for, as far as it has come."""
        return self._running is None and self._phase in (BETWEEN, HEAD) and not (self._unparsed or self._is_ending())

    def dismiss(self) -> None:
        """Close it for another."""
        self._close()

    @abstractmethod
    def _consume(self, data: bytes) -> None:
        """Go on with what the client has sent."""

    def _go_fast(self, method: bytes, target: bytes, conditions: Conditions, *, keep_alive: bool) -> bool:
        """Answer in one write. False: the application wants the long way."""
        try:
            response = self.app.answer(method, target, conditions, self._peer)
        except Exception:
            self.logger.exception("The fast path failed")
            return False
        if response is None:
            return False
        head = encode_head(response, self.server_state.default_headers, keep_alive=keep_alive)
        silent = response.status in _BODILESS or method == b"HEAD"
        if response.encoded is None and _is_odd(head, keep_alive=keep_alive, silent=silent):
            return False  # rare, and uvicorn knows how
        self._write(head, b"" if silent else response.body)  # type: ignore[arg-type]  # as the application promises
        self.server_state.total_requests += 1
        if keep_alive:
            self._timer.start(self._limits.keep_alive_timeout)
        else:
            self._last = True
            self._leave()
        return True

    def _go_short_way(self, sent: Sent) -> None:
        """Begin to answer what came in one piece; what comes after it waits unparsed."""
        self._timer.stop()
        self._phase = WHOLE
        self.cycle = self._running = request = ShortRequest()  # type: ignore[assignment]  # the part of it that is used
        task = self.loop.create_task(self._run_short(request, sent))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _run_short(self, request: ShortRequest, sent: Sent) -> None:
        response = await request.run(self.app.take(sent, self._peer))
        if request.disconnected:
            return
        self._phase = BETWEEN
        head = encode_head(response, self.server_state.default_headers, keep_alive=request.keep_alive)
        self._write(head, bytes_of(response))
        if not request.keep_alive:
            self._leave()
        self.on_response_complete()

    def _cycle(self, method: bytes) -> Cycle:
        path, query = path_and_query(self.url)
        version = self.parser.get_http_version()
        return Cycle(
            scope={
                "type": "http",
                "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                "http_version": version,
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme or "http",
                "method": method.decode("ascii"),
                "root_path": self.root_path,
                "path": unquote(path.decode("ascii")),
                "raw_path": path,
                "query_string": query,
                "headers": self.headers,
                "state": self.app_state.copy(),
                "extensions": _EXTENSIONS,
            },
            transport=self._response_transport,  # type: ignore[arg-type]  # the part of a transport that a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=not self._last,
            on_response=self.on_response_complete,
        )

    def _named(self, cycle: Cycle | None) -> tuple[str, str]:
        if cycle is not None:
            return cycle.scope["method"], cycle.scope["path"]
        if self._phase != HEAD or not self.url:
            return "other", "-"
        method: bytes = self.parser.get_method()
        return method.decode("ascii"), unquote(path_and_query(self.url)[0].decode("ascii", "backslashreplace"))

    def _tell_refused(self, named: tuple[str, str], response: Response) -> None:
        self.app.refused(*named, response, self._peer)

    def _run(self, cycle: Cycle) -> None:
        self._running = cycle
        self._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile."""
        self.server_state.total_requests += 1
        self._running = None
        if self._is_ending():
            return
        if self.pipeline:
            self._run(self.pipeline.pop()[0])  # type: ignore[arg-type]  # only Cycles are put there
        if not self.pipeline:
            self._go_on()
        self._rest()

    def _go_on(self) -> None:
        """Parse what waits, and read again if nothing does any more."""
        if self._is_ending():
            return
        waiting, self._unparsed = self._unparsed, b""
        if waiting:
            self._consume(waiting)
        if not (self.pipeline or self._unparsed or self._deaf):
            self._flow.release()
            if self._reading is not None and self._reading.is_full:
                self._flow.pause_reading()


def _is_odd(head: bytes, *, keep_alive: bool, silent: bool) -> bool:
    """Tell whether a head ends the connection by itself, or does not tell how long the body is."""
    return (b"\r\nconnection: " in head and keep_alive) or (not silent and b"\r\ncontent-length: " not in head)
