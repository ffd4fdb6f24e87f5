"""Small uploads: written and named in batches, each with its own fate, and none held up by another's."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from pystor import batches, commit, posix, processors, rounds, small_uploads, unnamed
from pystor.blob import Filesystem, Timeouts
from pystor.bulkhead import Bulkhead
from pystor.commit import Committers
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError, StorageFull
from pystor.executor import Executor
from pystor.open_directory import OpenDirectory
from pystor.small_uploads import AlreadyThere, SmallUpload, SmallUploads
from pystor.staging import StagedFile
from pystor.steps import Step
from pystor.uploads import send
from tests.rooms.tools import Hanging, adopted, blobs, break_disk, clean_now, eventually, path_of, place, run, where

CONTENTS = [b"%d" % number for number in range(16)]


@pytest.fixture
def pair(memory: Path) -> list[Directory]:
    return [adopted(memory / name, local=True) for name in "ab"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(batches, "_TIMEOUT", 30.0)
    monkeypatch.setattr(rounds, "_LONG", 30.0)


class Calls:
    """Counts what is done how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: Counter[str] = Counter()
        for place_, name in (
            (os, "statvfs"),
            (posix, "syncfs"),
            (os, "fsync"),
            (unnamed, "link"),
            (Directory, "open_for_writing"),
        ):
            monkeypatch.setattr(place_, name, self.counted(name, getattr(place_, name)))

    def counted(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.of[name] += 1
            return real(*arguments, **named)

        return call


async def store(mine: SmallUploads, content: bytes, unseen: Digest | None = None) -> None:
    digest = Digest.of(content)
    async with await send(mine, SmallUpload(content, unseen, _name_of(digest))) as upload:
        await upload.publish(digest, {})


def _name_of(_: Digest) -> Digest | None:
    return None


@pytest.fixture(autouse=True, params=[False, True], ids=["named when asked", "named at once"])
def named_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a blob gets its name as soon as it is written, or when whoever stores it asks."""
    if request.param:
        monkeypatch.setattr(f"{__name__}._name_of", lambda digest: digest)
    return bool(request.param)


async def store_all(mine: SmallUploads, contents: list[bytes]) -> list[BaseException | None]:
    return await asyncio.gather(*(store(mine, content) for content in contents), return_exceptions=True)


def store_five(pair: list[Directory]) -> None:
    """Store the first five, all at once."""

    async def scenario() -> None:
        mine = uploads_to(pair)
        assert await store_all(mine, CONTENTS[:5]) == [None] * 5
        end(mine)

    run(scenario())


@pytest.fixture(autouse=True, params=[True, False], ids=["in one go", "in parts"])
def in_one_go(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether one thread does what is light on all storages, or one of each."""
    if not request.param:
        monkeypatch.setattr(f"{__name__}._executor", lambda _: None)
    return bool(request.param)


def _executor(storages: list[Directory]) -> Executor | None:
    return Executor(f"stor {storages[0].root}", 4, roams=False)


def uploads_to(storages: list[Directory]) -> SmallUploads:
    committers = Committers()
    return SmallUploads([Bulkhead(storage, committers=committers) for storage in storages], _executor(storages))


def end(mine: SmallUploads) -> None:
    mine.stop()
    for member in mine.members:
        assert not member._waited_for
        member.stop()


async def ended(mine: SmallUploads) -> None:
    """Wait until what hung is over, too."""
    end(mine)
    names = {f"stor {member.storage.root}" for member in mine.members}
    await eventually(lambda: not any(thread.name in names for thread in threading.enumerate()))


def commit_together(pair: list[Directory]) -> None:
    """Let the storages leave their syncs to those of the whole filesystem, whatever that is here."""
    for storage in pair:
        storage.attach()
        storage._commits = True


def threads_of(monkeypatch: pytest.MonkeyPatch, *works: str, together: bool) -> set[int]:
    """Note which threads do a work; `together`: those of two storages wait for each other."""
    threads: set[int] = set()
    both = threading.Barrier(2)

    def noted(real: Any) -> Any:
        def work(member: Bulkhead, batch: Any) -> Any:
            if together:
                both.wait(10)
            threads.add(threading.get_ident())
            return real(member, batch)

        return work

    for name in works:
        monkeypatch.setattr(small_uploads, name, noted(getattr(small_uploads, name)))
    return threads


def test_what_comes_together_costs_each_storage_one_opening_and_two_syncs(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)

    async def scenario() -> None:
        mine = uploads_to(pair)
        calls = Calls(monkeypatch)
        assert await store_all(mine, CONTENTS) == [None] * 16
        # Both lie on one filesystem.
        assert calls.of == {"open_for_writing": 2, "statvfs": 2, "syncfs": 2, "link": calls.of["link"]}
        end(mine)

    run(scenario())
    assert [sorted(blobs(storage)) for storage in pair] == [sorted(CONTENTS)] * 2
    assert clean_now(*pair)


def test_a_batch_of_all_that_are_under_way_waits_for_no_others(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_MOMENT", 60.0)
    commit_together(pair)
    syncfs, lasts = posix.syncfs, [1.0]

    def slowly(fd: int) -> None:
        time.sleep(lasts[0])
        syncfs(fd)

    monkeypatch.setattr(posix, "syncfs", slowly)

    async def scenario() -> None:
        mine = uploads_to(pair)
        assert await store_all(mine, CONTENTS[:8]) == [None] * 8
        lasts[0] = 0.0
        began = time.monotonic()
        assert await store_all(mine, CONTENTS[8:]) == [None] * 8
        assert time.monotonic() - began < 0.8  # a sync took one second, which is as long as the next may wait
        end(mine)

    run(scenario())


def test_one_that_is_alone_syncs_for_itself(pair: list[Directory], monkeypatch: pytest.MonkeyPatch) -> None:
    commit_together(pair)

    async def scenario() -> None:
        mine = uploads_to(pair)
        calls = Calls(monkeypatch)
        threads_of(monkeypatch, "_write", together=True)
        await store(mine, b"alone")
        assert calls.of["syncfs"] == 0
        assert calls.of["fsync"] > 2
        end(mine)

    run(scenario())


@pytest.mark.parametrize("together", [True, False])
def test_other_users_may_read_what_is_stored(pair: list[Directory], together: bool) -> None:
    if together:
        commit_together(pair)
    store_five(pair)
    modes = {stat.S_IMODE(where(storage, Digest.of(each)).stat().st_mode) for storage in pair for each in CONTENTS[:5]}
    assert modes == {0o644}


def test_how_long_one_that_is_alone_waits_for_the_disk_says_nothing_of_how_long_a_read_would(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)
    paces: list[float] = []

    async def scenario() -> None:
        mine = uploads_to(pair)
        for member in mine.members:
            monkeypatch.setattr(member, "note_time", paces.append)
        await store(mine, CONTENTS[0])
        end(mine)

    run(scenario())
    assert paces == []


def test_one_that_comes_alone_while_another_is_under_way_shares_its_syncs(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)

    async def scenario() -> None:
        mine = uploads_to(pair)
        async with await send(mine, SmallUpload(b"under way")):
            calls = Calls(monkeypatch)
            await store(mine, b"the next")
            assert calls.of["fsync"] == 0
            assert calls.of["syncfs"] > 0
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[b"the next"]] * 2


def test_one_that_is_alone_and_not_synced_is_as_light_as_several(
    memory: Path, monkeypatch: pytest.MonkeyPatch, in_one_go: bool
) -> None:
    pair = [adopted(memory / name, local=True, durable=False) for name in "ab"]
    threads = threads_of(monkeypatch, "_write", together=not in_one_go)
    monkeypatch.setattr(os, "rename", None)

    async def scenario() -> None:
        mine = uploads_to(pair)
        await store(mine, b"alone")
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[b"alone"]] * 2
    assert len(threads) == (1 if in_one_go else 2)


