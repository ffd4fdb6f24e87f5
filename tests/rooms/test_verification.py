"""What was found good is not hashed again; what changed is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pystor import verification
from pystor.blob import READ_SIZE, Timeouts
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.files import FileReplica
from pystor.verification import Verifier
from tests.rooms.tools import adopted, bad_sector, place, run, where

SMALL, LARGE = b"a blob", bytes(range(256)) * 1024


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every read of a replica, by which way it was read."""
    seen: list[str] = []
    for name in ("read", "read_cached"):
        real = getattr(FileReplica, name)

        def counted(replica: FileReplica, offset: int, what: object, name: str = name, real: object = real) -> object:
            seen.append(name)
            return real(replica, offset, what)  # type: ignore[operator]

        monkeypatch.setattr(FileReplica, name, counted)
    return seen


def verify(verifier: Verifier, storage: Directory, digest: Digest) -> bool:
    async def scenario() -> bool:
        bulkhead = Bulkhead(storage)
        replica = await bulkhead.open(digest)
        assert replica is not None
        with replica:
            good = await verifier.verify(bulkhead, replica, digest)
            assert verifier.knows(replica, digest) == good
        bulkhead.stop()
        return good

    return run(scenario())


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_good_replica_is_hashed_once(storage: Directory, reads: list[str], content: bytes) -> None:
    place(storage, content)
    verifier = Verifier()

    assert verify(verifier, storage, Digest.of(content))
    assert reads or not content
    reads.clear()
    assert verify(verifier, storage, Digest.of(content))
    assert not reads


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_bad_replica_is_found_each_time(storage: Directory, content: bytes) -> None:
    digest = Digest.of(content)
    place(storage, content[:-1] + b"x", digest)
    verifier = Verifier()

    assert not verify(verifier, storage, digest)
    assert not verify(verifier, storage, digest)
    where(storage, digest).write_bytes(b"")
    assert not verify(verifier, storage, digest)


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_replica_that_rots_is_found_though_its_times_are_set_back(storage: Directory, content: bytes) -> None:
    path = place(storage, content)
    digest, info, verifier = Digest.of(content), path.stat(), Verifier()
    assert verify(verifier, storage, digest)
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert path.stat().st_mtime_ns == info.st_mtime_ns

    assert not verify(verifier, storage, digest)


def test_a_replica_that_is_replaced_by_a_good_one_is_good(storage: Directory) -> None:
    digest, verifier = Digest.of(SMALL), Verifier()
    place(storage, b"rotten", digest)
    assert not verify(verifier, storage, digest)
    place(storage, SMALL)

    assert verify(verifier, storage, digest)


def read_slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    read_now = FileReplica.read

    def slowly(replica: FileReplica, offset: int, size: int) -> bytes:
        time.sleep(seconds)
        return read_now(replica, offset, size)

    monkeypatch.setattr(FileReplica, "read", slowly)


