"""Metrics by UDP, counted against what a real daemon reports, and sent to daemons that are not there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pystor.adapters import statsite
from pystor.adapters.statsite import Statsite
from pystor.digest import Digest
from pystor.errors import NeighbourError, StorageError
from pystor.events import (
    ArchiveMissed,
    BlobDuplicate,
    BlobMissing,
    BlobServed,
    BlobStored,
    Event,
    HealthChecked,
    HintAsked,
    LeftoversSwept,
    LookedUp,
    MalformedName,
    NeighbourFailed,
    ReplicaBad,
    RequestBegan,
    RequestEnded,
    RequestFailed,
    StorageFailed,
    UploadRefused,
)
from tests.neighbours.scenarios import run, until
from tests.neighbours.servers.names import named
from tests.neighbours.servers.ports import free_ports
from tests.neighbours.servers.statsd import Statsd
from tests.support import processes

DIGEST = Digest.of(b"a blob")
UNRESOLVABLE = "no-such-host.invalid"

ROWS: list[tuple[Event, list[str]]] = [
    (RequestBegan("get", DIGEST), ["request.get.count:1|c"]),
    (RequestBegan("get", None), ["request.get.count:1|c"]),
    (RequestBegan("post", DIGEST), ["request.post.count:1|c"]),
    (HealthChecked(), ["healthcheck.count:1|c"]),
    (HintAsked(hit=True, seconds=0.0004), ["cache.hit:1|c", "cache.time:0.400|ms"]),
    (HintAsked(hit=False, seconds=0.25), ["cache.miss:1|c", "cache.time:250.000|ms"]),
    (LookedUp(attempts=3, seconds=1.5), ["lookup.attempt.3.count:1|c", "lookup.time:1500.000|ms"]),
    (
        BlobServed(DIGEST, "/mnt/data1", "pool", size=0, seconds=0.0123456),
        [
            "success.get.ok_old.mnt-data1.count:1|c",
            "success.get.ok_old.mnt-data1.size:0|c",
            "success.get.ok_old.mnt-data1.time:12.346|ms",
        ],
    ),
    (
        BlobServed(DIGEST, "s3://samples", "archive", size=5_000_000_000, seconds=2),
        [
            "success.get.ok_hcp.count:1|c",
            "success.get.ok_hcp.size:5000000000|c",
            "success.get.ok_hcp.time:2000.000|ms",
        ],
    ),
    (ArchiveMissed(DIGEST), ["error.get.not_found_hcp.count:1|c"]),
    (BlobMissing(DIGEST), ["error.get.not_found_old.count:1|c"]),
    (MalformedName("get"), ["error.get.malformed_sha.count:1|c"]),
    (MalformedName("post"), ["error.post.malformed_sha.count:1|c"]),
    (RequestFailed("get"), ["error.get.500.count:1|c"]),
    (BlobStored(DIGEST, ("/mnt/data1", "/mnt/data2"), 4), ["success.post.write.count:1|c"]),
    (BlobDuplicate(DIGEST), ["success.post.duplicate.count:1|c"]),
    (UploadRefused("bad_sha"), ["error.post.bad_sha.count:1|c"]),
    (UploadRefused("no_space"), ["error.post.no_space.count:1|c"]),
    (UploadRefused("unknown"), ["error.post.unknown.count:1|c"]),
]

OF_NO_INTEREST: list[Event] = [
    RequestEnded("GET", "/status", 200, 0.1, 0, 5, "10.0.0.1"),
    RequestFailed("post"),
    ReplicaBad(DIGEST, "/mnt/data1"),
    StorageFailed(StorageError("/mnt/data1", "open", "broken")),
    LeftoversSwept("/mnt/data1", 3),
    NeighbourFailed("statsite", "not there"),
]


@pytest.fixture
def statsd(tmp_path: Path) -> Iterator[Statsd]:
    with Statsd(tmp_path) as running:
        yield running


@pytest.fixture
def sink() -> Iterator[socket.socket]:
    """A UDP socket of our own, to see what a datagram looks like."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(5)
        yield made


