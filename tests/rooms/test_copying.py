"""What is copied in the background: quietly."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest

from pystor import promotion, upkeep
from pystor.blob import Timeouts
from pystor.bulkhead import Bulkhead
from pystor.copying import copy
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageFull, Unavailable
from pystor.events import BlobServed, Event, LeftoversSwept, PromotionFailed, ReplicaRepaired, nobody
from pystor.jobs import Queue
from pystor.pool import Pool
from pystor.promotion import Promotion
from pystor.reading import Reading
from pystor.tiers import Tier, Tiers
from tests.rooms.tools import (
    adopted,
    bad_sector,
    beside,
    blobs,
    eventually,
    place,
    run,
    running,
    tiers_of,
    where,
)

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


@pytest.mark.parametrize("content", CONTENTS, ids=["small", "large"])
def test_a_copy_in_another_pool_is_of_the_time_of_what_it_was_made_of(
    pair: list[Directory], tmp_path: Path, content: bytes
) -> None:
    path = place(pair[0], content)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))

    async def scenario() -> None:
        async with running([adopted(tmp_path / "other")]) as other, running(pair[:1]) as pool:
            assert await copy(tiers_of(pool), other, Digest.of(content)) == len(content)

    run(scenario())
    assert where(Directory(str(tmp_path / "other")), Digest.of(content)).stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_what_is_copied_is_not_noted_to_be_repaired_meanwhile(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Digest] = []

    async def enqueue(_: Bulkhead, __: str, digest: Digest) -> None:
        noted.append(digest)

    monkeypatch.setattr(Bulkhead, "enqueue", enqueue)
    place(pair[0], CONTENTS[0])

    async def scenario() -> None:
        async with running(pair) as pool:
            pool.sets[0].members[0].note_time(10.0)  # a slow one is asked last
            assert await copy(tiers_of(pool), pool, Digest.of(CONTENTS[0])) > 0

    run(scenario())
    assert noted == []


def test_what_is_not_there_any_more_is_not_copied_and_not_counted_as_missed(pair: list[Directory]) -> None:
    events: list[Event] = []

    async def scenario() -> int:
        async with running(pair, events=events) as pool:
            return await copy(tiers_of(pool), pool, Digest.of(b"none"))

    assert run(scenario()) == 0
    assert told(events) == []


@pytest.fixture
def quick(memory: Path) -> list[Directory]:
    """A pair that answers its probes at once, and is not waited for long."""
    pair = [adopted(memory / name) for name in "ab"]
    for storage in pair:
        storage.timeouts = Timeouts(answer=0.4)  # type: ignore[misc]
    return pair


async def read(pool: Pool, content: bytes) -> None:
    """Read a blob, which is right whichever storage is asked first."""
    tiers = tiers_of(pool)
    replica = await tiers.find(Digest.of(content))
    async with aclosing(Reading(tiers, Digest.of(content), replica, 0, len(content))) as pieces:
        assert b"".join([piece async for piece in pieces]) == content


async def read_until(holds: Callable[[], bool], pool: Pool, content: bytes) -> None:
    for _ in range(500):
        if holds():
            return
        await read(pool, content)
        await asyncio.sleep(0.001)
    raise AssertionError("it was read in vain")


@pytest.mark.parametrize("content", CONTENTS, ids=["small", "large"])
def test_a_replica_that_was_good_before_it_could_not_be_read_is_replaced(
    quick: list[Directory], content: bytes
) -> None:
    digest, paths = Digest.of(content), [place(storage, content) for storage in quick]
    old = inode(paths[0])

    async def scenario() -> None:
        async with running(quick) as pool:
            assert await copy(tiers_of(pool), pool, digest) == 0
            with bad_sector(paths[0]) as over:
                over.set()
                await read_until(lambda: beside(quick[0], "repair") != [], pool, content)
                assert await copy(tiers_of(pool), pool, digest) == len(content)

    run(scenario())
    assert inode(paths[0]) != old


@pytest.mark.parametrize("content", CONTENTS, ids=["small", "large"])
def test_a_replica_that_is_late_is_replaced_and_nobody_waits_for_it_a_second_time(
    quick: list[Directory], content: bytes
) -> None:
    digest, paths = Digest.of(content), [place(storage, content) for storage in quick]
    old = inode(paths[0])

    async def scenario() -> None:
        async with running(quick) as pool:
            with bad_sector(paths[0]):
                await read_until(lambda: beside(quick[0], "repair") != [], pool, content)
                async with asyncio.timeout(0.4):
                    assert await copy(tiers_of(pool), pool, digest) == len(content)
                assert [member.out for member in pool.members()] == [False, False]

    run(scenario())
    assert inode(paths[0]) != old
    assert [blobs(storage) for storage in quick] == [[content]] * 2


def test_a_replica_that_keeps_the_whole_disk_busy_until_it_cannot_be_read_is_replaced_when_the_disk_is_back(
    quick: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_RECOVERED_EVERY", 0.05)
    content, digest = CONTENTS[0], Digest.of(CONTENTS[0])
    paths = [place(storage, content) for storage in quick]
    old = inode(paths[0])

    async def scenario() -> None:
        async with running(quick) as pool:
            with bad_sector(paths[0]) as over:
                monkeypatch.setattr(quick[0], "probe", lambda: over.wait(20))
                await read_until(lambda: any(member.out for member in pool.members()), pool, content)
                over.set()
                await eventually(lambda: beside(quick[0], "repair") != [])
                over.clear()
                async with asyncio.timeout(0.4):
                    assert await copy(tiers_of(pool), pool, digest) == len(content)

    run(scenario())
    assert inode(paths[0]) != old


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


@pytest.mark.parametrize("content", CONTENTS, ids=["small", "large"])
def test_those_that_answer_are_repaired_while_another_storage_of_their_set_is_away(
    tmp_path: Path, content: bytes
) -> None:
    storages = [adopted(tmp_path / name) for name in "abcd"]
    place(storages[0], content)
    place(storages[1], content[1:], Digest.of(content))
    shutil.rmtree(storages[3].root)
    spent: list[int] = []

    async def scenario() -> None:
        async with running(storages) as pool:
            for _ in range(2):
                with pytest.raises(Unavailable, match="tried again") as caught:
                    await copy(tiers_of(pool), pool, Digest.of(content))
                spent.append(caught.value.copied)

    run(scenario())
    assert spent == [len(content), 0]
    assert [blobs(storage) for storage in storages[:3]] == [[content]] * 3
    assert len(beside(storages[1], "quarantine")) == 1


def test_what_is_repaired_while_a_storage_is_away_stays_noted_and_is_done_no_faster_than_else(
    tmp_path: Path,
) -> None:
    storages = [adopted(tmp_path / name) for name in "abc"]
    contents = [bytes([number]) * 1000 for number in range(3)]
    for content in contents:
        place(storages[0], content)
        storages[1].enqueue("repair", Digest.of(content))
    shutil.rmtree(storages[2].root)

    async def scenario() -> float:
        async with running(storages) as pool:
            job = partial(copy, tiers_of(pool), pool)
            queue = Queue("repair", pool, job, observe=nobody, files_per_second=1e6, bytes_per_second=10_000)
            began = time.monotonic()
            assert await queue.work_off() == len(contents) + 1
            return time.monotonic() - began

    assert run(scenario()) >= 0.3
    assert sorted(blobs(storages[1])) == contents
    assert len(beside(storages[1], "repair")) == len(contents)


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


def test_promotion_rests_after_the_pool_took_nothing_and_goes_on_when_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "_REST_SECONDS", 0.2)
    archived, full = adopted(tmp_path / "archive"), adopted(tmp_path / "pool", "a pool", reserve=1 << 60)
    contents, events = [b"first", b"second", b"third"], list[Event]()
    served = [BlobServed(Digest.of(content), archived.root, "archive", len(content), 0.0) for content in contents]
    for content in contents:
        place(archived, content)

    def failed() -> list[Digest]:
        return [event.digest for event in events if isinstance(event, PromotionFailed)]

    async def scenario() -> None:
        async with running([full], events=events) as pool, running([archived]) as archive:
            promoting = Promotion(Tiers([Tier("archive", archive)], nobody), pool)
            await promoting.start()
            promoting(served[0])
            promoting(served[1])
            await eventually(lambda: failed() == [served[0].digest])
            monkeypatch.setattr(full, "_reserve", 0)
            await asyncio.sleep(0.3)
            promoting(served[2])
            await eventually(lambda: blobs(full) == [b"third"])
            await promoting.stop()

    run(scenario())
    assert failed() == [served[0].digest]


def test_what_was_promoted_and_is_lost_is_promoted_again_when_it_is_read(tmp_path: Path, pair: list[Directory]) -> None:
    archive, content = adopted(tmp_path / "archive"), CONTENTS[0]
    place(archive, content)
    served = BlobServed(Digest.of(content), archive.root, "archive", len(content), 0.1)

    async def scenario() -> None:
        async with running([archive]) as first, running(pair) as pool:
            mine = Promotion(Tiers([Tier("archive", first), Tier("pool", pool)], pool.observe), pool)
            await mine.start()
            for _ in range(2):

                def is_promoted() -> bool:
                    mine(served)
                    return [blobs(storage) for storage in pair] == [[content]] * 2

                await eventually(is_promoted)
                for storage in pair:
                    where(storage, served.digest).unlink()
            await mine.stop()

    run(scenario())


def test_a_blob_that_is_read_again_before_it_is_promoted_is_copied_once(
    tmp_path: Path, pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    archived, copied = adopted(tmp_path / "archive"), list[Digest]()
    contents = [b"read often", b"read last"]
    served = {
        Digest.of(each): BlobServed(Digest.of(each), archived.root, "archive", len(each), 0.1) for each in contents
    }
    often, last = served.values()
    for content in contents:
        place(archived, content)

    async def scenario() -> None:
        async with running([archived]) as archive, running(pair) as pool:
            promoting = Promotion(Tiers([Tier("archive", archive)], nobody), pool)

            async def copy_while_it_is_read(tiers: Tiers, into: Pool, digest: Digest) -> int:
                copied.append(digest)
                promoting(served[digest])
                return await copy(tiers, into, digest)

            monkeypatch.setattr(promotion, "copy", copy_while_it_is_read)
            promoting(often)
            promoting(often)
            await promoting.start()
            await eventually(lambda: copied == [often.digest] and len(blobs(pair[1])) == 1)
            promoting(last)
            await eventually(lambda: sorted(blobs(pair[1])) == sorted(contents))
            await promoting.stop()

    run(scenario())
    assert copied == [often.digest, last.digest]


@pytest.mark.parametrize(("tier", "head"), [("pool", False), ("archive", True)])
def test_what_was_read_from_the_pool_and_what_was_only_looked_at_is_not_promoted(
    tmp_path: Path, pair: list[Directory], tier: str, *, head: bool
) -> None:
    archived = adopted(tmp_path / "archive")
    for content in (b"a blob", b"read last"):
        place(archived, content)

    async def scenario() -> None:
        async with running([archived]) as archive, running(pair) as pool:
            promoting = Promotion(Tiers([Tier("archive", archive)], nobody), pool)
            promoting(BlobServed(Digest.of(b"a blob"), archived.root, tier, 6, 0.1, head))
            promoting(BlobServed(Digest.of(b"read last"), archived.root, "archive", 9, 0.1))
            await promoting.start()
            await eventually(lambda: blobs(pair[1]) != [])  # one at a time, in their order
            await promoting.stop()

    run(scenario())
    assert blobs(pair[1]) == [b"read last"]


def test_one_too_many_that_is_to_be_promoted_is_no_failure_of_whoever_reads_it(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "_WAITING_AT_MOST", 2)

    async def scenario() -> None:
        async with running(pair) as pool:
            waiting = Promotion(tiers_of(pool), pool)
            for number in range(5):
                waiting(BlobServed(Digest.of(b"%d" % number), "a bucket", "archive", 1, 0.1))

    run(scenario())
