"""Storing: in every replica or not at all."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import random
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pystor import breaker, ingest, places, posix, replicas, staging
from pystor.blob import Space, Timeouts
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import (
    DigestMismatch,
    IncompleteBody,
    NoSpace,
    StalledBody,
    StorageError,
    StorageFull,
    TooLarge,
    Unavailable,
)
from pystor.events import BlobStored, Event, LeftoversSwept, ReplicaBad, StorageFailed
from pystor.ingest import BATCH, Body, Stored, already_stored, store, store_at_once
from pystor.places import Places
from pystor.pool import Pool
from pystor.replicas import ReplicaSet, ReplicaState, Survey
from pystor.small_uploads import SmallUpload, SmallUploads
from pystor.uploads import Upload, send
from pystor.verification import Verifier
from tests.rooms.tools import (
    NOBODY,
    Hanging,
    adopted,
    as_nobody,
    bad_sector,
    beside,
    blobs,
    body_of,
    break_disk,
    break_reads,
    chunked,
    clean_now,
    descriptors,
    eventually,
    in_the_way,
    no_thread_to_give,
    path_of,
    place,
    run,
    running,
    temporaries,
    where,
)
from tests.support.mounts import Mounts

SMALL = b"a blob"
MEDIUM = random.Random(1).randbytes(100_000)
LARGE = random.Random(2).randbytes(BATCH + 70_000)
LONG = random.Random(3).randbytes(3 * BATCH + 17)
CONTENTS = {"empty": b"", "small": SMALL, "medium": MEDIUM, "one batch": LARGE[:BATCH], "large": LARGE, "long": LONG}
each_content = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


@pytest.fixture
def pair(memory: Path) -> list[Directory]:
    return [adopted(memory / name) for name in "ab"]


def pieces_of(content: bytes, size: int = 65536) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


async def put(pool: Pool, content: bytes, digest: Digest | None = None, body: Body | None = None) -> Stored:
    """Store as the resource does: what is there already is not stored."""
    name = digest or Digest.of(content)
    surveys = await pool.survey(name)
    there = already_stored(name, surveys)
    return there or await store(pool, body or body_of(*pieces_of(content)), name, surveys)


def paths(storages: list[Directory], content: bytes) -> tuple[str, ...]:
    return tuple(str(where(storage, Digest.of(content))) for storage in storages)


def clean(*storages: Directory) -> bool:
    """Whether nothing but whole blobs is left, and nothing open."""
    return not temporaries(*storages) and not [path for storage in storages for path in descriptors(Path(storage.root))]


# Stored


@each_content
@pytest.mark.parametrize("known", ["declared", "chunked"])
def test_a_blob_is_stored_in_every_replica(
    pair: list[Directory], events: list[Event], content: bytes, known: str
) -> None:
    async def scenario() -> Stored:
        async with running(pair, events=events) as pool:
            return await put(pool, content, body=chunked(*pieces_of(content)) if known == "chunked" else None)

    stored = run(scenario())

    assert stored == Stored(Digest.of(content), created=True, paths=paths(pair, content))
    assert [blobs(storage) for storage in pair] == [[content], [content]]
    assert clean(*pair)


@each_content
def test_a_blob_that_is_there_in_full_is_not_stored_again(pair: list[Directory], content: bytes) -> None:
    async def scenario() -> tuple[Stored, Stored]:
        async with running(pair) as pool:
            await put(pool, content)
            inodes = [where(storage, Digest.of(content)).stat().st_ino for storage in pair]
            answers = await put(pool, content), await store(pool, body_of(*pieces_of(content)), None)
            assert [where(storage, Digest.of(content)).stat().st_ino for storage in pair] == inodes
            return answers

    expected = Stored(Digest.of(content), created=False, paths=paths(pair, content))
    assert run(scenario()) == (expected, expected)
    assert clean(*pair)


@each_content
def test_a_blob_without_a_name_gets_it_from_its_bytes(pair: list[Directory], content: bytes) -> None:
    async def scenario() -> Stored:
        async with running(pair) as pool:
            return await store(pool, chunked(*pieces_of(content)), None)

    assert run(scenario()) == Stored(Digest.of(content), created=True, paths=paths(pair, content))
    assert [blobs(storage) for storage in pair] == [[content], [content]]


@pytest.mark.parametrize("size", [1, 7])
def test_a_body_may_come_byte_by_byte(pair: list[Directory], size: int) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            await put(pool, MEDIUM[:300], body=body_of(*pieces_of(MEDIUM[:300], size)))

    run(scenario())
    assert blobs(pair[0]) == [MEDIUM[:300]]


def test_one_storage_is_a_set_and_so_are_three(memory: Path) -> None:
    for count in (1, 3):
        storages = [adopted(memory / f"{count}{number}") for number in range(count)]

        async def scenario(storages: list[Directory] = storages) -> Stored:
            async with running(storages) as pool:
                return await put(pool, SMALL)

        assert run(scenario()).paths == paths(storages, SMALL)


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_sixteen_uploads_of_one_blob_at_once_are_all_right(pair: list[Directory], content: bytes) -> None:
    async def scenario() -> list[Stored]:
        async with running(pair) as pool:
            return await asyncio.gather(*(put(pool, content) for _ in range(16)))

    assert {stored.paths for stored in run(scenario())} == {paths(pair, content)}
    assert [blobs(storage) for storage in pair] == [[content], [content]]
    assert clean(*pair)


def test_many_uploads_at_once_are_all_stored(pair: list[Directory]) -> None:
    contents = [b"%d" % number for number in range(100)]

    async def scenario() -> None:
        async with running(pair) as pool:
            await asyncio.gather(*(put(pool, content) for content in contents))

    run(scenario())
    assert [sorted(blobs(storage)) for storage in pair] == [sorted(contents)] * 2
    assert clean(*pair)


# Refused


@each_content
def test_a_body_that_is_not_the_blob_it_was_said_to_be_is_refused(pair: list[Directory], content: bytes) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            with pytest.raises(DigestMismatch) as refused:
                await put(pool, content, Digest.of(b"other"))
            assert refused.value.real == Digest.of(content).hex
            assert Digest.of(b"other").hex in str(refused.value)

    run(scenario())
    assert not blobs(pair[0])
    assert clean(*pair)


@pytest.mark.parametrize("content", [SMALL, MEDIUM, LARGE], ids=["small", "medium", "large"])
@pytest.mark.parametrize("declared", [-1, +1, 10**12])
def test_a_body_of_another_length_than_declared_is_refused(
    pair: list[Directory], content: bytes, declared: int
) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            body = body_of(*pieces_of(content), declared=len(content) + declared)
            with pytest.raises((IncompleteBody, NoSpace)):
                await put(pool, content, body=body)

    run(scenario())
    assert not blobs(pair[0])
    assert clean(*pair)


@pytest.mark.parametrize("content", [SMALL, MEDIUM, LARGE], ids=["small", "medium", "large"])
def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(pair: list[Directory], content: bytes) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            with pytest.raises(TooLarge, match="max_blob_size"):
                await put(pool, content, body=chunked(*pieces_of(content), limit=len(content) - 1))
            assert not blobs(pair[0])
            await put(pool, content, body=chunked(*pieces_of(content), limit=len(content)))

    run(scenario())
    assert blobs(pair[0]) == [content]
    assert clean(*pair)


@pytest.mark.parametrize("after", [0, 1, 17])
def test_a_body_that_breaks_off_leaves_nothing(pair: list[Directory], after: int) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        for piece in pieces_of(LARGE)[:after]:
            yield piece
        raise StalledBody("x")

    async def scenario() -> None:
        async with running(pair) as pool:
            with pytest.raises(StalledBody):
                await put(pool, LARGE, body=Body(breaking(), len(LARGE), 1 << 40))

    run(scenario())
    assert not blobs(pair[0])
    assert clean(*pair)


def test_a_body_that_breaks_off_when_a_write_has_failed_leaves_no_failure_that_nobody_has_seen(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop would tell of it with a stack trace."""
    told: list[dict[str, Any]] = []

    async def breaking() -> AsyncIterator[bytes]:
        yield LONG[:BATCH]
        await asyncio.sleep(0.1)
        raise StalledBody("x")

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with running(pair) as pool:
            break_disk(monkeypatch, "write", pair[0].root)
            with pytest.raises(StalledBody):
                await store(pool, Body(breaking(), len(LONG), 1 << 40), Digest.of(LONG))
        gc.collect()

    run(scenario())
    assert told == []