@contextlib.asynccontextmanager
async def started(adapter: Statsite, *, resolved: bool = True) -> AsyncIterator[Statsite]:
    await adapter.start()
    try:
        if resolved:
            await until(lambda: adapter._socket is not None)
        yield adapter
    finally:
        began = time.monotonic()
        await adapter.stop()
        assert time.monotonic() - began < 2


def to(port: int, prefix: str = "stor.dev", rate: float = 1.0, seen: list[Event] | None = None) -> Statsite:
    found: list[Event] = [] if seen is None else seen
    return Statsite("127.0.0.1", port, prefix, rate, observe=found.append, rng=random.Random(7).random)


def lines(datagram: bytes) -> list[str]:
    return datagram.decode().splitlines()


def sent(sink: socket.socket, adapter: Statsite, *events: Event) -> list[str]:
    """Observe the events, and return the lines of the datagrams that arrive until the adapter is stopped."""

    async def scenario() -> None:
        async with started(adapter):
            for event in events:
                adapter(event)

    run(scenario())
    sink.setblocking(False)
    received: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received += lines(sink.recv(65536))
    return received


# What events are called


@pytest.mark.parametrize(("event", "expected"), ROWS, ids=lambda value: str(value)[:60])
def test_each_event_has_the_names_types_and_units_of_the_original(
    sink: socket.socket, event: Event, expected: list[str]
) -> None:
    assert sent(sink, to(sink.getsockname()[1]), event) == [f"stor.dev.{line}" for line in expected]


@pytest.mark.parametrize("event", OF_NO_INTEREST, ids=lambda event: type(event).__name__)
def test_what_the_original_did_not_count_is_not_sent(event: Event) -> None:
    assert statsite.metrics(event) == ()


def test_every_kind_of_event_that_is_counted_is_tested_here() -> None:
    assert {type(event) for event, _ in ROWS} == set(statsite._METRICS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/data1", "mnt-data1"),
        ("/srv/Pair_1.a/", "srv-Pair-1-a"),
        ("s3://bucket", "s3---bucket"),
        ("/mnt/größe", "mnt-gr--e"),
        ("/", ""),
    ],
)
def test_a_storage_is_called_by_its_path_with_dashes(path: str, name: str) -> None:
    assert statsite.server_name(path) == name


def test_without_a_prefix_names_begin_with_no_dot(sink: socket.socket) -> None:
    assert sent(sink, to(sink.getsockname()[1], prefix=""), HealthChecked()) == ["healthcheck.count:1|c"]


def test_colons_bars_and_line_ends_in_a_name_become_underscores(sink: socket.socket) -> None:
    adapter = to(sink.getsockname()[1], prefix="a:b|c\nd%s%d")
    assert sent(sink, adapter, HealthChecked()) == ["a_b_c_d%s%d.healthcheck.count:1|c"]


# Sampling


def test_the_rate_stands_behind_each_line_in_a_form_that_daemons_read(sink: socket.socket) -> None:
    adapter = Statsite("127.0.0.1", sink.getsockname()[1], "", 0.00001, observe=print, rng=lambda: 0.0)
    assert sent(sink, adapter, HintAsked(hit=True, seconds=0.001)) == [
        "cache.hit:1|c|@0.00001",
        "cache.time:1.000|ms|@0.00001",
    ]


def test_each_metric_is_sampled_by_itself(sink: socket.socket) -> None:
    served = BlobServed(DIGEST, "/a", "pool", 1, 0.001)
    received = sent(sink, to(sink.getsockname()[1], "", 0.5), *[served] * 100)
    counts = {name: sum(name in line for line in received) for name in (".count:", ".size:", ".time:")}
    assert all(30 < count < 70 for count in counts.values())
    assert len(set(counts.values())) > 1


def test_a_rate_of_zero_sends_nothing(sink: socket.socket) -> None:
    assert sent(sink, to(sink.getsockname()[1], "", 0.0), *[HealthChecked()] * 100) == []


# What a daemon counts


