"""Disks without room: 507, nothing left behind, reads go on, and what is freed is used again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract import disk
from tests.contract.conftest import HouseFactory
from tests.contract.disk import Pair, fresh, replica, sha
from tests.contract.house import House
from tests.contract.wire import Answer, Wire
from tests.support.mounts import Mounts
from tests.support.server import Server

MIB: Final = 1 << 20


def small_pair(mounts: Mounts, size: int = 8 * MIB, inodes: int = 0) -> Pair:
    return mounts.tmpfs(size, inodes), mounts.tmpfs(size, inodes)


def fill(stor: House, size: int) -> list[bytes]:
    """Store blobs of a size until there is no room for another; gives those that were stored."""
    stored: list[bytes] = []
    while (answer := stor.store(content := fresh(size))).status == 201:
        stored.append(content)
    check_full(answer)
    return stored


def check_full(answer: Answer) -> None:
    assert answer.status == 507
    assert answer.headers["content-type"].startswith("text/plain")
    assert len(answer.body.splitlines()) == 1


def pairs_holding(stor: House, content: bytes) -> set[Pair]:
    return {pair for pair in stor.pairs for path in stor.replicas(content) if any(path.is_relative_to(s) for s in pair)}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, list[bytes]]]:
    """A server whose only pair is full, and what it stored on the way."""
    directory = tmp_path_factory.mktemp("full")
    with contextlib.closing(Mounts(directory)) as mounts, Server(directory, pairs=[small_pair(mounts)]) as server:
        stor = House(server)
        yield stor, fill(stor, 500_000)


def test_a_full_disk_answers_507_and_leaves_nothing_behind(full: tuple[House, list[bytes]]) -> None:
    stor, stored = full

    assert 10 <= len(stored) <= 16
    with stor.nothing_left_behind():
        check_full(stor.store(fresh(500_000)))
        check_full(stor.store_chunked(fresh(500_000)))
        check_full(stor.ask("POST", "/", stor.login, fresh(500_000)))


def test_a_full_disk_is_read_as_before(full: tuple[House, list[bytes]]) -> None:
    stor, stored = full

    assert [stor.get(content).body == content for content in stored] == [True] * len(stored)
    assert stor.get(fresh()).status == 404
    assert stor.ask("GET", "/status").status == 200


def test_a_duplicate_on_a_full_disk_is_200(full: tuple[House, list[bytes]]) -> None:
    stor, stored = full

    assert stor.store(stored[0]).status == 200


@pytest.mark.parametrize("size", [9 * MIB, 1 << 39])
def test_a_blob_larger_than_the_disk_is_507_before_its_body_is_read(full: tuple[House, list[bytes]], size: int) -> None:
    stor, _ = full
    with stor.nothing_left_behind(), stor.wire(timeout=5) as wire:
        wire.send(stor.head_of_upload(sha(fresh()), size))
        check_full(wire.answer())


def test_room_that_is_freed_is_used_again(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts)])
    stored = fill(stor, 500_000)
    for path in [path for content in stored[:2] for path in stor.replicas(content)]:
        path.unlink()

    content = fresh(500_000)
    assert disk.settles(lambda: stor.store(content).status in {200, 201})
    assert stor.get(content).body == content


def test_a_chunked_blob_larger_than_the_disk_is_507_and_leaves_nothing_behind(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    stor = make_stor(pairs=[small_pair(mounts)])
    with stor.nothing_left_behind():
        check_full(answer := stor.store_chunked(fresh(12 * MIB)))

    assert answer.body == b"No room is left on a storage; nothing was acknowledged; add storages or free some"
    assert stor.store(fresh(4 * MIB)).status == 201


def test_what_is_told_of_a_full_set_names_no_number_that_nobody_knows(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts, 2 * MIB)], config={"reserve_bytes": 2 * MIB})
    check_full(answer := stor.store_chunked(fresh(3 * MIB)))
    assert answer.body == b"No replica set has room for more; add storages or free some"
    check_full(answer := stor.store(fresh(3 * MIB)))
    assert answer.body == b"No replica set has room for %d bytes; add storages or free some" % (3 * MIB)


def test_a_pair_is_as_full_as_its_fullest_member(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[(mounts.tmpfs(64 * MIB), mounts.tmpfs(4 * MIB))])
    with stor.nothing_left_behind():
        check_full(stor.store(fresh(6 * MIB)))

    assert stor.store(fresh(MIB)).status == 201


def test_a_blob_goes_to_the_pair_that_has_room(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts, 4 * MIB), small_pair(mounts, 16 * MIB), small_pair(mounts, 4 * MIB)])
    content = fresh(6 * MIB)

    assert stor.store(content).status == 201
    assert pairs_holding(stor, content) == {stor.pairs[1]}


def test_a_pair_that_is_full_leaves_the_blob_to_another(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts, 8 * MIB), small_pair(mounts, 12 * MIB)])
    stored = fill(stor, 500_000)

    assert 28 <= len(stored) <= 40
    assert [stor.get(content).body == content for content in stored] == [True] * len(stored)


def test_the_reserve_stays_free(make_stor: HouseFactory, mounts: Mounts) -> None:
    pair = small_pair(mounts)
    stor = make_stor(pairs=[pair], config={"reserve_bytes": 4 * MIB})
    fill(stor, 200_000)

    for report in stor.report():
        assert report["free_bytes"] >= 4 * MIB - 65_536


def test_the_reserve_stays_free_though_nobody_knows_how_long_a_blob_will_be(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    stor = make_stor(pairs=[small_pair(mounts, 12 * MIB)], config={"reserve_bytes": 4 * MIB})
    with stor.nothing_left_behind():
        check_full(stor.store_chunked(fresh(10 * MIB)))

    assert stor.store_chunked(content := fresh(6 * MIB)).status == 201
    assert stor.get(content).body == content
    assert min(report["free_bytes"] for report in stor.report()) >= 4 * MIB


def test_a_disk_without_inodes_is_507_and_leaves_nothing_behind(make_stor: HouseFactory, mounts: Mounts) -> None:
    pair = small_pair(mounts, inodes=64)
    stor = make_stor(pairs=[pair])
    stored = fill(stor, 1000)

    assert stored
    with stor.nothing_left_behind():
        check_full(stor.store(fresh(1000)))
    assert [stor.get(content).body for content in stored] == stored


def test_one_member_without_inodes_is_507_and_the_other_keeps_nothing(make_stor: HouseFactory, mounts: Mounts) -> None:
    pair = (mounts.tmpfs(8 * MIB), mounts.tmpfs(8 * MIB, 64))
    stor = make_stor(pairs=[pair])
    _use_up_inodes(pair[1])
    with stor.nothing_left_behind():
        check_full(stor.store(fresh(1000)))


def test_a_pair_without_inodes_is_not_chosen_and_tells_that_it_has_no_room(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    full, other = small_pair(mounts, 64 * MIB, inodes=64), small_pair(mounts)
    stor = make_stor(pairs=[full, other], workers=1)
    stor.server.stop()
    _use_up_inodes(full[0])
    stor.server.start()

    assert [report["free_bytes"] > 0 for report in stor.report()] == [False, True, True, True]
    for content in [fresh(1000) for _ in range(5)]:
        assert stor.store(content).status == 201
        assert pairs_holding(stor, content) == {other}
    assert "storage failed" not in stor.server.stderr


def test_a_pair_that_does_not_tell_its_room_takes_blobs(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[(mounts.tmpfs(0), mounts.tmpfs(0))])

    for content in (fresh(1000), fresh(2 * MIB)):
        assert stor.store(content).status == 201
        assert stor.get(content).body == content
    assert stor.store_chunked(fresh(1000)).status == 201
    assert [(report["total_bytes"], report["free_bytes"]) for report in stor.report()] == [(None, None)] * 2


def _use_up_inodes(storage: Path) -> None:
    try:
        for number in range(1000):
            (storage / f"filler{number}").touch()
    except OSError:
        return


def test_concurrent_uploads_do_not_share_the_room_they_reserved(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts)])
    contents = [fresh(3 * MIB) for _ in range(6)]
    with stor.wires(6) as wires:
        for wire, content in zip(wires, contents, strict=True):
            wire.send(stor.head_of_upload(sha(content), len(content)), content[:1])
        admitted = [at for at, wire in enumerate(wires) if not _is_refused(wire)]
        assert len(admitted) == 2
        for at in admitted:
            wires[at].send(contents[at][1:])
            assert wires[at].answer().status == 201


def _is_refused(wire: Wire) -> bool:
    if not wire.hears(1.5):
        return False
    check_full(wire.answer())
    return True


def test_what_an_aborted_upload_reserved_is_free_again(make_stor: HouseFactory, mounts: Mounts) -> None:
    stor = make_stor(pairs=[small_pair(mounts)])
    for _ in range(10):
        wire = stor.wire()
        wire.send(stor.head_of_upload(sha(fresh()), 5 * MIB), b"x" * 100_000)
        wire.reset()

    content = fresh(5 * MIB)
    assert disk.settles(lambda: stor.store(content).status in {200, 201})


# Read-only pairs


@pytest.fixture(scope="module")
def half_read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server whose first pair is read-only."""
    config = {"writable_pairs_regex": "pair2/[ab]"}
    with Server(tmp_path_factory.mktemp("read-only"), config=config) as server:
        yield House(server)


