"""Requests over libcurl, in the event loop: the one file that knows pycurl.

An `Exchange` is one request and its answer. The body comes in batches, as they are asked for: when more than
`_AHEAD` bytes wait for whoever reads them, the connection is not read, so memory does not grow with a blob.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final, Self

import pycurl

from pystor import __version__
from pystor.client.errors import ClientError, Refused, Unavailable, of_answer
from pystor.client.servers import Server

_AHEAD: Final = 1 << 20
_PIECE: Final = 256 << 10  # bytes that libcurl reads at once
_WORTHWHILE: Final = 512 << 10  # bytes for which the reader is woken at once
_TICK: Final = 0.25  # seconds after which it is woken for less
_TICKS: Final = 8  # in the time that is waited for a byte, at least
_ANSWER: Final = 1 << 20  # bytes of an answer that is no blob
_ENCODING: Final = "latin-1"
_HOPELESS: Final = frozenset(
    {
        pycurl.E_URL_MALFORMAT,
        pycurl.E_TOO_MANY_REDIRECTS,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
    }
)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of whom. `body` is read from where it stands, `size` bytes of it."""

    method: str
    url: str
    server: Server | None = None
    """Whose credentials go along; None sends none."""
    fields: tuple[str, ...] = ()
    body: IO[bytes] | None = None
    size: int = 0
    observe: Callable[[int], None] | None = None
    """Is told the bytes of the body that were sent."""


class Exchange:
    """One request, and its answer as it comes."""

    def __init__(self, ask: Ask, patience: float, tick: float, release: Callable[[], None]) -> None:
        self._ask = ask
        self._release = release
        self._patience = patience
        self._longest = patience / tick
        self._lines: list[bytes] = []
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._paused = False
        self._done = False
        self._stalled = False
        self._idle = 0
        self._failure: BaseException | None = None
        self._wake = asyncio.Event()
        self._start = ask.body.tell() if ask.body else 0

    # What libcurl calls

    def prepare(self, curl: Any) -> None:
        """Set a fresh handle up for this request."""
        ask = self._ask
        self._curl = curl
        curl.setopt(curl.URL, ask.url)
        curl.setopt(curl.HEADERFUNCTION, self._lines.append)
        curl.setopt(curl.WRITEFUNCTION, self._take)
        fields = list(ask.fields)
        if ask.body is not None:
            curl.setopt(curl.POSTFIELDSIZE_LARGE, ask.size)
            curl.setopt(curl.READFUNCTION, self._give)
            curl.setopt(curl.SEEKFUNCTION, self._seek)
            fields.append("Content-Type: application/octet-stream")
        curl.unsetopt(curl.HTTPHEADER)  # an empty list would leave those of the request before
        curl.setopt(curl.HTTPHEADER, fields)

    def _take(self, piece: bytes) -> int | None:
        self._idle = 0
        if self._waiting >= _AHEAD:
            self._paused = True
            return int(pycurl.WRITEFUNC_PAUSE)
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= _WORTHWHILE:
            self._wake.set()
        return None

    def _give(self, most: int) -> bytes:
        assert self._ask.body is not None
        self._idle = 0
        sent = self._ask.body.tell() - self._start
        if self._ask.observe is not None:
            self._ask.observe(sent)
        return self._ask.body.read(min(most, self._ask.size - sent))

    def _seek(self, offset: int, _origin: int) -> int:
        assert self._ask.body is not None
        self._ask.body.seek(self._start + offset)
        return int(pycurl.SEEKFUNC_OK)

    def finish(self, future: asyncio.Future[Any]) -> None:
        """Note that libcurl is done with it."""
        self._failure = None if future.cancelled() else future.exception()
        self._done = True
        self._wake.set()

    def tick(self) -> None:
        """Count the time: when `patience` goes by without a byte, it is given up."""
        self._idle += 0 if self._paused else 1
        self._stalled = self._idle > self._longest
        if self._stalled or self._pieces:
            self._wake.set()

    # What the client asks

    async def __aenter__(self) -> Self:
        """Send the request, and wait until the answer begins; raises `Unavailable` if none does."""
        try:
            await self._woken()
            if self._done and not self._pieces:
                self._raise_what_failed()
        except BaseException:
            self._release()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release()

    async def batch(self) -> bytes:
        """Return what has come of the body; nothing at its end. Raises `Unavailable` when it breaks off."""
        while True:
            await self._woken()
            if self._pieces:
                return self._all_pieces()
            if self._done:
                self._raise_what_failed()
                return b""
            self._wake.clear()

    def _all_pieces(self) -> bytes:
        if not self._done:
            self._wake.clear()
        pieces, self._pieces = self._pieces, []
        self._waiting = 0
        if self._paused:
            self._paused, self._idle = False, 0
            if not self._done:
                self._curl.pause(pycurl.PAUSE_CONT)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _woken(self) -> None:
        if not self._wake.is_set():
            await self._wake.wait()
        if self._stalled:
            raise Unavailable(f"{self.origin}: no answer within {self._patience:g} s")

    def _raise_what_failed(self) -> None:
        if isinstance(self._failure, pycurl.error):
            raise self._translated(*self._failure.args) from None

    def _translated(self, code: int, text: str = "") -> ClientError:
        line = f"{self.origin}: {text or 'the connection failed'}".replace("\n", " ")
        return Refused(line) if code in _HOPELESS else Unavailable(line)

    # The answer

    @property
    def origin(self) -> str:
        """Who was asked, for people."""
        return self._ask.server.url if self._ask.server else self._ask.url

    @property
    def status(self) -> int:
        """The status of the last answer: interim ones and redirections come before it."""
        return int(self._curl.getinfo(pycurl.RESPONSE_CODE))

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
        length = int(self._curl.getinfo(pycurl.CONTENT_LENGTH_DOWNLOAD_T))
        return None if length < 0 else length

    @property
    def modified(self) -> float | None:
        """`Last-Modified`, in seconds since 1970."""
        seconds = int(self._curl.getinfo(pycurl.INFO_FILETIME))
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
            said = (await self.body()).decode(errors="replace").strip()
        except ClientError:
            said = ""
        line = said.splitlines()[0][:300] if said and not said.startswith("<") else f"it answered {self.status}"
        return of_answer(self.status, f"{self.origin}: {line}", _seconds(self.field("retry-after")))


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() else 0.0