@pytest.mark.parametrize("after", [0, 1, 17])
def test_an_upload_that_is_cancelled_leaves_nothing(pair: list[Directory], after: int) -> None:
    async def scenario() -> None:
        waiting = asyncio.Event()

        async def stalling() -> AsyncIterator[bytes]:
            for piece in pieces_of(LARGE)[:after]:
                yield piece
            waiting.set()
            await asyncio.sleep(20)

        async with running(pair) as pool:
            upload = asyncio.create_task(put(pool, LARGE, body=Body(stalling(), len(LARGE), 1 << 40)))
            await waiting.wait()
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            await eventually(lambda: clean_now(*pair))

    run(scenario())
    assert not blobs(pair[0])


# All or nothing


def fails(monkeypatch: pytest.MonkeyPatch, storage: Directory, step: str) -> None:
    """Let a step of every write fail on one storage."""
    match step:
        case "stage":
            in_the_way(storage, ".stor/tmp")
        case "write":
            break_disk(monkeypatch, "write", storage.root, errno.EIO)
        case "full":
            break_disk(monkeypatch, "write", storage.root, errno.ENOSPC)
        case "sync":
            break_disk(monkeypatch, "fsync", storage.root)
        case "publish":
            for number in range(256):
                Path(storage.root, f"{number:02X}").write_bytes(b"")
        case "repair":
            in_the_way(storage, ".stor/repair")


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("step", ["stage", "write", "full", "sync"])
def test_a_storage_that_fails_before_the_names_leaves_nothing_anywhere(
    pair: list[Directory],
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    broken: int,
    step: str,
) -> None:
    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            fails(monkeypatch, pair[broken], step)
            with pytest.raises((StorageError, Unavailable, NoSpace)) as failure:
                await put(pool, content)
            assert isinstance(failure.value, StorageFull | NoSpace) == (step == "full")

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[], []]
    assert [beside(storage, "repair") for storage in pair] == [[], []]
    assert not [event for event in events if isinstance(event, BlobStored)]
    assert clean(*pair)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_name_that_one_storage_refuses_is_not_acknowledged_and_asked_to_be_repaired(
    pair: list[Directory], events: list[Event], monkeypatch: pytest.MonkeyPatch, content: bytes, broken: int
) -> None:
    good = pair[1 - broken]

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            fails(monkeypatch, pair[broken], "publish")
            name = Digest.of(content)
            with pytest.raises(StorageError):
                await store(pool, body_of(*pieces_of(content)), name)

    run(scenario())
    assert blobs(good) == [content]
    assert not where(pair[broken], Digest.of(content)).exists()
    assert [path.name for path in beside(good, "repair")] == [Digest.of(content).hex.upper()]
    assert not [event for event in events if isinstance(event, BlobStored)]
    assert clean(*pair)


def test_a_name_that_cannot_be_synced_is_not_acknowledged(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fail(fd: int) -> None:
        if os.path.isdir(path_of(fd)) and path_of(fd).startswith(pair[1].root) and ".stor" not in path_of(fd):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    async def scenario() -> None:
        async with running(pair) as pool:
            monkeypatch.setattr(os, "fsync", fail)
            with pytest.raises(StorageError):
                await put(pool, SMALL)

    run(scenario())
    assert [path.name for path in beside(pair[0], "repair")] == [Digest.of(SMALL).hex.upper()]
    assert clean(*pair)


@pytest.fixture
def odd(memory: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[Directory]]:
    """Two sets, of which the first is always tried first; on its second storage a file is in the way of all blobs."""

    async def choose(places: Places, *_: object) -> list[ReplicaSet]:
        return [*places._sets]

    monkeypatch.setattr(Places, "choose", choose)
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]
    for content in (SMALL, LONG):
        Path(sets[0][1].root, Digest.of(content).path[:2]).touch()
    return sets


