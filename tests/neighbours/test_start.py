"""A server whose neighbours are all away starts as fast as one that has none, and serves what it has."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.contract.disk import fresh, place_on, sha
from tests.contract.house import House
from tests.neighbours.servers.nobody import closed, hung, silent
from tests.support.server import Server

pytestmark = pytest.mark.alone(reason="compares how long it takes to start with and without neighbours")

LATER: Final = 1.0
"""Seconds by which it may start later; the libraries of the neighbours have to be loaded."""


def neighbours_on(port: int) -> dict[str, Any]:
    return {
        "statsite": {"host": "127.0.0.1", "port": port, "prefix": "stor", "sample_rate": 1},
        "s3_enabled": True,
        "s3_credentials": {"access_key": "a", "secret_key": "b", "host": f"http://127.0.0.1:{port}"},
        "memcached_servers": [f"127.0.0.1:{port}"],
        "rabbitmq_uri": f"amqp://guest:guest@127.0.0.1:{port}/?exchange=stor&routing_key=sha",
        "log": [["Screen"], ["Gelf", "host", "127.0.0.1", "port", port, "protocol", "tcp"]],
    }


def seconds_to_start(directory: Path, config: dict[str, Any], check: Callable[[House], None]) -> float:
    server = Server(directory, config=config)
    began = time.monotonic()
    with server:
        seconds = time.monotonic() - began
        check(House(server))
    return seconds


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds in which a server without neighbours starts."""
    return seconds_to_start(tmp_path_factory.mktemp("alone"), {}, lambda _: None)


@pytest.mark.parametrize("away", [closed, hung, silent])
def test_with_all_neighbours_away_it_starts_as_if_there_were_none(
    tmp_path: Path, alone: float, away: Callable[[], contextlib.AbstractContextManager[int]]
) -> None:
    content = fresh(100_000)

    def serves_and_does_not_know(stor: House) -> None:
        place_on(stor.pairs[0], content)
        for _ in range(8):
            began = time.monotonic()
            answer = stor.get(content)
            assert (answer.status, answer.body) == (200, content)
            assert time.monotonic() - began < 0.5
        missed = stor.ask("GET", f"/{sha(fresh())}")
        assert missed.status == 503
        assert missed.headers["retry-after"]

    with away() as port:
        seconds = seconds_to_start(tmp_path / "first", neighbours_on(port), serves_and_does_not_know)
        if seconds - alone > LATER:  # the machine may be busy with something else, but hardly twice
            seconds = seconds_to_start(tmp_path / "again", neighbours_on(port), serves_and_does_not_know)
    assert seconds - alone < LATER
