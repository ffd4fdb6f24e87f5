"""A small blob by plain HTTP: how it is asked for, and how an answer is read that is as usual.

The parser can be simple: of a download the digest tells whether it was right, and an upload may always be made once
more. Anything that is not as expected is left to libcurl (`transport`): another status, a large blob, odd fields.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import socket
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from pystor import __version__
from pystor.client.errors import Unavailable, of_answer
from pystor.client.servers import Server
from pystor.digest import Digest

SMALL: Final = 64 << 10
"""Bytes up to which a blob is small."""

PROMPT: Final = 3.0
"""Seconds in which a connection is made, or not at all."""

_MOST: Final = 64 << 10  # bytes that are received at once
_HEAD: Final = 16 << 10  # bytes of a head that is none any more
_POST: Final = b"POST %b%b%bContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%b"
_PROXIES: Final = ("http_proxy", "all_proxy", "ALL_PROXY")  # that libcurl heeds
_GOOD: Final = (b"http/1.1 200 ", b"http/1.1 201 ")
_BEGIN: Final = b"http/1.1 "
_LEAST_FAILURE: Final = 400
_FIELD: Final = re.compile(
    rb"\r\n(content-length|last-modified|connection|transfer-encoding|content-encoding):[ \t]*([^\r\n]*)"
)
_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*([^\r\n]*)")
_DATE: Final = re.compile(rb"[a-z]{3}, (\d\d) ([a-z]{3}) (\d{4}) (\d\d):(\d\d):(\d\d) gmt")
_MONTHS: Final = b"jan feb mar apr may jun jul aug sep oct nov dec".split()


def is_for_us(server: Server) -> bool:
    """Tell whether a server is spoken to by plain HTTP, and directly: libcurl knows how to talk to a proxy."""
    return server.url.startswith("http://") and not any(map(os.environ.get, _PROXIES))


class Small(NamedTuple):
    """An answer: a blob, or what is said of an upload. `modified` is seconds since 1970, if it was told."""

    status: int
    content: bytes
    modified: float | None


class Unusual(Exception):
    """What is left to the long way; `head`, in lower case, and `body` are those of an answer, as far as it came."""

    def __init__(self, head: bytes = b"", body: bytes = b"") -> None:
        self._head = head
        self._body = body

    def failure(self, origin: str) -> Unavailable | None:
        """Tell whether it was an answer that asking again may change: then it was a try, and is not to be forgotten."""
        status = self._head[len(_BEGIN) : len(_BEGIN) + 3]
        if not (self._head.startswith(_BEGIN) and status.isdigit()) or int(status) < _LEAST_FAILURE:
            return None  # what is good comes in another way, and what is led elsewhere is followed there
        asked = _RETRY_AFTER.search(self._head)
        failure = of_answer(origin, int(status), self._body, _until(asked[1].rstrip()) if asked else 0.0)
        return failure if isinstance(failure, Unavailable) else None


def _until(asked: bytes) -> float:
    """Read a Retry-After, which is a number of seconds or a date; returns seconds."""
    if asked.isdigit():
        return float(asked)
    date = _seconds(asked)
    return 0.0 if date is None else max(0.0, date - time.time())


def read(data: bytes) -> Small | None:
    """Read an answer; None while not all of it has come. Raises `Unusual`."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if len(data) > _HEAD or not _BEGIN.startswith(data[: len(_BEGIN)].lower()):
            raise Unusual
        return None
    head = data[: end + 2].lower()
    found = _FIELD.findall(head)
    fields = dict(found)
    length = fields.get(b"content-length", b"")
    if not (head.startswith(_GOOD) and length.isdigit() and len(length) < 10 and len(fields) == len(found)):
        raise Unusual(head, data[end + 4 :])
    modified = fields.get(b"last-modified")
    if len(fields) > (1 if modified is None else 2) and not _is_plain(fields):
        raise Unusual
    size, begin = int(length), end + 4
    missing = size - (len(data) - begin)
    if size > SMALL or missing < 0:
        raise Unusual
    if missing > 0:
        return None
    return Small(int(data[9:12]), data[begin:], None if modified is None else _seconds(modified))


def receive(end: socket.socket, received: bytes) -> tuple[bytes, Small | None]:
    """Receive more of an answer; returns all that has come of it, and the answer itself when that is all.

    Raises `BlockingIOError` when nothing has come, and `Unusual` also when the connection is at its end.
    """
    try:
        piece = end.recv(_MOST)
    except BlockingIOError:
        raise
    except OSError:
        raise Unusual from None
    data = received + piece if received else piece
    small = read(data)
    if small is None and not piece:
        raise Unusual
    return data, small


def _is_plain(fields: dict[bytes, bytes]) -> bool:
    """Tell whether a body comes as it is, and the connection stays."""
    if b"transfer-encoding" in fields or b"content-encoding" in fields:
        return False
    return fields.get(b"connection", b"keep-alive") == b"keep-alive"


@lru_cache(maxsize=4096)  # many blobs were stored in the same second
def _seconds(date: bytes) -> float | None:
    """Read a date as HTTP has it, in lower case; the library's own takes as long to load as a hundred blobs to come."""
    if (found := _DATE.fullmatch(date)) is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        when = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    seconds = when.timestamp()
    return seconds if seconds >= 0 else None


class Peer:
    """A server as plain HTTP needs it: connections to it, and requests to it, written as libcurl would."""

    def __init__(self, server: Server) -> None:
        self.server: Final = server
        parts = urlsplit(server.url)
        lines = [" HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: stor/{__version__}", "Accept: */*"]
        if server.user is not None:
            login = base64.b64encode(f"{server.user}:{server.password or ''}".encode()).decode()
            lines.append(f"Authorization: Basic {login}")
        self._address: Final = parts.hostname or "", parts.port or 80
        self._before: Final = f"{parts.path}/".encode()
        self._after: Final = "\r\n".join([*lines, ""]).encode()

    def connect(self, timeout: float) -> socket.socket:
        """Make a connection, and wait for it; raises `OSError`."""
        try:
            return socket.create_connection(self._address, min(timeout, PROMPT))
        except UnicodeError:
            raise OSError(errno.EINVAL, "this is no name of a host") from None

    def get(self, digest: Digest) -> bytes:
        """Ask for a blob."""
        return b"GET %b%b%b\r\n" % (self._before, digest.hex.encode(), self._after)

    def post(self, digest: Digest, content: bytes) -> bytes:
        """Send a blob."""
        return _POST % (self._before, digest.hex.encode(), self._after, len(content), content)