def test_a_daemon_counts_every_metric_and_finds_no_bad_line(statsd: Statsd) -> None:
    async def scenario() -> None:
        async with started(to(statsd.port)) as adapter:
            for event, _ in ROWS:
                adapter(event)

    expected: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    for line in [f"stor.dev.{line}" for _, lines in ROWS for line in lines]:
        name, _, value = line.partition(":")
        if value.endswith("|ms"):
            times.setdefault(name, []).append(float(value.removesuffix("|ms")))
        else:
            expected[name] = expected.get(name, 0) + float(value.removesuffix("|c"))
    run(scenario())
    processes.eventually(lambda: statsd.counters == expected, what="the daemon's counters")
    assert statsd.timers == times
    assert statsd.bad_lines == 0


def test_a_daemon_counts_every_one_of_many_and_they_share_datagrams(statsd: Statsd) -> None:
    async def scenario() -> None:
        async with started(to(statsd.port)) as adapter:
            for _ in range(50):
                for _ in range(100):
                    adapter(RequestBegan("get", DIGEST))
                await asyncio.sleep(0.001)

    run(scenario())
    processes.eventually(lambda: statsd.counters == {"stor.dev.request.get.count": 5000.0}, what="5,000 requests")
    assert statsd.bad_lines == 0
    assert statsd.datagrams < 5000 / 40


def test_a_daemon_scales_what_was_sampled_back(statsd: Statsd) -> None:
    async def scenario() -> None:
        async with started(to(statsd.port, rate=0.1)) as adapter:
            for _ in range(1000):
                adapter(RequestBegan("get", DIGEST))

    run(scenario())
    same = random.Random(7)
    expected = 10 * sum(same.random() < 0.1 for _ in range(1000))
    name = "stor.dev.request.get.count"
    processes.eventually(lambda: statsd.counters.get(name) == pytest.approx(expected), what=f"{expected} requests")
    assert 500 < expected < 1500


# How they get there


def test_datagrams_are_full_and_of_1400_bytes_at_most(sink: socket.socket) -> None:
    async def scenario() -> None:
        async with started(to(sink.getsockname()[1])) as adapter:
            for _ in range(200):
                adapter(HealthChecked())

    run(scenario())
    sizes = [len(sink.recv(65536)) for _ in range(5)]
    assert all(1350 < size <= 1400 for size in sizes[:-1])
    assert sum(sizes) == 200 * len("stor.dev.healthcheck.count:1|c\n")


def test_a_line_waits_a_tenth_of_a_second_at_most(sink: socket.socket) -> None:
    async def scenario() -> None:
        async with started(to(sink.getsockname()[1])) as adapter:
            began = time.monotonic()
            adapter(HealthChecked())
            assert await asyncio.to_thread(sink.recv, 65536)
            assert time.monotonic() - began < 0.5

    run(scenario())


def test_what_is_observed_before_the_host_is_known_is_sent_once_it_is(statsd: Statsd) -> None:
    async def scenario() -> None:
        adapter = to(statsd.port)
        adapter(HealthChecked())
        async with started(adapter, resolved=False):
            adapter(HealthChecked())
            assert adapter._socket is None
            await until(lambda: adapter._socket is not None)

    run(scenario())
    processes.eventually(lambda: statsd.counters == {"stor.dev.healthcheck.count": 2.0}, what="2 checks")


def test_an_unknown_host_costs_no_request_anything_and_is_told_once() -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        adapter = Statsite(UNRESOLVABLE, 8125, observe=seen.append)
        async with started(adapter, resolved=False):
            began = time.monotonic()
            for _ in range(20_000):
                adapter(HealthChecked())
            assert time.monotonic() - began < 2
            assert len(adapter._waiting) == 256
            await until(lambda: adapter.errors >= 2)
        assert adapter.lost > 0
        assert [type(event) for event in seen] == [NeighbourFailed]
        assert UNRESOLVABLE in str(seen)

    run(scenario())


