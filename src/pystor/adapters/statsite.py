"""Metrics as UDP datagrams to statsite, or to anything else that speaks its protocol.

`metrics` says what an event is called there, and is pure. `Statsite` samples, writes lines, gathers them to datagrams
and sends them: nothing waits, what cannot be sent is counted and forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from pystor.adapters.names import Address, Host, datagrams_to
from pystor.errors import NeighbourError
from pystor.events import (
    ArchiveMissed,
    BlobDuplicate,
    BlobMissing,
    BlobServed,
    BlobStored,
    Event,
    HealthChecked,
    HintAsked,
    LookedUp,
    MalformedName,
    NeighbourFailed,
    Observer,
    RequestBegan,
    RequestFailed,
    UploadRefused,
)

Metric: TypeAlias = tuple[str, Literal["c", "ms"], float]
"""A name without the prefix, `c` for a count or `ms` for a time in milliseconds, and the value."""

_DATAGRAM_BYTES: Final = 1400  # fits into a frame of Ethernet with the headers of IPv6 and of a tunnel
_FLUSH_SECONDS: Final = 0.1
_WAITING_DATAGRAMS: Final = 256  # until the host is resolved: 350 kB, some thousand metrics
_RESOLVE_SECONDS: Final = 60.0
_TRUSTED_SECONDS: Final = 5.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_REPORT_SECONDS: Final = 60.0
_PROBE_SECONDS: Final = 0.2
_PROBE_RESOLVE_SECONDS: Final = 5.0


# What events are called


def metrics(event: Event) -> tuple[Metric, ...]:
    """Translate an event; most are of no interest to statsite."""
    translate = _METRICS.get(type(event))
    return () if translate is None else translate(event)


@functools.lru_cache(maxsize=1024)
def _one(name: str) -> tuple[Metric, ...]:
    return ((name, "c", 1),)


def _hint(event: HintAsked) -> tuple[Metric, ...]:
    return (*_one("cache.hit" if event.hit else "cache.miss"), ("cache.time", "ms", event.seconds * 1000))


def _lookup(event: LookedUp) -> tuple[Metric, ...]:
    return (*_one(f"lookup.attempt.{event.attempts}.count"), ("lookup.time", "ms", event.seconds * 1000))


def _served(event: BlobServed) -> tuple[Metric, ...]:
    count, size, time = _served_names(event.tier, event.storage)
    return (count, "c", 1), (size, "c", event.size), (time, "ms", event.seconds * 1000)


@functools.lru_cache(maxsize=1024)
def _served_names(tier: str, storage: str) -> tuple[str, str, str]:
    name = "success.get.ok_hcp" if tier == "archive" else f"success.get.ok_old.{server_name(storage)}"
    return f"{name}.count", f"{name}.size", f"{name}.time"


def _failed(event: RequestFailed) -> tuple[Metric, ...]:
    return _one("error.get.500.count") if event.method == "get" else ()  # of a POST, `UploadRefused` tells


_METRICS: Final[Mapping[type[Event], Callable[[Any], tuple[Metric, ...]]]] = {
    RequestBegan: lambda event: _one(f"request.{event.method}.count"),
    HealthChecked: lambda _: _one("healthcheck.count"),
    HintAsked: _hint,
    LookedUp: _lookup,
    BlobServed: _served,
    ArchiveMissed: lambda _: _one("error.get.not_found_hcp.count"),
    BlobMissing: lambda _: _one("error.get.not_found_old.count"),
    MalformedName: lambda event: _one(f"error.{event.method}.malformed_sha.count"),
    RequestFailed: _failed,
    BlobStored: lambda _: _one("success.post.write.count"),
    BlobDuplicate: lambda _: _one("success.post.duplicate.count"),
    UploadRefused: lambda event: _one(f"error.post.{event.reason}.count"),
}


def server_name(storage: str) -> str:
    """Name a storage as statsite knows it: `/mnt/data1` is `mnt-data1`."""
    return re.sub(r"[^a-zA-Z0-9]", "-", storage).strip("-")


# How they get there


class Statsite:
    """Sends the metrics of the events that it observes to `host`:`port`.

    Every name begins with `prefix` and a dot, unless that is empty. Of all metrics the part `sample_rate` is sent, each
    chosen by itself. A line waits at most a tenth of a second for others to share its datagram. `observe` gets a
    `NeighbourFailed` at most once a minute; `errors` counts what went wrong, `lost` the datagrams that were not sent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        prefix: str = "",
        sample_rate: float = 1.0,
        *,
        observe: Observer,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.errors = self.lost = 0
        self._host, self._observe = Host(host, port, socket.SOCK_DGRAM), observe
        self._prefix, self._rate, self._rng = f"{prefix}." if prefix else "", sample_rate, rng
        self._formats: dict[str, bytes] = {}  # as many as there are names: those of the table, times the storages
        self._lines = bytearray()
        self._waiting: deque[bytes] = deque()
        self._socket: socket.socket | None = None
        self._used: Address | None = None  # where the socket goes
        self._doubtful = asyncio.Event()  # whether the addresses are still those of the host
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._resolver: asyncio.Task[None] | None = None
        self._quiet_until = float("-inf")

    async def start(self) -> None:
        """Begin to look the host up; what is observed until it is found waits, within bounds."""
        self._loop = asyncio.get_running_loop()
        self._resolver = self._loop.create_task(self._keep_resolved(), name="statsite: look the host up")

    async def stop(self) -> None:
        """Send what was gathered, if the host is known, and end."""
        self._flush()
        if self._resolver is not None:
            self._resolver.cancel()
            await asyncio.wait({self._resolver})
        self._close()
        self._loop = None

    def __call__(self, event: Event) -> None:
        """Write the event's metrics down; an `Observer`."""
        for name, kind, value in metrics(event):
            if self._rate >= 1 or self._rng() < self._rate:
                self._gather((self._formats.get(name) or self._format(name, kind)) % value)

    def _format(self, name: str, kind: str) -> bytes:
        """Write down the line of a metric, with a place for its value: `PREFIX.NAME:%d|c|@0.1`."""
        full_name = re.sub(r"[:|\n]", "_", self._prefix + name).replace("%", "%%")
        # Decimal never writes 1e-05, of which a daemon understands the 1.
        rate = f"|@{Decimal(repr(self._rate)):f}" if self._rate < 1 else ""
        line = f"{full_name}:%{'d' if kind == 'c' else '.3f'}|{kind}{rate}\n".encode()
        return self._formats.setdefault(name, line)

    def _gather(self, line: bytes) -> None:
        if len(self._lines) + len(line) > _DATAGRAM_BYTES:
            self._post()
        self._lines += line
        if self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._post()

    def _post(self) -> None:
        if self._lines:
            self._waiting.append(bytes(self._lines))
            self._lines.clear()
        while self._waiting and self._socket is not None:
            self._send(self._waiting.popleft())
        if len(self._waiting) > _WAITING_DATAGRAMS:
            self._waiting.popleft()
            self.lost += 1

    def _send(self, datagram: bytes) -> None:
        try:
            try:
                self._transmit(datagram)
            except ConnectionRefusedError as error:
                # That was the answer to an earlier datagram, and kept this one from being sent.
                self._fail(error)
                self._turn()
                self._transmit(datagram)
        except OSError as error:
            self.lost += 1
            self._fail(error)

    def _transmit(self, datagram: bytes) -> None:
        if self._socket is None:
            raise OSError("no address of the host can be reached")
        self._socket.send(datagram)

    def _fail(self, error: OSError) -> None:
        self.errors += 1
        if not isinstance(error, BlockingIOError):
            self._doubtful.set()
        self._report(f"{self._host.place}: {error.strerror or error}")

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _REPORT_SECONDS
            self._observe(NeighbourFailed("statsite", reason))

    # Where it is

    async def _keep_resolved(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            if await self._resolve():
                pause = _FIRST_PAUSE_SECONDS
                await self._doubted()
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RESOLVE_SECONDS)

    async def _doubted(self) -> None:
        """Wait until something went wrong, or for a minute; at least a few seconds, however much goes wrong."""
        await asyncio.sleep(_TRUSTED_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESOLVE_SECONDS - _TRUSTED_SECONDS):
                await self._doubtful.wait()
        self._doubtful.clear()

    async def _resolve(self) -> bool:
        """Look the host up, and tell whether it can be reached; if not, what was found earlier is used on."""
        try:
            await self._host.look_up(_RESOLVE_SECONDS)
        except OSError as error:
            self.errors += 1
            self._report(f"{self._host.name}: {error.strerror or error}")
            return False
        if self._socket is None or self._host.addresses[0] != self._used:
            self._open()
            self._post()
        return self._socket is not None

    def _turn(self) -> None:
        """Try the host's next address: `localhost` may have two, and a daemon on one of them."""
        if len(self._host.addresses) > 1:
            self._host.turn()
            self._open()

    def _open(self) -> None:
        self._close()
        for _ in self._host.addresses.copy():
            self._used = self._host.addresses[0]
            try:
                self._socket = datagrams_to(self._used)
            except OSError as error:
                self._host.turn()
                self._fail(error)
            else:
                return

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def probe(self) -> str:
        """Send an empty datagram, which a daemon ignores; if nobody listens, the host often says so.

        Raises `NeighbourError` if the host is unknown, cannot be reached, or has nobody listening.
        """
        place = self._host.place
        try:
            await self._host.look_up(_PROBE_RESOLVE_SECONDS)
            addresses = list(self._host.addresses)
            for address in addresses[:-1]:
                with contextlib.suppress(OSError):
                    return await _probe(address, place)
            return await _probe(addresses[-1], place)
        except OSError as error:
            what = error.strerror or str(error)
            raise NeighbourError(f"{place}: {what}; check statsite's host and port, and that it runs") from error


async def _probe(address: Address, place: str) -> str:
    with datagrams_to(address) as connected:
        connected.send(b"")
        await asyncio.sleep(_PROBE_SECONDS)
        connected.send(b"")  # raises what the first one was answered with
    return f"sent empty datagrams to {place} ({address[1][0]}), which nobody refused; UDP gives no more certainty"
