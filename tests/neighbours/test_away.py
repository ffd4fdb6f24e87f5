"""Each neighbour in turn is away, in each way there is, under load: nobody notices, and later it is used again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import pytest

from tests.contract.disk import fresh, settles
from tests.neighbours.town import Neighbour, Proxied, Town
from tests.neighbours.traffic import Asked, Kind, Traffic, slowest

pytestmark = pytest.mark.alone(reason="compares the 99th percentile of reads with and without a neighbour")

AWAY: Final = {"s3": 2.3, "memcached": 1.0, "rabbitmq": 1.0, "statsite": 1.0}
"""Seconds; for the archive more than the timeout of a storage."""
CALM: Final = 0.4
BACK_WITHIN: Final = 10.0
GROWTH: Final = 0.050
"""Seconds by which the 99th percentile of reads of the pool may grow."""

GARBAGE: Final = bytes(range(256)) * 8
PORTAL: Final = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 19\r\n\r\n<h1>Not found</h1>\n"
"""What a box in between answers, which never had a bucket: not to be taken for the answer of one."""

CUT_AFTER: Final = {"s3": 100, "memcached": 3, "rabbitmq": 100}

Away: TypeAlias = contextlib.AbstractContextManager[None]
Fault: TypeAlias = Callable[[Proxied], Away]
AnyNeighbour = TypeVar("AnyNeighbour", bound=Neighbour)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    town = Town(tmp_path_factory.mktemp("town"))
    with town.live():
        yield town


@pytest.fixture(scope="module")
def traffic(town: Town) -> Iterator[Traffic]:
    pooled = [fresh(size) for size in (0, *[2_000] * 30, *[100_000] * 10, 1_500_000)]
    for content in pooled:
        assert town.stor.store(content).status in (200, 201)
    for neighbour in town.neighbours:
        assert settles(neighbour.hears, within=BACK_WITHIN)
    with Traffic(town.stor, pooled, town.archived) as traffic:
        yield traffic


# The ways to be away


@contextlib.contextmanager
def refused(neighbour: Proxied) -> Iterator[None]:
    neighbour.proxy.refuse()
    yield
    neighbour.proxy.accept()


@contextlib.contextmanager
def hung(neighbour: Proxied) -> Iterator[None]:
    neighbour.proxy.hang = True
    yield
    neighbour.proxy.hang = False


@contextlib.contextmanager
def cut(neighbour: Proxied) -> Iterator[None]:
    neighbour.proxy.cut = CUT_AFTER[neighbour.name]
    neighbour.proxy.reset()
    yield
    neighbour.proxy.cut = -1


@contextlib.contextmanager
def slow(neighbour: Proxied) -> Iterator[None]:
    neighbour.proxy.delay = 0.2
    yield
    neighbour.proxy.delay = 0.0


@contextlib.contextmanager
def answering_garbage(neighbour: Proxied, garbage: bytes = GARBAGE) -> Iterator[None]:
    neighbour.proxy.garbage = garbage
    yield
    neighbour.proxy.garbage = b""


def answered_for_by_another(neighbour: Proxied) -> Away:
    return answering_garbage(neighbour, PORTAL)


@contextlib.contextmanager
def killed(neighbour: Neighbour) -> Iterator[None]:
    neighbour.process.kill()
    yield
    neighbour.process.start()


@contextlib.contextmanager
def stopped(neighbour: Neighbour) -> Iterator[None]:
    neighbour.process.pause()
    yield
    neighbour.process.resume()


# What comes of it


@dataclass(frozen=True)
class Ordeal:
    """What was asked before a neighbour was away, while it was, and until it was used again."""

    before: list[Asked]
    away: list[Asked]
    until_back: list[Asked]

    @property
    def growth(self) -> float:
        """Seconds by which the 99th percentile of reads of the pool grew."""
        return slowest(_reads(self.away)) - slowest(_reads(self.before))

    def outcomes(self, *kinds: Kind) -> set[str]:
        """What came of requests of these kinds."""
        return {asked.outcome for asked in self.until_back if asked.kind in kinds}


def _reads(asked: list[Asked]) -> list[Asked]:
    return [each for each in asked if each.kind == "read"]


def endure(traffic: Traffic, neighbour: Neighbour, away: Away) -> Ordeal:
    """Have a neighbour away for a while, and wait until it is used again."""
    before = traffic.during(CALM)
    assert {asked.outcome for asked in before} == {"ok"}
    began = time.monotonic()
    with away:
        during = traffic.during(AWAY[neighbour.name])
    # By every worker: each finds out for itself.
    back = settles(lambda: neighbour.hears() and _is_well(traffic), within=BACK_WITHIN)
    assert back, f"not used again {BACK_WITHIN} s after it was back"
    return Ordeal(before, during, traffic.between(began, time.monotonic()))


def _is_well(traffic: Traffic) -> bool:
    """Whether requests of all kinds are answered; those that still wait for an old timeout are not among them."""
    wanted = {(kind, "ok") for kind in ("read", "store", "miss", "archived")}
    return {(asked.kind, asked.outcome) for asked in traffic.during(0.5)} == wanted


def ordeal_of(traffic: Traffic, neighbour: AnyNeighbour, fault: Callable[[AnyNeighbour], Away]) -> Ordeal:
    """The machine may be busy with something else, but hardly twice."""
    ordeal = endure(traffic, neighbour, fault(neighbour))
    return ordeal if ordeal.growth < GROWTH else endure(traffic, neighbour, fault(neighbour))


@pytest.mark.parametrize("fault", [refused, hung, cut, slow, answering_garbage, killed])
@pytest.mark.parametrize("name", ["cache", "broker"])
def test_who_only_helps_may_be_away(town: Town, traffic: Traffic, name: str, fault: Fault) -> None:
    ordeal = ordeal_of(traffic, getattr(town, name), fault)
    assert ordeal.growth < GROWTH
    assert ordeal.outcomes("read", "store", "miss", "archived") == {"ok"}


@pytest.mark.parametrize("fault", [stopped, killed])
def test_who_only_counts_may_be_away(town: Town, traffic: Traffic, fault: Callable[[Neighbour], Away]) -> None:
    ordeal = ordeal_of(traffic, town.counter, fault)
    assert ordeal.growth < GROWTH
    assert ordeal.outcomes("read", "store", "miss", "archived") == {"ok"}


@pytest.mark.parametrize("fault", [refused, hung, cut, answering_garbage, answered_for_by_another, killed])
def test_while_the_archive_is_away_the_pool_is_served_and_nothing_is_taken_to_be_missing(
    town: Town, traffic: Traffic, fault: Fault
) -> None:
    ordeal = ordeal_of(traffic, town.archive, fault)
    assert ordeal.growth < GROWTH
    assert ordeal.outcomes("read", "store") == {"ok"}
    assert {asked.outcome for asked in ordeal.away if asked.kind in ("miss", "archived")} == {"away"}
    assert ordeal.outcomes("miss", "archived") == {"away", "ok"}


def test_a_slow_archive_is_slow_for_what_only_it_has(town: Town, traffic: Traffic) -> None:
    ordeal = ordeal_of(traffic, town.archive, slow)
    assert ordeal.growth < GROWTH
    assert ordeal.outcomes("read", "store", "miss", "archived") == {"ok"}
