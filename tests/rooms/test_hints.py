"""The location cache as the pool uses it: what it knows spares probes, what it has wrong costs one probe, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import NotFound
from pystor.events import Event, HintAsked, LookedUp
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
