"""Finding a blob and sending it: verified, and from another replica when one fails."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from pystor import replicas, search, verification
from pystor.blob import Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import NotFound, StorageError, StorError, Unavailable
from pystor.events import Event, LookedUp, ReplicaBad, StorageFailed
from pystor.files import FileReplica
from pystor.http.messages import Stream
from pystor.pool import FindResult, Pool
from pystor.reading import PIECE, Reading
from pystor.repairs import Repairs
from pystor.replicas import ReplicaSet, ReplicaState
from pystor.steps import Step, outcomes
from pystor.tiers import Tier, Tiers
from pystor.verification import Verifier
from tests.rooms.tools import (
    adopted,
    beside,
    break_disk,
    break_reads,
    descriptors,
    eventually,
    open_below,
    place,
    run,
    running,
    tiers_of,
    where,
)
from tests.support.mounts import Mounts

SMALL = b"a blob"
LARGE = random.Random(1).randbytes(5 * PIECE + 100)
FIRST = 1 << 10  # what is verified before it is handed out, here


@pytest.fixture
def pair(tmp_path: Path) -> list[Directory]:
    return [adopted(tmp_path / name) for name in "ab"]


def bad(events: list[Event]) -> list[str]:
    return [event.storage for event in events if isinstance(event, ReplicaBad)]


def failed(events: list[Event]) -> list[str]:
    return [event.error.storage for event in events if isinstance(event, StorageFailed)]


async def find_on(pool: Pool, digest: Digest, storage: Directory) -> Replica:
    """Find a blob, again and again until the replica is that of a storage."""
    for _ in range(200):
        replica = await pool.find(digest)
        if replica.storage == storage.root:
            return replica
        replica.close()
    raise AssertionError(f"never found on {storage.root}")


async def receive(pieces: Stream, into: bytearray) -> None:
    async with aclosing(pieces):
        async for piece in pieces:
            into += piece


async def read_all(pool: Pool, digest: Digest, replica: Replica, start: int = 0, stop: int | None = None) -> bytes:
    received = bytearray()
    end = replica.size if stop is None else stop
    await receive(Reading(tiers_of(pool), digest, replica, start, end), received)
    return bytes(received)


async def receive_by_turns(reading: Reading) -> tuple[bytes, int]:
    """Receive over a socket what is sent directly, and the pieces: all bytes, and how many were sent directly."""
    here, there = socket.socketpair()
    received, direct = bytearray(), 0
    with here, there:
        here.setblocking(False)
        async with aclosing(reading):
            rest = aiter(reading)
            while True:
                sent = reading.send_directly(here.fileno())
                received += there.recv(sent, socket.MSG_WAITALL) if sent else b""
                direct += sent
                piece = await anext(rest, b"")
                if not piece:
                    return bytes(received), direct
                received += piece


# Finding


def test_reads_are_spread_over_the_replicas(pair: list[Directory]) -> None:
    async def scenario() -> Counter[str]:
        found: Counter[str] = Counter()
        async with running(pair) as pool:
            for _ in range(200):
                with await pool.find(Digest.of(SMALL)) as replica:
                    found[replica.storage] += 1
        return found

    for storage in pair:
        place(storage, SMALL)
    found = run(scenario())
    assert all(found[storage.root] > 50 for storage in pair)  # by chance less than once in 10^12 runs


def test_a_replica_that_is_missing_is_found_on_the_other_storage(pair: list[Directory], events: list[Event]) -> None:
    place(pair[1], SMALL)

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            for _ in range(4):
                with await pool.find(Digest.of(SMALL)) as replica:
                    assert replica.storage == pair[1].root

    run(scenario())
    assert not failed(events)


def test_a_blob_is_found_in_whatever_set_it_is(tmp_path: Path) -> None:
    storages = [adopted(tmp_path / f"{number}") for number in range(5)]
    contents = [b"%d" % number for number in range(20)]
    for number, content in enumerate(contents):
        place(storages[number % 5], content)

    async def scenario() -> None:
        async with running(*([storage] for storage in storages)) as pool:
            for number, content in enumerate(contents):
                with await pool.find(Digest.of(content)) as replica:
                    assert replica.storage == storages[number % 5].root
            with pytest.raises(NotFound, match=Digest.of(b"none").hex):
                await pool.find(Digest.of(b"none"))

    run(scenario())


def test_what_was_asked_before_the_set_that_has_a_blob_is_not_to_be_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = [adopted(tmp_path / f"{number}") for number in range(5)]
    contents = [b"%d" % number for number in range(20)]
    asked: list[Digest] = []
    monkeypatch.setattr(Repairs, "ask", lambda _, __, digest: asked.append(digest))
    for number, content in enumerate(contents):
        place(storages[number % 5], content)

    async def scenario() -> None:
        async with running(*([storage] for storage in storages)) as pool:
            for content in contents:
                (await pool.find(Digest.of(content))).close()

    run(scenario())
    assert asked == []


@pytest.mark.parametrize("rank", range(4))
def test_no_set_is_asked_behind_one_of_the_likeliest_that_has_the_blob(
    tmp_path: Path, events: list[Event], rank: int
) -> None:
    storages = [adopted(tmp_path / f"{number}", f"set {number}", local=False) for number in range(6)]

    async def scenario() -> None:
        async with running(*([storage] for storage in storages), events=events) as pool:
            ranked = pool._places.ranked(Digest.of(SMALL))
            place(next(each for each in storages if each.root == ranked[rank].name), SMALL)
            (await pool.find(Digest.of(SMALL))).close()

    run(scenario())
    assert [event.attempts for event in events if isinstance(event, LookedUp)] == [rank + 1]


@pytest.mark.parametrize("holders", [[], [29], [25, 27], range(30)], ids=len)
def test_of_many_sets_most_are_asked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holders: Sequence[int]
) -> None:
    storages = [adopted(tmp_path / f"{number}", f"set {number}", local=False) for number in range(30)]
    for number in holders:
        place(storages[number], SMALL)
    under_way, peak = list[int](), 0
    real = Directory.open

    def slowly(storage: Directory, digest: Digest) -> FileReplica | None:
        nonlocal peak
        under_way.append(1)
        peak = max(peak, len(under_way))
        time.sleep(0.02)
        under_way.pop()
        return real(storage, digest)

    monkeypatch.setattr(Directory, "open", slowly)

    async def scenario() -> None:
        async with running(*([storage] for storage in storages)) as pool:
            try:
                with await pool.find(Digest.of(SMALL)) as replica:
                    assert storages.index(next(each for each in storages if each.root == replica.storage)) in holders
            except NotFound:
                assert not holders
            with pytest.raises(NotFound):
                await pool.find(Digest.of(b"none"))

    run(scenario())
    assert 8 <= peak <= 16
    assert not descriptors(tmp_path)


def test_no_more_of_many_sets_are_asked_when_a_blob_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_AT_ONCE", 2)
    storages = [adopted(tmp_path / f"{number}", f"set {number}", local=False) for number in range(12)]
    asked = list[Directory]()
    real = Directory.open

    def noted(storage: Directory, digest: Digest) -> FileReplica | None:
        asked.append(storage)
        return real(storage, digest)

    monkeypatch.setattr(Directory, "open", noted)

    async def scenario() -> None:
        async with running(*([storage] for storage in storages)) as pool:
            for holder in storages:
                place(holder, holder.root.encode())
                asked.clear()
                (await pool.find(Digest.of(holder.root.encode()))).close()
                assert len(asked) <= asked.index(holder) + 2  # and one beside it

    run(scenario())


def test_a_look_up_that_is_given_up_when_one_of_many_sets_has_answered_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = [adopted(tmp_path / f"{number}", f"set {number}", local=False) for number in range(8)]
    for storage in storages:
        place(storage, SMALL)
    turns, over = iter(range(8)), threading.Event()
    real = Directory.open

    def open_one(storage: Directory, digest: Digest) -> FileReplica | None:
        turn = next(turns)  # first those that are asked one by one
        if turn == 4:
            return real(storage, digest)
        assert turn < 4 or over.wait(20)
        return None

    monkeypatch.setattr(Directory, "open", open_one)

    async def scenario() -> None:
        async with running(*([storage] for storage in storages), verifier=Verifier(enabled=False)) as pool:
            looking = asyncio.create_task(pool.find(Digest.of(SMALL)))
            await eventually(lambda: bool(open_below(tmp_path)))
            await asyncio.sleep(0.05)
            looking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await looking
            over.set()

    run(scenario())
    assert not descriptors(tmp_path)


def test_a_miss_is_not_known_while_a_storage_does_not_answer(pair: list[Directory], events: list[Event]) -> None:
    place(pair[0], SMALL)

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            os.rename(pair[1].root, f"{pair[1].root}.away")
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await pool.find(Digest.of(b"none"))
                (await pool.find(Digest.of(SMALL))).close()

    run(scenario())
    assert pair[1].root in failed(events)


def test_a_storage_that_hangs_is_left_for_the_other(
    pair: list[Directory], events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, SMALL)
    over = threading.Event()

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            pair[0].local = False
            monkeypatch.setattr(pair[0], "open", lambda _: over.wait(10))
            real = Bulkhead.run
            monkeypatch.setattr(Bulkhead, "run", lambda *args, **named: real(*args, **{**named, "timeout": 0.05}))
            for _ in range(50):
                with await pool.find(Digest.of(SMALL)) as replica:
                    assert replica.storage == pair[1].root
            over.set()

    run(scenario())
    assert set(failed(events)) == {pair[0].root}


@pytest.mark.parametrize("unreadable", [True, False])
def test_what_a_storage_does_not_give_is_to_be_repaired_only_if_it_is_that_replica_that_cannot_be_read(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch, unreadable: bool
) -> None:
    asked: list[Digest] = []
    monkeypatch.setattr(Repairs, "ask", lambda _, __, digest: asked.append(digest))

    def fail(_: Digest) -> None:
        raise StorageError(pair[0].root, "open", "it fails", unreadable=unreadable)

    async def scenario() -> None:
        async with running(pair[:1]) as pool:
            pair[0].local = False
            monkeypatch.setattr(pair[0], "open", fail)
            with pytest.raises(Unavailable):
                await pool.find(Digest.of(SMALL))

    run(scenario())
    assert asked == [Digest.of(SMALL)] * unreadable


@pytest.mark.parametrize("rotten", [b"rotten", b"rot", b""], ids=["changed", "cut short", "empty"])
def test_a_bad_replica_is_not_handed_out(
    pair: list[Directory], events: list[Event], tmp_path: Path, rotten: bytes
) -> None:
    digest = Digest.of(SMALL)
    place(pair[0], rotten, digest)
    place(pair[1], SMALL)

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            for _ in range(2):
                with await pool.find(digest) as replica:
                    assert replica.storage == pair[1].root
            where(pair[1], digest).unlink()
            with pytest.raises(Unavailable):
                await pool.find(digest)

    run(scenario())
    assert set(bad(events)) == {pair[0].root}
    assert not descriptors(tmp_path)


def test_a_replica_that_cannot_be_verified_is_left_for_the_other(
    pair: list[Directory], events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, SMALL)

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            break_reads(monkeypatch, pair[0].root)
            for _ in range(50):
                with await pool.find(Digest.of(SMALL)) as replica:
                    assert replica.storage == pair[1].root

    run(scenario())
    assert set(failed(events)) == {pair[0].root}
    assert not descriptors(tmp_path)


def test_storages_that_failed_the_reader_are_left_out(pair: list[Directory]) -> None:
    for storage in pair:
        place(storage, SMALL)

    async def scenario() -> None:
        async with running(pair) as pool:
            with await pool.find(Digest.of(SMALL), without=frozenset({pair[0].root})) as replica:
                assert replica.storage == pair[1].root
            with pytest.raises(Unavailable):
                await pool.find(Digest.of(SMALL), without=frozenset(storage.root for storage in pair))
            with pytest.raises(Unavailable):
                await pool.find(Digest.of(b"none"), without=frozenset({pair[0].root}))

    run(scenario())


def test_a_storage_that_is_not_there_at_the_start_is_used_when_it_comes(tmp_path: Path, events: list[Event]) -> None:
    storage = Directory(str(tmp_path / "a"), reserve=0)

    async def scenario() -> None:
        async with running([storage], events=events) as pool:
            assert failed(events) == [storage.root]
            place(adopted(tmp_path / "a"), SMALL)
            with pytest.raises(NotFound):
                await pool.find(Digest.of(b"none"))
            (await pool.find(Digest.of(SMALL))).close()

    run(scenario())


def test_find_now_finds_knows_or_does_not_know(tmp_path: Path) -> None:
    storages = [adopted(tmp_path / f"{number}") for number in range(3)]
    place(storages[0], SMALL)
    place(storages[1], b"other")

    async def scenario() -> None:
        async with running(storages) as pool:
            with pytest.raises(NotFound):
                await pool.find(Digest.of(b"none"))
            assert pool.find_now(Digest.of(b"none")) == FindResult(None, hinted=False, attempts=3)
            storages[2].local = False
            assert pool.find_now(Digest.of(b"none")) is None
            found = [pool.find_now(Digest.of(SMALL)) for _ in range(100)]
            replicas = [result.replica for result in found if result is not None and result.replica is not None]
            assert replicas
            for replica in replicas:
                replica.close()

    run(scenario())


def test_find_now_does_not_go_on_to_the_next_tier_when_the_first_one_has_to_be_waited_for(tmp_path: Path) -> None:
    archive, storage = adopted(tmp_path / "archive", local=False), adopted(tmp_path / "a")
    for each in (archive, storage):
        place(each, SMALL)

    async def scenario() -> None:
        async with running([archive]) as first, running([storage]) as second:
            tiers = Tiers([Tier("archive", first), Tier("pool", second)], second.observe)
            assert tiers.find_now(Digest.of(SMALL)) is None

    run(scenario())


def test_what_is_missing_in_a_bare_mount_point_is_not_to_be_repaired(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Digest] = []
    monkeypatch.setattr(Repairs, "ask", lambda _, __, digest: asked.append(digest))
    place(pair[1], SMALL)

    async def scenario() -> None:
        async with running(pair) as pool:
            pool.sets[0].members[1].note_time(10.0)  # a slow one is asked last
            find_now(pool, pair)
            assert asked == [Digest.of(SMALL)]
            os.rename(pair[0].root, f"{pair[0].root} elsewhere")
            os.mkdir(pair[0].root)
            find_now(pool, pair)
            assert asked == [Digest.of(SMALL)]

    run(scenario())


def find_now(pool: Pool, storages: list[Directory]) -> None:
    """Find a blob of which the kernel knows where it is, and where it is not."""
    found = None
    for _ in range(100):  # beside others the kernel may want to wait for a moment
        for storage in storages:
            where(storage, Digest.of(SMALL)).exists()
        found = found or pool.find_now(Digest.of(SMALL))
    assert found is not None
    assert found.replica is not None
    found.replica.close()


# Sending

RANGES = [(0, len(LARGE)), (0, 1), (len(LARGE) - 1, len(LARGE)), (PIECE - 1, 3 * PIECE + 1), (7, 7)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_the_bytes_that_are_asked_for_are_sent(pair: list[Directory], tmp_path: Path, start: int, stop: int) -> None:
    place(pair[0], LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> bytes:
        async with running(pair, verify_first=FIRST) as pool:
            return await read_all(pool, digest, await pool.find(digest), start, stop)

    assert run(scenario()) == LARGE[start:stop]
    assert not descriptors(tmp_path)


def test_a_large_blob_is_hashed_on_its_way_and_only_once(pair: list[Directory]) -> None:
    for storage in pair[:1]:
        place(storage, LARGE)
    digest, verifier = Digest.of(LARGE), Verifier()

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST, verifier=verifier) as pool:
            replica = await pool.find(digest)
            assert await read_all(pool, digest, replica, 0, PIECE) == LARGE[:PIECE]
            assert not verifier.knows(replica, digest)
            replica = await pool.find(digest)
            assert await read_all(pool, digest, replica) == LARGE
            assert verifier.knows(replica, digest)
            assert await read_all(pool, digest, await pool.find(digest)) == LARGE

    run(scenario())


def test_the_last_piece_of_a_large_blob_that_is_bad_never_comes(
    pair: list[Directory], events: list[Event], tmp_path: Path
) -> None:
    digest, rotten = Digest.of(LARGE), bytearray(LARGE)
    rotten[10] ^= 1
    place(pair[0], bytes(rotten), digest)

    async def scenario() -> bytes:
        received = bytearray()
        async with running(pair, verify_first=FIRST, events=events) as pool:
            replica = await pool.find(digest)
            with pytest.raises(StorError):
                await receive(Reading(tiers_of(pool), digest, replica, 0, replica.size), received)
        return bytes(received)

    assert run(scenario()) == rotten[: 5 * PIECE]
    assert bad(events) == [pair[0].root]
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("offset", [0, 1, PIECE, 3 * PIECE - 1, 5 * PIECE])
@pytest.mark.parametrize("start", [0, 50])
def test_another_replica_goes_on_at_the_same_offset(
    pair: list[Directory], events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, start: int
) -> None:
    for storage in pair:
        place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> bytes:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            replica = await find_on(pool, digest, pair[0])
            break_reads(monkeypatch, pair[0].root, from_offset=offset)
            return await read_all(pool, digest, replica, start)

    assert run(scenario()) == LARGE[start:]
    assert set(failed(events)) == {pair[0].root}
    assert not descriptors(tmp_path)


def test_what_is_known_to_be_good_is_sent_directly_and_in_order(pair: list[Directory]) -> None:
    content = random.Random(4).randbytes(3 << 20)
    for storage in pair:
        place(storage, content)
    digest = Digest.of(content)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST) as pool:

            async def by_turns(start: int, stop: int) -> tuple[bytes, int]:
                replica = await find_on(pool, digest, pair[0])
                return await receive_by_turns(Reading(tiers_of(pool), digest, replica, start, stop))

            assert await by_turns(0, len(content)) == (content, 0)  # it is hashed on its way
            for start, stop in [(0, len(content)), (5, len(content) - 5), (0, 1), (len(content) - 1, len(content))]:
                received, direct = await by_turns(start, stop)
                assert received == content[start:stop]
                assert direct >= min(stop - start, PIECE)

    run(scenario())


def test_a_replica_that_fails_while_it_is_sent_directly_is_gone_on_with_from_another(
    pair: list[Directory], events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random.Random(5).randbytes(3 << 20)
    for storage in pair:
        place(storage, content)
    digest = Digest.of(content)

    async def scenario() -> tuple[bytes, int]:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            for storage in pair:
                await read_all(pool, digest, await find_on(pool, digest, storage))
            replica = await find_on(pool, digest, pair[0])
            break_reads(monkeypatch, pair[0].root, from_offset=2 << 20)
            return await receive_by_turns(Reading(tiers_of(pool), digest, replica, 0, len(content)))

    received, direct = run(scenario())
    assert received == content
    assert direct > 0
    assert set(failed(events)) == {pair[0].root}


def test_a_file_that_is_cut_while_it_is_sent_is_gone_on_with_from_another(pair: list[Directory]) -> None:
    for storage in pair:
        place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> bytes:
        received = bytearray()
        async with running(pair, verify_first=FIRST) as pool:
            replica = await find_on(pool, digest, pair[0])
            async for piece in Reading(tiers_of(pool), digest, replica, 0, len(LARGE)):
                received += piece
                os.truncate(where(pair[0], digest), len(received))
        return bytes(received)

    assert run(scenario()) == LARGE


def test_with_no_replica_left_the_rest_never_comes(
    pair: list[Directory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> bytes:
        received = bytearray()
        async with running(pair, verify_first=FIRST) as pool:
            replica = await pool.find(digest)
            for storage in pair:
                break_reads(monkeypatch, storage.root, from_offset=2 * PIECE)
            with pytest.raises(Unavailable):
                await receive(Reading(tiers_of(pool), digest, replica, 0, len(LARGE)), received)
        return bytes(received)

    assert run(scenario()) == LARGE[: 2 * PIECE]
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("start", [0, 50])
@pytest.mark.parametrize("damage", ["changed", "cut short"])
def test_a_bad_replica_is_not_gone_on_with(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch, damage: str, start: int
) -> None:
    storages = [adopted(tmp_path / name) for name in "abc"]
    digest, rotten = Digest.of(LARGE), bytearray(LARGE)
    rotten[4 * PIECE] ^= 1
    place(storages[0], LARGE)
    place(storages[1], bytes(rotten) if damage == "changed" else LARGE[:-1], digest)
    place(storages[2], LARGE)

    async def scenario() -> bytes:
        async with running(storages, verify_first=FIRST, events=events) as pool:
            replica = await find_on(pool, digest, storages[0])
            break_reads(monkeypatch, storages[0].root, from_offset=PIECE)
            return await read_all(pool, digest, replica, start, len(LARGE))

    assert run(scenario()) == LARGE[start:]
    assert not descriptors(tmp_path)


def test_a_replica_that_cannot_be_verified_is_not_gone_on_with(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = [adopted(tmp_path / name) for name in "abc"]
    for storage in storages:
        place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> bytes:
        async with running(storages, verify_first=FIRST, events=events) as pool:
            replica = await find_on(pool, digest, storages[0])
            for storage in storages[:2]:
                break_reads(monkeypatch, storage.root)
            return await read_all(pool, digest, replica, 50)

    assert run(scenario()) == LARGE[50:]
    assert storages[0].root in failed(events)
    assert storages[2].root not in failed(events)
    assert not descriptors(tmp_path)


def test_a_reader_that_goes_gives_everything_back(pair: list[Directory], tmp_path: Path) -> None:
    place(pair[0], LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST) as pool:
            body = Reading(tiers_of(pool), digest, await pool.find(digest), 0, len(LARGE))
            assert await anext(aiter(body)) == LARGE[:PIECE]
            await body.aclose()

    run(scenario())
    assert not descriptors(tmp_path)


def test_a_reader_that_is_cancelled_while_another_replica_is_verified_gives_everything_back(
    pair: list[Directory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> None:
        begun = asyncio.Event()
        async with running(pair, verify_first=FIRST) as pool:

            async def hang(*_: object) -> bool:
                begun.set()
                await asyncio.sleep(20)
                return True

            replica = await find_on(pool, digest, pair[0])
            break_reads(monkeypatch, pair[0].root)
            monkeypatch.setattr(pool, "verify", hang)
            reader = asyncio.create_task(read_all(pool, digest, replica, 50))
            await begun.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    run(scenario())
    assert not descriptors(tmp_path)


def test_a_look_up_that_is_given_up_while_a_replica_is_verified_leaves_nothing_open(
    pair: list[Directory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, SMALL)

    async def scenario() -> None:
        begun = asyncio.Event()

        async def hang(*_: object) -> bool:
            begun.set()
            await asyncio.sleep(20)
            return True

        monkeypatch.setattr(Verifier, "verify", hang)
        async with running(pair) as pool:
            finding = asyncio.create_task(pool.find(Digest.of(SMALL)))
            await begun.wait()
            finding.cancel()
            await asyncio.wait((finding,))
            assert finding.cancelled()
            del finding
            assert not [path for path in open_below(tmp_path) if path.endswith(".dat")]

    run(scenario())


# Surveys


def test_a_survey_tells_what_every_storage_has(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    storages = [adopted(tmp_path / name) for name in "abcd"]
    digest = Digest.of(SMALL)
    place(storages[0], SMALL)
    place(storages[1], b"rotten", digest)
    place(storages[3], SMALL)

    async def scenario() -> list[ReplicaState]:
        async with running(storages, events=events) as pool:
            break_disk(monkeypatch, "preadv", storages[3].root)
            break_disk(monkeypatch, "pread", storages[3].root, errno.ETIMEDOUT)
            (survey,) = await pool.survey(digest)
            assert not survey.complete
            assert not survey.mendable
            assert [member.storage for member in survey.having()] == storages[:1]
            assert [member.storage for member in survey.lacking()] == storages[1:]
            return list(survey.states.values())

    assert run(scenario()) == [ReplicaState.GOOD, ReplicaState.BAD, ReplicaState.MISSING, ReplicaState.UNKNOWN]
    assert bad(events) == [storages[1].root]
    assert failed(events) == [storages[3].root]
    assert not descriptors(tmp_path)


def test_a_replica_that_cannot_be_read_is_a_bad_one_only_if_its_storage_is_well_otherwise(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, SMALL)

    def hangs() -> None:
        raise StorageError(pair[1].root, "stat", "hangs", dead=True)

    async def scenario() -> None:
        async with running(pair) as pool:
            break_reads(monkeypatch, pair[1].root)
            (survey,) = await pool.survey(Digest.of(SMALL))
            assert list(survey.states.values()) == [ReplicaState.GOOD, ReplicaState.BAD]
            monkeypatch.setattr(pair[1], "check", hangs)
            (survey,) = await pool.survey(Digest.of(SMALL))
            assert list(survey.states.values()) == [ReplicaState.GOOD, ReplicaState.UNKNOWN]

    run(scenario())


def test_a_survey_that_is_given_up_before_anybody_has_looked_at_what_was_opened_leaves_nothing_open(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in pair:
        place(storage, SMALL)

    async def given_up(steps: Iterable[Step[Replica | None]]) -> list[Replica | Exception | None]:
        opened = await outcomes(steps)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return opened

    monkeypatch.setattr(replicas, "outcomes", given_up)

    async def scenario() -> None:
        async with running(pair) as pool:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(pool.survey(Digest.of(SMALL)))

    run(scenario())
    assert not [path for storage in pair for path in descriptors(Path(storage.root))]


@pytest.mark.parametrize("local", [True, False])
def test_a_link_to_the_other_replica_is_read_and_is_none(tmp_path: Path, *, local: bool) -> None:
    storages = [adopted(tmp_path / name, local=local) for name in "ab"]
    digest = Digest.of(SMALL)
    place(storages[1], SMALL).unlink()
    where(storages[1], digest).symlink_to(place(storages[0], SMALL))

    async def scenario() -> None:
        async with running(storages) as pool:
            await find_on(pool, digest, storages[1])
            (survey,) = await pool.survey(digest)
            assert list(survey.states.values()) == [ReplicaState.GOOD, ReplicaState.BAD]

    run(scenario())


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("local", [True, False])
def test_what_lies_in_a_bare_mount_point_is_no_replica(
    tmp_path: Path, mounts: Mounts, content: bytes, *, local: bool
) -> None:
    digest = Digest.of(content)
    (tmp_path / "b").mkdir()
    place(Directory(str(tmp_path / "b")), content)
    storages = [adopted(tmp_path / "a", local=local), adopted(mounts.tmpfs(16 << 20, at=tmp_path / "b"), local=local)]
    place(storages[0], content)

    async def scenario() -> None:
        async with running(storages) as pool:
            (before,) = await pool.survey(digest)
            assert list(before.states.values()) == [ReplicaState.GOOD, ReplicaState.MISSING]
            mounts.unmount(tmp_path / "b")
            for _ in range(3):
                (survey,) = await pool.survey(digest)
                assert list(survey.states.values()) == [ReplicaState.GOOD, ReplicaState.UNKNOWN]

    run(scenario())
    assert not descriptors(tmp_path)


def test_a_bad_replica_is_told_once_however_often_it_is_found(
    pair: list[Directory], events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.of(SMALL)
    for storage in pair:
        place(storage, b"rotten", digest)

    async def scenario() -> None:
        async with running(pair, events=events) as pool:
            for patience in (5.0, 0.0):
                monkeypatch.setattr(verification, "_SUSPECTED", patience)
                for _ in range(3):
                    await pool.survey(digest)
                    with pytest.raises(StorError):
                        await pool.find(digest)

    run(scenario())
    assert sorted(bad(events)) == [storage.root for storage in pair]


def test_a_large_replica_of_another_size_is_found_though_the_other_storage_is_slow(
    pair: list[Directory],
) -> None:
    digest = Digest.of(LARGE)
    place(pair[0], LARGE[: 2 * FIRST], digest)
    place(pair[1], LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST) as pool:
            (slow,) = [member for member in pool.sets[0].members if member.storage is pair[1]]
            slow.note_time(10.0)
            with await pool.find(digest) as replica:
                assert replica.size == len(LARGE)

    run(scenario())


@pytest.mark.parametrize("other", [LARGE[:-1], LARGE[: 2 * FIRST], LARGE + b"!", b""], ids=len)
def test_a_large_replica_of_another_size_than_the_other_is_verified_before_it_is_handed_out(
    pair: list[Directory], events: list[Event], other: bytes
) -> None:
    digest = Digest.of(LARGE)
    place(pair[0], other, digest)
    place(pair[1], LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            for _ in range(10):
                with await pool.find(digest) as replica:
                    assert (replica.storage, replica.size) == (pair[1].root, len(LARGE))
            await eventually(lambda: bool(beside(pair[0], "repair")))

    run(scenario())
    assert set(bad(events)) == {pair[0].root}


def test_a_storage_that_is_out_is_not_asked_whether_it_has_another_size(pair: list[Directory]) -> None:
    digest = Digest.of(LARGE)
    place(pair[0], LARGE)
    place(pair[1], LARGE[:-1], digest)

    async def scenario() -> None:
        members = [Bulkhead(storage) for storage in pair]
        group = ReplicaSet(members)
        for out, differing in ((False, [members[1]]), (True, [])):
            if out:
                members[1].note(StorageError(pair[1].root, "open", "no answer", dead=True))
            replica = await members[0].open(digest)
            assert replica is not None
            with replica:
                assert await group.differing(members[0], replica, digest) == differing

    run(scenario())


def test_a_replica_of_another_size_than_the_good_one_that_was_found_first_is_to_be_repaired(
    pair: list[Directory], events: list[Event]
) -> None:
    digest = Digest.of(LARGE)
    place(pair[0], LARGE[:-1], digest)
    place(pair[1], LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            pool.sets[0].members[0].note_time(10.0)  # a slow one is asked last
            with await pool.find(digest) as replica:
                assert replica.storage == pair[1].root
            await eventually(lambda: bool(beside(pair[0], "repair")))

    run(scenario())
    assert bad(events) == []


def test_a_part_of_a_large_replica_has_the_whole_verified_in_the_background(
    pair: list[Directory], events: list[Event]
) -> None:
    digest = Digest.of(LARGE)
    place(pair[0], LARGE[:-1] + b"?", digest)
    place(pair[1], LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            assert await read_all(pool, digest, await find_on(pool, digest, pair[0]), 5, 10) == LARGE[5:10]
            await eventually(lambda: bad(events) == [pair[0].root] and bool(beside(pair[0], "repair")))
            for _ in range(10):
                with await pool.find(digest) as replica:
                    assert replica.storage == pair[1].root

    run(scenario())


@pytest.mark.parametrize("wrong", [b"?" + LARGE[1:], LARGE + b"?"], ids=["changed", "longer"])
def test_what_a_reader_got_before_a_replica_failed_is_hashed_too(
    pair: list[Directory], events: list[Event], monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    digest, received = Digest.of(LARGE), bytearray()
    place(pair[0], wrong, digest)
    place(pair[1], LARGE)

    async def scenario() -> None:
        async with running(pair, verify_first=FIRST, events=events) as pool:
            replica = pair[0].open(digest)  # while the other one is away
            assert replica is not None
            break_reads(monkeypatch, pair[0].root, from_offset=2 * PIECE)
            with pytest.raises(Unavailable):
                await receive(Reading(tiers_of(pool), digest, replica, 0, replica.size), received)

    run(scenario())
    assert len(received) < len(LARGE)
    assert pair[1].root not in bad(events)


def test_a_repair_is_asked_for_again_after_a_while_since_another_may_have_made_it(
    pair: list[Directory], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Digest.of(SMALL)
    place(pair[1], SMALL)

    async def scenario() -> None:
        async with running(pair) as pool:
            await find_many(pool, digest)
            await eventually(lambda: pool.sets[0].members[0].noted == {"repair"})
            beside(pair[0], "repair")[0].unlink()
            await find_many(pool, digest)
            await asyncio.sleep(0.1)
            assert not beside(pair[0], "repair")
            monkeypatch.setattr("pystor.repairs._ASKED_FOR", 0.1)
            await find_many(pool, digest)
            await eventually(lambda: bool(beside(pair[0], "repair")))

    run(scenario())


async def find_many(pool: Pool, digest: Digest) -> None:
    """Find a blob so often that each storage was asked first."""
    for _ in range(50):
        (await pool.find(digest)).close()
