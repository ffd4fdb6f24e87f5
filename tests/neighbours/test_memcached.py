"""The shared location cache, against a real memcached, one that hangs, one that dies, and servers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from pystor.adapters import memcached
from pystor.digest import Digest
from pystor.errors import NeighbourError
from pystor.events import Event, NeighbourFailed
from tests.contract.disk import fresh
from tests.contract.house import House
from tests.neighbours.scenarios import run, until
from tests.neighbours.servers.memcached import Memcached as Real
from tests.neighbours.servers.memcached import impostor
from tests.neighbours.servers.names import named
from tests.neighbours.servers.nobody import silent
from tests.neighbours.servers.ports import free_port
from tests.neighbours.servers.proxy import Proxy
from tests.support.server import ServerFactory

pytestmark = pytest.mark.alone(reason="an answer that takes more than 20 ms is none")

DIGEST = Digest.of(b"a blob")
PATH = f"/mnt/data1/{DIGEST.path}"


@pytest.fixture
def real() -> Iterator[Real]:
    with Real() as server:
        yield server


@contextlib.asynccontextmanager
async def cache(
    servers: Sequence[tuple[str, int]],
    events: list[Event] | None = None,
    *,
    up: bool = True,
    **options: float,
) -> AsyncIterator[memcached.Memcached]:
    """A cache that has been started, and (`up`) has connected; `options` are the adapter's."""
    found: list[Event] = [] if events is None else events
    adapter = memcached.Memcached(servers, **options, observe=found.append)
    await adapter.start()
    try:
        if up:
            await until(lambda: all(server._client for server in adapter._servers))
        yield adapter
    finally:
        began = time.monotonic()
        await adapter.stop()
        assert time.monotonic() - began < 2


def connections(adapter: memcached.Memcached) -> int:
    (server,) = adapter._servers
    assert server._client is not None
    return sum(each.cur_connections for each in server._client.cluster_managment().connection_pool_metrics().values())


async def put_and_wait(adapter: memcached.Memcached, digest: Digest, path: str) -> None:
    adapter.put(digest, path)
    await until(lambda: not any(server._puts for server in adapter._servers))


async def seconds_of_get(adapter: memcached.Memcached) -> float:
    began = time.perf_counter()
    assert await adapter.get(DIGEST) is None
    return time.perf_counter() - began


@pytest.mark.parametrize("path", [PATH, f"s3://bucket/prefix/{DIGEST.key}"])
def test_a_path_that_was_put_is_found_under_the_lower_case_digest(real: Real, path: str) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            assert await adapter.get(DIGEST) is None
            await put_and_wait(adapter, DIGEST, path)
            assert await adapter.get(DIGEST) == path

    run(scenario())
    assert (
        real.say(f"get {DIGEST.hex}\r\n".encode()) == f"VALUE {DIGEST.hex} 0 {len(path)}\r\n{path}\r\nEND\r\n".encode()
    )


def test_what_one_worker_puts_another_finds_also_among_several_servers(real: Real) -> None:
    digests = [Digest.of(bytes([number])) for number in range(100)]

    async def scenario() -> None:
        with Real() as second, Real() as third:
            addresses = [real.address, second.address, third.address]
            async with cache(addresses) as one, cache(addresses[::-1]) as other:
                for digest in digests:
                    await put_and_wait(one, digest, "/" + digest.path)
                for digest in digests:
                    assert await other.get(digest) == "/" + digest.path
            counts = [server.say(b"stats\r\n").split(b"STAT curr_items ")[1].split()[0] for server in (second, third)]
        assert all(15 <= int(count) <= 55 for count in counts), counts

    run(scenario())


def test_a_server_that_is_added_moves_its_share_of_the_digests_only() -> None:
    digests = [Digest.of(number.to_bytes(2, "big")) for number in range(1000)]

    async def scenario() -> None:
        three = memcached.Memcached([("a", 1), ("b", 1), ("c", 1)], observe=lambda _: None)
        four = memcached.Memcached([("a", 1), ("b", 1), ("c", 1), ("d", 1)], observe=lambda _: None)
        moved = [digest for digest in digests if three._server_of(digest).name != four._server_of(digest).name]
        assert {four._server_of(digest).name for digest in moved} == {"d:1"}
        assert 150 < len(moved) < 350

    run(scenario())


@pytest.mark.parametrize(
    "value", [b"", b"mnt/data1/x", b"\xff\xfe", b"/" + 4096 * b"x", b"/mnt/a\nb", b"/mnt/a\0b", b"s3:/bucket/x"]
)
def test_a_value_that_is_no_path_is_a_miss(real: Real, value: bytes) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        async with cache([real.address], events) as adapter:
            real.say(b"set %b 0 0 %d\r\n%b\r\n" % (DIGEST.hex.encode(), len(value), value))
            assert await adapter.get(DIGEST) is None
        assert events == []

    run(scenario())