def test_a_replica_is_hashed_for_as_long_as_its_storage_may_take(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(storage, LARGE)
    read_slowly(monkeypatch, 0.3)
    storage.timeouts = Timeouts(answer=0.2, rate=1e9)  # type: ignore[misc]
    with pytest.raises(StorageError):
        verify(Verifier(), storage, Digest.of(LARGE))
    storage.timeouts = Timeouts(answer=0.2, rate=1e5)  # type: ignore[misc]
    assert verify(Verifier(), storage, Digest.of(LARGE))


def test_large_replicas_that_are_hashed_keep_no_thread_from_others(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [bytes([number]) * (8 * READ_SIZE) for number in range(2)]
    for content in contents:
        place(storage, content)
    read_slowly(monkeypatch, 0.05)
    storage.timeouts = Timeouts(answer=0.25, rate=5e6)  # type: ignore[misc]

    async def scenario() -> None:
        bulkhead, verifier = Bulkhead(storage, threads=2), Verifier()

        async def verify_one(content: bytes) -> bool:
            with storage.open(Digest.of(content)) or pytest.fail("it is missing") as replica:
                return await verifier.verify(bulkhead, replica, Digest.of(content))

        hashing = asyncio.gather(*map(verify_one, contents))
        await asyncio.sleep(0.01)
        assert await bulkhead.run(int, "5") == 5
        assert await hashing == [True, True]
        bulkhead.stop()

    run(scenario())


def test_who_gives_up_hashing_a_replica_leaves_that_to_the_next_who_needs_it(storage: Directory) -> None:
    place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> None:
        bulkhead, verifier = Bulkhead(storage), Verifier()
        replica = await bulkhead.open(digest)
        assert replica is not None
        with replica:
            first, *others = [asyncio.create_task(verifier.verify(bulkhead, replica, digest)) for _ in range(3)]
            await asyncio.sleep(0)
            first.cancel()
            assert await asyncio.gather(*others) == [True, True]
        bulkhead.stop()

    run(scenario())


def test_all_who_wait_for_a_replica_to_be_hashed_hear_that_it_cannot_be_read(
    storage: Directory, reads: list[str]
) -> None:
    path = place(storage, LARGE)
    digest = Digest.of(LARGE)

    async def scenario() -> None:
        bulkhead, verifier = Bulkhead(storage), Verifier()
        replica = await bulkhead.open(digest)
        assert replica is not None
        with replica:
            os.truncate(path, 10)
            outcomes = await asyncio.gather(
                *(verifier.verify(bulkhead, replica, digest) for _ in range(3)), return_exceptions=True
            )
        assert all(isinstance(outcome, StorageError) for outcome in outcomes), outcomes
        bulkhead.stop()

    run(scenario())
    assert reads.count("read") == 1


def test_what_is_good_for_one_name_is_not_good_for_another(storage: Directory) -> None:
    path, other, verifier = place(storage, SMALL), Digest.of(b"other"), Verifier()
    assert verify(verifier, storage, Digest.of(SMALL))
    where(storage, other).parent.mkdir(parents=True)
    os.link(path, where(storage, other))

    assert verify(verifier, storage, Digest.of(SMALL))
    assert not verify(verifier, storage, other)


def test_content_that_was_read_already_is_vouched_for(storage: Directory, reads: list[str]) -> None:
    place(storage, SMALL)
    digest, verifier = Digest.of(SMALL), Verifier()
    replica = storage.open(digest)
    assert replica is not None
    with replica:
        assert not verifier.vouch(replica, b"rotten", digest)
        assert not verifier.knows(replica, digest)
        assert verifier.vouch(replica, SMALL, digest)
        assert verifier.knows(replica, digest)
    assert not reads


@contextmanager
def _doubted(storage: Directory, digest: Digest, verifier: Verifier, error: StorageError) -> Iterator[FileReplica]:
    """The open replica of a blob that was found good, and could not be read then."""
    replica = storage.open(digest)
    assert replica is not None
    with replica:
        verifier.remember(replica, digest)
        verifier.doubt(replica, digest, error)
        yield replica


def test_a_replica_that_is_late_is_waited_for_once_and_one_that_fails_at_once_is_read_again(
    storage: Directory,
) -> None:
    place(storage, SMALL)
    digest = Digest.of(SMALL)

    async def scenario(*, late: bool) -> bool:
        verifier, error = Verifier(), StorageError(storage.root, "read", "failed", unreadable=True)
        if late:
            error.sequel = asyncio.get_running_loop().create_future()
        with _doubted(storage, digest, verifier, error) as replica:
            assert not verifier.knows(replica, digest)
            return verifier.suspects(replica)

    assert [run(scenario(late=late)) for late in (True, False)] == [True, False]


def test_a_good_replica_of_a_storage_that_was_away_is_as_good_as_before(storage: Directory) -> None:
    place(storage, SMALL)
    digest, verifier = Digest.of(SMALL), Verifier()

    async def scenario() -> None:
        error = StorageError(storage.root, "read", "no answer", dead=True)
        error.sequel = asyncio.get_running_loop().create_future()
        with _doubted(storage, digest, verifier, error) as replica:
            error.sequel.set_result(StorageError(storage.root, "read", "not connected", dead=True))
            await asyncio.sleep(0)
            assert verifier.knows(replica, digest)
            assert not verifier.suspects(replica)
        assert verifier.doubts == 0

    run(scenario())


def test_a_large_replica_that_a_disk_does_not_come_to_read_says_nothing_of_its_storage(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = place(storage, LARGE), Digest.of(LARGE)
    monkeypatch.setattr(storage, "probe", lambda: None)  # however busy the machine is
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.3, rate=1e9))

    async def scenario() -> None:
        bulkhead = Bulkhead(storage)
        replica = await bulkhead.open(digest)
        assert replica is not None
        with replica, bad_sector(path), pytest.raises(StorageError) as failure:
            await Verifier().verify(bulkhead, replica, digest)
        assert (failure.value.unreadable, bulkhead.out) == (True, False)
        bulkhead.stop()

    run(scenario())


def test_a_verifier_that_is_switched_off_takes_everything_for_good(storage: Directory, reads: list[str]) -> None:
    digest = Digest.of(SMALL)
    place(storage, b"rotten", digest)

    assert verify(Verifier(enabled=False), storage, digest)
    assert not reads


def test_a_replica_that_cannot_be_read_is_neither_good_nor_bad(storage: Directory) -> None:
    path = place(storage, LARGE)
    bulkhead, digest = Bulkhead(storage), Digest.of(LARGE)

    async def scenario() -> None:
        replica = await bulkhead.open(digest)
        assert replica is not None
        with replica:
            os.truncate(path, 10)
            with pytest.raises(StorageError):
                await Verifier().verify(bulkhead, replica, digest)
        bulkhead.stop()

    run(scenario())


def opened(storage: Directory, content: bytes, digest: Digest) -> FileReplica:
    place(storage, content, digest)
    replica = storage.open(digest)
    assert replica is not None
    replica.close()
    return replica


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_what_was_found_bad_a_moment_ago_is_not_hashed_again(
    storage: Directory, reads: list[str], content: bytes
) -> None:
    verifier, digest = Verifier(), Digest.of(content)
    assert verifier.suspect(opened(storage, content[:-1] + b"x", digest))
    assert not verify(verifier, storage, digest)
    assert not reads


def test_what_was_found_bad_and_then_good_is_suspected_no_more(storage: Directory) -> None:
    verifier = Verifier()
    replica = opened(storage, SMALL, Digest.of(SMALL))
    verifier.suspect(replica)
    verifier.remember(replica, Digest.of(SMALL))
    assert not verifier.suspects(replica)


def test_no_more_than_so_many_bad_replicas_are_remembered(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_MOST_BAD", 3)
    verifier = Verifier()
    replicas = [opened(storage, b"rotten", Digest.of(b"%d" % number)) for number in range(5)]
    for replica in replicas * 2:
        verifier.suspect(replica)
    assert sum(map(verifier.suspects, replicas)) == 3
