"""HTTP/1.1 by hand: exactly the bytes a test wants to send, exactly the bytes that came back."""

from __future__ import annotations

import io
import select
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

Address: TypeAlias = tuple[str, int]
Fields: TypeAlias = Mapping[str, str]

_BODILESS: Final = frozenset({204, 304})
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Cut(ConnectionError):
    """The connection ended where an answer should have gone on."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the connection was cut {where}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Header names are lower case, a repeated field is joined with a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    interim: tuple[int, ...] = ()
    """The 1xx answers that came before this one."""


class Wire:
    """One connection. Reading past what the server sends raises `TimeoutError` or `Cut`, never hangs."""

    def __init__(self, address: Address, *, timeout: float = 20.0, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming: io.BufferedReader = self.socket.makefile("rb")

    @property
    def segments(self) -> int:
        """How many segments with data have come (`tcpi_data_segs_in` of Linux' tcp(7))."""
        told = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
        return int.from_bytes(told[152:156], sys.byteorder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Hang up in order."""
        self._incoming.close()
        self.socket.close()

    def reset(self) -> None:
        """Hang up with a reset, as a client that was killed does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def send(self, *pieces: bytes) -> None:
        """Send all of the bytes."""
        for piece in pieces:
            self.socket.sendall(piece)

    def end(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self.socket.shutdown(socket.SHUT_WR)

    def hears(self, within: float) -> bool:
        """Tell whether the server says something, or hangs up, within so many seconds; nothing is read."""
        return bool(select.select([self.socket], [], [], within)[0])

    def answer(self, *, head: bool = False) -> Answer:
        """Read one answer; `head` for the answer to a HEAD, which has no body whatever its headers say."""
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status >= 200:
                body = b"" if head or status in _BODILESS else self._body(headers)
                return Answer(status, headers, body, tuple(interim))
            interim.append(status)

    def start(self) -> tuple[int, Mapping[str, str]]:
        """Read a status line and headers only; `receive` gives the body."""
        return self._head()

    def receive(self, size: int) -> bytes:
        """Read exactly `size` bytes of a body, or raise `Cut`."""
        got = self._incoming.read(size)
        if len(got) != size:
            raise Cut(f"after {len(got)} of {size} bytes")
        return got

    def up_to(self, size: int) -> bytes:
        """Read as many bytes, or as many as come before the connection ends."""
        return self._incoming.read(size)

    def rest(self) -> bytes:
        """Everything up to the end of the connection; a reset is an end as well."""
        try:
            return self._incoming.read()
        except ConnectionResetError:
            return b""

    def _head(self) -> tuple[int, dict[str, str]]:
        line = self._line("before the answer")
        version, status, *_ = line.split(" ", 2)
        assert version == "HTTP/1.1", line
        headers: dict[str, str] = {}
        while line := self._line("in the headers"):
            name, value = line.split(":", 1)
            key, value = name.lower(), value.strip()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        return int(status), headers

    def _line(self, where: str) -> str:
        try:
            raw = self._incoming.readline(1 << 16)
        except ConnectionResetError:
            raise Cut(where) from None
        if not raw.endswith(b"\r\n"):
            raise Cut(where)
        return raw[:-2].decode("latin-1")

    def _body(self, headers: Fields) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self._chunk, b""))
        if "content-length" in headers:
            return self.receive(int(headers["content-length"]))
        return self._incoming.read()

    def _chunk(self) -> bytes:
        size = int(self._line("before a chunk"), 16)
        content = self.receive(size)
        assert self._line("after a chunk") == ""
        return content


def request(method: str, target: str, fields: Fields | None = None, body: bytes | None = None) -> bytes:
    """Spell a request; a body comes with its Content-Length unless `fields` has one or a Transfer-Encoding."""
    named = {"Host": "stor.test", **(fields or {})}
    if body is not None and not {"content-length", "transfer-encoding"} & {name.lower() for name in named}:
        named["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chunked(pieces: Iterable[bytes], *, end: bool = True) -> bytes:
    """Code a body in chunks, with or without the last, empty one."""
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return coded + b"0\r\n\r\n" if end else coded


def ask(
    address: Address,
    method: str,
    target: str,
    fields: Fields | None = None,
    body: bytes | None = None,
    *,
    timeout: float = 20.0,
) -> Answer:
    """Send one request on a connection of its own, and check that nothing follows the answer."""
    with Wire(address, timeout=timeout) as wire:
        wire.send(request(method, target, {"Connection": "close", **(fields or {})}, body))
        answer = wire.answer(head=method == "HEAD")
        assert wire.rest() == b"", f"bytes followed the answer to {method} {target}"
        return answer