@pytest.mark.parametrize("there", [False, True], ids=["new", "there in part"])
@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
def test_a_blob_whose_name_a_storage_refuses_is_stored_by_another_set_and_that_is_told(
    odd: list[list[Directory]], events: list[Event], content: bytes, there: bool
) -> None:
    if there:
        place(odd[0][0], content)

    async def scenario() -> Stored:
        async with running(*odd, events=events) as pool:
            return await put(pool, content)

    assert run(scenario()) == Stored(Digest.of(content), created=True, paths=paths(odd[1], content))
    assert {event.error.storage for event in events if isinstance(event, StorageFailed)} == {odd[0][1].root}
    assert clean(*odd[0], *odd[1])


@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
def test_a_blob_whose_name_every_storage_refuses_is_not_acknowledged(
    odd: list[list[Directory]], content: bytes
) -> None:
    async def scenario() -> None:
        async with running(odd[0][1:]) as pool:
            with pytest.raises(StorageError) as failure:
                await put(pool, content)
            assert failure.value.refused

    run(scenario())
    assert clean(odd[0][1])


@pytest.mark.parametrize(
    ("content", "there"), [(SMALL, False), (SMALL, True), (LONG, True)], ids=["small", "small in part", "long in part"]
)
def test_a_blob_whose_bad_replica_cannot_be_set_aside_is_stored_by_another_set_and_that_is_told(
    odd: list[list[Directory]], events: list[Event], content: bytes, there: bool
) -> None:
    name = Path(odd[0][1].root, Digest.of(content).path[:2])
    name.unlink()
    name.symlink_to(name.name)  # in a circle
    if there:
        place(odd[0][0], content)

    async def scenario() -> Stored:
        async with running(*odd, events=events) as pool:
            stored = await put(pool, content)
            assert not any(member.unwritable for member in pool.members())
            return stored

    assert run(scenario()) == Stored(Digest.of(content), created=True, paths=paths(odd[1], content))
    assert "quarantine" in {event.error.operation for event in events if isinstance(event, StorageFailed)}
    assert clean(*odd[0], *odd[1])


def test_all_replicas_are_synced_before_the_first_name_appears(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    fsync, rename = os.fsync, os.rename

    def watched_fsync(fd: int) -> None:
        if ".stor/tmp" in path_of(fd):
            taken.append("fsync")
        fsync(fd)

    def watched_rename(*arguments: Any, **named: Any) -> None:
        taken.append("rename")
        rename(*arguments, **named)

    async def scenario() -> None:
        async with running(pair) as pool:
            monkeypatch.setattr(os, "fsync", watched_fsync)
            monkeypatch.setattr(os, "rename", watched_rename)
            for content in (SMALL, LARGE):
                taken.clear()
                await put(pool, content)
                assert taken[:2] == ["fsync", "fsync"]
                assert set(taken[2:]) == {"rename"}

    run(scenario())


def test_a_wish_for_repair_that_fails_too_does_not_hide_the_failure(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            fails(monkeypatch, pair[1], "publish")
            fails(monkeypatch, pair[0], "repair")
            with pytest.raises(StorageError) as failure:
                await store(pool, body_of(SMALL), Digest.of(SMALL))
            assert failure.value.storage == pair[1].root

    run(scenario())
    assert blobs(pair[0]) == [SMALL]


@pytest.mark.parametrize("content", [SMALL, None], ids=["whole", "in pieces"])
def test_an_upload_that_is_cancelled_while_one_storage_stages_leaves_nothing_on_the_others(
    memory: Path, content: bytes | None
) -> None:
    quick = adopted(memory / "a")
    adopted(memory / "b")
    slow = Hanging(str(memory / "b"), reserve=0)

    async def scenario() -> None:
        members = [Bulkhead(quick), Bulkhead(slow)]
        begin = Upload.stage(members, 6) if content is None else send(SmallUploads(members), SmallUpload(content))
        staging = asyncio.create_task(begin)
        await eventually(lambda: bool(temporaries(quick)) and slow.entered.is_set())
        await asyncio.sleep(0.02)
        staging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await staging
        slow.go_on.set()
        await eventually(lambda: clean_now(quick, slow))
        for member in members:
            member.stop()

    run(scenario())
    assert clean(quick, slow)


@pytest.mark.parametrize("content", [MEDIUM, LONG], ids=["medium", "long"])
def test_an_upload_for_whose_digest_there_is_no_thread_is_refused_and_leaves_nothing(
    pair: list[Directory], content: bytes
) -> None:
    async def scenario() -> None:
        async with running(pair) as pool:
            await put(pool, LARGE)
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            with no_thread_to_give(), pytest.raises(Unavailable, match="no thread"):
                await put(pool, content)
            assert (await put(pool, content)).created

    run(scenario())
    assert clean(*pair)


def test_what_is_given_up_is_removed_though_the_storage_is_busy_for_longer_than_anybody_waits(memory: Path) -> None:
    storage = adopted(memory / "a")
    busy = threading.Event()

    async def scenario() -> None:
        member = Bulkhead(storage, threads=1)
        upload = await send(SmallUploads([member]), SmallUpload(SMALL))
        hanging = asyncio.create_task(member.run(busy.wait, 10, timeout=20))
        await asyncio.sleep(0.02)
        async with upload:
            pass
        busy.set()
        await hanging
        await eventually(lambda: clean_now(storage))
        member.stop()

    run(scenario())


def test_what_is_given_up_while_it_is_synced_says_nothing_of_the_storage(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = adopted(memory / "a")
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.1))
    syncing, go_on = threading.Event(), threading.Event()

    def fsync(_: int) -> None:
        syncing.set()
        assert go_on.wait(20)

    async def scenario() -> None:
        member = Bulkhead(storage)
        async with await Upload.stage([member], 6) as upload:
            await upload.write(SMALL)
            monkeypatch.setattr(os, "fsync", fsync)
            step = asyncio.create_task(upload.sync())
            await eventually(syncing.is_set)
            step.cancel()
        assert (member.switch.get(), member.switch.reason) == (breaker.State.IN, None)
        go_on.set()
        await eventually(lambda: clean_now(storage))
        member.stop()

    run(scenario())


# Looked for and stored in one go


def test_a_blob_that_is_here_is_looked_for_and_stored_in_one_go(pair: list[Directory]) -> None:
    async def scenario() -> tuple[Stored | None, Stored | None]:
        async with running(pair) as pool:
            name = Digest.of(SMALL)
            return await store_at_once(pool, SMALL, name), await store_at_once(pool, SMALL, name)

    stored = Stored(Digest.of(SMALL), created=True, paths=paths(pair, SMALL))
    assert run(scenario()) == (stored, None)  # the second time something is there: it is to be looked at
    assert [blobs(storage) for storage in pair] == [[SMALL], [SMALL]]
    assert clean(*pair)


def test_what_takes_long_to_hash_is_not_stored_in_one_go(pair: list[Directory]) -> None:
    async def scenario() -> Stored | None:
        async with running(pair) as pool:
            return await store_at_once(pool, MEDIUM, Digest.of(MEDIUM))

    assert run(scenario()) is None
    assert not blobs(pair[0])


@pytest.mark.parametrize("there", [0, 1])
def test_what_is_there_in_part_is_not_stored_in_one_go(pair: list[Directory], there: int) -> None:
    place(pair[there], b"rotten", Digest.of(SMALL))

    async def scenario() -> Stored | None:
        async with running(pair) as pool:
            return await store_at_once(pool, SMALL, Digest.of(SMALL))

    assert run(scenario()) is None
    assert not where(pair[1 - there], Digest.of(SMALL)).exists()
    assert clean(*pair)


def test_what_is_not_what_it_is_said_to_be_is_looked_for_before_it_is_refused(pair: list[Directory]) -> None:
    async def scenario() -> Stored | None:
        async with running(pair) as pool:
            return await store_at_once(pool, SMALL, Digest.of(b"another"))

    assert run(scenario()) is None
    assert [blobs(storage) for storage in pair] == [[], []]


def test_a_blob_that_another_set_may_have_is_looked_for_there_first(memory: Path) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]

    async def scenario() -> Stored | None:
        async with running(*sets) as pool:
            return await store_at_once(pool, SMALL, Digest.of(SMALL))

    assert run(scenario()) is None