def test_a_failure_with_one_replica_is_not_that_of_the_others(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        if bytes(data) == CONTENTS[3] and path_of(fd).startswith(pair[1].root):
            raise OSError(28, "No space left on device")
        return real(fd, data)

    async def scenario() -> None:
        mine = uploads_to(pair)
        monkeypatch.setattr(os, "write", write)
        results = await store_all(mine, CONTENTS)
        assert isinstance(results[3], StorageFull)
        assert [result for result in results if result is not results[3]] == [None] * 15
        await eventually(lambda: clean_now(*pair))
        end(mine)

    run(scenario())
    stored = sorted(content for content in CONTENTS if content != CONTENTS[3])
    assert [sorted(blobs(storage)) for storage in pair] == [stored] * 2


def test_a_failure_that_says_something_of_the_storage_is_noted_there(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        mine = uploads_to(pair)
        break_disk(monkeypatch, "write", pair[1].root)
        results = await store_all(mine, CONTENTS)
        assert all(isinstance(result, StorageError) for result in results)
        assert [member.unwritable for member in mine.members] == [False, True]
        end(mine)

    run(scenario())
    assert clean_now(*pair)


def test_a_fault_of_the_program_is_told_as_what_it_is_and_leaves_nothing(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = ZeroDivisionError("of the program")

    def fails(*_: object) -> None:
        raise fault

    async def scenario() -> None:
        mine = uploads_to(pair)
        monkeypatch.setattr(small_uploads, "_shared", fails)
        assert await store_all(mine, CONTENTS) == [fault] * 16
        await eventually(lambda: clean_now(*pair))
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[], []]


def test_a_name_that_fails_is_that_of_one_and_the_good_replica_is_noted(pair: list[Directory]) -> None:
    digest = Digest.of(CONTENTS[3])
    (Path(pair[1].root) / digest.path).mkdir(parents=True)

    async def scenario() -> None:
        mine = uploads_to(pair)
        results = await store_all(mine, CONTENTS)
        assert [type(result) for result in results] == [StorageError if n == 3 else type(None) for n in range(16)]
        end(mine)

    run(scenario())
    assert sorted(blobs(pair[0])) == sorted(CONTENTS)
    assert pair[0].pending("repair", 100) == [digest]
    assert pair[1].pending("repair", 100) == []


def test_what_is_there_already_is_seen_and_not_written_again(pair: list[Directory]) -> None:
    for storage in pair:
        place(storage, CONTENTS[2])
    place(pair[1], CONTENTS[5])
    inodes = [where(storage, Digest.of(CONTENTS[2])).stat().st_ino for storage in pair]

    async def scenario() -> None:
        mine = uploads_to(pair)
        asked = (store(mine, content, Digest.of(content)) for content in CONTENTS)
        results = await asyncio.gather(*asked, return_exceptions=True)
        seen = {number for number, result in enumerate(results) if isinstance(result, AlreadyThere)}
        assert seen == {2, 5}
        await eventually(lambda: clean_now(*pair))
        end(mine)

    run(scenario())
    assert [where(storage, Digest.of(CONTENTS[2])).stat().st_ino for storage in pair] == inodes
    assert not where(pair[0], Digest.of(CONTENTS[5])).exists()


def test_what_is_there_already_is_seen_though_another_storage_fails(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is stored is looked at then, which needs no storage that can be written."""
    place(pair[1], CONTENTS[0])
    break_disk(monkeypatch, "write", pair[0].root)

    async def scenario() -> None:
        mine = uploads_to(pair)
        with pytest.raises(AlreadyThere):
            await store(mine, CONTENTS[0], Digest.of(CONTENTS[0]))
        end(mine)

    run(scenario())
    assert clean_now(*pair)


def one_hangs(memory: Path) -> tuple[Directory, Hanging]:
    """Two storages that leave their syncs to those of the whole filesystem, and the second hangs."""
    well = adopted(memory / "a", local=True)
    adopted(memory / "b", local=True)
    hanging = Hanging(str(memory / "b"), reserve=0, local=True)
    commit_together([well, hanging])
    return well, hanging


def test_all_who_wait_for_a_storage_that_hangs_are_refused_in_time_and_nobody_else_waits(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_uploads, "WRITE_TIMEOUT", 0.3)
    monkeypatch.setattr(batches, "_TIMEOUT", 0.02)
    for name in "abcd":
        adopted(memory / name, local=True)
    hanging = Hanging(str(memory / "b"), reserve=0)
    quick = [adopted(memory / name, local=True) for name in "acd"]

    async def scenario() -> None:
        hung, well = uploads_to([quick[0], hanging]), uploads_to(quick[1:])
        began = time.monotonic()
        first = asyncio.create_task(store_all(hung, CONTENTS[:4]))
        await eventually(hanging.entered.is_set)
        behind = asyncio.create_task(store_all(hung, CONTENTS[4:8]))
        assert await store_all(well, CONTENTS) == [None] * 16
        results = [*await first, *await behind]
        assert all(isinstance(result, StorageError) for result in results)
        assert time.monotonic() - began < 5
        assert isinstance((await store_all(hung, CONTENTS[8:9]))[0], StorageError)  # it is out: at once
        hanging.go_on.set()
        await ended(hung)
        assert clean_now(quick[0], hanging)
        end(well)

    run(scenario())
    assert blobs(quick[0]) == []
    assert blobs(hanging) == []


@pytest.mark.parametrize("hangs", [0, 1])
def test_the_storage_that_hangs_is_to_blame_and_the_other_is_rid_of_what_it_has(
    memory: Path, monkeypatch: pytest.MonkeyPatch, hangs: int
) -> None:
    monkeypatch.setattr(small_uploads, "WRITE_TIMEOUT", 0.3)
    well, hanging = one_hangs(memory)
    pair = [well, hanging] if hangs else [hanging, well]

    async def scenario() -> None:
        mine = uploads_to(pair)
        results = await store_all(mine, CONTENTS[:4])
        assert [result.storage for result in results if isinstance(result, StorageError)] == [hanging.root] * 4
        assert [member.out for member in mine.members] == [member.storage is hanging for member in mine.members]
        assert clean_now(well)
        hanging.go_on.set()
        await ended(mine)
        assert clean_now(hanging)

    run(scenario())


def test_the_storage_that_does_not_hang_is_never_to_blame_however_many_wait(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_uploads, "WRITE_TIMEOUT", 0.5)
    monkeypatch.setattr(batches, "_TIMEOUT", 0.001)
    well, hanging = one_hangs(memory)
    for storage in (well, hanging):
        monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.3))  # shorter than that of a write, as ever

    async def scenario() -> None:
        mine = uploads_to([well, hanging])
        waiting = []
        for number in range(30):
            waiting += [asyncio.create_task(store(mine, b"%d of %d" % (each, number))) for each in range(2)]
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {result.storage for result in results if isinstance(result, StorageError)} == {hanging.root}
        assert [member.out for member in mine.members] == [False, True]
        hanging.go_on.set()
        await ended(mine)
        assert clean_now(well, hanging)

    run(scenario())


@pytest.mark.parametrize("in_one_go", [True], indirect=True, ids=["in one go"])
def test_what_was_given_up_in_the_moment_in_which_it_was_written_everywhere_is_not_named(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is discarded, by the thread that wrote it: nobody is there to take it."""
    monkeypatch.setattr(small_uploads, "WRITE_TIMEOUT", 0.2)
    commit_together(pair)
    go_on, real = threading.Event(), rounds.Round._go

    def return_late(going: rounds.Round, *work: Any) -> Any:
        done = real(going, *work)
        assert go_on.wait(20)
        return done

    monkeypatch.setattr(rounds.Round, "_go", return_late)

    async def scenario() -> None:
        mine = uploads_to(pair)
        assert [type(result) for result in await store_all(mine, CONTENTS[:2])] == [StorageError] * 2
        go_on.set()
        await ended(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[], []]
    assert clean_now(*pair)


def test_nobody_waits_any_longer_for_a_storage_that_others_find_dead(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, hanging = one_hangs(memory)

    async def scenario() -> None:
        mine = uploads_to([well, hanging])
        tasks = [asyncio.create_task(store(mine, content)) for content in CONTENTS[:2]]
        await eventually(hanging.entered.is_set)
        member = mine.members[1]
        member.note(StorageError(hanging.root, "open", "no answer", dead=True))
        monkeypatch.setattr(hanging, "probe", lambda: _fail(hanging))
        async with asyncio.timeout(5):  # of the twenty seconds of the timeout
            await member.recover()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {StorageError}
        hanging.go_on.set()
        await ended(mine)
        assert clean_now(well, hanging)

    run(scenario())


def _fail(storage: Directory) -> None:
    raise StorageError(storage.root, "probe", "no answer", dead=True)


def test_a_storage_that_is_not_in_its_place_fails_for_itself(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)
    open_for_writing = Directory.open_for_writing

    def refuse(storage: Directory) -> OpenDirectory:
        if storage is pair[0]:
            raise StorageError(storage.root, "attach", "is not mounted")
        return open_for_writing(storage)

    async def scenario() -> None:
        mine = uploads_to(pair)
        monkeypatch.setattr(Directory, "open_for_writing", refuse)
        results = await store_all(mine, CONTENTS[:4])
        assert [result.storage for result in results if isinstance(result, StorageError)] == [pair[0].root] * 4
        assert [member.switch.reason is None for member in mine.members] == [False, True]
        await eventually(lambda: clean_now(*pair))
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[], []]


def test_a_name_that_is_not_answered_is_that_of_one_and_the_good_replicas_are_noted(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)
    go_on, name_one = threading.Event(), small_uploads._name_one

    def name_late(upload: SmallUpload, staged: Any) -> None:
        if staged._root.path == pair[1].root:
            assert go_on.wait(20)
        name_one(upload, staged)

    monkeypatch.setattr(small_uploads, "_name_one", name_late)
    monkeypatch.setattr(StagedFile, "timeout", 0.3)

    async def scenario() -> None:
        mine = uploads_to(pair)
        results = await store_all(mine, CONTENTS[:4])
        assert [result.storage for result in results if isinstance(result, StorageError)] == [pair[1].root] * 4
        go_on.set()
        await ended(mine)

    run(scenario())
    assert sorted(blobs(pair[0])) == CONTENTS[:4]
    assert len(pair[0].pending("repair", 100)) == 4


def test_a_storage_that_is_left_alone_by_writes_is_not_touched(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)

    async def scenario() -> None:
        mine = uploads_to(pair)
        failure = StorageError.from_os(pair[1].root, "fsync", OSError(5, "Input/output error"), writing=True)
        mine.members[1].note(failure)
        calls = Calls(monkeypatch)
        results = await store_all(mine, CONTENTS[:4])
        assert [result.storage for result in results if isinstance(result, StorageError)] == [pair[1].root] * 4
        assert calls.of["open_for_writing"] == 1
        end(mine)

    run(scenario())
    assert clean_now(*pair)


@pytest.mark.parametrize(("seconds", "contents"), [(0.5, CONTENTS[:2]), (0.02, CONTENTS)], ids=["slow", "many"])
def test_a_storage_is_slow_by_each_thing_that_it_does_and_makes_only_itself_slow(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, seconds: float, contents: list[bytes]
) -> None:
    commit_together(pair)
    make_way = OpenDirectory.make_way

    def slowly(opened: OpenDirectory, digest: Digest) -> bool:
        if opened._root.path == pair[1].root:
            time.sleep(seconds)
        return make_way(opened, digest)

    async def scenario() -> None:
        mine = uploads_to(pair)
        monkeypatch.setattr(OpenDirectory, "make_way", slowly)
        assert await asyncio.gather(*(store(mine, each, Digest.of(each)) for each in contents)) == [None] * len(
            contents
        )
        assert [member.slow for member in mine.members] == [False, seconds > 0.1]
        end(mine)

    run(scenario())


def test_what_is_light_is_done_by_one_thread_on_all_storages(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, in_one_go: bool
) -> None:
    commit_together(pair)
    threads = threads_of(monkeypatch, "_write", "_name", together=not in_one_go)

    async def scenario() -> None:
        mine = uploads_to(pair)
        assert await store_all(mine, CONTENTS) == [None] * 16
        end(mine)

    run(scenario())
    assert len(threads) == (1 if in_one_go else 2)


def test_an_upload_that_is_given_up_leaves_nothing_and_the_others_go_on(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[bytes] = []
    name = small_uploads._name

    def note(member: Bulkhead, batch: list[SmallUpload]) -> Any:
        named.extend(upload.content for upload in batch)
        return name(member, batch)

    monkeypatch.setattr(small_uploads, "_name", note)
    quick = adopted(memory / "a", local=True)
    adopted(memory / "b")
    slow = Hanging(str(memory / "b"), reserve=0)

    async def scenario() -> None:
        mine = uploads_to([quick, slow])
        tasks = [asyncio.create_task(store(mine, content)) for content in CONTENTS]
        await eventually(slow.entered.is_set)
        tasks[3].cancel()
        await asyncio.sleep(0)
        slow.go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(3), asyncio.CancelledError)
        assert results == [None] * 15
        assert all(member.uploads == 0 for member in mine.members)
        await eventually(lambda: clean_now(quick, slow))
        end(mine)

    run(scenario())
    stored = sorted(content for content in CONTENTS if content != CONTENTS[3])
    assert [sorted(blobs(storage)) for storage in (quick, slow)] == [stored] * 2
    assert CONTENTS[3] not in named


def test_an_upload_that_is_given_up_in_the_moment_in_which_it_is_done_leaves_nothing_or_all(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, *, named_at_once: bool
) -> None:
    real = small_uploads._settle

    async def scenario() -> None:
        mine = uploads_to(pair)
        task = asyncio.create_task(store(mine, b"too late"))

        def settle_and_cancel(upload: SmallUpload, failure: Exception | None) -> None:
            real(upload, failure)
            task.cancel()

        monkeypatch.setattr(small_uploads, "_settle", settle_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clean_now(*pair)
        assert all(member.uploads == 0 for member in mine.members)
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[b"too late"] * named_at_once] * 2


def test_a_name_that_fails_since_the_upload_was_given_up_says_nothing_of_the_storage(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    naming, go_on = threading.Event(), threading.Event()
    real = small_uploads._name_one

    def name_late(upload: SmallUpload, staged: Any) -> None:
        naming.set()
        assert go_on.wait(20)
        real(upload, staged)

    monkeypatch.setattr(small_uploads, "_name_one", name_late)

    async def scenario() -> None:
        mine = uploads_to(pair)
        tasks = [asyncio.create_task(store(mine, content)) for content in CONTENTS[:2]]
        await eventually(naming.is_set)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        go_on.set()
        await tasks[0]
        assert not any(member.unwritable for member in mine.members)
        assert [member.switch.reason for member in mine.members] == [None, None]
        end(mine)

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[CONTENTS[0]]] * 2


def test_what_is_left_of_a_batch_that_takes_long_is_done_by_several_threads(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_together(pair)
    monkeypatch.setattr(rounds, "_LONG", 0.0)
    all_at_once = threading.Barrier(8)
    real = small_uploads._write_one

    def write_one(opened: Any, upload: SmallUpload, *modified: Any) -> Any:
        if upload.content != CONTENTS[0]:
            all_at_once.wait(10)
        return real(opened, upload, *modified)

    monkeypatch.setattr(small_uploads, "_write_one", write_one)

    store_five(pair)
    assert [sorted(blobs(storage)) for storage in pair] == [CONTENTS[:5]] * 2


def test_a_batch_is_synced_by_the_descriptor_that_was_open_before_any_of_it_was_written(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was opened later does not tell what the kernel lost before."""
    commit_together(pair)
    monkeypatch.setattr(rounds, "_LONG", 0.0)
    opened, synced = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    open_, commit_ = Directory.open_for_writing, Bulkhead.commit

    def open_for_writing(storage: Directory) -> OpenDirectory:
        directory = open_(storage)
        filesystem = directory._root.filesystem
        assert filesystem is not None
        opened[storage.root].append(filesystem.since)
        return directory

    def commit_one(member: Bulkhead, filesystem: Filesystem, uploads: int) -> Step[None]:
        synced[member.storage.root].append(filesystem.since)
        return commit_(member, filesystem, uploads)

    monkeypatch.setattr(Directory, "open_for_writing", open_for_writing)
    monkeypatch.setattr(Bulkhead, "commit", commit_one)

    store_five(pair)
    for storage in pair:
        assert len(opened[storage.root]) == 5
        assert synced[storage.root][0] == min(opened[storage.root])


@pytest.mark.parametrize("slow", [0, 1])
def test_what_is_left_for_one_storage_is_done_there_alone(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    commit_together(pair)
    monkeypatch.setattr(rounds, "_LONG", 0.05)
    done = Counter[str]()

    def slowly(name: str, real: Any) -> None:
        def one(first: Any, second: Any, *modified: Any) -> Any:
            storage = (first if name == "_write_one" else second)._root.path
            done[storage + name] += 1
            if storage == pair[slow].root:
                time.sleep(0.1)
            return real(first, second, *modified)

        monkeypatch.setattr(small_uploads, name, one)

    slowly("_write_one", small_uploads._write_one)
    slowly("_name_one", small_uploads._name_one)

    store_five(pair)
    assert [sorted(blobs(storage)) for storage in pair] == [CONTENTS[:5]] * 2
    assert set(done.values()) == {5}


def test_where_no_sync_is_waited_for_others_are_written_when_those_before_are_named(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So there are more of them by then: half the batches for the same uploads."""
    storage = adopted(memory / "a", local=True, durable=False)
    steps: list[str] = []
    write, name = small_uploads._write, small_uploads._name
    all_here = threading.Event()

    def note_write(member: Bulkhead, batch: Any) -> Any:
        steps.append(f"write {len(batch)}")
        assert all_here.wait(10)
        return write(member, batch)

    def note_name(member: Bulkhead, batch: Any) -> Any:
        steps.append(f"name {len(batch)}")
        return name(member, batch)

    monkeypatch.setattr(small_uploads, "_write", note_write)
    monkeypatch.setattr(small_uploads, "_name", note_name)

    async def scenario() -> None:
        mine = uploads_to([storage])
        first = asyncio.gather(*(store(mine, content) for content in CONTENTS[:4]))
        await eventually(lambda: steps == ["write 4"])
        others = asyncio.gather(*(store(mine, content) for content in CONTENTS[4:]))
        await asyncio.sleep(0)  # for them to wait behind the first
        all_here.set()
        await asyncio.gather(first, others)
        end(mine)

    run(scenario())
    assert steps == ["write 4", "name 4", "write 12", "name 12"]


@pytest.mark.parametrize("local", [True, False])
def test_where_a_disk_is_waited_for_others_are_written_before_those_before_are_named(
    memory: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    storage = adopted(memory / "a", local=local)
    if local:
        commit_together([storage])
    go_on, written = threading.Event(), list[bytes]()
    write_one, name_one = small_uploads._write_one, small_uploads._name_one

    def note(opened: Any, upload: SmallUpload, *modified: Any) -> Any:
        written.append(upload.content)
        return write_one(opened, upload, *modified)

    def name_late(upload: SmallUpload, staged: Any) -> None:
        assert go_on.wait(20)
        name_one(upload, staged)

    monkeypatch.setattr(small_uploads, "_write_one", note)
    monkeypatch.setattr(small_uploads, "_name_one", name_late)

    async def scenario() -> None:
        mine = uploads_to([storage])
        first = asyncio.gather(*(store(mine, content) for content in CONTENTS[:3]))
        await eventually(lambda: len(written) == 3)
        others = asyncio.gather(*(store(mine, content) for content in CONTENTS[3:6]))
        await eventually(lambda: len(written) == 6)
        go_on.set()
        await asyncio.gather(first, others)
        end(mine)

    run(scenario())


@pytest.mark.parametrize("durable", [True, False])
def test_a_batch_of_which_nothing_is_named_holds_nobody_up(memory: Path, durable: bool) -> None:
    storage = adopted(memory / "a", local=True, durable=durable)
    for content in CONTENTS[:4]:
        place(storage, content)

    async def scenario() -> None:
        mine = uploads_to([storage])
        seen = [store(mine, content, Digest.of(content)) for content in CONTENTS[:4]]
        assert {type(outcome) for outcome in await asyncio.gather(*seen, return_exceptions=True)} == {AlreadyThere}
        async with asyncio.timeout(10):  # of the thirty seconds for which a batch is waited for here
            assert await store_all(mine, CONTENTS[4:]) == [None] * 12
        end(mine)

    run(scenario())


@pytest.mark.parametrize("size", [4096, small_uploads._LITTLE])
def test_small_blobs_are_written_on_the_processor_of_the_event_loop_and_larger_ones_on_any(
    memory: Path, monkeypatch: pytest.MonkeyPatch, size: int, in_one_go: bool
) -> None:
    monkeypatch.setattr(processors, "_all", set())
    everywhere = os.sched_getaffinity(0)
    storage = adopted(memory / "a", local=True, durable=False)
    real, seen = small_uploads._write_one, []

    def write_one(opened: Any, upload: SmallUpload, *modified: Any) -> Any:
        seen.append(os.sched_getaffinity(0))
        return real(opened, upload, *modified)

    monkeypatch.setattr(small_uploads, "_write_one", write_one)

    async def scenario() -> None:
        processors.keep_to_one(0)
        mine = uploads_to([storage])
        assert await store_all(mine, [os.urandom(size) for _ in range(2)]) == [None] * 2
        end(mine)

    thread = threading.Thread(target=run, args=(scenario(),))  # what is changed for a thread goes with it
    thread.start()
    thread.join()
    assert seen == [{min(everywhere)} if in_one_go and size == 4096 else everywhere] * 2


def test_where_writing_waits_there_are_no_batches(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = adopted(memory / "a", local=False)
    calls = Calls(monkeypatch)

    async def scenario() -> None:
        mine = uploads_to([storage])
        assert await store_all(mine, CONTENTS[:4]) == [None] * 4
        assert calls.of["open_for_writing"] == 4
        assert calls.of["syncfs"] == 0
        end(mine)

    run(scenario())


def test_the_reserve_stays_free_whatever_comes_together(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = adopted(memory / "a", local=True)
    monkeypatch.setattr(Directory, "left", lambda *_: 100_000)

    async def scenario() -> None:
        mine = uploads_to([storage])
        results = await store_all(mine, [bytes(20_000) + content for content in CONTENTS])
        assert [result for result in results if result is None] == [None] * 3
        assert sum(isinstance(result, StorageFull) for result in results) == 13
        end(mine)

    run(scenario())
