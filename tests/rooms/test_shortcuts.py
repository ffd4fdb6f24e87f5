"""The way back to a blob that was served before."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.replicas import ReplicaSet
from pystor.shortcuts import Shortcut
from pystor.verification import Verifier
from tests.rooms.tools import adopted, descriptors, place, where

CONTENT = random.Random(1).randbytes(4096)
OTHER = random.Random(2).randbytes(4096)
BLOB = Digest.of(CONTENT)
ROOM = memoryview(bytearray(8192))


@pytest.fixture
def pair(tmp_path: Path) -> list[Directory]:
    storages = [adopted(tmp_path / name) for name in "ab"]
    for storage in storages:
        place(storage, CONTENT)
    return storages


def learned(*storages: Directory) -> Shortcut[str]:
    """The way to the blob on these storages, which are all that the set has."""
    shortcut = Shortcut[str](ReplicaSet([Bulkhead(storage, threads=1) for storage in storages]), Verifier())
    for storage in storages:
        replica = storage.open(BLOB)
        assert replica is not None
        with replica:
            shortcut.learn(replica, storage.root)
    return shortcut


def again(shortcut: Shortcut[str], offset: int = 0, size: int = len(CONTENT)) -> tuple[str, bytes] | None:
    """A part of the blob, and the root of the storage that it came from."""
    way = shortcut.pick()
    room = ROOM[:size]
    return (way.storage, bytes(room)) if way is not None and way.read_cached(offset, room) else None


def test_a_replica_that_has_not_served_yet_is_where_the_look_up_begins(pair: list[Directory]) -> None:
    members = [Bulkhead(storage, threads=1) for storage in pair]
    replica_set = ReplicaSet(members)
    shortcut = Shortcut[str](replica_set, Verifier())
    replica = pair[0].open(BLOB)
    assert replica is not None
    with replica:
        shortcut.learn(replica, "")

    began = [replica_set.in_turn()[0] for _ in range(100) if shortcut.pick() is None]

    assert 20 < len(began) < 80
    assert set(began) == {members[1]}


def test_a_blob_is_read_again_from_each_of_its_replicas(pair: list[Directory], tmp_path: Path) -> None:
    shortcut = learned(*pair)
    found = [again(shortcut) for _ in range(100)]

    assert None not in found
    assert {content for _, content in filter(None, found)} == {CONTENT}
    assert Counter(root for root, _ in filter(None, found)).keys() == {storage.root for storage in pair}
    assert not descriptors(tmp_path)


def test_a_way_tells_of_its_replica(pair: list[Directory]) -> None:
    for storage, moment in zip(pair, (10**9, 10**9 + 7), strict=True):
        os.utime(where(storage, BLOB), (moment, moment))
    shortcut = learned(*pair)
    ways = {way.storage: way for way in filter(None, (shortcut.pick() for _ in range(100)))}

    assert [ways[storage.root].modified for storage in pair] == [10**9, 10**9 + 7]
    assert {way.size for way in ways.values()} == {len(CONTENT)}
    assert all(way.note == root for root, way in ways.items())


def test_a_part_of_a_blob_is_read_again_but_not_past_its_end(pair: list[Directory], tmp_path: Path) -> None:
    shortcut = learned(*pair)

    assert {content for _, content in filter(None, (again(shortcut, 1000, 50) for _ in range(20)))} == {
        CONTENT[1000:1050]
    }
    assert {content for _, content in filter(None, (again(shortcut, 4096, 0) for _ in range(20)))} == {b""}
    assert [again(shortcut, 4000, 97) for _ in range(20)] == [None] * 20
    assert not descriptors(tmp_path)


def _rewrite(path: Path) -> None:
    """As bit rot in the file system's eyes: the size and the times that can be set stay."""
    info = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _replace(path: Path) -> None:
    info = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(OTHER)
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [_rewrite, _replace, Path.unlink, lambda path: os.truncate(path, 100), lambda path: path.chmod(0o640)],
    ids=["rewritten", "replaced", "removed", "truncated", "touched"],
)
@pytest.mark.parametrize("size", [0, 50, 4096])
def test_a_replica_that_is_not_what_it_was_is_looked_for_anew(
    pair: list[Directory], change: Callable[[Path], None], size: int, tmp_path: Path
) -> None:
    shortcut = learned(*pair)
    for storage in pair:
        change(where(storage, BLOB))

    assert [again(shortcut, 0, size) for _ in range(20)] == [None] * 20
    assert not descriptors(tmp_path)


def test_there_is_no_way_back_to_what_changed_after_it_was_opened(pair: list[Directory]) -> None:
    replica = pair[0].open(BLOB)
    assert replica is not None
    with replica:
        ways = [replica.again]
        where(pair[0], BLOB).chmod(0o640)
        ways.append(replica.again)
    ways.append(replica.again)
    assert [way is None for way in ways] == [False, True, True]


def test_a_storage_that_is_not_local_has_no_shortcut(pair: list[Directory]) -> None:
    for storage in pair:
        storage.local = False

    assert learned(*pair).pick() is None


def test_a_slow_storage_is_not_asked(pair: list[Directory], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = pair[0].root
    monkeypatch.setattr(Bulkhead, "slow", property(lambda member: member.storage.root == slow))

    found = filter(None, (again(learned(*pair)) for _ in range(50)))
    assert {root for root, _ in found} == {pair[1].root}
