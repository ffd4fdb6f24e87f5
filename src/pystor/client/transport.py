"""Requests over libcurl, in the event loop: the one file that knows pycurl.

An `Exchange` is one request and its answer: what is sent is `Outgoing`, and what comes is `Incoming`. When enough of
that waits for whoever reads it, the connection is not read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, NamedTuple, Self

import pycurl

from pystor import __version__
from pystor.client.errors import ClientError, Refused, Unavailable, of_answer
from pystor.client.incoming import Incoming
from pystor.client.outgoing import Outgoing
from pystor.client.servers import Server
from pystor.client.unreachable import Unreachable

_PIECE: Final = 256 << 10  # bytes that libcurl reads at once
_TICK: Final = 0.25  # seconds after which a reader is woken though little has come
_TICKS: Final = 8  # in the time that is waited for a byte, at least
_HASHED: Final = 100_000_000  # bytes a second that a server reads of what it has, before it agrees to be sent a blob
_ANSWER: Final = 1 << 20  # bytes of an answer that is no blob
_ENCODING: Final = "latin-1"
_URL: Final = pycurl.URL
_WRITEFUNCTION: Final = pycurl.WRITEFUNCTION
_HOPELESS: Final = frozenset(
    {
        pycurl.E_URL_MALFORMAT,
        pycurl.E_TOO_MANY_REDIRECTS,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
    }
)


class Ask(NamedTuple):
    """What is asked of whom, and the `body` or the `content` that is sent."""

    method: str
    url: str
    server: Server | None = None
    """Whose credentials go along; None sends none."""
    fields: tuple[str, ...] = ()
    """Header fields; those of a kind of requests, since the handles are kept by them."""
    offset: int = 0
    """Where the answer is to begin, as a Range."""
    body: Outgoing | None = None
    content: bytes | None = None


class Exchange:
    """One request, and its answer as it comes."""

    def __init__(self, ask: Ask, curl: Any, timeout: float, tick: float, release: Callable[[Exchange], None]) -> None:
        self.ask = ask
        self.curl = curl
        self._release = release
        longest = timeout + (round(ask.body.size / _HASHED, 1) if ask.body else 0)
        self._incoming = Incoming(self.origin, longest, tick, partial(curl.pause, pycurl.PAUSE_CONT))
        self._lines: list[bytes] = []

    # What libcurl calls

    def prepare(self) -> None:
        """Set the handle up for this request; it has been told already what all of its kind have in common."""
        ask, curl = self.ask, self.curl
        curl.setopt(_URL, ask.url.encode())
        curl.setopt(_WRITEFUNCTION, self._take)
        if ask.offset:
            curl.setopt(pycurl.RANGE, f"{ask.offset}-")
        if ask.offset or ask.method == "HEAD":
            curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        if ask.content is not None:
            curl.setopt(pycurl.POSTFIELDS, ask.content)
        elif ask.body is not None:
            curl.setopt(pycurl.POSTFIELDSIZE_LARGE, ask.body.size)
            curl.setopt(pycurl.EXPECT_100_TIMEOUT_MS, 1000 + 1000 * ask.body.size // _HASHED)
            curl.setopt(pycurl.READFUNCTION, self._give)
            curl.setopt(pycurl.SEEKFUNCTION, self._seek)

    def _take(self, piece: bytes) -> int | None:
        return None if self._incoming.take(piece) else int(pycurl.WRITEFUNC_PAUSE)

    def _give(self, most: int) -> bytes | int:
        assert self.ask.body is not None
        self._incoming.moved()
        piece = self.ask.body.read(most)
        return int(pycurl.READFUNC_ABORT) if piece is None else piece

    def _seek(self, offset: int, _origin: int) -> int:
        assert self.ask.body is not None
        self.ask.body.seek(offset)
        return int(pycurl.SEEKFUNC_OK)

    def finish(self, future: asyncio.Future[Any]) -> None:
        """Note that libcurl is done with it."""
        self._incoming.end(self._what_failed(future))

    def _what_failed(self, future: asyncio.Future[Any]) -> BaseException | None:
        failure = None if future.cancelled() else future.exception()  # who does not ask is complained of by asyncio
        if self.ask.body is not None and self.ask.body.error is not None:
            return self.ask.body.error
        if future.cancelled():
            return ValueError("the client was closed meanwhile")
        return self._translated(*failure.args) if isinstance(failure, pycurl.error) else failure

    def _translated(self, code: int, text: str = "") -> ClientError:
        line = f"{self.origin}: {text or 'the connection failed'}".replace("\n", " ")
        return Refused(line) if code in _HOPELESS else Unavailable(line)

    def tick(self) -> None:
        """Count the time."""
        self._incoming.tick()

    # What the client asks

    async def __aenter__(self) -> Self:
        """Wait until the answer begins; raises `Unavailable` if none does, and what the reading of the body raised."""
        try:
            await self._incoming.begun()
        except BaseException:
            self.release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Drop what was not read; what is not done is broken off. It may be called twice."""
        self._incoming.drop()  # the handle lives on, and with it this
        self._release(self)

    async def whole(self) -> bytes | None:
        """Return the body of a good answer if it comes as a whole; it can be read piece by piece nevertheless.

        None when it takes longer, or fails; what there is to say of that is said to those who read.
        """
        content = await self._incoming.whole()
        return content if self.status == 200 else None

    def batch(self) -> Coroutine[Any, Any, bytes]:
        """Return what has come of the body; nothing at its end. Raises `Unavailable` when it breaks off."""
        return self._incoming.batch()

    # The answer

    @property
    def origin(self) -> str:
        """Who was asked, for people."""
        return self.ask.server.url if self.ask.server else self.ask.url

    @property
    def finished(self) -> bool:
        """Whether libcurl is done with it, and pycurl too: it looks at the handle once more when the end is told."""
        return self._incoming.ended

    @property
    def failed(self) -> bool:
        """Whether the connection failed, or nothing moved on it for too long; the body's failure is another's."""
        return self._incoming.failed and (self.ask.body is None or self.ask.body.error is None)

    @property
    def status(self) -> int:
        """The status of the last answer, 0 while none has begun: interim ones and redirections come before it."""
        return int(self.curl.getinfo(pycurl.RESPONSE_CODE))

    def field(self, name: str) -> str | None:
        """Return a header field of the last answer; `name` is in lower case."""
        wanted = name.encode(_ENCODING) + b":"
        for line in reversed(self._lines):
            if line[: len(wanted)].lower() == wanted:
                return line[len(wanted) :].strip().decode(_ENCODING)
            if line.startswith(b"HTTP/"):
                break
        return None

    @property
    def length(self) -> int | None:
        """The declared length of the body."""
        length = int(self.curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))
        return None if length < 0 else length

    @property
    def modified(self) -> float | None:
        """`Last-Modified`, in seconds since 1970."""
        seconds = int(self.curl.getinfo(pycurl.INFO_FILETIME))
        return None if seconds < 0 else float(seconds)

    async def body(self) -> bytes:
        """Read a small body whole; one that is not small is not what was asked for."""
        whole = bytearray()
        while batch := await self.batch():
            whole += batch
            if len(whole) > _ANSWER:
                raise Refused(f"{self.origin}: the answer is no answer of Stor's: it is too long", self.status)
        return bytes(whole)

    async def error(self) -> ClientError:
        """Tell what an answer that is no success means, in the server's words."""
        try:
            said = await self.body()
        except ClientError:
            said = b""
        return of_answer(self.origin, self.status, said, float(self.curl.getinfo(pycurl.RETRY_AFTER)))


