"""Stor among all its neighbours, each behind a proxy that breaks connections, and how to see that it talks to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from tests.contract.disk import fresh, key_of, settles, sha
from tests.contract.house import House
from tests.neighbours.servers.listener import Listener
from tests.neighbours.servers.memcached import Memcached
from tests.neighbours.servers.proxy import Proxy
from tests.neighbours.servers.rabbitmq import RabbitMQ
from tests.neighbours.servers.seaweed import Seaweed
from tests.neighbours.servers.statsd import Statsd
from tests.support.server import Server

_PROBES: Final = 8
"""Requests on connections of their own, so that each worker gets some of them."""

_ROUND: Final = 2.0
"""Seconds for a round of requests to arrive; it never does if a part was on its way when a connection broke."""


class Process(Protocol):
    """A server that can be killed, and comes back in its place, and that can hang."""

    def kill(self) -> None: ...

    def start(self) -> object: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True)
class Neighbour:
    """One neighbour: its process, and a check that Stor talks to it."""

    name: str
    process: Process
    hears: Callable[[], bool]
    """Ask Stor for something, and tell whether the neighbour heard of it soon, whichever worker was asked."""


@dataclass(frozen=True)
class Proxied(Neighbour):
    """One behind a proxy."""

    proxy: Proxy


class Town:
    """Stor with two pairs and two workers, and its neighbours."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.archived = [fresh(5_000) for _ in range(20)]

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Start everything, and end it."""
        with contextlib.ExitStack() as stack:
            # Made one after the other: each looks for ports that are free then.
            self.seaweed = stack.enter_context(Seaweed(self._directory / "seaweed"))
            self.rabbitmq = stack.enter_context(RabbitMQ(self._directory / "rabbitmq"))
            self.memcached = stack.enter_context(Memcached())
            self.statsd = stack.enter_context(Statsd(self._directory))
            for content in self.archived:
                self.seaweed.store().put(key_of(content), content)
            ports = (self.seaweed.port, self.memcached.port, self.rabbitmq.port)
            proxies = [stack.enter_context(Proxy(("127.0.0.1", port))) for port in ports]
            self.stor = House(stack.enter_context(Server(self._directory / "stor", config=self._config(*proxies))))
            self.archive = Proxied("s3", self.seaweed, self._archive_is_read, proxies[0])
            self.cache = Proxied("memcached", self.memcached, self._hints_are_read, proxies[1])
            self.broker = Proxied("rabbitmq", self.rabbitmq, self._digests_are_told, proxies[2])
            self.counter = Neighbour("statsite", self.statsd, self._requests_are_counted)
            yield

    @property
    def neighbours(self) -> list[Neighbour]:
        return [self.archive, self.cache, self.broker, self.counter]

    def _config(self, s3: Proxy, memcached: Proxy, rabbitmq: Proxy) -> dict[str, Any]:
        return {
            "statsite": {"host": "localhost", "port": self.statsd.port, "prefix": "stor", "sample_rate": 1},
            "s3_enabled": True,
            "s3_credentials": self.seaweed.credentials(s3.endpoint),
            "memcached_servers": [f"127.0.0.1:{memcached.port}"],
            "rabbitmq_uri": f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/?exchange=stor&routing_key=sha",
        }

    # Whether Stor talks to them

    def _archive_is_read(self) -> bool:
        return all(self.stor.get(content).status == 200 for content in self.archived[:_PROBES])

    def _hints_are_read(self) -> bool:
        """Give memcached hints of blobs that nobody has, and see whether they were taken; they lead to nothing."""
        names = [sha(fresh()) for _ in range(_PROBES)]
        for name in names:
            self.memcached.say(f"set {name} 0 0 11\r\n/etc/passwd\r\n".encode())
            assert self.stor.ask("GET", f"/{name}").status == 404
        return all(self.memcached.say(f"mg {name} h\r\n".encode()) == b"HD h1\r\n" for name in names)

    def _digests_are_told(self) -> bool:
        with Listener(self.rabbitmq.port) as listener:
            names = [sha(fresh()) for _ in range(_PROBES)]
            for name in names:
                assert self.stor.ask("GET", f"/{name}").status == 404
            return settles(lambda: all(listener.heard[name] == 1 for name in names), within=_ROUND)

    def _requests_are_counted(self) -> bool:
        """Whether statsd hears of requests; nobody else sends malformed ones."""
        before = self._malformed()
        for _ in range(_PROBES):
            assert self.stor.ask("GET", "/malformed").status == 404
        return settles(lambda: self._malformed() - before == _PROBES, within=_ROUND)

    def _malformed(self) -> float:
        return self.statsd.counters.get("stor.error.get.malformed_sha.count", 0)
