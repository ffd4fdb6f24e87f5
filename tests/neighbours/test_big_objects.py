"""Memory does not grow with the size of an object in S3, nor with how slowly somebody reads it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.contract.wire import request
from tests.neighbours.servers.proxy import Proxy
from tests.neighbours.servers.seaweed import Seaweed
from tests.support.memory import MIB, little_taken
from tests.support.server import Server

PIECE: Final = 64 * MIB
PIECES: Final = 80
SIZE: Final = PIECE * PIECES
ALLOWED: Final = 64 * MIB
STANDSTILL: Final = 3.0  # seconds

pytestmark = [pytest.mark.perf, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A SeaweedFS of its own: what was deleted there keeps its room."""
    directory = tmp_path_factory.mktemp("vast")
    with Seaweed(directory, open_to_all=True) as running:
        yield running
    shutil.rmtree(directory)


def in_front_of(make_server: Callable[..., Server], seaweed: Seaweed, endpoint: str) -> House:
    return House(make_server(config={"s3_enabled": True, "s3_credentials": seaweed.credentials(endpoint)}))


def key_of(digest: str) -> str:
    return f"{digest[:2]}/{digest[2:4]}/{digest[4:6]}/{digest}"


def test_an_object_of_5_gib_takes_less_than_64_mib(make_server: Callable[..., Server], vast: Seaweed) -> None:
    piece = fresh(PIECE)
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(vast.put_repeated, "made", piece, PIECES)
        digest = digest_of_repeated(piece, PIECES)
        made.result()
    vast.move("made", key_of(digest))

    stor = in_front_of(make_server, vast, vast.endpoint)
    with little_taken(stor.server, ALLOWED), stor.wire(timeout=30) as wire:
        wire.send(request("GET", f"/{digest}"))
        status, headers = wire.start()
        assert (status, headers["content-length"]) == (200, str(SIZE))
        assert all(wire.receive(PIECE) == piece for _ in range(PIECES))


def digest_of_repeated(piece: bytes, count: int) -> str:
    hasher = hashlib.sha256()
    for _ in range(count):
        hasher.update(piece)
    return hasher.hexdigest()


def test_a_reader_that_stands_still_stops_the_stream_from_s3(make_server: Callable[..., Server], vast: Seaweed) -> None:
    content = fresh(96 * MIB)
    vast.store().put(key_of(sha(content)), content)

    with Proxy(("127.0.0.1", vast.port)) as proxy:
        stor = in_front_of(make_server, vast, proxy.endpoint)
        with little_taken(stor.server, ALLOWED), stor.wire(timeout=30) as wire:
            wire.send(request("GET", f"/{sha(content)}"))
            wire.start()
            assert wire.receive(MIB) == content[:MIB]
            time.sleep(STANDSTILL)
            passed = proxy.received
            time.sleep(1)
            assert proxy.received == passed < 32 * MIB  # that much is in the buffers of four sockets
            assert wire.receive(len(content) - MIB) == content[MIB:]
