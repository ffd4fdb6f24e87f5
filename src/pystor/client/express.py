"""Small blobs by plain HTTP over sockets of our own: for half of the processor time that libcurl needs.

It does the two things that bulk transfers consist of: GET, 200, Content-Length, a few kilobytes, the connection kept;
and POST, 200 or 201, the same. Anything else is None, and the long way (`transport`) does it with all that libcurl
knows: another status, an answer that is large or late, a connection that breaks. The parser can be simple: of a
download the digest tells whether it was right, and an upload may always be made once more.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
from collections.abc import Callable, Coroutine
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from pystor import __version__
from pystor.client.servers import Server
from pystor.digest import Digest

SMALL: Final = 64 << 10
"""Bytes up to which a blob is small."""

USUAL: Final = 32
"""So many small ones in a row have to come by the long way before the next ones are believed to be small, too."""

_MOST: Final = 64 << 10  # bytes that are received at once
_HEAD: Final = 16 << 10  # bytes of a head that is none any more
_PROMPT: Final = 3.0  # seconds in which a connection is made, or not at all
_LOOKS: Final = 4  # in the time that an answer may take
_POST: Final = b"POST %b%b%bContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%b"
_PROXIES: Final = ("http_proxy", "all_proxy", "ALL_PROXY")  # that libcurl heeds
_GOOD: Final = (b"http/1.1 200 ", b"http/1.1 201 ")
_FIELD: Final = re.compile(
    rb"\r\n(content-length|last-modified|connection|transfer-encoding|content-encoding):[ \t]*([^\r\n]*)"
)


class Small(NamedTuple):
    """An answer: a blob, or what is said of an upload. `modified` is seconds since 1970, if it was told."""

    status: int
    content: bytes
    modified: float | None


class Unusual(Exception):
    """An answer that is left to the long way."""


def read(data: bytes) -> Small | None:
    """Read an answer; None while not all of it has come. Raises `Unusual`."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > _HEAD:
            raise Unusual
        return None
    fields = _fields(data[: end + 2].lower())
    missing = int(fields[b"content-length"]) - (len(data) - end - 4)
    if missing > 0:
        return None
    if missing < 0:
        raise Unusual
    return Small(int(data[9:12]), data[end + 4 :], _seconds(fields.get(b"last-modified")))


def _fields(head: bytes) -> dict[bytes, bytes]:
    if not head.startswith(_GOOD):
        raise Unusual
    found = _FIELD.findall(head)
    fields = dict(found)
    length = fields.get(b"content-length", b"")
    plain = b"transfer-encoding" not in fields and b"content-encoding" not in fields and len(fields) == len(found)
    if not plain or fields.get(b"connection", b"keep-alive") != b"keep-alive":
        raise Unusual
    if not length.isdigit() or len(length) > 9 or int(length) > SMALL:
        raise Unusual
    return fields


