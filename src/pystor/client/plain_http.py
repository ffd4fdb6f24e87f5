"""Small blobs by plain HTTP over sockets of our own, in an event loop: for half of the processor time of libcurl's.

What is not as usual is no `Small`, and the long way (`transport`) does it with all that libcurl knows: another status,
an answer that is large or late, a connection that breaks.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from pystor.client.errors import Unavailable, late
from pystor.client.servers import Server
from pystor.client.small import SMALL, Peer, Small, Unusual, is_for_us, receive
from pystor.digest import Digest

USUAL: Final = 32
"""This many small blobs in a row have to come the long way before the next ones are expected to be small, too."""

_LOOKS: Final = 4  # in the time that an answer may take


class _Connection:
    """One socket, which carries one request at a time."""

    def __init__(self, end: socket.socket, origin: str) -> None:
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._socket = end
        self._received = b""
        self._answer: asyncio.Future[Small | Unavailable | None] | None = None
        self._unsent = False
        self.moved = 0.0
        """When something was sent, or came, last."""
        self.closed = False
        self._loop.add_reader(end.fileno(), self._receive)

    def ask(self, request: bytes) -> asyncio.Future[Small | Unavailable | None]:
        """Send a request. If the answer is no `Small`, the request is left to libcurl, and the connection is closed."""
        answer = self._answer = self._loop.create_future()
        self._send(request)
        return answer

    def _send(self, rest: bytes) -> None:
        self.moved = self._loop.time()
        try:
            sent = self._socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = sent < len(rest)
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._go_on, rest[sent:])

    def _go_on(self, rest: bytes) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._send(rest)

    def _receive(self) -> None:
        try:
            self._received, small = receive(self._socket, self._received)
        except BlockingIOError:
            return
        except Unusual as unusual:
            self.close(unusual.failure(self._origin))
            return
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked, or waits any more
        elif small is None:
            self.moved = self._loop.time()
        else:
            self._received = b""
            self._settle(small)
            if self._unsent:  # the rest of the request would come in the midst of the next one
                self.close()

    def _settle(self, small: Small | Unavailable | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(small)

    def give_up(self, timeout: float) -> None:
        """Break off since no answer has come for so long."""
        self.close(late(self._origin, timeout))

    def close(self, failure: Unavailable | None = None) -> None:
        """Break off; a failure is told to who waits for an answer."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._settle(failure)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._answer is not None


class _Endpoint:
    """A server, and the connections to it that are not used."""

    def __init__(self, server: Server) -> None:
        self.peer: Final = Peer(server)
        self.is_for_us: Final = is_for_us(server)
        self._idle: Final[list[_Connection]] = []

    def give_back(self, connection: _Connection) -> None:
        """Leave a connection to whoever comes next."""
        self._idle.append(connection)

    def take(self) -> _Connection | None:
        """Take a connection that is not used."""
        while self._idle:
            if not (connection := self._idle.pop()).closed:
                return connection
        return None


class PlainHttp:
    """The connections, and whether they are worth asking. No answer is waited for longer than `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._servers: dict[str, _Endpoint] = {}
        self._all: set[_Connection] = set()
        self._in_a_row = 0
        self._clock: asyncio.TimerHandle | None = None
        self._closed = False

    def note(self, size: int) -> None:
        """Learn from a blob that came or went the long way."""
        self._in_a_row = self._in_a_row + 1 if size <= SMALL else 0

    def serves(self, server: Server) -> bool:
        """Tell whether the next blob of a server is expected to be one for here."""
        return self._in_a_row >= USUAL and self._at(server).is_for_us

    async def get(self, server: Server, digest: Digest) -> Small | Unavailable | None:
        """Download a blob. If the answer is no `Small`, it is to be asked for the long way, as the next ones will be.

        An `Unavailable` is what a first try has ended with; None was no try.
        """
        endpoint = self._at(server)
        return await self._ask(endpoint, endpoint.peer.get(digest))

    async def post(self, server: Server, digest: Digest, content: bytes) -> Small | Unavailable | None:
        """Upload a blob. If the answer is no `Small`, it is to be sent the long way, as with `get`."""
        endpoint = self._at(server)
        return await self._ask(endpoint, endpoint.peer.post(digest, content))

    def _at(self, server: Server) -> _Endpoint:
        if (endpoint := self._servers.get(server.url)) is None:
            endpoint = self._servers[server.url] = _Endpoint(server)
        return endpoint

    async def _ask(self, endpoint: _Endpoint, request: bytes) -> Small | Unavailable | None:
        connection = endpoint.take() or await self._connect(endpoint.peer)
        if connection is None:
            self._in_a_row = 0
            return None
        try:
            small = await connection.ask(request)
        except BaseException:
            connection.close()  # whoever comes next would get this answer
            raise
        if isinstance(small, Small):
            endpoint.give_back(connection)
        else:
            self._all.discard(connection)
            self._in_a_row = 0
        return small

    async def _connect(self, peer: Peer) -> _Connection | None:
        try:
            end = await asyncio.to_thread(peer.connect, self._timeout)
        except OSError:
            return None
        if self._closed:
            end.close()
            return None
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(end, peer.server.url)
        self._all.add(connection)
        self._wind()
        return connection

    def _wind(self) -> None:
        if self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(min(self._timeout, 60.0) / _LOOKS, self._look)

    def _look(self) -> None:
        """Close what has kept somebody waiting for too long."""
        self._clock = None
        last = asyncio.get_running_loop().time() - self._timeout
        for connection in list(self._all):
            if connection.busy and connection.moved < last:
                connection.give_up(self._timeout)
            if connection.closed:
                self._all.discard(connection)
        if self._all:
            self._wind()

    def close(self) -> None:
        """Close all connections, and those that are made just now."""
        self._closed = True
        if self._clock is not None:
            self._clock.cancel()
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._servers.clear()