def test_a_pair_that_is_read_only_takes_no_blob(half_read_only: House) -> None:
    stor, contents = half_read_only, [fresh() for _ in range(20)]
    answers = [stor.store(content) for content in contents]

    assert {answer.status for answer in answers} == {201}
    assert {pair for content in contents for pair in pairs_holding(stor, content)} == {stor.pairs[1]}


def test_a_pair_with_one_member_that_is_read_only_takes_no_blob(make_stor: HouseFactory) -> None:
    stor = make_stor(config={"writable_pairs_regex": "pair1/a|pair2/"})
    contents = [fresh() for _ in range(20)]

    assert {stor.store(content).status for content in contents} == {201}
    assert {pair for content in contents for pair in pairs_holding(stor, content)} == {stor.pairs[1]}


def test_when_every_pair_is_read_only_an_upload_is_507(make_stor: HouseFactory) -> None:
    stor = make_stor(config={"writable_pairs_regex": "no storage has this name"})
    with stor.nothing_left_behind():
        check_full(answer := stor.store(fresh()))
    assert answer.body == b"No replica set takes new blobs; mend writable_pairs_regex, which no whole set matches"


def test_a_read_only_pair_is_read_and_its_blobs_are_duplicates(half_read_only: House) -> None:
    stor, content = half_read_only, fresh()
    placed = disk.place_on(stor.pairs[0], content)

    assert stor.get(content).body == content
    answer = stor.store(content)
    assert (answer.status, json.loads(answer.body)) == (200, [str(path) for path in placed])


def test_status_tells_which_storages_are_read_only(half_read_only: House) -> None:
    assert [storage["writable"] for storage in half_read_only.report()] == [False, False, True, True]
    assert half_read_only.ask("GET", "/status").body == b"OK"


def test_a_read_only_pair_is_not_written_to_at_all(half_read_only: House) -> None:
    stor, content = half_read_only, fresh()
    disk.place(stor.pairs[0][0], content)
    before = disk.files(stor.pairs[0])
    assert stor.store(content).status in {200, 201}
    assert stor.get(content).body == content

    assert disk.files(stor.pairs[0]) == before
    assert not replica(stor.pairs[0][1], sha(content)).exists()