def _kind(ask: Ask) -> object:
    """Tell which requests a handle can be used for, one after the other."""
    return ask.method, ask.server, ask.fields, ask.content is None


class Transport:
    """The connections of one client, kept from request to request. `timeout`: seconds in which a byte has to move."""

    def __init__(self, timeout: float, prompt: float, unreachable: Unreachable) -> None:
        """Take the seconds in which a connection is made, or not at all, and where those are noted who are away."""
        self._timeout = timeout
        self._prompt = prompt
        self._unreachable = unreachable
        self._period = min(_TICK, timeout / _TICKS)
        self._multi: Any = pycurl.AsyncCurlMulti()
        self._spare: dict[object, list[Any]] = {}
        self._running: dict[Exchange, asyncio.Future[Any]] = {}
        self._clock: asyncio.TimerHandle | None = None
        self._trust = ssl.get_default_verify_paths()

    def exchange(self, ask: Ask) -> Exchange:
        """Send a request; inside its `async with` the answer has begun. What was not read of it is dropped.

        Raises `ValueError` when this is closed, and so does what waits for an answer then.
        """
        if self._multi.closed:
            raise ValueError("the client was closed meanwhile")
        spare = self._spare.get(_kind(ask))
        curl = spare.pop() if spare else self._handle(ask)
        exchange = Exchange(ask, curl, self._timeout, self._period, self._release)
        exchange.prepare()
        future = self._multi.add_handle(curl)
        future.add_done_callback(exchange.finish)
        self._running[exchange] = future
        if self._clock is None:
            self._wind()
        return exchange

    def _release(self, exchange: Exchange) -> None:
        future = self._running.pop(exchange, None)
        if future is None:
            return
        if exchange.status:
            self._unreachable.back(exchange.ask.url)
        elif exchange.failed:
            self._unreachable.note(exchange.ask.url)
        if not future.done():
            self._multi.remove_handle(exchange.curl)
        elif exchange.finished and not exchange.ask.offset:  # the next one may want the beginning
            self._spare.setdefault(_kind(exchange.ask), []).append(exchange.curl)

    def _wind(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(self._period, self._tick)

    def _tick(self) -> None:
        self._clock = None
        for exchange in list(self._running):
            exchange.tick()
        if self._running:
            self._wind()

    def _handle(self, ask: Ask) -> Any:
        """Make a handle for requests of this kind to this server; those that are done are used again."""
        curl = pycurl.Curl()
        self._configure(curl)
        if ask.server is not None and ask.server.user is not None:
            curl.setopt(curl.USERNAME, ask.server.user.encode())
            curl.setopt(curl.PASSWORD, (ask.server.password or "").encode())
        if ask.method == "HEAD":
            curl.setopt(curl.NOBODY, 1)
        if ask.method == "POST":
            curl.setopt(curl.POST, 1)
            curl.setopt(curl.POSTREDIR, curl.REDIR_POST_ALL)  # what is led elsewhere is an upload there, too
        if ask.fields:
            curl.setopt(curl.HTTPHEADER, list(ask.fields))
        return curl

    def _configure(self, curl: Any) -> None:
        curl.setopt(curl.OPT_FILETIME, 1)
        curl.setopt(curl.NOSIGNAL, 1)
        curl.setopt(curl.BUFFERSIZE, _PIECE)
        curl.setopt(curl.UPLOAD_BUFFERSIZE, _PIECE)
        curl.setopt(curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_1_1)
        curl.setopt(curl.CONNECTTIMEOUT_MS, max(1, int(self._prompt * 1000)))
        curl.setopt(curl.PROTOCOLS, curl.PROTO_HTTP | curl.PROTO_HTTPS)
        curl.setopt(curl.REDIR_PROTOCOLS, curl.PROTO_HTTP | curl.PROTO_HTTPS)
        curl.setopt(curl.FOLLOWLOCATION, 1)
        curl.setopt(curl.MAXREDIRS, 5)
        curl.setopt(curl.USERAGENT, f"stor/{__version__}")
        # A library that brings its own TLS does not know where this system keeps the certificates it trusts.
        if self._trust.cafile:
            curl.setopt(curl.CAINFO, self._trust.cafile)
        if self._trust.capath:
            curl.setopt(curl.CAPATH, self._trust.capath)

    async def close(self) -> None:
        """Close all connections."""
        if self._clock is not None:
            self._clock.cancel()
        await self._multi.aclose()
        self._spare.clear()
