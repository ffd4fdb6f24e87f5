"""A server whose blobs are laid on its disks, and a proxy in front of it that breaks connections."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from pystor.client import Client, Retry
from tests.contract import disk
from tests.neighbours.servers.proxy import Proxy
from tests.support.server import Server

QUICK = Retry(attempts=6, delay=0.01, longest=0.05)


def lay(server: Server, *contents: bytes) -> list[str]:
    """Put blobs where the server finds them, without a request; returns their digests."""
    for content in contents:
        disk.place_on(tuple(server.pairs[0]), content)
    return [sha(content) for content in contents]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for these tests alone: they fill it, and others look through all that is on theirs."""
    with Server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", server.port)) as proxy:
        yield proxy


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client that talks to the server directly, and may write."""
    with Client(server.url, user=server.user, password=server.password, retry=QUICK) as client:
        yield client


@pytest.fixture
def through(server: Server, proxy: Proxy) -> Iterator[Client]:
    """The same through the proxy; it gives up on a connection on which nothing moves for half a second."""
    with Client(proxy.endpoint, user=server.user, password=server.password, retry=QUICK, timeout=0.5) as client:
        yield client