@pytest.mark.parametrize("path", ["http://bucket/key", "relative", "/" + 4096 * "x", "/\udcff"])
def test_what_is_no_path_is_not_put(real: Real, path: str) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            await put_and_wait(adapter, DIGEST, path)

    run(scenario())
    assert real.say(f"get {DIGEST.hex}\r\n".encode()) == b"END\r\n"


def test_a_hung_server_costs_20_ms_five_times_and_then_nothing(real: Real) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        async with cache([real.address], events) as adapter:
            await put_and_wait(adapter, DIGEST, PATH)
            real.pause()
            paid = [await seconds_of_get(adapter) for _ in range(memcached.FAILURES)]
            assert all(0.015 < seconds < 0.25 for seconds in paid), paid
            assert min(paid) < 0.05, paid  # a busy machine delays some of them, hardly all
            free = [await seconds_of_get(adapter) for _ in range(1000)]
            assert sum(free) < 0.5
            await until(lambda: events)
            assert events == [NeighbourFailed("memcached", f"127.0.0.1:{real.port}: no good answer within 1000 ms")]

    run(scenario())


def test_while_the_breaker_is_open_no_request_waits_for_the_trials(real: Real) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        real.pause()
        async with cache([real.address], events, up=False) as adapter:
            paid, end = [], time.monotonic() + 2.5
            while time.monotonic() < end:
                paid.append(await seconds_of_get(adapter))
                await asyncio.sleep(0.01)
            assert sorted(paid)[-3] < 0.010, "a busy machine may be slow once or twice"
            assert 1 <= len(events) <= 2

    run(scenario())


def test_many_gets_of_a_hung_server_fail_together_after_20_ms(real: Real) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        async with cache([real.address], events) as adapter:
            real.pause()
            began = time.perf_counter()
            assert await asyncio.gather(*(adapter.get(DIGEST) for _ in range(200))) == [None] * 200
            assert time.perf_counter() - began < 0.5
            for _ in range(memcached.FAILURES - 1):
                await adapter.get(DIGEST)
            assert adapter._servers[0]._client is None
            await until(lambda: events)
            assert len(events) == 1

    run(scenario())


@pytest.mark.parametrize("at_once", [1, 200])
def test_a_worker_that_is_busy_takes_no_server_for_one_that_hangs(real: Real, at_once: int) -> None:
    digests = [Digest.of(number.to_bytes(2, "big")) for number in range(at_once)]

    async def busy() -> None:
        while True:
            time.sleep(0.025)  # noqa: ASYNC251  a turn of the loop that takes longer than an answer may
            await asyncio.sleep(0)

    async def scenario() -> None:
        events: list[Event] = []
        async with cache([real.address], events) as adapter:
            for digest in digests:
                real.say(b"set %b 0 0 2\r\n/x\r\n" % digest.hex.encode())
            while connections(adapter) < memcached.MAX_CONNECTIONS // 2:
                await asyncio.gather(*(adapter.get(Digest.of(bytes([number]))) for number in range(200)))
            working = asyncio.create_task(busy())
            for _ in range(2):
                assert set(await asyncio.gather(*map(adapter.get, digests))) == {"/x"}
            await put_and_wait(adapter, digests[0], PATH)
            assert await adapter.get(digests[0]) == PATH
            working.cancel()
        assert events == []

    run(scenario())


def test_that_answers_were_late_is_no_failure_of_a_server_that_answers_a_trial(real: Real) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        async with cache([real.address], events) as adapter:
            await put_and_wait(adapter, DIGEST, PATH)
            real.pause()
            for _ in range(memcached.FAILURES):
                assert await adapter.get(DIGEST) is None
            real.resume()
            await until(lambda: adapter._servers[0]._client, within=0.9)
            assert await adapter.get(DIGEST) == PATH
        assert events == []

    run(scenario())


def test_a_server_that_is_too_slow_is_left_alone_until_it_is_quick(real: Real) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        with Proxy(real.address, delay=0.1) as proxy:
            async with cache([("127.0.0.1", proxy.port)], events, up=False) as adapter:
                await until(lambda: events)
                end = time.monotonic() + 1.5
                while time.monotonic() < end:
                    assert adapter._servers[0]._client is None, "no request finds out that it is slow"
                    await asyncio.sleep(0.01)
                proxy.delay = 0.0
                await until(lambda: adapter._servers[0]._client, within=10)
        assert events[0] == NeighbourFailed("memcached", f"127.0.0.1:{proxy.port}: no good answer within 20 ms")

    run(scenario())