@lru_cache(maxsize=4096)  # to read one takes longer than all else here, and many blobs were stored in the same second
def _seconds(date: bytes | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except ValueError:
        return None


Then: TypeAlias = Callable[[Small], bytes | None]
"""Takes an answer, and gives the request that follows over the same connection, if one does."""


def _last(_: Small) -> None:
    """Ask for nothing more."""


class _Connection:
    """One socket, which carries one request at a time."""

    def __init__(self, end: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = end
        self._received = b""
        self._answer: asyncio.Future[Small | None] | None = None
        self._then: Then = _last
        self.asked = 0.0
        self.closed = False
        self._loop.add_reader(end.fileno(), self._receive)

    def ask(self, request: bytes, then: Then) -> asyncio.Future[Small | None]:
        """Send a request, and after each answer the one that `then` gives, until it gives none.

        The last answer is None when it is none for here, and then the connection is closed. What `then` raises is
        raised.
        """
        answer = self._answer = self._loop.create_future()
        self._then = then
        self.asked = self._loop.time()
        self._send(request)
        return answer

    def _send(self, rest: bytes) -> None:
        try:
            sent = self._socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(rest):
            self._loop.add_writer(self._socket.fileno(), self._go_on, rest[sent:])

    def _go_on(self, rest: bytes) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._send(rest)

    def _receive(self) -> None:
        try:
            piece = self._socket.recv(_MOST)
            self._received = self._received + piece if self._received else piece
            small = read(self._received)
        except BlockingIOError:
            return
        except (OSError, Unusual):
            self.close()
            return
        if self._answer is None or self._answer.done() or (small is None and not piece):
            self.close()  # nobody asked, or waits any more, or that was the end
        elif small is not None:
            self._received = b""
            self._take(small)

    def _take(self, small: Small) -> None:
        try:
            request = self._then(small)
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits
            assert self._answer is not None
            self._answer.set_exception(error)
            self.close()
            return
        if request is None:
            self._settle(small)
        else:
            self.asked = self._loop.time()
            self._send(request)

    def _settle(self, small: Small | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(small)

    def close(self) -> None:
        """Break off."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._settle(None)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answer is not None


class _Line:
    """What is to be known of a server: where it is, its idle connections, and what stands in requests to it.

    `before` comes between the method and the digest, `after` behind that, as libcurl would write it.
    """

    def __init__(self, server: Server) -> None:
        parts = urlsplit(server.url)
        lines = [" HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: stor/{__version__}", "Accept: */*"]
        if server.user is not None:
            login = base64.b64encode(f"{server.user}:{server.password or ''}".encode()).decode()
            lines.append(f"Authorization: Basic {login}")
        self.address: Final = parts.hostname or "", parts.port or 80
        self.before: Final = f"{parts.path}/".encode()
        self.after: Final = "\r\n".join([*lines, ""]).encode()
        self.idle: Final[list[_Connection]] = []

    def request(self, digest: Digest) -> bytes:
        """Ask for a blob."""
        return b"GET %b%b%b\r\n" % (self.before, digest.hex.encode(), self.after)

    def spare(self) -> _Connection | None:
        """Take a connection that is not used."""
        while self.idle:
            if not (connection := self.idle.pop()).closed:
                return connection
        return None


class Express:
    """The connections, and whether they are worth asking. No answer is waited for longer than `patience` seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lines: dict[str, _Line] = {}
        self._all: set[_Connection] = set()
        self._in_a_row = 0
        self._clock: asyncio.TimerHandle | None = None
        self._direct = not any(map(os.environ.get, _PROXIES))  # libcurl knows how to talk to one

    def note(self, size: int) -> None:
        """Learn from a blob that came or went the long way."""
        self._in_a_row = self._in_a_row + 1 if size <= SMALL else 0

    def serves(self, server: Server) -> bool:
        """Tell whether the next blob of a server is expected to be one for here."""
        return self._in_a_row >= USUAL and self._direct and server.url.startswith("http://")

    def get(
        self, server: Server, digest: Digest, take: Callable[[Small], Digest | None]
    ) -> Coroutine[None, None, Small | None]:
        """Ask for a blob; `take` gets it and tells which is asked for next, if any, and so on.

        None when the last one is to be asked for the long way, as the next ones are then.
        """
        line = self._line(server)

        def then(small: Small) -> bytes | None:
            following = take(small)
            return None if following is None else line.request(following)

        return self._ask(line, line.request(digest), then)

    def post(self, server: Server, digest: Digest, content: bytes) -> Coroutine[None, None, Small | None]:
        """Upload a blob; None when it is to be sent the long way, as the next ones are then."""
        line = self._line(server)
        parts = (line.before, digest.hex.encode(), line.after, len(content), content)
        return self._ask(line, _POST % parts, _last)

    def _line(self, server: Server) -> _Line:
        if (line := self._lines.get(server.url)) is None:
            line = self._lines[server.url] = _Line(server)
        return line

    async def _ask(self, line: _Line, request: bytes, then: Then) -> Small | None:
        connection = line.spare() or await self._connect(line.address)
        if connection is None:
            self._in_a_row = 0
            return None
        try:
            small = await connection.ask(request, then)
        except BaseException:
            connection.close()  # whoever comes next would get this answer
            raise
        if small is None:
            self._all.discard(connection)
            self._in_a_row = 0
            return None
        line.idle.append(connection)
        return small

    async def _connect(self, address: tuple[str, int]) -> _Connection | None:
        try:
            end = await asyncio.to_thread(socket.create_connection, address, min(self._patience, _PROMPT))
        except OSError:
            return None
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(end)
        self._all.add(connection)
        self._wind()
        return connection

    def _wind(self) -> None:
        if self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(min(self._patience, 60.0) / _LOOKS, self._look)

    def _look(self) -> None:
        """Close what has kept somebody waiting for too long."""
        self._clock = None
        late = asyncio.get_running_loop().time() - self._patience
        for connection in list(self._all):
            if connection.busy and connection.asked < late:
                connection.close()
            if connection.closed:
                self._all.discard(connection)
        if self._all:
            self._wind()

    def close(self) -> None:
        """Close all connections."""
        if self._clock is not None:
            self._clock.cancel()
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._lines.clear()
