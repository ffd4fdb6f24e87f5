"""A probe tells a storage that hangs from one of which a single replica is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pystor.digest import Digest
from pystor.directory import Directory
from pystor.files import FileReplica
from pystor.probing import Inquiry, Probes
from tests.rooms.tools import adopted, place, run

CONTENTS = [b"%d" % number for number in range(4)]
DIGESTS = [Digest.of(content) for content in CONTENTS]


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


class Asked:
    """An inquiry, and the probes that it has sent: each is answered by whoever sets its result."""

    def __init__(self, storage: Directory) -> None:
        self.probes: list[asyncio.Future[bool]] = []
        self.inquiry = Inquiry(Probes(storage.root), self._probe)

    async def _probe(self) -> bool:
        self.probes.append(asyncio.get_running_loop().create_future())
        return await self.probes[-1]

    async def answer(self, *, well: bool = True) -> None:
        await asyncio.sleep(0)  # it is sent by then
        self.probes[-1].set_result(well)
        assert await self.inquiry.is_heard_within(10)


@pytest.fixture
def replicas(storage: Directory) -> Iterator[list[FileReplica]]:
    """An open one of each blob."""
    with ExitStack() as stack:
        opened = []
        for content in CONTENTS:
            place(storage, content)
            replica = storage.open(Digest.of(content))
            assert replica is not None
            opened.append(stack.enter_context(replica))
        yield opened


def test_a_probe_counts_for_what_began_before_it_was_sent(storage: Directory) -> None:
    async def scenario() -> None:
        asked = Asked(storage)
        before = time.monotonic()
        asked.inquiry.ask(before)
        since = time.monotonic()
        await asked.answer()
        assert asked.inquiry.is_well_since(before)
        assert not asked.inquiry.is_well_since(since)

    run(scenario())


def test_a_storage_is_asked_once_for_what_began_before_its_answer_and_again_for_what_came_later(
    storage: Directory,
) -> None:
    async def scenario() -> None:
        asked = Asked(storage)
        before = time.monotonic()
        asked.inquiry.ask(before)
        asked.inquiry.ask(before)  # that one is under way
        await asked.answer()
        asked.inquiry.ask(before)
        await asyncio.sleep(0)
        assert len(asked.probes) == 1
        asked.inquiry.ask(time.monotonic())
        await asked.answer(well=False)
        asked.inquiry.ask(before)
        await asyncio.sleep(0)
        assert len(asked.probes) == 2

    run(scenario())


def test_a_probe_that_fails_proves_nothing(storage: Directory) -> None:
    async def scenario() -> None:
        asked = Asked(storage)
        before = time.monotonic()
        asked.inquiry.ask(before)
        await asked.answer(well=False)
        assert not asked.inquiry.is_well_since(before)

    run(scenario())


def test_one_blob_is_late_once_whether_it_is_looked_for_or_read(
    storage: Directory, replicas: list[FileReplica]
) -> None:
    async def scenario() -> None:
        asked = Asked(storage)
        before = time.monotonic()
        asked.inquiry.ask(before)
        await asked.answer()
        for replica, digest in list(zip(replicas, DIGESTS, strict=True))[:3]:
            assert asked.inquiry.is_well_but_for(digest, ("a look-up", digest), before)
            assert asked.inquiry.is_well_but_for(replica, ("a read", digest), before)
        assert not asked.inquiry.is_well_but_for(DIGESTS[3], "one too many", before)
        asked.inquiry.has_come("one too many")
        assert asked.inquiry.is_well_since(before)

    run(scenario())


def test_only_the_file_that_is_late_is_not_read_again(storage: Directory, replicas: list[FileReplica]) -> None:
    late, other, *_ = replicas

    async def scenario() -> None:
        inquiry = Asked(storage).inquiry
        for forget in (partial(inquiry.has_come, "a read"), inquiry.forget_late):
            inquiry.is_well_but_for(DIGESTS[1], "a look-up", 0.0)
            inquiry.is_well_but_for(late, "a read", 0.0)
            assert (inquiry.hangs(late), inquiry.hangs(other)) == (True, False)
            forget()
            assert not inquiry.hangs(late)

    run(scenario())


def test_who_stops_waits_for_no_probe(storage: Directory) -> None:
    async def scenario() -> None:
        asked = Asked(storage)
        asked.inquiry.ask(time.monotonic())
        await asyncio.sleep(0)
        asked.inquiry.stop()
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))])
        assert asked.probes[0].cancelled()

    run(scenario())
