"""What is copied in the background: quietly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pystor.copying import copy
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageFull, Unavailable
from pystor.events import Event, LeftoversSwept, ReplicaRepaired
from tests.rooms.tools import adopted, blobs, place, run, running, tiers_of, where

CONTENTS = [b"a blob", b"b" * 3_000_000]


def told(events: list[Event]) -> list[Event]:
    """What was told; the sweep at the start is another matter."""
    return [event for event in events if not isinstance(event, LeftoversSwept | ReplicaRepaired)]


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.fixture
def pair(tmp_path: Path) -> list[Directory]:
    return [adopted(tmp_path / name) for name in "ab"]


@pytest.mark.parametrize("content", CONTENTS, ids=["small", "large"])
def test_a_copy_is_made_and_is_not_counted_as_asked_for(pair: list[Directory], content: bytes) -> None:
    events: list[Event] = []
    place(pair[0], content)

    async def scenario() -> int:
        async with running(pair, events=events) as pool:
            return await copy(tiers_of(pool), pool, Digest.of(content))

    assert run(scenario()) == len(content)
    assert blobs(pair[1]) == [content]
    assert told(events) == []


def test_what_is_not_there_any_more_is_not_copied_and_not_counted_as_missed(pair: list[Directory]) -> None:
    events: list[Event] = []

    async def scenario() -> int:
        async with running(pair, events=events) as pool:
            return await copy(tiers_of(pool), pool, Digest.of(b"none"))

    assert run(scenario()) == 0
    assert told(events) == []


def test_a_storage_that_is_away_keeps_only_its_own_set_from_being_repaired(tmp_path: Path) -> None:
    pairs = [[adopted(tmp_path / f"{number}{side}", f"set {number}") for side in "ab"] for number in range(2)]
    shutil.rmtree(pairs[1][1].root)

    async def scenario(pair: list[Directory], content: bytes) -> int:
        place(pair[0], content)
        async with running(*pairs) as pool:
            return await copy(tiers_of(pool), pool, Digest.of(content))

    assert run(scenario(pairs[0], b"of the set that is well")) > 0
    assert blobs(pairs[0][1]) == [b"of the set that is well"]
    with pytest.raises(Unavailable, match="tried again"):
        run(scenario(pairs[1], b"of the other"))


def test_a_replica_for_which_there_is_no_room_is_not_stored_in_another_set_again_and_again(tmp_path: Path) -> None:
    full = [adopted(tmp_path / "a", "full"), adopted(tmp_path / "b", "full", reserve=1 << 60)]
    other = [adopted(tmp_path / name, "other") for name in "cd"]
    place(full[0], b"a blob")
    stored = where(other[0], Digest.of(b"a blob"))

    async def scenario() -> None:
        async with running(full, other) as pool:
            assert await copy(tiers_of(pool), pool, Digest.of(b"a blob")) > 0  # it is in no set as a whole
            before = inode(stored)
            with pytest.raises(StorageFull):
                await copy(tiers_of(pool), pool, Digest.of(b"a blob"))
            assert inode(stored) == before

    run(scenario())
    assert blobs(other[0]) == [b"a blob"]


def test_what_is_not_in_the_pool_is_not_copied_there_while_a_storage_that_may_have_it_is_away(
    tmp_path: Path, pair: list[Directory]
) -> None:
    away = [adopted(tmp_path / "c"), Directory(str(tmp_path / "nowhere"))]

    async def scenario() -> int:
        async with running(away, pair) as pool:
            return await copy(tiers_of(pool), pool, Digest.of(b"a blob"))

    with pytest.raises(Unavailable):
        run(scenario())
