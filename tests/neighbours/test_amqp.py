"""What is told to RabbitMQ, and what happens when it is killed, hangs, lacks disk space or lets nobody in."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from pystor.adapters import amqp
from pystor.adapters.amqp import Amqp
from pystor.digest import Digest
from pystor.errors import NeighbourError
from pystor.events import BlobMissing, BlobStored, Event, HealthChecked, NeighbourFailed, RequestBegan
from tests.neighbours.scenarios import run, until
from tests.neighbours.servers.listener import connect
from tests.neighbours.servers.names import named
from tests.neighbours.servers.nobody import hung
from tests.neighbours.servers.ports import free_ports
from tests.neighbours.servers.proxy import Proxy
from tests.neighbours.servers.rabbitmq import RabbitMQ

UNRESOLVABLE = "no-such-host.invalid"

_numbers: Final = itertools.count()


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """A broker for all tests here: who breaks it mends it. It takes about six seconds to start."""
    with RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def exchange() -> str:
    """The name of an exchange that no other test uses."""
    return f"exchange{next(_numbers)}"


@contextlib.asynccontextmanager
async def started(adapter: Amqp) -> AsyncIterator[Amqp]:
    """An adapter at work; starting takes no time, and stopping two seconds at most."""
    began = time.monotonic()
    await adapter.start()
    assert time.monotonic() - began < 0.1
    try:
        yield adapter
    finally:
        began = time.monotonic()
        await adapter.stop()
        assert time.monotonic() - began < 2


class Listener:
    """A queue on the broker that gets all that an exchange gets."""

    def __init__(self, rabbitmq: RabbitMQ, exchange: str) -> None:
        self._rabbitmq, self._exchange, self._name = rabbitmq, exchange, f"all-of-{exchange}"

    async def listen(self) -> None:
        """Make the queue; it outlives the broker, what is in it does not."""
        async with await connect(self._rabbitmq.port) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(self._exchange, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(self._name, durable=True)
            await queue.bind(exchange, "#")

    async def count(self) -> int:
        """How many messages the broker says there are."""
        async with await connect(self._rabbitmq.port) as connection:
            queue = await (await connection.channel()).declare_queue(self._name, durable=True, passive=True)
            return queue.declaration_result.message_count or 0

    async def until(self, count: int) -> None:
        """Wait until the broker says that it has so many messages."""
        deadline = time.monotonic() + 40
        while (there := await self.count()) < count:
            assert time.monotonic() < deadline, f"{there} messages of {count}"
            await asyncio.sleep(0.05)  # the broker tells nobody
        assert there == count

    async def take(self) -> list[AbstractIncomingMessage]:
        """All that is in the queue."""
        async with await connect(self._rabbitmq.port) as connection:
            queue = await (await connection.channel()).get_queue(self._name)
            taken: list[AbstractIncomingMessage] = []
            while message := await queue.get(no_ack=True, fail=False):
                taken.append(message)
            return taken


async def listener(rabbitmq: RabbitMQ, exchange: str) -> Listener:
    made = Listener(rabbitmq, exchange)
    await made.listen()
    return made


def to(rabbitmq: RabbitMQ, exchange: str, seen: list[Event] | None = None, **options: Any) -> Amqp:
    found: list[Event] = [] if seen is None else seen
    return Amqp("127.0.0.1", rabbitmq.port, exchange=exchange, observe=found.append, **options)


def digests(count: int, of: str = "") -> list[Digest]:
    return [Digest.of(f"{of}{number}".encode()) for number in range(count)]


def ask_for(adapter: Amqp, wanted: list[Digest]) -> None:
    """Have the blobs asked for; that takes no time, whatever the broker does."""
    began = time.monotonic()
    for digest in wanted:
        adapter(RequestBegan("get", digest))
    assert time.monotonic() - began < 1


def bodies(messages: list[AbstractIncomingMessage]) -> list[str]:
    return [message.body.decode() for message in messages]


# What is told


def test_every_blob_that_is_asked_for_is_published(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        heard, wanted = await listener(rabbitmq, exchange), digests(3000)
        async with started(to(rabbitmq, exchange, routing_key="a.sha")) as adapter:
            ask_for(adapter, wanted)
            await until(lambda: adapter.published == 3000)
        assert adapter.dropped == 0
        await heard.until(3000)
        messages = await heard.take()
        assert bodies(messages) == [digest.hex for digest in wanted]
        assert {message.routing_key for message in messages} == {"a.sha"}

    run(scenario())


def test_stopping_publishes_what_is_queued(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        heard = await listener(rabbitmq, exchange)
        async with started(to(rabbitmq, exchange)) as adapter:
            ask_for(adapter, digests(1))
            await until(lambda: adapter.published == 1)
            ask_for(adapter, digests(5000))
        assert (adapter.published, adapter.dropped) == (5001, 0)
        await heard.until(5001)

    run(scenario())


def test_nothing_else_is_published(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        heard, (digest, last) = await listener(rabbitmq, exchange), digests(2)
        others = RequestBegan("post", digest), RequestBegan("get", None), BlobMissing(digest), HealthChecked()
        async with started(to(rabbitmq, exchange)) as adapter:
            for event in (*others, BlobStored(digest, ("/a", "/b"), 4)):
                adapter(event)
            ask_for(adapter, [last])
            await heard.until(1)
        assert bodies(await heard.take()) == [last.hex]

    run(scenario())


def test_stored_blobs_are_told_as_json_if_wanted(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        heard, (digest, other) = await listener(rabbitmq, exchange), digests(2)
        paths = (f"/mnt/ä/{digest.path}", f"s3://b/{digest.key}")
        async with started(to(rabbitmq, exchange, publish_stored=True)) as adapter:
            adapter(BlobStored(digest, paths, 4))
            ask_for(adapter, [other])
            await heard.until(2)
        stored, asked_for = await heard.take()
        assert stored.routing_key == "stored"
        assert json.loads(stored.body) == {
            "sha": digest.hex,
            "size": 4,
            "replica_set": ["/mnt/ä", "s3://b"],
            "paths": list(paths),
        }
        assert (asked_for.routing_key, asked_for.body.decode()) == ("sha", other.hex)

    run(scenario())


def test_the_exchange_is_a_durable_topic_that_is_declared_at_start(rabbitmq: RabbitMQ, exchange: str) -> None:
    def declared() -> bool:
        listed = rabbitmq.control("list_exchanges", "name", "type", "durable").splitlines()
        return f"{exchange}\ttopic\ttrue" in listed

    async def scenario() -> None:
        async with started(to(rabbitmq, exchange)):
            await until(declared)

    run(scenario())


def test_a_user_and_a_virtual_host_of_their_own_are_used(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        adapter = to(rabbitmq, exchange, user="st@r", password="p/w:%41?", vhost="v/host")
        assert "v/host" in await adapter.probe()
        async with started(adapter):
            ask_for(adapter, digests(1))
            await until(lambda: adapter.published == 1)

    rabbitmq.control("add_vhost", "v/host")
    rabbitmq.control("add_user", "st@r", "p/w:%41?")
    rabbitmq.control("set_permissions", "--vhost", "v/host", "st@r", ".*", ".*", ".*")
    run(scenario())
    listed = rabbitmq.control("list_exchanges", "--vhost", "v/host", "name")
    assert exchange in listed.splitlines()


def test_with_tls_the_broker_must_be_one_that_the_system_trusts(
    rabbitmq: RabbitMQ, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        adapter = Amqp("127.0.0.1", rabbitmq.tls_port, tls=True, exchange=exchange, observe=print)
        with pytest.raises(NeighbourError, match="certificate verify failed"):
            await adapter.probe()
        monkeypatch.setenv("SSL_CERT_FILE", str(rabbitmq.certificate))
        heard = await listener(rabbitmq, exchange)
        async with started(adapter):
            ask_for(adapter, digests(1))
            await heard.until(1)

    run(scenario())


def test_with_tls_the_certificate_must_be_one_for_the_name(
    rabbitmq: RabbitMQ, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        adapter = Amqp("broker.test", rabbitmq.tls_port, tls=True, exchange=exchange, observe=print)
        with pytest.raises(NeighbourError, match=r"not valid for 'broker\.test'"):
            await adapter.probe()

    monkeypatch.setenv("SSL_CERT_FILE", str(rabbitmq.certificate))
    named(monkeypatch, {"broker.test": ["127.0.0.1"]})
    run(scenario())


def test_of_a_host_with_several_addresses_one_that_answers_is_used(
    rabbitmq: RabbitMQ, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        adapter = Amqp("broker.test", rabbitmq.port, exchange=exchange, observe=seen.append)
        async with started(adapter):
            ask_for(adapter, digests(1))
            await until(lambda: adapter.published == 1)
        assert seen == []

    monkeypatch.setattr(amqp, "_TIMEOUT_SECONDS", 1.5)
    named(monkeypatch, {"broker.test": ["127.0.0.2", "127.0.0.1"]})
    with hung("127.0.0.2", rabbitmq.port):
        run(scenario())


# A broker in trouble


def test_what_a_broker_missed_while_it_was_away_is_published_up_to_the_bound(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard, missed, later = await listener(rabbitmq, exchange), digests(300), digests(10, "later")
        rabbitmq.kill()
        async with started(to(rabbitmq, exchange, seen, queue_size=100)) as adapter:
            ask_for(adapter, missed)
            await until(lambda: len(seen) == 1)
            assert (adapter.published, adapter.dropped) == (0, 200)
            await asyncio.to_thread(rabbitmq.start)
            await heard.until(100)
            ask_for(adapter, later)
            await heard.until(110)
            assert (adapter.published, adapter.dropped) == (110, 200)
        assert bodies(await heard.take()) == [digest.hex for digest in missed[200:] + later]
        assert [type(event) for event in seen] == [NeighbourFailed]

    run(scenario())


def test_a_broker_that_is_killed_and_restarted_is_published_to_again(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard, before, meanwhile = await listener(rabbitmq, exchange), digests(10), digests(20, "meanwhile")
        async with started(to(rabbitmq, exchange, seen)) as adapter:
            ask_for(adapter, before)
            await heard.until(10)
            await asyncio.to_thread(rabbitmq.settle)
            rabbitmq.kill()
            await until(lambda: len(seen) == 1)
            ask_for(adapter, meanwhile)
            await asyncio.to_thread(rabbitmq.start)
            await heard.until(20)
        assert bodies(await heard.take()) == [digest.hex for digest in meanwhile]
        assert (adapter.published, adapter.dropped) == (30, 0)

    run(scenario())


def test_a_broker_is_found_within_ten_seconds_however_long_it_was_away() -> None:
    assert amqp._TIMEOUT_SECONDS + amqp._LONGEST_PAUSE_SECONDS < 10


def test_a_connection_that_was_good_for_a_while_is_made_again_at_once(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        with Proxy(("127.0.0.1", rabbitmq.port)) as proxy:
            proxy.refuse()
            async with started(Amqp("127.0.0.1", proxy.port, exchange=exchange, observe=print)) as adapter:
                await asyncio.sleep(2)  # by now it waits seconds between two attempts
                proxy.accept()
                ask_for(adapter, digests(1))
                await until(lambda: adapter.published == 1)
                await asyncio.sleep(amqp._LONGEST_PAUSE_SECONDS)
                connections = proxy.connections
                proxy.reset()
                await until(lambda: proxy.connections > connections, within=1)

    run(scenario())


def test_a_broker_that_hangs_is_left_and_found_again(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard = await listener(rabbitmq, exchange)
        async with started(to(rabbitmq, exchange, seen, heartbeat=1)) as adapter:
            ask_for(adapter, digests(1))
            await heard.until(1)
            rabbitmq.pause()
            try:
                await until(lambda: len(seen) == 1)
                ask_for(adapter, digests(50_000))
                assert adapter.dropped == 40_000
            finally:
                rabbitmq.resume()
            await heard.until(1 + 10_000)
        assert "silent" in str(seen)

    run(scenario())


def test_a_broker_that_is_slow_to_answer_is_waited_for_as_long_as_it_does(
    rabbitmq: RabbitMQ, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard = await listener(rabbitmq, exchange)
        with Proxy(("127.0.0.1", rabbitmq.port), delay=0.2) as proxy:
            async with started(Amqp("127.0.0.1", proxy.port, exchange=exchange, observe=seen.append)) as adapter:
                ask_for(adapter, digests(1))
                await heard.until(1)
                await asyncio.sleep(amqp._TIMEOUT_SECONDS)
                assert proxy.connections == 1
        assert seen == []

    monkeypatch.setattr(amqp, "_TIMEOUT_SECONDS", 0.5)
    run(scenario())


@pytest.mark.parametrize("beginning", [b"\x01\0\0\xff\xff\xff\xf0", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_broker_and_never_ends_takes_no_memory(beginning: bytes) -> None:
    written = 0

    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readexactly(8)
        writer.write(beginning)
        with contextlib.suppress(ConnectionError):
            while written < 50_000_000:
                writer.write(bytes(65536))
                await writer.drain()
                written += 65536
        writer.close()

    async def scenario() -> None:
        seen: list[Event] = []
        async with await asyncio.start_server(lie, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with started(Amqp("127.0.0.1", port, observe=seen.append)):
                await until(lambda: len(seen) == 1)
        assert written < 20_000_000

    run(scenario())


def test_stopping_takes_no_time_though_the_broker_hangs(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        async with started(to(rabbitmq, exchange)) as connected, started(to(rabbitmq, exchange)) as connecting:
            ask_for(connected, digests(1))
            await until(lambda: connected.published == 1)
            rabbitmq.pause()
            for adapter in (connected, connecting):
                ask_for(adapter, digests(10_000))

    began = time.monotonic()
    try:
        run(scenario())
    finally:
        rabbitmq.resume()
    assert time.monotonic() - began < 10


def test_a_broker_that_blocks_publishers_gets_the_rest_when_it_has_room(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard = await listener(rabbitmq, exchange)
        adapter = to(rabbitmq, exchange, seen, heartbeat=1, queue_size=100)
        async with started(adapter):
            ask_for(adapter, digests(1))
            await heard.until(1)
            await asyncio.to_thread(rabbitmq.block_publishers)
            try:
                ask_for(adapter, digests(1, "the one that is blocked"))
                await until(lambda: adapter.published == 2)
                await asyncio.sleep(0.5)
                ask_for(adapter, digests(300))
                await asyncio.sleep(8)  # more than three heartbeats
                assert (adapter.published, adapter.dropped) == (2, 200)
                assert await heard.count() == 1
            finally:
                await asyncio.to_thread(rabbitmq.unblock_publishers)
            await heard.until(102)
        assert bodies(await heard.take())[2:] == [digest.hex for digest in digests(300)[200:]]
        assert "messages are dropped: the broker takes none, or too few; see its alarms" in str(seen)
        assert len(seen) == 1

    run(scenario())


def test_what_a_broker_that_blocks_publishers_never_got_is_told_at_the_end(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        async with started(to(rabbitmq, exchange, seen)) as adapter:
            ask_for(adapter, digests(1))
            await until(lambda: adapter.published == 1)
            await asyncio.to_thread(rabbitmq.block_publishers)
            ask_for(adapter, digests(1, "the one that is blocked"))
            await until(lambda: adapter.published == 2)
            await asyncio.sleep(0.5)
            ask_for(adapter, digests(3))
            assert seen == []
        assert "messages are dropped at the end" in str(seen)
        assert "3 messages were dropped" in str(seen)

    try:
        run(scenario())
    finally:
        rabbitmq.unblock_publishers()


def test_a_message_that_is_longer_than_a_frame_arrives_whole(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard, (digest,) = await listener(rabbitmq, exchange), digests(1)
        paths = tuple(f"/{number}/{'long' * 1000}/{digest.path}" for number in range(40))
        async with started(to(rabbitmq, exchange, seen, publish_stored=True)) as adapter:
            adapter(BlobStored(digest, paths, 4))
            await heard.until(1)
        (stored,) = await heard.take()
        assert json.loads(stored.body)["paths"] == list(paths)
        assert seen == []

    run(scenario())


def test_an_exchange_that_is_deleted_is_declared_again(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        heard = await listener(rabbitmq, exchange)
        async with started(to(rabbitmq, exchange, seen)) as adapter:
            ask_for(adapter, digests(1))
            await heard.until(1)
            async with await aio_pika.connect(port=rabbitmq.port) as connection:
                await (await connection.channel()).exchange_delete(exchange)
            ask_for(adapter, digests(1))
            await until(lambda: len(seen) == 1)
            await heard.listen()
            ask_for(adapter, digests(1, "later"))
            await heard.until(2)
        assert "no exchange" in str(seen)

    run(scenario())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"password": "not-the-password"}, "ACCESS_REFUSED"),
        ({"vhost": "none"}, "virtual host does not exist"),
        ({"exchange": "amq.direct"}, "exchange 'amq.direct'"),
        ({"host": UNRESOLVABLE}, "not known|name resolution"),
        ({"port": 0}, "refused"),
        ({"exchange": "e" * 300}, "length"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_mended_by_waiting_costs_nothing_and_is_told(
    rabbitmq: RabbitMQ, options: dict[str, Any], what: str
) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        chosen = {"host": "127.0.0.1", "port": rabbitmq.port, **options}
        if chosen["port"] == 0:
            chosen["port"] = free_ports(1)[0]
        adapter = Amqp(**chosen, observe=seen.append, queue_size=10)
        async with started(adapter):
            ask_for(adapter, digests(30))
            await until(lambda: len(seen) == 1)
            await asyncio.sleep(1)
        assert (adapter.published, adapter.dropped) == (0, 30)
        assert len(seen) == 1
        with pytest.raises(NeighbourError, match=what) as raised:
            await adapter.probe()
        assert len(str(raised.value).splitlines()) == 1
        assert "not-the-password" not in f"{seen} {raised.value} {adapter!r}"

    run(scenario())


def test_the_probe_finds_a_broker(rabbitmq: RabbitMQ, exchange: str) -> None:
    async def scenario() -> None:
        said = await to(rabbitmq, exchange).probe()
        assert f"127.0.0.1:{rabbitmq.port}" in said
        assert exchange in said

    run(scenario())
    assert exchange in rabbitmq.control("list_exchanges", "name").splitlines()