def test_an_absent_daemon_is_told_once_and_gets_the_metrics_when_it_comes(statsd: Statsd) -> None:
    async def scenario() -> None:
        seen: list[Event] = []
        async with started(to(statsd.port, seen=seen)) as adapter:
            for _ in range(4):
                adapter(HealthChecked())
                adapter._flush()
                await asyncio.sleep(0.01)
            assert adapter.errors > 1
            assert [type(event) for event in seen] == [NeighbourFailed]
            statsd.start()
            adapter(RequestBegan("get", DIGEST))
        name = "stor.dev.request.get.count"
        processes.eventually(lambda: statsd.counters.get(name) == 1.0, what="the request after the daemon came")

    statsd.kill()
    run(scenario())


def test_a_daemon_that_hangs_delays_nobody(statsd: Statsd) -> None:
    async def scenario() -> None:
        async with started(to(statsd.port)) as adapter:
            began = time.monotonic()
            for _ in range(20_000):
                adapter(HealthChecked())
            assert time.monotonic() - began < 2

    statsd.pause()
    try:
        run(scenario())
    finally:
        statsd.resume()


def test_a_host_with_two_addresses_is_served_on_the_one_that_listens(sink: socket.socket) -> None:
    async def scenario() -> None:
        async with started(to(port)) as adapter:
            adapter._host.addresses.extendleft([(socket.AF_INET, ("127.0.0.2", port))])
            adapter._open()
            for _ in range(2):  # the first is refused, and the second says so
                adapter(HealthChecked())
                adapter._flush()
                await asyncio.sleep(0.01)

    port = sink.getsockname()[1]
    run(scenario())
    assert lines(sink.recv(65536)) == ["stor.dev.healthcheck.count:1|c"]


def test_an_address_that_cannot_be_reached_is_passed_over(sink: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, {"metrics": ["255.255.255.255", "127.0.0.1"]})  # nobody may connect to the first
    adapter = Statsite("metrics", sink.getsockname()[1], observe=lambda _: None)
    assert sent(sink, adapter, HealthChecked()) == ["healthcheck.count:1|c"]


def test_a_host_that_has_moved_is_found_when_something_went_wrong(
    sink: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"metrics": ["127.0.0.2"]}
    named(monkeypatch, known)
    monkeypatch.setattr(statsite, "_TRUSTED_SECONDS", 0.0)

    async def scenario() -> None:
        async with started(Statsite("metrics", sink.getsockname()[1], observe=lambda _: None)) as adapter:
            known["metrics"] = ["127.0.0.1"]
            for _ in range(2):  # nobody listens at the old place, as the second one learns
                adapter(HealthChecked())
                adapter._flush()
                await asyncio.sleep(0.01)
            await until(lambda: adapter._used == (socket.AF_INET, sink.getsockname()))
            assert not adapter._doubtful.is_set()
            adapter(RequestBegan("get", DIGEST))

    run(scenario())
    assert lines(sink.recv(65536)) == ["request.get.count:1|c"]


def test_a_socket_that_takes_no_more_is_no_reason_to_look_the_host_up(
    sink: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: bytes) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def scenario() -> None:
        async with started(to(sink.getsockname()[1])) as adapter:
            monkeypatch.setattr(adapter, "_transmit", refuse)
            adapter(HealthChecked())
            adapter._flush()
            assert (adapter.errors, adapter.lost, adapter._doubtful.is_set()) == (1, 1, False)

    run(scenario())


# The doctor


def test_the_probe_finds_a_daemon(statsd: Statsd) -> None:
    async def scenario() -> None:
        assert f"127.0.0.1:{statsd.port}" in await to(statsd.port).probe()

    run(scenario())
    assert statsd.counters == {}
    assert statsd.bad_lines == 0


@pytest.mark.parametrize(("host", "what"), [("127.0.0.1", "refused"), (UNRESOLVABLE, UNRESOLVABLE), ("a..b", "a..b")])
def test_the_probe_says_in_one_line_what_is_wrong(host: str, what: str) -> None:
    async def scenario() -> None:
        adapter = Statsite(host, free_ports(1)[0], observe=print)
        with pytest.raises(NeighbourError, match=what) as raised:
            await adapter.probe()
        assert len(str(raised.value).splitlines()) == 1

    run(scenario())
