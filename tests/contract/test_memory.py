"""B2: memory does not grow with the size of a blob nor with the number of slow readers."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import fresh, sha
from tests.contract.house import House
from tests.contract.wire import request
from tests.support.memory import MIB, little_taken

PIECES: Final = 2048
ALLOWED: Final = 32 * MIB

pytestmark = [pytest.mark.perf, pytest.mark.timeout(600)]


def warmed(stor: House) -> House:
    """Let every worker have done everything once."""
    for size in (100, 2 * MIB) * 10:
        content = fresh(size)
        stor.store(content)
        stor.get(content)
    return stor


def test_a_blob_of_2_gib_takes_less_than_32_mib(make_stor: HouseFactory) -> None:
    stor = warmed(make_stor())
    piece = fresh(MIB)
    hasher = hashlib.sha256()
    for _ in range(PIECES):
        hasher.update(piece)
    name = hasher.hexdigest()

    with little_taken(stor.server, ALLOWED), stor.wire(timeout=300) as wire:
        wire.send(stor.head_of_upload(name, PIECES * MIB), *(piece for _ in range(PIECES)))
        assert wire.answer().status == 201
    with little_taken(stor.server, ALLOWED), stor.wire(timeout=300) as wire:
        wire.send(request("GET", f"/{name}"))
        status, headers = wire.start()
        assert (status, headers["content-length"]) == (200, str(PIECES * MIB))
        assert all(wire.receive(MIB) == piece for _ in range(PIECES))
    for path in stor.names(name):
        path.unlink()


def test_two_hundred_readers_that_stop_reading_take_less_than_32_mib(make_stor: HouseFactory) -> None:
    stor, content, small = warmed(make_stor(workers=1)), bytes(100 * MIB), fresh()
    disk.place_on(stor.pairs[0], content)
    disk.place_on(stor.pairs[1], small)
    # One worker: with two, how many readers each gets is a matter of luck.
    ask_for_it = request("GET", f"/{sha(content)}")

    with little_taken(stor.server, ALLOWED), stor.wires(200, receive_buffer=4096) as wires:
        for wire in wires:
            wire.send(ask_for_it)
            wire.receive(1)
        for _ in range(10):
            assert stor.get(small).body == small
        assert len(stor.get(content).body) == 100 * MIB


@pytest.mark.parametrize("sent", [4 * MIB, 40 * MIB])
def test_twenty_uploads_that_stand_still_take_a_few_mib_each_however_far_they_came(
    make_stor: HouseFactory, sent: int
) -> None:
    stor, small = warmed(make_stor()), fresh()
    with little_taken(stor.server, 20 * 5 * MIB), stor.wires(20) as wires:
        for wire in wires:
            wire.send(stor.head_of_upload(sha(fresh()), 100 * MIB), bytes(sent))
        assert stor.store(small).status == 201
        assert stor.get(small).body == small
