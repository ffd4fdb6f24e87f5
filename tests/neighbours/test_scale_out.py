"""Two machines with a Stor each, over one bucket of one SeaweedFS cluster, sharing one memcached."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import pytest

from tests.contract.disk import fresh, settles, sha
from tests.contract.house import House
from tests.contract.wire import Answer
from tests.neighbours.servers.memcached import Memcached
from tests.neighbours.servers.seaweed import SeaweedCluster
from tests.support.machines import Machine
from tests.support.server import Server

CLIENTS: Final = 6
SIZES: Final = (100, 5_000, 5_000, 200_000, 200_000, 3_000_000, 12_000_000)
SECONDS: Final = 3.0
AFTER_THE_LOSS: Final = 5.0

pytestmark = [
    pytest.mark.alone(reason="six clients without a pause, none of which may meet the timeout of a storage"),
    pytest.mark.timeout(180),
]


@dataclass(frozen=True)
class Site:
    """All that is there."""

    houses: Sequence[House]
    cluster: SeaweedCluster
    memcached: Memcached


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        machines = [stack.enter_context(Machine(number)) for number in range(2)]
        host = machines[0].ours  # where both machines reach us
        directory = tmp_path_factory.mktemp("cluster")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        memcached = stack.enter_context(Memcached(host=host))
        cluster = stack.enter_context(SeaweedCluster(directory, host))
        config = {
            "storage_pairs": [[f"s3://{cluster.bucket}?endpoint={cluster.endpoint}"]],
            "s3_credentials": {"access_key": cluster.access_key, "secret_key": cluster.secret_key},
            "memcached_servers": [":".join(map(str, memcached.address))],
        }
        servers = [
            Server(tmp_path_factory.mktemp("stor"), machine=machine, workers=1, config=config) for machine in machines
        ]
        yield Site([House(stack.enter_context(server)) for server in servers], cluster, memcached)


class Client:
    """Stores blobs by one server and fetches them by the other, and takes note of every answer."""

    def __init__(self, houses: Sequence[House], number: int) -> None:
        self._houses = houses
        self._rng = random.Random(number)
        self.known: list[bytes] = []
        self.answers: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self.last_began = 0.0
        """When the last upload began that was acknowledged."""

    def run(self, actions: Sequence[Callable[[Client], None]], until: float) -> None:
        while time.monotonic() < until:
            self._rng.choice(actions)(self)

    def store(self) -> None:
        """Store a blob by one server; when it is acknowledged, the other one has to have it at once."""
        content = fresh(self._rng.choice(SIZES))
        here, there = self._rng.sample(self._houses, 2)
        began = time.monotonic()
        if self._note("store", here.store(content)) == 201:
            self.last_began = began
            self.fetch(there, content)
            self.known.append(content)

    def fetch_any(self) -> None:
        if self.known:
            self.fetch(self._rng.choice(self._houses), self._rng.choice(self.known))

    def fetch(self, house: House, content: bytes) -> None:
        answer = house.get(content)
        if self._note("fetch", answer) == 200 and answer.body != content:
            self.wrong.append(f"other bytes for {sha(content)}")

    def miss(self) -> None:
        self._note("miss", self._rng.choice(self._houses).get(fresh()))

    def _note(self, what: str, answer: Answer) -> int:
        self.answers[what, answer.status] += 1
        if answer.status == 503 and "retry-after" not in answer.headers:
            self.wrong.append(f"{what}: 503 without Retry-After")
        return answer.status


def under_load(
    clients: Sequence[Client], actions: Sequence[Callable[[Client], None]], seconds: float
) -> Counter[tuple[str, int]]:
    """Have all clients at work for some time; tells how often each action had each status."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(lambda client: client.run(actions, until), clients))
    assert not [line for client in clients for line in client.wrong]
    return sum((client.answers for client in clients), Counter[tuple[str, int]]())


def test_what_one_server_stores_the_other_serves_at_once(site: Site) -> None:
    clients = [Client(site.houses, number) for number in range(CLIENTS)]
    told = under_load(clients, [Client.store], SECONDS)

    assert told.keys() == {("store", 201), ("fetch", 200)}, told
    assert told["fetch", 200] == told["store", 201] >= 2 * CLIENTS
    sha_of_one = sha(clients[0].known[0]).encode()
    assert settles(lambda: b"s3://" in site.memcached.say(b"get %b\r\n" % sha_of_one))


def test_nothing_acknowledged_is_lost_with_a_volume_server(site: Site) -> None:
    clients = [Client(site.houses, number) for number in range(CLIENTS)]
    lost = Loss(site.cluster)
    with lost:
        told = under_load(clients, [Client.store, Client.fetch_any, Client.miss], SECONDS + AFTER_THE_LOSS)

    assert {status for what, status in told if what == "store"} <= {201, 503}, told
    assert {status for what, status in told if what == "fetch"} <= {200, 503}, told
    assert {status for what, status in told if what == "miss"} <= {404, 503}, told
    assert lost.bytes > 1_000_000, "the volume server that was killed had nothing to lose"
    assert max(client.last_began for client in clients) > lost.at > 0, "nothing was stored any more"
    known = [content for client in clients for content in client.known]
    for house in site.houses:
        with ThreadPoolExecutor(CLIENTS) as threads:
            served = list(threads.map(lambda content, house=house: house.get(content).body == content, known))
        assert served == [True] * len(known)


class Loss:
    """Kills the volume server that keeps most, while the block runs."""

    def __init__(self, cluster: SeaweedCluster) -> None:
        self._cluster = cluster
        self._timer = threading.Timer(SECONDS, self._kill)
        self.bytes, self.at = 0, 0.0

    def _kill(self) -> None:
        number = max(range(self._cluster.VOLUME_SERVERS), key=self._cluster.kept_by)
        self.bytes = self._cluster.kept_by(number)
        self._cluster.kill_volume_server(number)
        self.at = time.monotonic()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
