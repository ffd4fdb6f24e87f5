"""Where entries go by a socket: syslog, and Graylog by UDP and TCP."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from pystor.adapters.logs.entries import Entry
from pystor.adapters.logs.formats import as_gelf, one_line
from pystor.adapters.logs.levels import rank
from pystor.adapters.logs.sinks import UnfinishedError
from pystor.adapters.names import Address, Host, datagrams_to
from pystor.hosts import join_address

_CONNECT_SECONDS: Final = 3.0
_RESOLVE_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 60
"""Seconds after which an idle connection is tried: one that a firewall has forgotten takes what comes, and loses it."""
_TRIAL_SECONDS: Final = 10
_TRIALS: Final = 3
_LONGEST_LINE: Final = 8192


class _Socket(ABC):
    """What syslog and GELF have in common."""

    name: str
    _socket: socket.socket | None = None

    @abstractmethod
    def _connect(self) -> socket.socket: ...

    def open(self) -> None:
        """Connect."""
        if self._socket is None:
            self._socket = self._connect()

    def close(self) -> None:
        """Disconnect."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def connected(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("not connected")
        return self._socket


class Syslog(_Socket):
    """The log of the machine."""

    def __init__(self, path: str, ident: str, facility: int) -> None:
        self.name = f"Syslog {path}"
        self._path = path
        self._ident = ident
        self._facility = facility

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            made.settimeout(_CONNECT_SECONDS)
            made.connect(self._path)
        except OSError:
            made.close()
            raise
        return made

    def write(self, entries: Sequence[Entry]) -> None:
        """Send a datagram each."""
        for written, entry in enumerate(entries):
            priority = 8 * self._facility + 7 - rank(entry.level)
            when = time.strftime("%b %e %H:%M:%S", time.localtime(entry.time))
            line = f"<{priority}>{when} {self._ident}[{os.getpid()}]: {one_line(entry.message())}"
            try:
                self.connected.send(line.encode("utf-8", "backslashreplace")[:_LONGEST_LINE])
            except OSError as error:
                raise UnfinishedError(error, written) from error


class GelfUdp(_Socket):
    """A Graylog by UDP; what is too long for a datagram is sent in chunks.

    When an address does not take them, the next attempt is made at the host's next one; it is looked up each minute.
    """

    def __init__(self, address: tuple[str, int], fields: Mapping[str, object], datagram: int, compress: bool) -> None:
        self.name = f"Gelf udp {join_address(*address)}"
        self._graylog = Host(*address, socket.SOCK_DGRAM)
        self._used: Address | None = None
        self._look_up_at = float("-inf")
        self._fields = fields
        self._datagram = datagram
        self._compress = compress
        self._host = socket.gethostname()

    def open(self) -> None:
        """Connect, to another address if the host has moved."""
        if time.monotonic() >= self._look_up_at:
            self._look_up_at = time.monotonic() + _RESOLVE_SECONDS
            self._graylog.ask()
        self._graylog.hear()
        if self._used not in list(self._graylog.addresses)[:1]:
            self.close()
        with self._turning():
            super().open()

    def _connect(self) -> socket.socket:
        if not self._graylog.addresses:
            self._graylog.look_up_in_a_thread(_CONNECT_SECONDS)
        self._used = self._graylog.addresses[0]
        made = datagrams_to(self._used)
        made.setblocking(True)  # a long message is more at once than the socket may hold
        return made

    def write(self, entries: Sequence[Entry]) -> None:
        """Send a message each."""
        with self._turning():
            for entry in entries:
                message = as_gelf(entry, self._host, self._fields)
                for chunk in chunks(gzip.compress(message) if self._compress else message, self._datagram):
                    self.connected.send(chunk)

    @contextlib.contextmanager
    def _turning(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._graylog.turn()
            raise


def chunks(message: bytes, datagram: int) -> Iterator[bytes]:
    """Cut a message into datagrams of at most that size; 128 are the most that GELF allows."""
    if len(message) <= datagram:
        yield message
        return
    size = max(datagram - 12, -(-len(message) // 128))
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    name = secrets.token_bytes(8)
    for number, piece in enumerate(pieces):
        yield struct.pack("!2s8sBB", b"\x1e\x0f", name, number, len(pieces)) + piece


class GelfTcp(_Socket):
    """A Graylog by TCP; a NUL ends each message."""

    def __init__(self, address: tuple[str, int], fields: Mapping[str, object]) -> None:
        self.name = f"Gelf tcp {join_address(*address)}"
        self._address = address
        self._fields = fields
        self._host = socket.gethostname()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=_CONNECT_SECONDS)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _TRIAL_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _TRIALS)
        return made

    def write(self, entries: Sequence[Entry]) -> None:
        """Send messages, as slowly as they are taken; one that hung up would take them and lose them, so look first."""
        looking = select.poll()
        looking.register(self.connected, select.POLLIN)
        if looking.poll(0) and not self.connected.recv(65536):
            raise ConnectionResetError("Connection closed by the log server")
        messages = [as_gelf(entry, self._host, self._fields).replace(b"\0", b"") + b"\0" for entry in entries]
        rest = memoryview(b"".join(messages))
        ends = list(accumulate(map(len, messages)))
        try:
            while rest:
                rest = rest[self.connected.send(rest) :]
        except TimeoutError as error:  # what it was sent it gets when it goes on
            raise UnfinishedError(error, bisect_right(ends, ends[-1] - len(rest))) from error