def test_a_blob_that_is_stored_is_a_duplicate_though_there_is_no_room(mounts: Mounts) -> None:
    full = [adopted(mounts.tmpfs(1 << 20), reserve=4 << 20) for _ in range(2)]
    for storage in full:
        place(storage, SMALL)

    async def scenario() -> Stored | None:
        async with running(full) as pool:
            with pytest.raises(NoSpace):
                await store_at_once(pool, b"another", Digest.of(b"another"))
            return await store_at_once(pool, SMALL, Digest.of(SMALL))

    assert run(scenario()) == Stored(Digest.of(SMALL), created=False, paths=paths(full, SMALL))


def test_a_blob_that_has_been_stored_for_a_while_is_a_duplicate_though_its_disks_take_no_writes(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "_FRESH", 0.0)

    def fail() -> None:
        error = OSError(errno.EROFS, os.strerror(errno.EROFS))
        raise StorageError.from_os("a disk", "probe", error, writing=True)

    for storage in pair:
        place(storage, SMALL)
        monkeypatch.setattr(storage, "probe", fail)

    async def scenario() -> Stored | None:
        async with running(pair) as pool:
            for member in pool.members():
                with pytest.raises(StorageError):
                    await member.run(fail)
            with pytest.raises(Unavailable):
                await store_at_once(pool, b"another", Digest.of(b"another"))
            return await store_at_once(pool, SMALL, Digest.of(SMALL))

    assert run(scenario()) == Stored(Digest.of(SMALL), created=False, paths=paths(pair, SMALL))


# Made whole


def leave(storage: Directory, content: bytes, what: str) -> None:
    """Bring a storage's replica of a blob into a state."""
    path = where(storage, Digest.of(content))
    match what:
        case "missing":
            path.unlink(missing_ok=True)
        case "rotten":
            place(storage, b"rotten", Digest.of(content))
        case "cut short":
            place(storage, content[:-1], Digest.of(content))
        case "empty":
            place(storage, b"", Digest.of(content))


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("state", ["missing", "rotten", "cut short", "empty"])
@pytest.mark.parametrize("harmed", [0, 1])
@pytest.mark.parametrize("name", ["named", "unnamed"])
def test_a_replica_that_is_missing_or_bad_is_made_good_from_the_body(
    pair: list[Directory], content: bytes, state: str, harmed: int, name: str
) -> None:
    whole = pair[1 - harmed]

    async def scenario() -> Stored:
        async with running(pair) as pool:
            await put(pool, content)
            leave(pair[harmed], content, state)
            if name == "unnamed":
                return await store(pool, body_of(*pieces_of(content)), None)
            inode = where(whole, Digest.of(content)).stat().st_ino
            answer = await put(pool, content)
            assert where(whole, Digest.of(content)).stat().st_ino == inode
            return answer

    assert run(scenario()) == Stored(Digest.of(content), created=False, paths=paths(pair, content))
    assert [blobs(storage) for storage in pair] == [[content], [content]]
    assert len(beside(pair[harmed], "quarantine")) == (state != "missing")
    assert not beside(whole, "quarantine")
    assert clean(*pair)


@each_content
def test_a_replica_that_a_disk_does_not_come_to_read_is_replaced_by_an_upload_and_kept(
    pair: list[Directory], content: bytes
) -> None:
    paths = [place(storage, content) for storage in pair]
    inode = paths[0].stat().st_ino
    for storage in pair:
        storage.timeouts = Timeouts(answer=0.3)  # type: ignore[misc]

    async def scenario() -> None:
        async with running(pair) as pool:
            with bad_sector(paths[0]):
                assert (await put(pool, content)).created is False
                assert [member.out for member in pool.members()] == [False, False]

    run(scenario())
    assert paths[0].stat().st_ino != inode
    assert [blobs(storage) for storage in pair] == [[content]] * 2
    assert len(beside(pair[0], "quarantine")) == 1
    assert clean(*pair)


