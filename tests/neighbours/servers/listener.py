"""Who listens to the broker, as those do whom Stor tells what is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import Final, Self

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage


async def connect(port: int, within: float = 30.0) -> AbstractConnection:
    """Connect, soon if not at once: a broker that has just started speaks before it lets anybody in."""
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(aio_pika.exceptions.AMQPError, OSError):
                return await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/", timeout=5)
            await asyncio.sleep(0.1)


class Listener:
    """Everything that a broker is told, in a queue of our own; `heard` counts the messages by their text.

    It does not outlive the broker.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.heard: Final[Counter[str]] = Counter()
        self._over, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(30):
            self._over.set()
            raise AssertionError("the broker does not let us listen")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    async def _listen(self) -> None:
        async with await connect(self._port) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange("stor", aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "sha")
            await queue.consume(self._hear, no_ack=True)
            self._ready.set()
            while not self._over.is_set():  # noqa: ASYNC110  it is set in another thread
                await asyncio.sleep(0.05)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        self.heard[message.body.decode()] += 1
