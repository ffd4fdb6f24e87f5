"""Looking for many blobs on one storage: one job for all who ask at once, and nobody is held up by another."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any, Literal

import pytest

from pystor import batches, rounds
from pystor.blob import Timeouts
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.files import FileReplica
from pystor.looking import Looks
from pystor.steps import outcomes
from tests.rooms.tools import adopted, clean_now, eventually, place, run

CONTENTS = [b"%d" % number for number in range(16)]
DIGESTS = [Digest.of(content) for content in CONTENTS]


class Cold(Directory):
    """A storage of which the kernel has nothing in its cache; counts the threads that look, and may hang."""

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(root, **options)
        self.threads: list[int] = []
        self.hangs: set[Digest] = set()
        self.go_on = threading.Event()

    def open_cached(self, digest: Digest) -> Literal[False]:  # noqa: ARG002  whichever it is
        return False

    def open(self, digest: Digest) -> FileReplica | None:
        self.threads.append(threading.get_ident())
        if digest in self.hangs:
            assert self.go_on.wait(20)
        return super().open(digest)

    def probe(self) -> None:
        assert not self.hangs or self.go_on.wait(20)


@pytest.fixture
def storage(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Cold:
    monkeypatch.setattr(batches, "_TIMEOUT", 30.0)  # however busy the machine is
    monkeypatch.setattr(rounds, "_LONG", 30.0)
    adopted(memory / "a")
    cold = Cold(str(memory / "a"), local=True, reserve=0)
    cold.attach()
    return cold


async def look(looks: Looks, digests: list[Digest]) -> list[bytes | Exception | None]:
    found: list[bytes | Exception | None] = []
    for opened in await outcomes([looks.begin(digest) for digest in digests]):
        if opened is None or isinstance(opened, Exception):
            found.append(opened)
        else:
            with opened as replica:
                found.append(replica.read(0, replica.size))
    return found


def test_all_who_ask_at_once_are_answered_by_one_job_each_for_itself(storage: Cold) -> None:
    for content in CONTENTS[::2]:
        place(storage, content)

    async def scenario() -> None:
        member = Bulkhead(storage)
        found = await look(Looks(member), DIGESTS)
        assert found == [content if number % 2 == 0 else None for number, content in enumerate(CONTENTS)]
        assert len(storage.threads) == 16
        assert len(set(storage.threads)) == 1
        member.stop()

    run(scenario())
    assert clean_now(storage)


def test_what_the_kernel_knows_is_told_at_once(memory: Path) -> None:
    storage = adopted(memory / "a", local=True)
    place(storage, CONTENTS[0])

    async def scenario() -> None:
        member = Bulkhead(storage)
        step = Looks(member).begin(DIGESTS[0])
        found = await asyncio.wait_for(step.result(), 5)
        assert found is not None
        found.close()
        assert member._executor._threads == 0
        member.stop()

    run(scenario())


def test_a_failure_is_that_of_one_and_an_absent_storage_that_of_all(storage: Cold, memory: Path) -> None:
    (Path(storage.root) / DIGESTS[3].path).mkdir(parents=True)

    async def scenario() -> None:
        member = Bulkhead(storage)
        looks = Looks(member)
        found = await look(looks, DIGESTS)
        assert [isinstance(each, StorageError) for each in found] == [number == 3 for number in range(16)]
        os.rename(storage.root, memory / "away")
        assert all(isinstance(each, StorageError) for each in await look(looks, DIGESTS))
        member.stop()

    run(scenario())


def test_who_asks_a_storage_that_hangs_is_refused_in_time(storage: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_TIMEOUT", 0.02)
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.2))
    storage.hangs = {DIGESTS[0]}

    async def scenario() -> None:
        member = Bulkhead(storage)
        looks = Looks(member)
        first = asyncio.create_task(look(looks, DIGESTS[:4]))
        await eventually(lambda: bool(storage.threads))
        assert await look(looks, DIGESTS[4:8]) == [None] * 4  # by another thread
        assert all(isinstance(each, StorageError) for each in await first)
        assert member.out
        storage.go_on.set()
        member.stop()

    run(scenario())
    assert clean_now(storage)


def test_one_blob_that_is_late_is_that_of_whoever_asks_for_it(storage: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.2))
    monkeypatch.setattr(storage, "probe", lambda: None)
    place(storage, CONTENTS[1])
    storage.hangs = {DIGESTS[2]}

    async def scenario() -> None:
        member = Bulkhead(storage)
        found = await look(Looks(member), DIGESTS[:4])
        assert [found[0], found[1], found[3]] == [None, CONTENTS[1], None]
        assert isinstance(found[2], StorageError)
        assert found[2].unreadable
        assert not member.out
        storage.go_on.set()
        await eventually(lambda: clean_now(storage))
        member.stop()

    run(scenario())


def test_what_is_found_for_one_who_waits_no_more_is_closed(storage: Cold) -> None:
    for content in CONTENTS:
        place(storage, content)
    storage.hangs = {DIGESTS[0]}

    async def scenario() -> None:
        member = Bulkhead(storage)
        looks = Looks(member)
        going, staying = (asyncio.create_task(look(looks, each)) for each in (DIGESTS[:8], DIGESTS[8:]))
        await eventually(lambda: bool(storage.threads))
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        storage.go_on.set()
        assert await staying == CONTENTS[8:]
        await eventually(lambda: clean_now(storage))
        member.stop()

    run(scenario())


def test_what_is_left_when_looking_takes_long_is_looked_for_by_several_threads(
    storage: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_LONG", 0.0)
    storage.hangs = set(DIGESTS[1:4])

    async def scenario() -> None:
        member = Bulkhead(storage)
        task = asyncio.create_task(look(Looks(member), DIGESTS[:4]))
        await eventually(lambda: len(set(storage.threads[1:])) == 3)
        storage.go_on.set()
        assert await task == [None] * 4
        member.stop()

    run(scenario())