def test_a_storage_that_takes_no_writes_is_not_made_to_sync_what_may_not_be_on_it(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed: list[Digest] = []
    monkeypatch.setattr(pair[0], "confirm", confirmed.append)
    place(pair[0], SMALL)

    async def scenario() -> None:
        member = Bulkhead(pair[0])
        failed = OSError(errno.EIO, os.strerror(errno.EIO))
        member.note(StorageError.from_os(pair[0].root, "fsync", failed, writing=True))
        survey = await ReplicaSet([member]).survey(Digest.of(SMALL), Verifier(), lambda _: None)
        assert survey.states == {member: ReplicaState.UNKNOWN}
        member.stop()

    run(scenario())
    assert confirmed == []


def test_a_blob_is_of_the_time_of_its_good_replicas(pair: list[Directory]) -> None:
    for storage, content, seconds in zip(pair, (b"rotten", SMALL), (10**9, 10**9 + 5), strict=True):
        os.utime(place(storage, content, Digest.of(SMALL)), (seconds, seconds))

    async def scenario() -> None:
        async with running(pair) as pool:
            await put(pool, SMALL)

    run(scenario())
    assert [where(storage, Digest.of(SMALL)).stat().st_mtime for storage in pair] == [10**9 + 5] * 2


@pytest.mark.parametrize("fresh", [900.0, 0.0])
def test_only_what_came_a_while_ago_is_on_stable_storage_without_being_synced_for_an_upload(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, fresh: float
) -> None:
    confirmed: list[Digest] = []
    monkeypatch.setattr(replicas, "_FRESH", fresh)
    monkeypatch.setattr(pair[0], "confirm", confirmed.append)
    place(pair[0], SMALL)

    async def scenario() -> None:
        async with running(pair[:1]) as pool:
            assert [survey.complete for survey in await pool.survey(Digest.of(SMALL))] == [True]

    run(scenario())
    assert confirmed == [Digest.of(SMALL)] * (fresh > 0)


def test_a_bad_replica_is_told_once_however_many_uploads_find_it(pair: list[Directory], events: list[Event]) -> None:
    place(pair[0], b"rotten", Digest.of(SMALL))

    async def scenario() -> None:
        async with running(pair[:1], events=events) as pool:
            for _ in range(3):
                assert [survey.wanting for survey in await pool.survey(Digest.of(SMALL))] == [True]

    run(scenario())
    assert [event for event in events if isinstance(event, ReplicaBad)] == [ReplicaBad(Digest.of(SMALL), pair[0].root)]


@pytest.mark.parametrize(("answers", "state"), [(True, ReplicaState.BAD), (False, ReplicaState.UNKNOWN)])
def test_a_replica_that_cannot_be_read_is_bad_only_if_its_storage_answers(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, answers: bool, state: ReplicaState
) -> None:
    def be_away() -> Space:
        raise StorageError(pair[0].root, "check", "no such device")

    place(pair[0], SMALL)
    break_reads(monkeypatch, pair[0].root)
    if not answers:
        monkeypatch.setattr(pair[0], "check", be_away)

    async def scenario() -> None:
        member = Bulkhead(pair[0])
        survey = await ReplicaSet([member]).survey(Digest.of(SMALL), Verifier(), lambda _: None)
        assert survey.states == {member: state}
        member.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("kind", "step"), [(Directory, "stage"), (Directory, "confirm"), (staging.StagedFile, "set_aside")]
)
def test_a_step_of_an_upload_has_the_time_of_a_write_and_makes_no_storage_slow(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    real = getattr(kind, step)
    taken = []
    paces: list[float] = []

    def take_long(*arguments: object) -> object:
        taken.append(step)
        time.sleep(0.6)
        return real(*arguments)

    async def scenario() -> None:
        async with running(pair) as pool:
            leave(pair[0], LARGE, "rotten")
            place(pair[1], LARGE)
            monkeypatch.setattr(kind, step, take_long)
            for storage in pair:
                monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.5))
            for member in pool.members():
                monkeypatch.setattr(member, "note_time", paces.append)
            assert (await put(pool, LARGE)).created is False

    run(scenario())
    assert max(paces) < 0.6
    assert taken == [step]


def test_a_replica_of_another_user_that_cannot_be_read_is_noted_and_replaced_and_kept(memory: Path) -> None:
    digest = Digest.of(SMALL)

    async def scenario(storages: list[Directory]) -> None:
        async with running(storages) as pool:
            for _ in range(20):
                (await pool.find(digest)).close()
            await eventually(lambda: storages[0].pending("repair", 10) == [digest])
            assert (await put(pool, SMALL)).created is False

    with as_nobody(memory):
        storages = [adopted(memory / name) for name in "ab"]
        paths = [place(storage, SMALL) for storage in storages]
        os.seteuid(0)
        os.chown(paths[0], 0, 0)
        paths[0].chmod(0o600)
        os.seteuid(NOBODY)
        run(scenario(storages))
        assert paths[0].read_bytes() == SMALL

    (kept,) = beside(storages[0], "quarantine")
    assert (kept.stat().st_uid, kept.read_bytes()) == (0, SMALL)


def test_a_directory_that_cannot_be_looked_into_says_nothing_of_the_replicas_in_it(memory: Path) -> None:
    with as_nobody(memory):
        storage = adopted(memory / "a")
        branch = place(storage, SMALL).parents[2]
        branch.chmod(0)
        with pytest.raises(StorageError) as caught:
            storage.open(Digest.of(SMALL))
        branch.chmod(0o700)

    assert not caught.value.unreadable


