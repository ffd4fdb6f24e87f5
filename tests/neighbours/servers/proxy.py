"""A TCP proxy that breaks connections on demand, between Stor and a neighbour."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from tests.neighbours.servers.ports import free_port

_RESET: Final = struct.pack("ii", 1, 0)  # a close that sends RST


@dataclass
class Proxy:
    """Listens on `port` and passes everything on to `target`; set its attributes at any time to change that.

    `hang`: nothing more is passed, in either direction. `delay`: seconds before each piece of an answer. `rate`: bytes
    of answers a second, on each connection. `cut`: bytes of answers after which a connection is reset. `flip`: the
    byte of each connection's answers that is garbled. `garbage`: what
    is answered instead, and the connection closed, to requests with `trigger` in them. `refuse()` and `reset()` are
    moments, `accept()` goes on.
    """

    target: tuple[str, int]
    hang: bool = False
    delay: float = 0.0
    rate: float = 0.0
    cut: int = -1
    flip: int = -1
    garbage: bytes = b""
    trigger: bytes = b""
    connections: int = 0
    """How many were made so far."""
    received: int = 0
    """Bytes of answers that were passed on."""
    asked: list[bytes] = field(default_factory=list)
    """The beginning of each piece that clients have sent."""
    _pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    _listener: socket.socket | None = None
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def accept(self) -> Self:
        """Begin to listen, or listen again on the same port: of ours, since the kernel would give its own to others."""
        self.port = self.port or free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()
        return self

    def refuse(self) -> None:
        """Refuse new connections, and reset those that are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which a close alone does not
            listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset all connections."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(*pair)

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(self.target, timeout=5)
                except OSError:
                    _reset(client)
                    continue
                server.settimeout(None)
                self._pairs.append((client, server))
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with _both_or_none(client, server):
            while data := client.recv(65536):
                self.asked.append(data[:64])
                self._wait_while_it_hangs(client)
                if self.garbage and self.trigger in data:
                    client.sendall(self.garbage)
                    client.shutdown(socket.SHUT_WR)
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with _both_or_none(client, server):
            while data := server.recv(65536):
                time.sleep(self.delay + (len(data) / self.rate if self.rate else 0))
                self._wait_while_it_hangs(client)
                if passed <= self.flip < passed + len(data):
                    data = _flipped(data, self.flip - passed)
                if 0 <= self.cut < passed + len(data):
                    client.sendall(data[: max(0, self.cut - passed)])
                    _reset(client, server)
                    return
                client.sendall(data)
                passed += len(data)
                self.received += len(data)
            client.shutdown(socket.SHUT_WR)

    def _wait_while_it_hangs(self, client: socket.socket) -> None:
        while self.hang and client.fileno() >= 0:
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self.accept()

    def __exit__(self, *_: object) -> None:
        self.hang = False
        self.refuse()


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@contextlib.contextmanager
def _both_or_none(*sockets: socket.socket) -> Iterator[None]:
    """Reset both ends when one is: whoever talks to a server that was killed hears of it."""
    try:
        yield
    except OSError:
        _reset(*sockets)


def _reset(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
        each.close()
