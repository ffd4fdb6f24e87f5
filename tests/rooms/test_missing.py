"""What one storage of a set has and another has not: found to the end, whatever fails on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from pystor import missing
from pystor.blob import Timeouts
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import Event, StorageFailed
from pystor.missing import missing_in
from pystor.replicas import ReplicaSet
from tests.rooms.tools import adopted, descriptors, place, pool_of, run

CONTENTS = [b"%d" % number for number in range(7)]
IN_ORDER = sorted(map(Digest.of, CONTENTS), key=attrgetter("hex"))


@pytest.fixture
def trio(tmp_path: Path) -> list[Directory]:
    """Three storages of a set, of which the last one is empty."""
    storages = [adopted(tmp_path / name, local=False) for name in "abc"]
    for content in CONTENTS:
        for storage in storages[:2]:
            place(storage, content)
    return storages


def found_in(storages: list[Directory], events: list[Event] | None = None) -> list[Digest]:
    """Go through all that is missing; no directory is told to be unread, and no set to stay unfilled."""

    def unexpected(what: StorageError | ReplicaSet) -> None:
        pytest.fail(f"{what}")

    async def scenario() -> list[Digest]:
        pool = pool_of(storages, events=events)
        found = [digest async for digest in missing_in(pool, unexpected, unexpected)]
        await pool.stop()
        return found

    return run(scenario())


def refuse(monkeypatch: pytest.MonkeyPatch, storage: Directory, *digests: Digest) -> None:
    """Let a storage not tell of some blobs."""
    real = storage.open_own

    def open_own(digest: Digest) -> object:
        if digest in digests:
            raise StorageError(storage.root, "open", "Permission denied")
        return real(digest)

    monkeypatch.setattr(storage, "open_own", open_own)


@pytest.mark.parametrize("at_once", [1, 2, 7, 100])
def test_what_any_storage_lacks_is_found_however_much_it_is(
    trio: list[Directory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(missing, "_AT_ONCE", at_once)
    assert found_in(trio) == IN_ORDER * 2  # for each that has it
    assert found_in(trio[:2]) == []
    assert found_in([trio[2], *trio[:2]]) == IN_ORDER * 2
    assert not descriptors(tmp_path)


def test_to_read_many_names_has_the_time_of_a_write(trio: list[Directory], monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio[0].scan

    def take_long(failed: Callable[[StorageError], None]) -> Iterator[Digest]:
        time.sleep(0.3)
        yield from real(failed)

    monkeypatch.setattr(trio[0], "scan", take_long)
    monkeypatch.setattr(trio[0], "timeouts", Timeouts(answer=0.2))
    assert found_in(trio) == IN_ORDER * 2


def test_a_storage_that_does_not_tell_of_one_blob_is_told_and_is_asked_for_the_others(
    trio: list[Directory], monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    refuse(monkeypatch, trio[2], IN_ORDER[1])
    assert found_in(trio, events) == [IN_ORDER[0], *IN_ORDER[2:]] * 2
    assert [event.digest for event in events if isinstance(event, StorageFailed)] == [IN_ORDER[1]] * 2


def test_a_storage_that_fails_as_a_whole_is_told_once_and_is_asked_no_more(
    trio: list[Directory], monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    refuse(monkeypatch, trio[1], *IN_ORDER)
    error = StorageError(trio[1].root, "check", "Input/output error")

    def check() -> None:
        raise error

    monkeypatch.setattr(trio[1], "check", check)
    assert found_in(trio, events) == IN_ORDER
    assert events == [StorageFailed(error)]