def test_a_set_with_bad_replicas_only_is_made_good_from_the_body(pair: list[Directory]) -> None:
    for storage in pair:
        leave(storage, SMALL, "rotten")

    async def scenario() -> Stored:
        async with running(pair) as pool:
            return await put(pool, SMALL)

    assert not run(scenario()).created
    assert [blobs(storage) for storage in pair] == [[SMALL], [SMALL]]
    assert [len(beside(storage, "quarantine")) for storage in pair] == [1, 1]


@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
@pytest.mark.parametrize("state", ["rotten", "a link"])
def test_of_many_uploads_that_replace_a_bad_replica_none_keeps_a_good_one_in_quarantine(
    pair: list[Directory], content: bytes, state: str
) -> None:
    place(pair[1], content)
    if state == "a link":
        where(pair[0], Digest.of(content)).parent.mkdir(parents=True)
        where(pair[0], Digest.of(content)).symlink_to(where(pair[1], Digest.of(content)))
    else:
        leave(pair[0], content, state)

    async def scenario() -> list[Stored]:
        async with running(pair) as pool:
            return await asyncio.gather(*(put(pool, content) for _ in range(16)))

    assert {stored.paths for stored in run(scenario())} == {paths(pair, content)}
    assert [blobs(storage) for storage in pair] == [[content], [content]]
    kept = beside(pair[0], "quarantine")
    assert kept
    assert all(path.is_symlink() if state == "a link" else path.read_bytes() == b"rotten" for path in kept)


def test_a_wrong_body_mends_nothing(pair: list[Directory]) -> None:
    place(pair[0], SMALL)

    async def scenario() -> None:
        async with running(pair) as pool:
            with pytest.raises(DigestMismatch):
                await put(pool, b"another", Digest.of(SMALL))

    run(scenario())
    assert [blobs(storage) for storage in pair] == [[SMALL], []]
    assert clean(*pair)


def test_the_gap_is_mended_where_the_blob_is_and_not_where_placement_would_put_it(memory: Path) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(4)]
    contents = [b"%d" % number for number in range(12)]
    for number, content in enumerate(contents):
        place(sets[number % 4][0], content)

    async def scenario() -> None:
        async with running(*sets) as pool:
            for number, content in enumerate(contents):
                assert await put(pool, content) == Stored(
                    Digest.of(content), created=False, paths=paths(sets[number % 4], content)
                )

    run(scenario())


def test_a_blob_without_a_name_that_is_stored_elsewhere_already_is_a_duplicate_there(memory: Path) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(4)]
    for storage in sets[3]:
        place(storage, LONG)

    async def scenario() -> list[Stored]:
        async with running(*sets) as pool:
            return [await store(pool, body_of(*pieces_of(LONG)), None) for _ in range(8)]

    expected = Stored(Digest.of(LONG), created=False, paths=paths(sets[3], LONG))
    assert run(scenario()) == [expected] * 8
    assert all(blobs(storage) == [] and clean(storage) for group in sets[:3] for storage in group)


@pytest.mark.parametrize("spoilt", [False, True], ids=["missing", "bad"])
def test_a_blob_without_a_name_that_is_stored_in_part_elsewhere_is_made_whole_there(
    memory: Path, *, spoilt: bool
) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(5)]
    place(sets[4][1], LONG)
    if spoilt:
        place(sets[4][0], b"something else", Digest.of(LONG))

    async def scenario() -> Stored:
        async with running(*sets) as pool:
            return await store(pool, body_of(*pieces_of(LONG)), None)

    assert run(scenario()) == Stored(Digest.of(LONG), created=False, paths=paths(sets[4], LONG))
    assert [blobs(storage) for storage in sets[4]] == [[LONG], [LONG]]
    assert all(blobs(storage) == [] and clean(storage) for group in sets[:4] for storage in group)
    assert len(beside(sets[4][0], "quarantine")) == spoilt


def test_a_blob_without_a_name_is_stored_though_what_was_elsewhere_has_gone_meanwhile(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]
    path, real = place(sets[0][0], LONG), Pool.survey

    async def survey(pool: Pool, digest: Digest) -> list[Survey]:
        seen = await real(pool, digest)
        path.unlink(missing_ok=True)
        return seen

    async def scenario() -> Stored:
        async with running(*sets) as pool:
            monkeypatch.setattr(Pool, "survey", survey)
            fails(monkeypatch, sets[0][1], "stage")
            return await store(pool, body_of(*pieces_of(LONG)), None)

    assert run(scenario()).paths == paths(sets[1], LONG)
    assert blobs(sets[1][0]) == [LONG]


def test_a_blob_without_a_name_is_stored_though_what_is_elsewhere_cannot_be_made_whole(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]
    place(sets[0][0], LONG)

    async def scenario() -> Stored:
        async with running(*sets) as pool:
            fails(monkeypatch, sets[0][1], "stage")
            return await store(pool, body_of(*pieces_of(LONG)), None)

    assert run(scenario()) == Stored(Digest.of(LONG), created=True, paths=paths(sets[1], LONG))


