"""What is copied in the background: quietly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pystor.copying import copy
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import Unavailable
from pystor.events import Event, LeftoversSwept, ReplicaRepaired
from tests.rooms.tools import adopted, blobs, place, run, running, tiers_of

CONTENTS = [b"a blob", b"b" * 3_000_000]


def told(events: list[Event]) -> list[Event]:
    """What was told; the sweep at the start is another matter."""
    return [event for event in events if not isinstance(event, LeftoversSwept | ReplicaRepaired)]


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
