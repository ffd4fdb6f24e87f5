"""Load by a client of our own, where wrk cannot do it: HEAD, and latencies of reads and uploads told apart.

wrk waits for the body that the Content-Length of a HEAD tells of, and knows one distribution of latencies only. As
little as possible is done for each answer here, so that one process of Python asks about half as fast as wrk does.
"""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

from bench.load import LoadFailed
from bench.samples import Sample

Request: TypeAlias = tuple[str, bytes]
"""What kind of request it is, and its bytes."""

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_GOOD = (b"HTTP/1.1 200", b"HTTP/1.1 201")
_MOST = 1 << 18


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Request:
    """Write a request."""
    fields = {"Host": "bench", **(headers or {}), **({"Content-Length": str(len(body))} if body else {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return method, f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    kind: str = ""
    sent: float = 0.0
    received: bytes = b""

    def ask(self, asked: Request) -> None:
        self.kind, data = asked
        self.received = b""
        self.sent = time.perf_counter()
        self.socket.sendall(data)

    def is_answered(self) -> bool:
        """Take what arrived, and tell whether that is all."""
        self.received += self.socket.recv(_MOST)
        if not self.received.startswith(_GOOD):
            raise LoadFailed(repr(self.received[:300]))
        head, end, body = self.received.partition(_END)
        return bool(end) and (self.kind == "HEAD" or len(body) >= _length(head))


def _length(head: bytes) -> int:
    _, found, value = head.lower().partition(_LENGTH)
    return int(value.partition(b"\r")[0]) if found else 0


def run(url: str, requests: Iterator[Request], *, connections: int, seconds: float) -> dict[str, Sample]:
    """Ask for so many seconds, one request at a time on each connection; a sample for each kind of request."""
    place = urlsplit(url).hostname, urlsplit(url).port
    made = [_Connection(socket.create_connection(place)) for _ in range(connections)]
    try:
        return _asked(made, requests, seconds)
    finally:
        for each in made:
            each.socket.close()


def _asked(made: Sequence[_Connection], requests: Iterator[Request], seconds: float) -> dict[str, Sample]:
    now = time.perf_counter
    times: dict[str, list[float]] = {}
    by_number = {each.socket.fileno(): each for each in made}
    with select.epoll() as poll:
        began = now()
        for number, each in by_number.items():
            each.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(number, select.EPOLLIN)
            each.ask(next(requests))
        while (moment := now()) < began + seconds:
            for number, _ in poll.poll(1):
                each = by_number[number]
                if each.is_answered():
                    times.setdefault(each.kind, []).append(now() - each.sent)
                    each.ask(next(requests))
    return {kind: _sample(found, moment - began) for kind, found in times.items()}


def _sample(times: list[float], seconds: float) -> Sample:
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return Sample(requests=len(times), seconds=seconds, p50=cuts[49] * 1000, p99=cuts[98] * 1000)