def test_a_blob_without_a_name_is_stored_though_there_is_no_room_for_a_second_one_to_make_another_set_whole(
    mounts: Mounts, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = [adopted(memory / side) for side in "ab"]
    other = [adopted(mounts.tmpfs(5 << 20))]
    place(partial[0], LONG)

    async def scenario() -> Stored:
        async with running(partial, other) as pool:
            fails(monkeypatch, partial[1], "stage")
            return await store(pool, body_of(*pieces_of(LONG)), None)

    assert run(scenario()) == Stored(Digest.of(LONG), created=True, paths=paths(other, LONG))
    assert clean(*other)


def test_a_gap_that_cannot_be_mended_is_left_and_the_blob_stored_elsewhere(
    memory: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]
    place(sets[0][0], SMALL)

    async def scenario() -> Stored:
        async with running(*sets, events=events) as pool:
            fails(monkeypatch, sets[0][1], "stage")
            return await put(pool, SMALL)

    assert run(scenario()) == Stored(Digest.of(SMALL), created=True, paths=paths(sets[1], SMALL))
    assert {event.error.storage for event in events if isinstance(event, StorageFailed)} == {sets[0][1].root}


def test_a_set_that_is_read_only_is_not_mended(memory: Path) -> None:
    old = [adopted(memory / "a", writable=False), adopted(memory / "b", writable=False)]
    new = [adopted(memory / "c")]
    place(old[0], SMALL)

    async def scenario() -> Stored:
        async with running(old, new) as pool:
            return await put(pool, SMALL)

    assert run(scenario()) == Stored(Digest.of(SMALL), created=True, paths=paths(new, SMALL))
    assert not blobs(old[1])


@pytest.fixture
def half(memory: Path) -> list[list[Directory]]:
    """Two sets: what is put is bad and missing in the first one, and whole in the second."""
    return [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]


def halve(half: list[list[Directory]], content: bytes) -> None:
    for storage in half[1]:
        place(storage, content)
    leave(half[0][0], content, "rotten")


@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
@pytest.mark.parametrize("name", ["named", "unnamed"])
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_a_set_that_has_a_blob_in_part_is_made_whole_though_another_one_has_it_in_full(
    half: list[list[Directory]], content: bytes, name: str, *, writable: bool
) -> None:
    halve(half, content)
    whole = half[1] if writable else [Directory(storage.root, writable=False) for storage in half[1]]

    async def scenario() -> Stored:
        async with running(half[0], whole) as pool:
            if name == "named":
                return await put(pool, content)
            return await store(pool, body_of(*pieces_of(content)), None)

    stored = run(scenario())
    assert not stored.created
    assert sorted(stored.paths) == sorted(paths([*half[0], *half[1]], content))
    assert [blobs(storage) for storage in (*half[0], *half[1])] == [[content]] * 4
    assert [len(beside(storage, "quarantine")) for storage in (*half[0], *half[1])] == [1, 0, 0, 0]
    assert clean(*half[0], *half[1])


@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
@pytest.mark.parametrize("name", ["named", "unnamed"])
@pytest.mark.parametrize("step", ["stage", "publish"])
def test_a_blob_that_a_set_has_in_full_is_stored_though_another_one_cannot_be_made_whole(
    half: list[list[Directory]], monkeypatch: pytest.MonkeyPatch, content: bytes, name: str, step: str
) -> None:
    halve(half, content)

    async def scenario() -> Stored:
        async with running(*half) as pool:
            fails(monkeypatch, half[0][1], step)
            if name == "named":
                return await put(pool, content)
            return await store(pool, body_of(*pieces_of(content)), None)

    stored = run(scenario())
    assert not stored.created
    assert stored.paths == paths(half[1], content)
    assert (isinstance(stored.unmended, StorageError), blobs(half[0][1])) == (True, [])
    assert [blobs(storage) for storage in half[1]] == [[content]] * 2


@pytest.mark.parametrize("limit", [0, 1 << 40], ids=["too large", "another"])
def test_a_blob_that_a_set_has_in_full_is_stored_whatever_the_body_is(half: list[list[Directory]], limit: int) -> None:
    halve(half, SMALL)

    async def scenario() -> Stored:
        async with running(*half) as pool:
            return await put(pool, SMALL, Digest.of(SMALL), body_of(b"another", limit=limit))

    stored = run(scenario())
    assert (stored.created, stored.paths) == (False, paths(half[1], SMALL))
    assert blobs(half[0][1]) == []
    assert clean(*half[0], *half[1])


def test_all_copies_of_all_sets_are_told(memory: Path) -> None:
    sets = [[adopted(memory / f"{number}{side}") for side in "ab"] for number in range(2)]
    for storage in (*sets[0], sets[1][1]):
        place(storage, SMALL)
    old = [Directory(storage.root, writable=False) for storage in sets[1]]

    async def scenario() -> Stored:
        async with running(sets[0], old) as pool:
            return await put(pool, SMALL)

    stored = run(scenario())
    assert not stored.created
    assert sorted(stored.paths) == sorted(paths([*sets[0], sets[1][1]], SMALL))


# Placement


def test_the_next_set_takes_what_the_first_has_no_room_for(mounts: Mounts, memory: Path) -> None:
    small, large = [adopted(mounts.tmpfs(2 << 20))], [adopted(memory / "large")]

    async def scenario() -> None:
        async with running(small, large) as pool:
            for number in range(5):
                stored = await put(pool, LONG + b"%d" % number)
                assert stored.paths == paths(large, LONG + b"%d" % number)

    run(scenario())
    assert clean(*small, *large)


def test_the_next_set_takes_what_the_first_fails_at(
    memory: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = [adopted(memory / "a"), adopted(memory / "b")], [adopted(memory / "c")]

    async def scenario() -> None:
        async with running(broken, good, events=events) as pool:
            fails(monkeypatch, broken[1], "stage")
            for number in range(10):
                assert (await put(pool, b"%d" % number)).paths == paths(good, b"%d" % number)

    run(scenario())
    assert [event for event in events if isinstance(event, StorageFailed)]
    assert clean(*broken, *good)


def test_a_set_that_failed_to_write_is_not_tried_again_before_it_writes_again(
    memory: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, good = [adopted(memory / "a"), adopted(memory / "b")], [adopted(memory / "c")]

    async def scenario() -> None:
        async with running(broken, good, events=events) as pool:
            with monkeypatch.context() as patch:
                break_disk(patch, "fsync", broken[1].root)
                for number in range(30):
                    assert (await put(pool, b"%d" % number)).paths == paths(good, b"%d" % number)
                assert len([event for event in events if isinstance(event, StorageFailed)]) == 1
            await asyncio.gather(*(member.recover() for member in pool.members()))
            assert blobs(broken[0]) == []
            for number in range(30, 60):
                await put(pool, b"%d" % number)
            assert blobs(broken[0])

    run(scenario())


def test_sets_that_all_failed_to_write_might_have_had_room(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [adopted(memory / "a"), adopted(memory / "b")]

    async def scenario() -> None:
        async with running(broken) as pool:
            break_disk(monkeypatch, "fsync", broken[1].root)
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await put(pool, SMALL)

    run(scenario())
    assert clean(*broken)


def test_a_set_that_was_too_busy_to_take_a_blob_might_have_had_room(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_busy(*_: object) -> None:
        raise StorageError(pair[1].root, "stage", "no thread was free within 20 s")

    async def scenario() -> None:
        async with running(pair) as pool:
            monkeypatch.setattr(pair[1], "stage", be_busy)
            with pytest.raises(Unavailable):
                await put(pool, LONG)
            assert pool.sets[0].takes

    run(scenario())
    assert clean(*pair)


@pytest.mark.parametrize("content", [SMALL, LONG], ids=["small", "long"])
def test_no_set_with_room_is_no_space(mounts: Mounts, content: bytes) -> None:
    full = [adopted(mounts.tmpfs(2 << 20), reserve=4 << 20), adopted(mounts.tmpfs(2 << 20))]

    async def scenario() -> None:
        async with running(full) as pool:
            with pytest.raises(NoSpace, match=rf"No replica set has room for {len(content)} bytes"):
                await put(pool, content)

    run(scenario())
    assert clean(*full)


def test_a_body_without_a_length_that_fills_the_disk_leaves_nothing(mounts: Mounts) -> None:
    storages = [adopted(mounts.tmpfs(2 << 20)), adopted(mounts.tmpfs(8 << 20))]
    free = [storage.check().free for storage in storages]

    async def scenario() -> None:
        async with running(storages) as pool:
            with pytest.raises(StorageFull):
                await put(pool, LONG, body=chunked(*pieces_of(LONG)))

    run(scenario())
    assert [storage.check().free for storage in storages] == free
    assert clean(*storages)


def test_a_storage_that_does_not_answer_might_have_had_room(mounts: Mounts, memory: Path) -> None:
    full = [adopted(mounts.tmpfs(1 << 20), reserve=4 << 20)]
    gone = [adopted(memory / "a"), adopted(memory / "b")]
    Path(gone[1].root).rename(memory / "away")

    async def scenario() -> None:
        async with running(full, gone) as pool:
            with pytest.raises(Unavailable):
                await store(pool, body_of(SMALL), Digest.of(SMALL))

    run(scenario())


def test_a_read_only_set_takes_nothing_and_its_absence_is_no_reason(mounts: Mounts, memory: Path) -> None:
    full = [adopted(mounts.tmpfs(1 << 20), reserve=4 << 20)]
    old = [adopted(memory / "a", writable=False), adopted(memory / "b")]
    Path(old[0].root).rename(memory / "away")

    async def scenario() -> None:
        async with running(full, old) as pool:
            with pytest.raises(NoSpace):
                await store(pool, body_of(SMALL), Digest.of(SMALL))

    run(scenario())
    assert not blobs(old[1])


def test_room_is_measured_again_after_a_while(pair: list[Directory], monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []
    real = Directory.check

    def counted(storage: Directory) -> Space:
        checks.append(storage.root)
        return real(storage)

    monkeypatch.setattr(Directory, "check", counted)

    async def scenario() -> None:
        async with running(pair) as pool_:
            before = len(checks)
            await asyncio.gather(*(put(pool_, b"%d" % number) for number in range(5)))
            assert len(checks) == before  # each staging looks for itself
            monkeypatch.setattr(places, "_FRESH", 0.0)
            await put(pool_, SMALL)
            assert len(checks) == before + 2
            assert pool_.sets[0].left > 0

    run(scenario())


def test_the_room_of_a_set_is_that_of_its_fullest_member(mounts: Mounts) -> None:
    storages = [adopted(mounts.tmpfs(8 << 20)), adopted(mounts.tmpfs(2 << 20), reserve=1 << 20)]

    async def scenario() -> None:
        group = ReplicaSet([Bulkhead(storage) for storage in storages])
        assert await group.measure()
        assert 0 < group.left <= 1 << 20
        os.rename(f"{storages[0].root}/.stor", f"{storages[0].root}/away")
        storages[0]._presence._known = None
        assert not await group.measure()
        assert group.left == 0
        for member in group.members:
            member.stop()

    run(scenario())


# Sweeping


def test_leftovers_are_swept_at_the_start_and_every_so_often(memory: Path, events: list[Event]) -> None:
    storages = [adopted(memory / "a"), adopted(memory / "b", writable=False), Directory(str(memory / "gone"))]

    def leave_one() -> None:
        Path(storages[0].root, ".stor/tmp/left").write_bytes(b"")

    def swept() -> int:
        return [event.count for event in events if isinstance(event, LeftoversSwept)].count(1)

    async def scenario() -> None:
        leave_one()
        async with running(storages, events=events, sweep_period=0.01):
            await eventually(lambda: swept() == 1)
            leave_one()
            await eventually(lambda: swept() == 2)

    run(scenario())
    assert {event.storage for event in events if isinstance(event, LeftoversSwept)} == {storages[0].root}


# Batches


@pytest.mark.parametrize("hurried", [True, False])
def test_a_large_upload_runs_far_ahead_of_the_disk_unless_small_ones_wait_for_it(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(posix, "write_back", lambda _, __, size, *, wait=False: waited.append(size) if wait else None)
    monkeypatch.setattr(breaker, "_LATELY", 30.0)  # however busy the machine is
    monkeypatch.setattr(staging, "_GENTLE", 30.0)
    for storage in pair:
        storage._commits = True

    async def scenario() -> None:
        async with running(pair) as pool:
            if hurried:
                await put(pool, SMALL)
            await put(pool, LARGE)

    run(scenario())
    assert waited == [256 << 10] * (2 * (BATCH >> 18) if hurried else 0)


def test_a_body_is_given_in_batches_of_a_bounded_size() -> None:
    async def scenario() -> list[int]:
        return [len(batch) async for batch in body_of(*pieces_of(LARGE, 100_000)).batches()]

    sizes = run(scenario())
    assert sum(sizes) == len(LARGE)
    assert all(BATCH <= size < BATCH + 100_000 for size in sizes[:-1])
    assert ingest.BATCH == 1 << 20
