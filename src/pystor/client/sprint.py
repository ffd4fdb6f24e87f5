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
from hashlib import sha256
from typing import Final

from pystor.client.bulk import AHEAD, taken
from pystor.client.servers import Server, ranked
from pystor.client.small import MOST, PROMPT, Line, Small, Unusual, is_for_us, read
from pystor.client.values import Blob
from pystor.client.wishes import Input, Wishes
from pystor.digest import Digest

PERIOD: Final = 0.1
"""Seconds between two calls of what is to be called meanwhile."""


class _Lane:
    """One socket, which carries one request at a time."""

    __slots__ = ("digest", "line", "received", "since", "socket", "unsent")

    def __init__(self, line: Line, end: socket.socket) -> None:
        self.line = line
        self.socket = end
        self.digest: Digest | None = None
        """What it is asked for."""
        self.since = 0.0
        self.received = b""
        self.unsent = b""


class Sprint:
    """Downloads of what is wished for. For one run."""

    def __init__(self, servers: Sequence[Server], wishes: Wishes, *, at_once: int, patience: float) -> None:
        """Ask for so many `at_once`; none is waited for longer than `patience` seconds without a byte."""
        self._servers: Final = servers
        self._lines: Final = {server.url: Line(server) for server in servers}
        self._wishes: Final = wishes
        self._at_once: Final = at_once
        self._patience: Final = patience
        self._poll: Final = select.poll()
        self._source: int | None = None  # what is listened to for input
        self._lanes: Final[dict[int, _Lane]] = {}
        self._idle: Final[dict[str, list[_Lane]]] = {server.url: [] for server in servers}
        self._busy = 0
        self._ahead: Final[deque[Digest]] = deque()
        self._left: Final[list[Digest]] = []
        self._lost_in_a_row = 0
        self._now = time.monotonic()

    @staticmethod
    def suits(servers: Sequence[Server]) -> bool:
        """Tell whether all servers are spoken to in this way."""
        return all(map(is_for_us, servers))

    def run(self, given: Input, meanwhile: Callable[[], None]) -> list[Digest]:
        """Download what is asked for, and return what was left, which is to be asked for the long way.

        Not all of the input may have been read then: nobody who was left waits for what is not there yet. Raises what
        the wishes and `meanwhile` do, which is called every now and then.
        """
        self._ahead.extend(given.take())
        try:
            while self._goes_on(given):
                for fd, _ in self._poll.poll(PERIOD * 1000):
                    if fd == self._source:
                        self._ahead.extend(given.read())
                    else:
                        self._serve(self._lanes[fd])
                self._look(meanwhile)
        finally:
            for lane in self._lanes.values():
                lane.socket.close()
        return [*self._left, *self._ahead]

    def _goes_on(self, given: Input) -> bool:
        """Begin what can be begun, and tell whether there is something to wait for."""
        while self._busy < self._at_once and self._next():
            pass
        self._listen(given.descriptor if len(self._ahead) < AHEAD else None)
        return self._busy > 0 or (given.descriptor is not None and not self._left)

    def _listen(self, descriptor: int | None) -> None:
        if descriptor != self._source:
            if self._source is not None:
                self._poll.unregister(self._source)
            if descriptor is not None:
                self._poll.register(descriptor, select.POLLIN)
            self._source = descriptor

    def _next(self) -> bool:
        """Begin the next one, unless too many were lost in a row: it would be, too."""
        if self._lost_in_a_row >= self._at_once or (digest := self._wishes.begin(taken(self._ahead))) is None:
            return False
        self._busy += 1
        line = self._line(digest)
        idle = self._idle[line.server.url]
        lane = idle.pop() if idle else self._connect(line)
        if lane is None:
            self._lose(digest)
            self._lost_in_a_row = self._at_once
        else:
            lane.digest, lane.since = digest, self._now
            self._send(lane, line.get(digest))
        return True

    def _line(self, digest: Digest) -> Line:
        servers = self._servers
        return self._lines[(servers if len(servers) == 1 else ranked(servers, digest))[0].url]

    # The wire

    def _connect(self, line: Line) -> _Lane | None:
        try:
            end = socket.create_connection(line.address, min(self._patience, PROMPT))
        except OSError:
            return None
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lane = self._lanes[end.fileno()] = _Lane(line, end)
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
            piece = lane.socket.recv(MOST)
            data = lane.received + piece if lane.received else piece
            small = read(data)
        except BlockingIOError:
            return
        except (OSError, Unusual):
            self._drop(lane)
            return
        if small is not None and lane.digest is not None:
            lane.received = b""
            self._take(lane, lane.digest, small)
        elif piece and lane.digest is not None:
            lane.received, lane.since = data, self._now
        else:
            self._drop(lane)

    def _take(self, lane: _Lane, digest: Digest, small: Small) -> None:
        content, server = small.content, lane.line.server.url
        if sha256(content).hexdigest() != digest.hex:
            self._drop(lane)
            return
        lane.digest = None
        self._idle[server].append(lane)
        self._busy -= 1
        self._lost_in_a_row = 0
        self._wishes.save(Blob(digest, len(content), small.modified, server), content)
        self._next()

    def _drop(self, lane: _Lane) -> None:
        """Close a connection; what it was asked for is left."""
        fd = lane.socket.fileno()
        self._poll.unregister(fd)
        del self._lanes[fd]
        lane.socket.close()
        if lane.digest is None:
            self._idle[lane.line.server.url].remove(lane)
        else:
            self._lose(lane.digest)

    def _lose(self, digest: Digest) -> None:
        self._busy -= 1
        self._lost_in_a_row += 1
        self._wishes.put_back(digest)
        self._left.append(digest)

    def _look(self, meanwhile: Callable[[], None]) -> None:
        """Every now and then, drop what has stood still for too long."""
        now = time.monotonic()
        if now - self._now < PERIOD:
            return
        self._now = now
        late = now - PERIOD - self._patience
        for lane in [lane for lane in self._lanes.values() if lane.digest is not None and lane.since < late]:
            self._drop(lane)
        meanwhile()
