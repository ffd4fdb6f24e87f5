"""The location cache as the pool uses it: what it knows spares probes, what it has wrong costs one probe, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pystor import hints
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import NotFound
from pystor.events import Event, HintAsked, LookedUp
from pystor.hints import Hints, NoSharedCache
from pystor.pool import Pool
from tests.rooms.tools import adopted, place, run, running

CONTENT = b"a blob"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def sets(tmp_path: Path) -> list[list[Directory]]:
    return [[adopted(tmp_path / name, name)] for name in "abc"]


async def attempts(pool: Pool, events: list[Event]) -> int:
    """Find the blob; tells how many storages were asked."""
    (await pool.find(DIGEST)).close()
    (looked,) = [event for event in events if isinstance(event, LookedUp)]
    events.clear()
    return looked.attempts


def test_a_hint_at_a_set_that_has_the_blob_no_more_misleads_once(sets: list[list[Directory]]) -> None:
    async def scenario() -> None:
        events: list[Event] = []
        async with running(*sets, events=events) as pool:
            for (storage,) in sets:
                path = place(storage, CONTENT)
                events.clear()
                await attempts(pool, events)
                assert await attempts(pool, events) == 1
                path.unlink()

    run(scenario())


def test_a_blob_that_is_gone_is_no_hit_of_the_location_cache_any_more(sets: list[list[Directory]]) -> None:
    async def scenario() -> list[bool]:
        events: list[Event] = []
        async with running(*sets, events=events) as pool:
            path = place(sets[0][0], CONTENT)
            await attempts(pool, events)
            path.unlink()
            for _ in range(2):
                with pytest.raises(NotFound):
                    await pool.find(DIGEST)
        return [event.hit for event in events if isinstance(event, HintAsked)]

    assert run(scenario()) == [True, False]


def test_how_long_the_location_cache_took_is_no_time_of_looking_the_storages_through(
    sets: list[list[Directory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def know_nothing_late(_: NoSharedCache, __: Digest) -> None:
        await asyncio.sleep(0.5)

    async def scenario() -> None:
        events: list[Event] = []
        async with running(*sets, events=events) as pool:
            place(sets[0][0], CONTENT)
            (await pool.find(DIGEST)).close()
        (asked,) = [event for event in events if isinstance(event, HintAsked)]
        (looked,) = [event for event in events if isinstance(event, LookedUp)]
        assert looked.seconds < asked.seconds

    monkeypatch.setattr(NoSharedCache, "get", know_nothing_late)
    run(scenario())


def test_of_more_hints_than_there_is_room_for_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_REMEMBERED", 2)
    known, digests = Hints(NoSharedCache()), [Digest.of(bytes([number])) for number in range(3)]
    for digest in digests:
        known.put(digest, f"/a/{digest.path}")
    assert [known.get_now(digest) is None for digest in digests] == [True, False, False]


def test_what_this_process_has_noted_is_not_sent_to_the_others_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, sent = NoSharedCache(), list[str]()
    monkeypatch.setattr(shared, "put", lambda _, path: sent.append(path))
    known = Hints(shared)
    for _ in range(3):
        known.put(DIGEST, "/a/path")
    assert sent == ["/a/path"]
