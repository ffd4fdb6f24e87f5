"""Work that is put off: noted by every storage of a set, done once, and lost only with all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pystor import company
from pystor.blob import Staged
from pystor.company import Parcel
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import Unavailable
from pystor.events import Event, JobDone
from pystor.ingest import store, store_at_once
from pystor.jobs import Queue
from pystor.pool import Pool
from tests.rooms.tools import adopted, beside, body_of, run, running

CONTENT = b"a blob"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def storages(tmp_path: Path) -> list[Directory]:
    return [adopted(tmp_path / name) for name in "ab"]


class Worker:
    """Does what is to be done by taking note of it; `fails` says that it cannot."""

    def __init__(self) -> None:
        self.did: list[Digest] = []
        self.fails = False

    async def __call__(self, digest: Digest) -> int:
        if self.fails:
            raise Unavailable("not now")
        self.did.append(digest)
        return len(CONTENT)

    def queue(self, pool: Pool) -> Queue:
        return Queue("mirror", pool, self, observe=pool.observe, files_per_second=1e6)


def noted(storages: list[Directory]) -> list[list[str]]:
    return [[path.name for path in beside(storage, "mirror")] for storage in storages]


NOTED = [DIGEST.hex.upper()]


@pytest.mark.parametrize("content", [CONTENT, bytes(3 << 20)])
def test_what_is_to_be_mirrored_is_noted_on_every_storage(storages: list[Directory], content: bytes) -> None:
    async def scenario() -> None:
        async with running(storages, mirrored=True) as pool:
            await store(pool, body_of(content), Digest.of(content))

    run(scenario())
    assert noted(storages) == [[Digest.of(content).hex.upper()]] * 2


def test_a_small_blob_has_no_name_before_it_is_noted_everywhere_that_it_is_to_be_mirrored(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    name_one = company._name_one

    def look_and_name(parcel: Parcel, staged: Staged) -> None:
        seen.append(noted(storages))
        name_one(parcel, staged)

    monkeypatch.setattr(company, "_name_one", look_and_name)

    async def scenario() -> None:
        async with running(storages, mirrored=True) as pool:
            assert await store_at_once(pool, CONTENT, DIGEST) is not None

    run(scenario())
    assert seen == [[NOTED] * 2] * 2


class Eager(Directory):
    """A storage whose notes are looked at, and dropped, in the moment before a blob gets its name."""

    def stage(self, size: int) -> Staged:  # type: ignore[override]
        staged = super().stage(size)
        publish = staged.publish

        def drop_and_publish(digest: Digest) -> None:
            assert noted([self]) == [NOTED]
            self.dequeue("mirror", digest)
            publish(digest)

        staged.publish = drop_and_publish  # type: ignore[method-assign]
        return staged


def test_a_note_that_was_looked_at_before_there_was_a_blob_is_there_again(tmp_path: Path) -> None:
    adopted(tmp_path / "a")
    storage = Eager(str(tmp_path / "a"), reserve=0)

    async def scenario() -> None:
        async with running([storage], mirrored=True) as pool:
            await store(pool, body_of(CONTENT), DIGEST)

    run(scenario())
    assert noted([storage]) == [NOTED]


def test_what_all_storages_of_a_set_have_noted_is_done_once(storages: list[Directory]) -> None:
    worker, events = Worker(), list[Event]()

    async def scenario() -> None:
        async with running(storages, events=events) as pool:
            for storage in storages:
                storage.enqueue("mirror", DIGEST)
            assert await worker.queue(pool).work_off() == 0

    run(scenario())
    assert worker.did == [DIGEST]
    assert noted(storages) == [[], []]
    assert [event for event in events if isinstance(event, JobDone)] == [JobDone("mirror", DIGEST, len(CONTENT))]


def test_what_one_storage_has_noted_outlives_the_other(storages: list[Directory]) -> None:
    worker = Worker()

    async def scenario() -> None:
        async with running(storages) as pool:
            for storage in storages:
                storage.enqueue("mirror", DIGEST)
            shutil.rmtree(storages[0].root)
            await worker.queue(pool).work_off()

    run(scenario())
    assert worker.did == [DIGEST]
    assert noted(storages[1:]) == [[]]


def test_what_cannot_be_done_stays_and_is_counted_until_it_is_done(storages: list[Directory]) -> None:
    worker = Worker()

    async def scenario() -> None:
        async with running(storages) as pool:
            queue = worker.queue(pool)
            storages[0].enqueue("mirror", DIGEST)
            worker.fails = True
            assert await queue.work_off() == queue.length == 1
            assert noted(storages) == [NOTED, []]
            worker.fails = False
            assert await queue.work_off() == queue.length == 0

    run(scenario())
    assert worker.did == [DIGEST]
    assert noted(storages) == [[], []]


def test_what_waits_is_counted_while_it_is_worked_off(storages: list[Directory]) -> None:
    lengths: list[int] = []
    digests = [Digest.of(bytes([number])) for number in range(4)]

    async def scenario() -> None:
        async with running(storages) as pool:

            async def look(_: Digest) -> int:
                lengths.append(queue.length)
                return 0

            queue = Queue("repair", pool, look, observe=pool.observe, files_per_second=1e6)
            for digest in digests:
                storages[0].enqueue("repair", digest)
            assert await queue.work_off() == 0

    run(scenario())
    assert lengths == [4, 3, 2, 1]


def test_who_has_not_the_turn_leaves_a_set_alone(storages: list[Directory]) -> None:
    worker = Worker()

    async def scenario() -> None:
        async with running(storages) as pool:
            storages[0].enqueue("mirror", DIGEST)
            with storages[1].take_turn("mirror") or pytest.fail("somebody has it"):
                assert await worker.queue(pool).work_off() == 0
            assert worker.did == []
            await worker.queue(pool).work_off()

    run(scenario())
    assert worker.did == [DIGEST]
