"""Load by HEAD, which wrk cannot make: it waits for the body that the Content-Length tells of.

As little as possible is done for each answer, so that one process of Python asks about as fast as wrk does.
"""

from __future__ import annotations

import itertools
import select
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from bench.load import LoadFailed
from bench.samples import Sample

_END = b"\r\n\r\n"
_MOST = 65536


def run(url: str, paths: Sequence[str], *, connections: int, seconds: float) -> Sample:
    """Ask for so many seconds over so many connections, one request at a time on each."""
    requests = itertools.cycle([f"HEAD {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode() for path in paths])
    place = urlsplit(url).hostname, urlsplit(url).port
    open_ = [socket.create_connection(place) for _ in range(connections)]
    try:
        return _asked(open_, requests, seconds)
    finally:
        for each in open_:
            each.close()


def _asked(open_: Sequence[socket.socket], requests: Iterator[bytes], seconds: float) -> Sample:
    now, poll = time.perf_counter, select.epoll()
    by_number, sent = {each.fileno(): each for each in open_}, {}
    times: list[float] = []
    began = now()
    for number, each in by_number.items():
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(number, select.EPOLLIN)
        sent[number] = now()
        each.send(next(requests))
    while (moment := now()) < began + seconds:
        for number, _ in poll.poll(1):
            _check(by_number[number].recv(_MOST))
            times.append(now() - sent[number])
            sent[number] = now()
            by_number[number].send(next(requests))
    poll.close()
    return _sample(times, moment - began)


def _check(answer: bytes) -> None:
    if not (answer.startswith(b"HTTP/1.1 200") and answer.endswith(_END)):
        raise LoadFailed(repr(answer[:200]))


def _sample(times: list[float], seconds: float) -> Sample:
    cuts = statistics.quantiles(times, n=100)
    return Sample(requests=len(times), seconds=seconds, p50=cuts[49] * 1000, p99=cuts[98] * 1000)
