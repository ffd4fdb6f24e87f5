"""Repairs that a read asks for: noted once in a while, where that can be done."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pystor import repairs
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import Event, StorageFailed
from pystor.repairs import Repairs
from tests.rooms.tools import adopted, beside, eventually, in_the_way, run

BLOB = Digest.of(b"a blob")


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


async def ask_all(mine: Repairs, storage: Directory, *digests: Digest) -> None:
    member = Bulkhead(storage)
    for digest in digests:
        mine.ask(member, digest)
    await eventually(lambda: not mine._noting)
    member.stop()


def test_a_repair_is_noted_on_the_storage(storage: Directory, events: list[Event]) -> None:
    run(ask_all(Repairs(events.append), storage, BLOB, BLOB))
    assert [path.name for path in beside(storage, "repair")] == [BLOB.hex.upper()]
    assert events == []


def test_nothing_is_noted_on_a_storage_that_is_read_only(storage: Directory, events: list[Event]) -> None:
    run(ask_all(Repairs(events.append), Directory(storage.root, writable=False), BLOB))
    assert beside(storage, "repair") == []
    assert events == []


def test_what_could_not_be_noted_is_told_and_asked_for_again_by_the_next_who_reads(
    storage: Directory, events: list[Event]
) -> None:
    in_the_way(storage, ".stor/repair")
    mine = Repairs(events.append)
    run(ask_all(mine, storage, BLOB))
    Path(storage.root, ".stor/repair").unlink()
    run(ask_all(mine, storage, BLOB))
    assert [type(event) for event in events] == [StorageFailed]
    assert len(beside(storage, "repair")) == 1


def test_no_more_than_so_many_are_remembered(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "_ASKED_AT_MOST", 3)
    mine = Repairs(lambda _: None)
    run(ask_all(mine, storage, *(Digest.of(b"%d" % number) for number in range(10))))
    assert len(mine._asked) <= 3
    assert len(beside(storage, "repair")) == 10


def test_what_is_looked_after_is_not_noted_and_is_news_after_that(storage: Directory) -> None:
    mine = Repairs(lambda _: None)
    with mine.under_way(BLOB):
        run(ask_all(mine, storage, BLOB))
        assert beside(storage, "repair") == []
    run(ask_all(mine, storage, BLOB))
    assert len(beside(storage, "repair")) == 1


def test_nothing_is_being_noted_any_more_when_it_has_stopped(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_long(*_: object) -> None:
        await asyncio.sleep(20)
        raise StorageError(storage.root, "queue repair", "too late")

    monkeypatch.setattr(Bulkhead, "enqueue", take_long)

    async def scenario() -> None:
        mine = Repairs(lambda _: None)
        mine.ask(Bulkhead(storage), BLOB)
        async with asyncio.timeout(5):
            await mine.stop()
        assert not mine._noting
        mine.ask(Bulkhead(storage), Digest.of(b"what was late"))
        assert not mine._noting

    run(scenario())