class Transport:
    """The connections of one client, kept from request to request. `patience`: seconds in which a byte has to move."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._period = min(_TICK, patience / _TICKS)
        self._multi: Any = pycurl.AsyncCurlMulti()
        self._spare: dict[object, list[Any]] = {}
        self._running: set[Exchange] = set()
        self._clock: asyncio.TimerHandle | None = None
        self._trust = ssl.get_default_verify_paths()

    def exchange(self, ask: Ask) -> Exchange:
        """Send a request; inside its `async with` the answer has begun. What was not read of it is dropped."""
        spare = self._spare.setdefault((ask.method, ask.server), [])
        curl = spare.pop() if spare else self._handle(ask)

        def release() -> None:
            self._running.discard(exchange)
            if future.done():
                spare.append(curl)
            else:
                self._multi.remove_handle(curl)

        exchange = Exchange(ask, self._patience, self._period, release)
        exchange.prepare(curl)
        future = self._multi.add_handle(curl)
        future.add_done_callback(exchange.finish)
        self._watch(exchange)
        return exchange

    def _watch(self, exchange: Exchange) -> None:
        self._running.add(exchange)
        if self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(self._period, self._tick)

    def _tick(self) -> None:
        self._clock = None
        for exchange in list(self._running):
            exchange.tick()
        if self._running:
            self._clock = asyncio.get_running_loop().call_later(self._period, self._tick)

    def _handle(self, ask: Ask) -> Any:
        """Make a handle for requests of this kind to this server; those that are done are used again."""
        curl = pycurl.Curl()
        self._configure(curl)
        if ask.server is not None and ask.server.user is not None:
            curl.setopt(curl.USERNAME, ask.server.user)
            curl.setopt(curl.PASSWORD, ask.server.password or "")
        if ask.method == "HEAD":
            curl.setopt(curl.NOBODY, 1)
        if ask.method == "POST":
            curl.setopt(curl.POST, 1)
        return curl

    def _configure(self, curl: Any) -> None:
        curl.setopt(curl.OPT_FILETIME, 1)
        curl.setopt(curl.NOSIGNAL, 1)
        curl.setopt(curl.BUFFERSIZE, _PIECE)
        curl.setopt(curl.UPLOAD_BUFFERSIZE, _PIECE)
        curl.setopt(curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_1_1)
        curl.setopt(curl.CONNECTTIMEOUT_MS, max(1, int(self._patience * 1000)))
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
