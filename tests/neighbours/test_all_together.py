"""Stor with two pairs among all its neighbours: under mixed load every answer is right, and all count the same."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.contract.disk import fresh, key_of, settles, sha
from tests.contract.house import House
from tests.neighbours.servers.listener import Listener
from tests.neighbours.servers.memcached import Memcached
from tests.neighbours.servers.rabbitmq import RabbitMQ
from tests.neighbours.servers.seaweed import Seaweed
from tests.neighbours.servers.statsd import Statsd
from tests.support.server import Server

pytestmark = pytest.mark.alone(reason="six clients without a pause, none of which may meet the timeout of a storage")

SECONDS: Final = 10.0
LEAST: Final = 20
"""Times that each is done at least, or little was mixed."""
CLIENTS: Final = 6


@pytest.fixture
def together(
    make_server: Callable[..., Server], seaweed: Seaweed, tmp_path: Path
) -> Iterator[tuple[House, Statsd, Listener, Memcached]]:
    for name in ("statsd", "rabbitmq"):
        (tmp_path / name).mkdir()
    with Statsd(tmp_path / "statsd") as statsd, RabbitMQ(tmp_path / "rabbitmq") as broker, Memcached() as memcached:
        config = {
            "statsite": {"host": "127.0.0.1", "port": statsd.port, "prefix": "stor.test", "sample_rate": 1},
            "s3_enabled": True,
            "s3_credentials": seaweed.credentials(),
            "memcached_servers": [":".join(map(str, memcached.address))],
            "rabbitmq_uri": f"amqp://guest:guest@127.0.0.1:{broker.port}/?exchange=stor&routing_key=sha",
        }
        with Listener(broker.port) as listener:
            yield House(make_server(config=config)), statsd, listener, memcached


class Client:
    """One client's share of the load, and what it has counted."""

    def __init__(self, stor: House, seaweed: Seaweed, known: list[bytes], number: int) -> None:
        self._stor, self._seaweed, self._known = stor, seaweed, known
        self._rng = random.Random(number)
        self.counted: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    def run(self, until: float) -> None:
        actions = [self._get, self._get, self._get, self._store, self._again, self._miss, self._from_archive]
        while time.monotonic() < until:
            self._rng.choice(actions)()

    def _ask(self, content: bytes) -> tuple[int, bytes]:
        self.asked[sha(content)] += 1
        self.counted["get"] += 1
        answer = self._stor.get(content)
        return answer.status, answer.body

    def _get(self) -> None:
        content = self._rng.choice(self._known)
        assert self._ask(content) == (200, content)
        self.counted["served"] += 1
        self.counted["bytes"] += len(content)

    def _store(self) -> None:
        content = fresh(self._rng.choice([100, 5_000, 100_000, 1_500_000]))
        assert self._stor.store(content).status == 201
        self.counted["post"] += 1
        self.counted["stored"] += 1
        self._known.append(content)

    def _again(self) -> None:
        assert self._stor.store(self._rng.choice(self._known)).status == 200
        self.counted["post"] += 1
        self.counted["duplicate"] += 1

    def _miss(self) -> None:
        assert self._ask(fresh())[0] == 404
        self.counted["missed"] += 1

    def _from_archive(self) -> None:
        content = fresh(2_000)
        self._seaweed.store().put(key_of(content), content)
        assert self._ask(content) == (200, content)
        self.counted["archive"] += 1


@pytest.mark.timeout(240)
def test_every_answer_is_right_and_everybody_counts_the_same(
    together: tuple[House, Statsd, Listener, Memcached], seaweed: Seaweed
) -> None:
    stor, statsd, listener, memcached = together
    known = [fresh(4_096)]
    assert stor.store(known[0]).status == 201
    _until_the_broker_hears(stor, listener, known[0])
    listener.heard.clear()
    before = Counter({name: int(value) for name, value in statsd.counters.items()})

    clients = [Client(stor, seaweed, known, number) for number in range(CLIENTS)]
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(lambda client: client.run(until), clients))
    told = sum((client.counted for client in clients), Counter[str]())
    asked = sum((client.asked for client in clients), Counter[str]())
    assert all(told[each] >= LEAST for each in ("served", "stored", "duplicate", "missed", "archive")), told

    assert settles(lambda: listener.heard == asked, within=20)
    expected = {
        "request.get.count": told["get"],
        "request.post.count": told["post"],
        "success.post.write.count": told["stored"],
        "success.post.duplicate.count": told["duplicate"],
        "error.get.not_found_old.count": told["missed"],
        "success.get.ok_hcp.count": told["archive"],
        "success.get.ok_hcp.size": told["archive"] * 2_000,
    }
    settles(lambda: _counted(statsd, before, expected) == expected, within=10)
    assert _counted(statsd, before, expected) == expected
    servers = [name for name in statsd.counters if ".success.get.ok_old." in name]
    grown = Counter({name: int(statsd.counters[name]) - before[name] for name in servers})
    assert sum(count for name, count in grown.items() if name.endswith(".count")) == told["served"]
    assert sum(count for name, count in grown.items() if name.endswith(".size")) == told["bytes"]
    assert statsd.bad_lines == 0
    assert memcached.say(f"get {sha(known[0])}\r\n".encode()).count(b".dat") == 1
    page = stor.ask("GET", "/metrics")
    assert page.status == 200
    assert _total(page.body.decode(), "stor_blobs_stored_total") == told["stored"] + 1


def _until_the_broker_hears(stor: House, listener: Listener, content: bytes) -> None:
    def heard() -> bool:
        stor.get(content)
        time.sleep(0.2)
        return sum(listener.heard.values()) > 0

    assert settles(heard, within=30)
    quiet = -1
    while quiet != sum(listener.heard.values()):
        quiet = sum(listener.heard.values())
        time.sleep(1)


def _counted(statsd: Statsd, before: Counter[str], names: dict[str, int]) -> dict[str, int]:
    now = statsd.counters
    return {name: int(now.get(f"stor.test.{name}", 0)) - before[f"stor.test.{name}"] for name in names}


def _total(page: str, metric: str) -> float:
    rows = [line for line in page.splitlines() if line.startswith(metric)]
    assert rows, f"no {metric} in {page}"
    return sum(float(row.rpartition(" ")[2]) for row in rows)
