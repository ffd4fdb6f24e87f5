"""Work that is put off: noted by every storage of a set, done once, and lost only with all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from pystor import jobs, small_uploads
from pystor.blob import QueueName, Staged, Timeouts, Turn
from pystor.copying import copy
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import NotFound, StorageError, Unavailable
from pystor.events import Event, JobDone
from pystor.ingest import store, store_at_once
from pystor.jobs import Queue
from pystor.lengths import Lengths
from pystor.pool import Pool
from pystor.small_uploads import SmallUpload
from pystor.staging import StagedFile
from pystor.tiers import Tier, Tiers
from pystor.tree import QUEUES
from tests.rooms.tools import (
    adopted,
    beside,
    blobs,
    body_of,
    eventually,
    open_below,
    place,
    run,
    running,
    temporaries,
)

CONTENT = b"a blob"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def storages(tmp_path: Path) -> list[Directory]:
    return [adopted(tmp_path / name) for name in "ab"]


class Worker:
    """Does what is to be done by taking note of it; `fails` says that it cannot, `stuck` of which blobs, and how."""

    def __init__(self) -> None:
        self.did: list[Digest] = []
        self.fails = False
        self.stuck: dict[Digest, Exception] = {}

    async def __call__(self, digest: Digest) -> int:
        if self.fails:
            raise Unavailable("not now")
        if digest in self.stuck:
            raise self.stuck[digest]
        self.did.append(digest)
        return len(CONTENT)

    def queue(self, pool: Pool) -> Queue:
        return Queue("mirror", pool, self, observe=pool.observe, files_per_second=1e6, period=0.01)


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
    name_one = small_uploads._name_one

    def look_and_name(upload: SmallUpload, staged: Staged) -> None:
        seen.append(noted(storages))
        name_one(upload, staged)

    monkeypatch.setattr(small_uploads, "_name_one", look_and_name)

    async def scenario() -> None:
        async with running(storages, mirrored=True) as pool:
            assert await store_at_once(pool, CONTENT, DIGEST) is not None

    run(scenario())
    assert seen == [[NOTED] * 2] * 2


@pytest.mark.parametrize("content", [CONTENT, bytes(3 << 20)], ids=["small", "large"])
def test_what_cannot_be_noted_on_every_storage_is_not_acknowledged_and_has_no_name(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError(storages[1].root, "queue mirror", "broken")

    monkeypatch.setattr(storages[1], "enqueue", refuse)

    async def scenario() -> None:
        async with running(storages, mirrored=True) as pool:
            with pytest.raises(StorageError, match="nothing was acknowledged"):
                await store(pool, body_of(content), Digest.of(content))

    run(scenario())
    assert [blobs(storage) for storage in storages] == [[], []]
    assert temporaries(*storages) == []


@pytest.mark.parametrize("content", [CONTENT, bytes(3 << 20)], ids=["small", "large"])
def test_a_note_that_was_looked_at_before_there_was_a_blob_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    storage, digest, seen = adopted(tmp_path / "a"), Digest.of(content), []
    publish = StagedFile.publish

    def drop_and_publish(staged: StagedFile, digest: Digest) -> None:
        seen.append(noted([storage]))
        storage.dequeue("mirror", digest, time.time())
        publish(staged, digest)

    monkeypatch.setattr(StagedFile, "publish", drop_and_publish)

    async def scenario() -> None:
        async with running([storage], mirrored=True) as pool:
            await store(pool, body_of(content), digest)

    run(scenario())
    assert seen == [[[digest.hex.upper()]]]
    assert noted([storage]) == [[digest.hex.upper()]]


@pytest.mark.parametrize("age", [30, 90])
def test_a_note_about_nothing_is_kept_for_as_long_as_its_upload_may_be_under_way(
    storages: list[Directory], age: int
) -> None:
    storages[0].enqueue("mirror", DIGEST)
    (note,) = beside(storages[0], "mirror")
    os.utime(note, times=(time.time() - age,) * 2)

    async def nobody_has_it(digest: Digest) -> int:
        raise NotFound(digest.hex)

    events: list[Event] = []

    async def scenario() -> None:
        async with running(storages) as pool:
            queue = Queue("mirror", pool, nobody_has_it, observe=events.append, files_per_second=1e6)
            assert await queue.work_off() == 0

    run(scenario())
    assert noted(storages) == [NOTED if age < 60 else [], []]
    assert events == []


@pytest.mark.parametrize("content", [CONTENT, bytes(3 << 20)], ids=["small", "large"])
@pytest.mark.parametrize("source", ["pool", "archive"])
def test_what_is_copied_from_where_it_is_stored_is_not_noted_to_be_mirrored_again(
    storages: list[Directory], tmp_path: Path, content: bytes, source: str
) -> None:
    archived = adopted(tmp_path / "archive")
    place(storages[0] if source == "pool" else archived, content)

    async def scenario() -> None:
        async with running(storages, mirrored=True) as pool, running([archived]) as archive:
            tiers = Tiers([Tier("pool", pool), Tier("archive", archive)], pool.observe)
            assert await copy(tiers, pool, Digest.of(content)) == len(content)

    run(scenario())
    assert [blobs(storage) for storage in storages] == [[content]] * 2
    assert noted(storages) == [[], []]


@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_a_note_of_an_operator_is_done_once_however_its_name_is_spelled(
    storages: list[Directory], spell: Callable[[str], str]
) -> None:
    worker = Worker()
    storages[0].enqueue("mirror", DIGEST)
    (entry,) = beside(storages[0], "mirror")
    entry.rename(entry.with_name(spell(DIGEST.hex)))
    entry.with_name("note").touch()

    async def scenario() -> None:
        async with running(storages) as pool:
            for _ in range(2):
                assert await worker.queue(pool).work_off() == 0

    run(scenario())
    assert worker.did == [DIGEST]
    assert noted(storages) == [["note"], []]


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


def test_a_set_that_takes_no_writes_is_mirrored_and_not_mended(storages: list[Directory]) -> None:
    worker, events = Worker(), list[Event]()
    storages[0].enqueue("mirror", DIGEST)
    storages[0].enqueue("repair", DIGEST)
    shutil.rmtree(Path(storages[1].root, ".stor/mirror"))  # somebody has tidied up, and the disk may be read-only

    async def scenario() -> None:
        read_only = [Directory(storage.root, writable=False) for storage in storages]
        async with running(read_only, events=events) as pool:
            for name in QUEUES:
                assert await Queue(name, pool, worker, observe=pool.observe).work_off() == 0

    run(scenario())
    assert worker.did == [DIGEST]
    assert [len(beside(storages[0], name)) for name in ("mirror", "repair")] == [0, 1]
    assert [event for event in events if not isinstance(event, JobDone)] == []


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


@pytest.mark.parametrize("operation", ["pending", "dequeue"])
def test_to_read_a_long_queue_and_to_forget_what_was_done_have_the_time_of_a_write(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    real = getattr(storages[0], operation)

    def take_long(*arguments: object) -> object:
        time.sleep(0.3)
        return real(*arguments)

    async def scenario() -> None:
        async with running(storages) as pool:
            storages[0].enqueue("mirror", DIGEST)
            monkeypatch.setattr(storages[0], operation, take_long)
            monkeypatch.setattr(storages[0], "timeouts", Timeouts(answer=0.2))
            assert await Worker().queue(pool).work_off() == 0
            assert not any(member.out or member.slow for member in pool.members())

    run(scenario())
    assert noted(storages) == [[], []]


def test_what_fails_again_and_again_is_tried_again_after_no_more_than_the_longest_pause(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LONGEST_PAUSE", 0.02)
    tried: list[Digest] = []
    storages[0].enqueue("mirror", DIGEST)

    async def fail(digest: Digest) -> int:
        tried.append(digest)
        raise Unavailable("not now")

    async def scenario() -> None:
        async with running(storages) as pool:
            queue = Queue("mirror", pool, fail, observe=pool.observe, files_per_second=1e6, period=0.01)
            await queue.start()
            await eventually(lambda: len(tried) >= 14)  # doubled each time, the pause would be minutes by now
            await queue.stop()

    run(scenario())


def test_what_fails_again_is_tried_again_after_twice_as_long(storages: list[Directory]) -> None:
    tried: list[float] = []
    storages[0].enqueue("mirror", DIGEST)

    async def fail(_: Digest) -> int:
        tried.append(time.monotonic())
        raise Unavailable("not now")

    async def scenario() -> None:
        async with running(storages) as pool:
            queue = Queue("mirror", pool, fail, observe=pool.observe, files_per_second=1e6, period=0.01)
            await queue.start()
            await eventually(lambda: len(tried) >= 5)
            await queue.stop()

    run(scenario())
    assert [after - before > 0.02 * 2**n for n, (before, after) in enumerate(pairwise(tried))][:4] == [True] * 4


def test_what_fails_is_done_no_faster_than_what_succeeds(storages: list[Directory]) -> None:
    worker = Worker()
    worker.fails = True
    for number in range(5):
        storages[0].enqueue("mirror", Digest.of(b"%d" % number))

    async def scenario() -> float:
        async with running(storages) as pool:
            queue = Queue("mirror", pool, worker, observe=pool.observe, files_per_second=25)
            began = time.monotonic()
            assert await queue.work_off() == 5
            return time.monotonic() - began

    assert run(scenario()) > 0.15


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


def test_what_waits_is_counted_once_whichever_process_tried_it_and_whichever_is_asked(
    storages: list[Directory], tmp_path: Path
) -> None:
    worker = Worker()

    async def scenario() -> None:
        async with running(storages) as pool:
            lengths = [Lengths(str(tmp_path / "lengths"), 1) for _ in range(2)]
            queues = [Queue("mirror", pool, worker, observe=pool.observe, lengths=each) for each in lengths]
            storages[0].enqueue("mirror", DIGEST)
            for worker.fails, left in ((True, 1), (False, 0)):
                for queue in queues:
                    assert await queue.work_off() == left
                    assert [each.length for each in queues] == [left, left]

    run(scenario())


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


def test_who_has_not_the_turn_has_nothing_open(storages: list[Directory], tmp_path: Path) -> None:
    with storages[0].take_turn("mirror") or pytest.fail("somebody has it"):
        before = open_below(tmp_path)
        assert storages[0].take_turn("mirror") is None
        assert open_below(tmp_path) == before


def is_free(storage: Directory) -> bool:
    """Whether nobody has the turn."""
    turn = storage.take_turn("mirror")
    if turn is not None:
        turn.close()
    return turn is not None


def test_a_turn_that_ends_while_all_threads_are_busy_is_given_back_as_soon_as_one_is_not(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    storages[0].enqueue("mirror", DIGEST)

    async def scenario() -> None:
        async with running(storages[:1]) as pool:
            (member,) = pool.members()

            async def keep_busy(_digest: Digest) -> int:
                monkeypatch.setattr(storages[0], "timeouts", Timeouts(answer=0.05))
                for _ in range(8):
                    member.begin(over.wait, 20, timeout=20.0)
                raise Unavailable("not now")

            await Queue("mirror", pool, keep_busy, observe=pool.observe).work_off()
            assert not is_free(storages[0])
            over.set()
            await eventually(lambda: is_free(storages[0]))

    run(scenario())


def test_a_turn_ends_however_often_its_owner_is_cancelled(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over, real = threading.Event(), threading.Event(), ExitStack.close
    storages[0].enqueue("mirror", DIGEST)

    def close_slowly(turn: ExitStack) -> None:
        begun.set()
        over.wait(10)
        real(turn)

    async def scenario() -> None:
        async with running(storages[:1]) as pool:
            monkeypatch.setattr(ExitStack, "close", close_slowly)
            working = asyncio.create_task(Worker().queue(pool).work_off())
            await eventually(begun.is_set)
            working.cancel()
            await asyncio.wait((working,))
            over.set()
            await eventually(lambda: is_free(storages[0]))

    run(scenario())


def test_who_has_not_the_turn_forgets_neither_its_place_nor_what_it_has_noted(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_AT_ONCE", 2)
    worker = Worker()
    for number in range(5):
        storages[0].enqueue("mirror", Digest.of(bytes([number])))
    in_turn = storages[0].pending("mirror", 100)
    worker.stuck = dict.fromkeys(in_turn[:4], Unavailable("not now"))

    async def scenario() -> None:
        async with running(storages) as pool:
            queue, (member, _) = worker.queue(pool), pool.sets[0].members
            for _ in range(3):
                await queue.work_off()
                await member.enqueue("mirror", in_turn[0])
                with storages[1].take_turn("mirror") or pytest.fail("somebody has it"):
                    assert await queue.work_off() == 0
                assert member.noted == {"mirror"}

    run(scenario())
    assert worker.did == in_turn[4:]


def test_what_was_noted_when_the_clock_was_ahead_is_done_once(storages: list[Directory]) -> None:
    worker, ahead = Worker(), time.time() + 3600
    storages[0].enqueue("mirror", DIGEST)
    os.utime(beside(storages[0], "mirror")[0], (ahead, ahead))

    async def scenario() -> None:
        async with running(storages) as pool:
            for _ in range(2):
                await worker.queue(pool).work_off()

    run(scenario())
    assert worker.did == [DIGEST]


@pytest.mark.parametrize("once", [True, False], ids=["by the command", "in the background"])
def test_what_fails_hides_nothing_that_is_noted_behind_it(
    storages: list[Directory], monkeypatch: pytest.MonkeyPatch, once: bool
) -> None:
    monkeypatch.setattr(jobs, "_AT_ONCE", 3)
    monkeypatch.setattr(jobs, "_LONGEST_PAUSE", 0.01)
    worker, digests = Worker(), [Digest.of(bytes([number])) for number in range(12)]
    for digest in digests:
        storages[0].enqueue("mirror", digest)
    in_turn = storages[0].pending("mirror", 100)
    worker.stuck = dict.fromkeys(in_turn[:7], Unavailable("not now"))

    async def scenario() -> None:
        async with running(storages) as pool:
            queue = worker.queue(pool)
            if once:
                assert await queue.work_off() == 7
            else:
                await queue.start()
                await eventually(lambda: len(worker.did) == 5)
                worker.stuck.clear()  # and those that failed come round again
                await eventually(lambda: noted(storages) == [[], []])
                await queue.stop()

    run(scenario())
    assert set(worker.did) == set(in_turn[7:] if once else digests)


def test_what_nobody_expected_is_logged_and_ends_no_queue(
    storages: list[Directory], caplog: pytest.LogCaptureFixture
) -> None:
    worker, other = Worker(), Digest.of(b"another")
    worker.stuck = {DIGEST: ZeroDivisionError("of the program")}

    async def scenario() -> None:
        async with running(storages) as pool:
            queue, told = worker.queue(pool), list[str]()
            storages[0].enqueue("mirror", DIGEST)
            assert await queue.work_off(lambda _, outcome: told.append(outcome)) == 1
            assert told == ["failed unexpectedly; the log says how"]
            await queue.start()
            await eventually(lambda: caplog.text.count("of the program") > 1)
            storages[0].enqueue("mirror", other)
            await eventually(lambda: worker.did == [other])
            worker.stuck.clear()
            await eventually(lambda: noted(storages) == [[], []])
            await queue.stop()

    run(scenario())
    assert worker.did == [other, DIGEST]


def test_what_is_noted_anew_while_it_is_being_done_is_done_again(storages: list[Directory]) -> None:
    did: list[Digest] = []

    async def scenario() -> None:
        async with running(storages) as pool:

            async def job(digest: Digest) -> int:
                if not did:
                    storages[0].enqueue("mirror", digest)
                did.append(digest)
                return 0

            queue = Queue("mirror", pool, job, observe=pool.observe, files_per_second=1e6)
            for storage in storages:
                storage.enqueue("mirror", DIGEST)
            await queue.work_off()
            assert noted(storages) == [NOTED, []]
            await queue.work_off()
            assert noted(storages) == [[], []]

    run(scenario())
    assert did == [DIGEST, DIGEST]


def test_much_that_is_to_be_done_for_one_set_holds_up_no_other(tmp_path: Path) -> None:
    one, other = adopted(tmp_path / "a", "one"), adopted(tmp_path / "b", "other")
    did: list[Digest] = []

    async def scenario() -> None:
        async with running([one], [other]) as pool:

            async def job(digest: Digest) -> int:
                did.append(digest)
                await asyncio.sleep(30 if digest == DIGEST else 0)
                return 0

            queue = Queue("mirror", pool, job, observe=pool.observe, period=0.01)
            one.enqueue("mirror", DIGEST)
            await queue.start()
            await eventually(lambda: did == [DIGEST])
            other.enqueue("mirror", Digest.of(b"another"))
            await eventually(lambda: did == [DIGEST, Digest.of(b"another")])
            await queue.stop()

    run(scenario())


def test_of_many_storages_some_are_looked_at_in_turn_and_those_where_this_process_noted_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_LOOKED_AT", 2)
    many = [adopted(tmp_path / str(number), f"set {number}") for number in range(9)]
    looked: list[str] = []
    real = Directory.take_turn

    def look(storage: Directory, queue: QueueName) -> Turn | None:
        looked.append(Path(storage.root).name)
        return real(storage, queue)

    monkeypatch.setattr(Directory, "take_turn", look)

    async def scenario() -> None:
        async with running(*([storage] for storage in many)) as pool:
            worker = Worker()
            queue = worker.queue(pool)
            for turn in (["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"], ["0", "8"]):
                for replica_set in queue._next_sets():
                    await queue._work_off_set(replica_set, lambda *_: None)
                assert sorted(looked) == turn
                looked.clear()
            await pool.sets[7].members[0].enqueue("mirror", DIGEST)
            worker.fails = True
            for turn in (["1", "2", "7"], ["3", "4", "7"]):  # again, since it is left
                for replica_set in queue._next_sets():
                    await queue._work_off_set(replica_set, lambda *_: None)
                assert sorted(looked) == turn
                looked.clear()
            worker.fails = False
            await queue.work_off()
            assert [Path(each.name).name for each in queue._next_sets()] == ["5", "6"]

    run(scenario())