def test_after_an_address_that_is_too_slow_the_next_one_is_tried(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        named(monkeypatch, {"cache.test": ["127.0.0.1", "127.0.0.2"]})
        with Proxy(real.address, delay=0.1) as proxy:
            async with cache([("cache.test", proxy.port)], events, up=False) as adapter:
                await until(lambda: events)
                assert adapter._servers[0]._host.addresses[0][1][0] == "127.0.0.2"

    run(scenario())


def test_a_server_that_wakes_up_is_used_again_within_ten_seconds(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            await put_and_wait(adapter, DIGEST, PATH)
            real.pause()
            for _ in range(memcached.FAILURES):
                await adapter.get(DIGEST)
            real.resume()
            async with asyncio.timeout(10):
                while await adapter.get(DIGEST) != PATH:  # noqa: ASYNC110  as in `until`
                    await asyncio.sleep(0.01)

    run(scenario())


def test_a_server_that_is_killed_and_comes_back_is_used_again(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            await put_and_wait(adapter, DIGEST, PATH)
            real.kill()
            paid = [await seconds_of_get(adapter) for _ in range(20)]
            assert max(paid) < 0.25
            real.start()
            async with asyncio.timeout(10):
                while await adapter.get(DIGEST) != PATH:
                    adapter.put(DIGEST, PATH)
                    await asyncio.sleep(0.01)

    run(scenario())


def test_a_server_that_is_away_at_the_start_is_used_when_it_comes() -> None:
    async def scenario() -> None:
        server, events = Real(), list[Event]()
        async with cache([server.address], events, up=False) as adapter:
            await until(lambda: events)
            assert events == [NeighbourFailed("memcached", f"127.0.0.1:{server.port}: Connection refused")]
            assert await seconds_of_get(adapter) < 0.25
            with server:
                await until(lambda: adapter._servers[0]._client, within=10)

    run(scenario())


def test_of_a_host_with_several_addresses_one_that_answers_is_used(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        named(monkeypatch, {"cache.test": ["127.0.0.2", "127.0.0.1"]})
        async with cache([("cache.test", real.port)], events):
            pass
        assert events == []
        assert "cache.test" in await memcached.Memcached([("cache.test", real.port)], observe=events.append).probe()

    with silent("127.0.0.2", real.port):
        run(scenario())


def test_one_server_that_is_away_leaves_the_digests_of_the_others_alone(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address, ("127.0.0.1", free_port())], up=False) as adapter:
            await until(lambda: adapter._servers[0]._client, within=10)
            digests = [Digest.of(bytes([number])) for number in range(50)]
            for digest in digests:
                await put_and_wait(adapter, digest, "/" + digest.path)
            found = [digest for digest in digests if await adapter.get(digest)]
            assert found == [digest for digest in digests if adapter._server_of(digest) is adapter._servers[0]]
            assert 10 < len(found) < 40

    run(scenario())


GARBAGE = [
    b"",
    b"\r\n",
    b"ERROR\r\n",
    b"SERVER_ERROR out of memory\r\n",
    bytes(range(256)) * 100,
    b"END\r\nEND\r\n",
    b"VALUE\r\nEND\r\n",
    b"VALUE x 0 y\r\nz\r\nEND\r\n",
    b"VALUE x 0 -5\r\nz\r\nEND\r\n",
    b"VALUE stor 0 99999999999\r\nz\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\nEND\r\n",
]


@pytest.mark.parametrize("greets", [False, True])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_server_that_answers_garbage_is_a_miss_and_leaves_no_stack_trace(
    garbage: bytes, greets: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached, "TRIAL", 0.1)  # what a server that never finishes its answer takes

    async def scenario() -> None:
        events: list[Event] = []
        async with impostor(garbage, greets=greets) as address, cache([address], events, up=False) as adapter:
            async with asyncio.timeout(5):
                while not events:
                    assert await seconds_of_get(adapter) < 0.25
                    await asyncio.sleep(0.01)

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_server_that_turns_to_garbage_later_opens_the_breaker(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        answers, events = [b"END\r\n"], list[Event]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    writer.write(answers[-1])
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with cache([server.sockets[0].getsockname()], events) as adapter:
            assert await adapter.get(DIGEST) is None
            assert events == []
            answers.append(b"VALUE x y z\r\nEND\r\n")
            for _ in range(memcached.FAILURES):
                assert await seconds_of_get(adapter) < 0.25
            assert adapter._servers[0]._client is None
        server.close()

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_fails_of_an_earlier_client_says_nothing_of_the_next(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            (server,) = adapter._servers
            earlier: Any = "the client of an earlier connection"
            for _ in range(memcached.FAILURES):
                server._failed(earlier, ConnectionError())
            assert server._client is not None
            assert server._failures == 0

    run(scenario())


def test_a_request_that_is_given_up_while_it_asks_harms_no_other(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address], timeout=5) as adapter:
            await put_and_wait(adapter, DIGEST, PATH)
            for _ in range(20):
                gets = [asyncio.create_task(adapter.get(DIGEST)) for _ in range(20)]
                await asyncio.sleep(0)
                for task in gets[::2]:
                    task.cancel()
                found = await asyncio.gather(*gets, return_exceptions=True)
                assert found[1::2] == [PATH] * 10
                assert all(answer == PATH or isinstance(answer, asyncio.CancelledError) for answer in found)

    run(scenario())


def test_a_server_without_memory_for_more_is_asked_for_what_it_has(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        events = list[Event]()
        # One that evicts nothing: the kinds of values that are left fill up what the large ones leave.
        with Real("-M", memory=3) as full:
            async with cache([full.address], events) as adapter:
                await put_and_wait(adapter, DIGEST, PATH)
                for size in (500_000, 100_000, 10_000, 1_000, 150, 130):
                    full.fill(size)
                others = [Digest.of(b"%d" % number) for number in range(2 * memcached.FAILURES)]
                for other in others:
                    await put_and_wait(adapter, other, f"/mnt/data1/{other.path}")
                assert await adapter.get(DIGEST) == PATH
                assert [await adapter.get(other) for other in others] == [None] * len(others)
            with pytest.raises(NeighbourError, match="it keeps no values"):
                await memcached.Memcached([full.address], observe=lambda _: None).probe()
        assert set(events) == {
            NeighbourFailed("memcached", f"127.0.0.1:{full.port}: it keeps no values; has it memory?")
        }

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_puts_under_way_are_bounded(real: Real) -> None:
    async def scenario() -> None:
        async with cache([real.address]) as adapter:
            real.pause()
            for number in range(1000):
                adapter.put(Digest.of(number.to_bytes(2, "big")), PATH)
            assert len(adapter._servers[0]._puts) == memcached.MAX_PUTS
            await until(lambda: not adapter._servers[0]._puts, within=1)

    run(scenario())


@pytest.mark.parametrize("shared", [False, True])
def test_a_level_that_is_not_asked_is_counted_as_neither_hit_nor_miss(
    real: Real, make_server: ServerFactory, *, shared: bool
) -> None:
    servers = [f"127.0.0.1:{real.port}"] if shared else []
    stor, content = House(make_server(config={"memcached_servers": servers}, workers=1)), fresh()

    def counted() -> tuple[float, ...]:
        page = stor.ask("GET", "/metrics").body.decode()
        told = dict(line.rsplit(" ", 1) for line in page.splitlines())
        return tuple(float(told[f"stor_location_cache_{each}_total"]) for each in ("hits", "misses"))

    assert stor.store(content).status == 201
    stor.server.stop()  # what the process knew is forgotten
    stor.server.start()
    before = counted()
    assert stor.get(content).status == 200
    assert counted() == (before[0], before[1] + (not shared))
    assert stor.get(content).status == 200
    assert stor.get(fresh()).status == 404
    assert counted() == (before[0] + 1, before[1] + 1 + (not shared))


def test_a_probe_tells_what_it_tried(real: Real) -> None:
    async def scenario() -> None:
        adapter = memcached.Memcached([real.address], observe=lambda _: None)
        assert await adapter.probe() == f"stored a value and got it back: 127.0.0.1:{real.port}"

    run(scenario())


def test_a_probe_tells_what_is_wrong(real: Real) -> None:
    async def scenario() -> None:
        port = free_port()
        for servers, line in (
            ([("127.0.0.1", port)], f"127.0.0.1:{port}: Connection refused; is memcached there, and reachable?"),
            ([real.address, ("no.such.host.invalid", 1)], "no.such.host.invalid:1: the host cannot be looked up: "),
        ):
            with pytest.raises(NeighbourError) as caught:
                await memcached.Memcached(servers, observe=lambda _: None).probe()
            assert str(caught.value).startswith(line)
        real.pause()
        with pytest.raises(NeighbourError, match="no good answer within 1000 ms"):
            await memcached.Memcached([real.address], observe=lambda _: None).probe()
        async with impostor(b"END\r\n") as address:
            with pytest.raises(NeighbourError, match=f":{address[1]}: "):
                await memcached.Memcached([address], observe=lambda _: None).probe()

    run(scenario())
