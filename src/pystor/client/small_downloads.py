"""Many small blobs as fast as they come: over a few sockets, by plain HTTP, without an event loop.

What a program loads before its first request counts as well: the libraries of the long way (`aio`) take as long as two
thousand small blobs. So everything is asked for here first, and what does not come as a small blob does is left to
that way: large ones, bad ones, what is missing, and all that is left when a server is in trouble.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

from pystor.client.bulk import AHEAD, PERIOD, taken
from pystor.client.downloads import Downloads, Input
from pystor.client.errors import ClientError, garbled, late
from pystor.client.limits import fitting
from pystor.client.servers import Server, ranked
from pystor.client.small import Peer, Small, Unusual, is_for_us, receive
from pystor.digest import Digest

_LEAST: Final = 4  # lost connections before a server is given up, even if fewer are open at once
_MAKE_UP: Final = 8  # blobs that come make up for a lost connection, whose blob is asked for again over another
_MOST_LEFT: Final = 1000  # blobs that are left before the rest is left as well
_LONGEST: Final = 10.0  # seconds for which what was left waits for the others
_ASLEEP: Final = (
    1.0  # seconds between two looks at the time after which this process was stopped, and no server is late
)


class _Lane:
    """One socket, which carries one request at a time."""

    __slots__ = ("digest", "endpoint", "received", "since", "socket", "unsent")

    def __init__(self, endpoint: _Endpoint, end: socket.socket) -> None:
        self.endpoint = endpoint
        self.socket = end
        self.digest: Digest | None = None
        """What it is asked for."""
        self.since = 0.0
        self.received = b""
        self.unsent = b""


class _Endpoint:
    """A server, the connections to it that are not used, and whether it is worth asking."""

    def __init__(self, server: Server) -> None:
        self.peer: Final = Peer(server)
        self.idle: Final[list[_Lane]] = []
        self.lost = 0.0
        """How many were lost, less those that others made up for."""
        self._place: tuple[socket.AddressFamily, Any] | None = None

    def connect(self, timeout: float) -> socket.socket:
        """Make a connection; the first one is waited for, the others are to where that led. Raises `OSError`."""
        if self._place is None:
            end = self.peer.connect(timeout)
            self._place = end.family, end.getpeername()
            end.setblocking(False)
        else:
            family, address = self._place
            end = socket.socket(family)
            end.setblocking(False)
            with suppress(BlockingIOError):  # whoever sends finds out
                end.connect(address)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return end


class SmallDownloads:
    """Downloads of what is asked for. For one run."""

    def __init__(self, servers: Sequence[Server], downloads: Downloads, *, at_once: int, timeout: float) -> None:
        """Ask for so many `at_once`; none is waited for longer than `timeout` seconds without a byte."""
        self._servers: Final = servers
        self._endpoints: Final = {server.url: _Endpoint(server) for server in servers}
        self._downloads: Final = downloads
        self._at_once: Final = fitting(at_once, len(servers))
        self._timeout: Final = timeout
        self._poll: Final = select.poll()
        self._source: int | None = None  # what is listened to for input
        self._lanes: Final[dict[int, _Lane]] = {}
        self._busy = 0
        self._ahead: Final[deque[Digest]] = deque()
        self._left: Final[list[Digest]] = []
        self._left_since = 0.0
        self._now = time.monotonic()

    @staticmethod
    def suits(servers: Sequence[Server]) -> bool:
        """Tell whether all servers are spoken to in this way."""
        return all(map(is_for_us, servers))

    def run(self, given: Input, meanwhile: Callable[[], None]) -> list[Digest]:
        """Download what is asked for, and return what was left, which is to be asked for the long way.

        Not all of the input may have been read then: nobody who was left waits for what is not there yet. Raises what
        the downloads and `meanwhile` do, which is called every now and then.
        """
        self._ahead.extend(given.take())
        try:
            while self._goes_on(given):
                for fd, _ in self._poll.poll(PERIOD * 1000):
                    if fd == self._source:
                        self._ahead.extend(given.read())
                    elif lane := self._lanes.get(fd):  # it may be gone by what another has brought
                        self._serve(lane)
                self._look(meanwhile)
        finally:
            for lane in self._lanes.values():
                lane.socket.close()
        return [*self._left, *self._ahead]

    def _goes_on(self, given: Input) -> bool:
        """Begin what can be begun, and tell whether there is something to wait for."""
        while self._busy < self._at_once and self._next():
            pass
        self._listen(given.descriptor if len(self._ahead) < AHEAD and not self._is_full() else None)
        return self._busy > 0 or (given.descriptor is not None and not self._left)

    def _is_full(self) -> bool:
        """Tell whether it is time for those that were left: too many of them, or too long ago."""
        left = self._left
        return bool(left) and (len(left) >= _MOST_LEFT or self._now - self._left_since > _LONGEST)

    def _listen(self, descriptor: int | None) -> None:
        if descriptor != self._source:
            if self._source is not None:
                self._poll.unregister(self._source)
            if descriptor is not None:
                self._poll.register(descriptor, select.POLLIN)
            self._source = descriptor

    def _next(self) -> bool:
        """Begin the next download; one from a server that is given up is left at once. False if there is none."""
        if self._is_full() or (digest := self._downloads.begin(taken(self._ahead))) is None:
            return False
        self._busy += 1
        endpoint = self._first(digest)
        lane = None
        if endpoint.lost < max(self._at_once, _LEAST):
            lane = endpoint.idle.pop() if endpoint.idle else self._connect(endpoint)
        if lane is None:
            self._lose(endpoint, digest)
        else:
            lane.digest, lane.since = digest, self._now
            self._send(lane, endpoint.peer.get(digest))
        return True

    def _first(self, digest: Digest) -> _Endpoint:
        servers = self._servers
        return self._endpoints[(servers if len(servers) == 1 else ranked(servers, digest))[0].url]

    # The wire

    def _connect(self, endpoint: _Endpoint) -> _Lane | None:
        try:
            end = endpoint.connect(self._timeout)
        except OSError:
            endpoint.lost += self._at_once + _LEAST  # it is not tried again
            return None
        lane = self._lanes[end.fileno()] = _Lane(endpoint, end)
        self._poll.register(end.fileno(), select.POLLIN)
        return lane

    def _serve(self, lane: _Lane) -> None:
        if lane.unsent:
            self._send(lane, lane.unsent)
        else:
            self._receive(lane)

    def _send(self, lane: _Lane, rest: bytes) -> None:
        try:
            sent = lane.socket.send(rest)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(lane)
            return
        waited, lane.unsent = lane.unsent, rest[sent:]
        if waited or lane.unsent:
            self._poll.modify(lane.socket.fileno(), select.POLLOUT if lane.unsent else select.POLLIN)

    def _receive(self, lane: _Lane) -> None:
        try:
            data, small = receive(lane.socket, lane.received)
        except BlockingIOError:
            return
        except Unusual as unusual:
            self._drop(lane, unusual.failure(lane.endpoint.peer.server.url))
            return
        if lane.digest is None:
            self._drop(lane)  # nobody asked
        elif small is None:
            lane.received, lane.since = data, self._now
        else:
            lane.received = b""
            self._take(lane, lane.digest, small)

    def _take(self, lane: _Lane, digest: Digest, small: Small) -> None:
        content, endpoint = small.content, lane.endpoint
        if (real := sha256(content).hexdigest()) != digest.hex:
            self._drop(lane, garbled(endpoint.peer.server.url, digest.hex, real))
            return
        lane.digest = None
        endpoint.idle.append(lane)
        if endpoint.lost:
            endpoint.lost = max(0.0, endpoint.lost - 1 / _MAKE_UP)
        self._busy -= 1
        self._downloads.save(digest, content, small.modified)
        self._next()

    def _drop(self, lane: _Lane, failure: ClientError | None = None) -> None:
        """Close a connection; what it was asked for is left, and if that was a try, what it ended with."""
        fd = lane.socket.fileno()
        self._poll.unregister(fd)
        del self._lanes[fd]
        lane.socket.close()
        if lane.digest is None:
            lane.endpoint.idle.remove(lane)
        else:
            self._lose(lane.endpoint, lane.digest, failure)

    def _lose(self, endpoint: _Endpoint, digest: Digest, failure: ClientError | None = None) -> None:
        self._busy -= 1
        endpoint.lost += 1
        self._downloads.put_back(digest, failure)
        self._left_since = self._left_since if self._left else self._now
        self._left.append(digest)

    def _look(self, meanwhile: Callable[[], None]) -> None:
        """Every now and then, drop what has stood still for too long."""
        now = time.monotonic()
        passed, last = now - self._now, now - PERIOD - self._timeout
        if passed < PERIOD:
            return
        self._now = now
        for lane in [lane for lane in self._lanes.values() if lane.digest is not None]:
            if passed > _ASLEEP:
                lane.since += passed
            elif lane.since < last:
                self._drop(lane, late(lane.endpoint.peer.server.url, self._timeout))
        meanwhile()
