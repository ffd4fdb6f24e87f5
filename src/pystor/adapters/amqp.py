"""The blobs that are asked for, told to RabbitMQ, so that others may see what is in use.

An event is put into a bounded queue, and that is all it costs. A task of its own connects, declares the exchange and
publishes what is in the queue, many messages at a time; when the connection breaks it connects again. A message is
published at most once: what was written when the connection broke is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final, TypeAlias

import aio_pika
import pamqp.frame
from aio_pika.abc import AbstractChannel as AbstractExchangeChannel
from aio_pika.abc import AbstractConnection, ConnectionParameter
from aiormq.abc import AbstractChannel, ChannelFrame
from aiormq.abc import AbstractConnection as Transport
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from pystor.adapters.names import Host
from pystor.blob import root_in
from pystor.digest import Digest
from pystor.errors import NeighbourError
from pystor.events import BlobStored, Event, NeighbourFailed, Observer, RequestBegan

_Told: TypeAlias = Digest | BlobStored

_STORED: Final = "stored"
_BATCH: Final = 500  # messages, 80 kB, and a heartbeat may go in between
_LINGER_SECONDS: Final = 0.05  # what arrives within it is sent at once
_TIMEOUT_SECONDS: Final = 5.0  # for each answer
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 4.0  # with the timeout it makes up the ten seconds within which a broker is found again
_STOP_SECONDS: Final = 0.9
_LONGEST_FRAME: Final = 131_072
_FRAME_BYTES: Final = 8  # of a frame that are not its content
_REPORT_SECONDS: Final = 60.0


class Amqp:
    """Publishes the SHA of each blob that is asked for, in lower case, to a durable topic exchange.

    With `publish_stored`, each blob that is stored is told as well, with the routing key `stored`, as JSON with `sha`,
    `size`, `replica_set` (its storages) and `paths`. `published` counts the messages that were written to the broker's
    connection, `dropped` those that were not: the oldest of more than `queue_size`, and what was on its way when a
    connection broke. `observe` gets a `NeighbourFailed` at most once a minute.
    """

    def __init__(
        self,
        host: str,
        port: int = 5672,
        *,
        observe: Observer,
        user: str = "guest",
        password: str = "guest",  # noqa: S107  RabbitMQ's own default
        vhost: str = "/",
        tls: bool = False,
        exchange: str = "stor",
        routing_key: str = "sha",
        heartbeat: int = 60,
        publish_stored: bool = False,
        queue_size: int = 10_000,
    ) -> None:
        self.published = self.dropped = 0
        self._host, self._tls = Host(host, port), tls
        self._user, self._password, self._vhost, self._heartbeat = user, password, vhost, heartbeat
        self._exchange, self._routing_key = exchange, routing_key
        self._publish_stored, self._observe = publish_stored, observe
        self._queue: deque[_Told] = deque(maxlen=queue_size)
        self._queued, self._stopping = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._quiet_until = float("-inf")
        self._is_connected = False

    def __call__(self, event: Event) -> None:
        """Queue what is to be told; an `Observer`."""
        match event:
            case RequestBegan("get", Digest() as digest):
                self._enqueue(digest)
            case BlobStored() if self._publish_stored:
                self._enqueue(event)

    def listener(self, kind: type[Event]) -> Callable[[Any], None] | None:
        """Listen to what is published."""
        return self if kind is RequestBegan or (kind is BlobStored and self._publish_stored) else None

    def _enqueue(self, told: _Told) -> None:
        if len(self._queue) == self._queue.maxlen:
            self.dropped += 1  # the oldest one, by the deque
            if self._is_connected:  # else it is told why it is not
                self._report("messages are dropped: the broker takes none, or too few; see its alarms")
        self._queue.append(told)
        self._queued.set()

    async def start(self) -> None:
        """Begin to connect; what is observed until then waits, within bounds."""
        # What goes wrong is told as an event, once a minute; the library would tell each attempt.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)
        self._task = asyncio.create_task(self._keep_connected(), name="amqp: publish")

    async def stop(self) -> None:
        """Publish what is queued, if the broker takes it within a second, and end."""
        self._stopping.set()
        self._queued.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)
        if self._queue:
            self.dropped += len(self._queue)
            self._queue.clear()
            self._report("messages are dropped at the end: the broker did not take them in time")

    async def probe(self) -> str:
        """Connect, declare the exchange, and leave; raises `NeighbourError` if the broker does not let us."""
        try:
            async with self._connected():
                return f"connected to {self._place} as {self._user}, and declared the exchange {self._exchange}"
        except Exception as error:
            raise NeighbourError(f"{self._place}: {_why(error)}; check rabbitmq_uri, and that RabbitMQ runs") from error

    @property
    def _place(self) -> str:
        return f"{self._host.place}, vhost {self._vhost}"

    # The task

    async def _keep_connected(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            if await self._publish_while_connected() > pause:
                pause = _FIRST_PAUSE_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1)):  # noqa: S311  so that workers spread
                    await self._stopping.wait()
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _publish_while_connected(self) -> float:
        """Connect and publish until the connection breaks, tell why it did, and for how many seconds it was good."""
        task, connected_at = asyncio.current_task(), math.inf
        try:
            async with self._connected() as (connection, channel):
                connected_at = time.monotonic()
                await self._publish_until_broken(connection, channel)
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            self._report(_why(error))  # the library means a connection by it, not us
        except Exception as error:  # noqa: BLE001  whatever it is: it is told, and tried again
            self._report(_why(error))
        return max(0.0, time.monotonic() - connected_at)

    def _report(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _REPORT_SECONDS
            so_far = f" ({self.dropped} messages were dropped so far)" if self.dropped else ""
            self._observe(NeighbourFailed("rabbitmq", f"{self._place}: {reason}{so_far}"))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Transport, AbstractChannel]]:
        """Connect, open a channel and declare the exchange, at one of the host's addresses."""
        connection, channel = await self._host.reach(self._open, _TIMEOUT_SECONDS)
        try:
            assert connection.transport is not None  # it was, a moment ago
            self._is_connected = True
            yield connection.transport.connection, await channel.get_underlay_channel()
        finally:
            self._is_connected = False
            await _close(connection)

    async def _open(self, address: str, port: int) -> tuple[AbstractConnection, AbstractExchangeChannel]:
        connection = self._connection(address, port)
        try:
            await connection.connect()
            # Without confirmations: they would cost more than all the rest, and nothing is sent twice.
            channel = await connection.channel(publisher_confirms=False)
            await channel.declare_exchange(self._exchange, aio_pika.ExchangeType.TOPIC, durable=True)
        except BaseException:
            await _close(connection)
            raise
        return connection, channel

    def _connection(self, address: str, port: int) -> AbstractConnection:
        """Make a connection that is to be closed even if it never connects: left to the collector, it would do that."""
        url = aio_pika.connection.make_url(
            host=address,
            port=port,
            login=self._user,
            password=self._password,
            virtualhost=self._vhost,
            ssl=self._tls,
            heartbeat=self._heartbeat,
        )
        listening = _Listening(address, port, partial(self._host.put_off, _TIMEOUT_SECONDS))
        # The certificate is one for the name, whatever its address is.
        return _Connection(url, server_hostname=self._host.name if self._tls else None, transport_factory=listening)

    async def _publish_until_broken(self, connection: Transport, channel: AbstractChannel) -> None:
        publisher = asyncio.create_task(self._publish(connection, channel))
        closing = connection.closing, channel.closing
        try:
            done, _ = await asyncio.wait({publisher, *closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            publisher.cancel()
            await asyncio.wait({publisher})
        ended = (done - {publisher}) or done
        await ended.pop()  # raises why it broke

    async def _publish(self, connection: Transport, channel: AbstractChannel) -> None:
        """Publish what is queued, forever, or when stopping until nothing is left."""
        frame_max = connection.connection_tune.frame_max or _LONGEST_FRAME  # 0: no limit
        pack = _packer(channel.number, frame_max, self._exchange, self._routing_key)
        while self._queue or not self._stopping.is_set():
            await self._queued.wait()
            await connection.ready()  # a broker that lacks memory or disk space takes nothing for a while
            if len(self._queue) < _BATCH and not self._stopping.is_set():
                await asyncio.sleep(_LINGER_SECONDS)
            if self._queue:
                await self._send(connection, pack)

    async def _send(self, connection: Transport, pack: Callable[[_Told], bytes]) -> None:
        """Write one batch; returns when the socket took it, up to what its buffer holds."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        if not self._queue:
            self._queued.clear()
        written = asyncio.get_running_loop().create_future()
        try:
            payload = b"".join(map(pack, batch))
            # What basic_publish does, for many messages at once: one by one, they cost 80 us each.
            await connection.write_queue.put(ChannelFrame(payload, should_close=False, drain_future=written))
            await written
        except BaseException:
            self.dropped += len(batch)
            raise
        self.published += len(batch)


class _Listening(TransportFactory):
    """Connects to an address, and tells whenever something comes: several answers do until there is an exchange."""

    def __init__(self, address: str, port: int, heard: Callable[[], None]) -> None:
        self._address, self._port, self._heard = address, port, heard

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, reader = asyncio.get_running_loop(), _Reader(self._heard)
        trusted = options.pop("ssl_context_provider")
        context = await trusted.get_context() if url.scheme == "amqps" else None
        try:
            transport, protocol = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader), self._address, self._port, ssl=context, **options
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class _Reader(asyncio.StreamReader):
    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__()
        self._heard = heard

    def feed_data(self, data: Any) -> None:
        self._heard()
        super().feed_data(data)

    async def readexactly(self, n: int) -> bytes:
        if n > _LONGEST_FRAME:
            raise ConnectionError(f"a frame of {n} bytes: this is no broker; see what listens there")
        return await super().readexactly(n)


class _Connection(aio_pika.Connection):
    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter("server_hostname", str, is_kwarg=True),
        ConnectionParameter("transport_factory", lambda factory: factory, is_kwarg=True),
    )


async def _close(connection: AbstractConnection) -> None:
    with contextlib.suppress(Exception):  # a broker that hangs does not say good-bye
        async with asyncio.timeout(_STOP_SECONDS / 2):
            await connection.close()


def _packer(channel: int, frame_max: int, exchange: str, routing_key: str) -> Callable[[_Told], bytes]:
    """Make the function that writes a message in the frames of AMQP."""
    nothing = "0" * 64
    # All messages with a SHA are alike, but for it.
    before, _, after = _frames(channel, frame_max, exchange, routing_key, nothing.encode()).rpartition(nothing.encode())

    def pack(told: _Told) -> bytes:
        if isinstance(told, Digest):
            return before + told.hex.encode() + after
        return _frames(channel, frame_max, exchange, _STORED, _as_json(told))

    return pack


def _as_json(stored: BlobStored) -> bytes:
    replica_set = [root_in(path, stored.digest) for path in stored.paths]
    told = {"sha": stored.digest.hex, "size": stored.size, "replica_set": replica_set, "paths": stored.paths}
    return json.dumps(told).encode()


def _frames(channel: int, frame_max: int, exchange: str, routing_key: str, body: bytes) -> bytes:
    """Write one message that need not outlive the broker, in frames of up to `frame_max` bytes."""
    longest = frame_max - _FRAME_BYTES
    frames: tuple[pamqp.frame.FrameTypes, ...] = (
        Basic.Publish(exchange=exchange, routing_key=routing_key),
        ContentHeader(body_size=len(body), properties=Basic.Properties(delivery_mode=1)),
        *(ContentBody(body[begin : begin + longest]) for begin in range(0, len(body), longest)),
    )
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def _why(error: BaseException) -> str:
    """Say in one line what went wrong; the library hides what the system said in the cause."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS:.0f} s"
    cause = error if isinstance(error, socket.gaierror) else error.__cause__
    if isinstance(cause, OSError):
        return cause.strerror or " ".join(str(cause).split())
    if isinstance(error, asyncio.CancelledError):
        return "the broker was silent for three heartbeats"
    text = " ".join(str(error).split()) or type(error).__name__
    if "Connection.OpenOk" in text:  # was expected, and Connection.Close came, of which the library hides the reason
        return "the virtual host does not exist, or the user may not use it"
    return text
