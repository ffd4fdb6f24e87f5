"""Verifying in the background what was read in part: each replica once, one after the other, and not in a hurry."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pystor.blob import READ_SIZE, Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import Event, JobDone
from pystor.files import FileReplica
from pystor.scrubbing import Scrub
from pystor.verification import Verifier
from tests.rooms.tools import adopted, break_reads, descriptors, eventually, place, run

LARGE = random.Random(1).randbytes(2 * READ_SIZE + 100)
BLOB = Digest.of(LARGE)
QUICKLY = 1e9


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    return adopted(tmp_path / "a")


@dataclass
class Findings:
    """What a scrub has told."""

    bad: list[Digest] = field(default_factory=list)
    failed: list[Digest] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    verifier: Verifier = field(default_factory=Verifier)

    def found_bad(self, _: Replica, digest: Digest) -> None:
        self.bad.append(digest)

    def found_failing(self, _: str, digest: Digest, __: StorageError) -> None:
        self.failed.append(digest)

    @asynccontextmanager
    async def scrub(self, bytes_per_second: float = QUICKLY) -> AsyncIterator[Scrub]:
        scrub = Scrub(
            self.verifier,
            found_bad=self.found_bad,
            failed=self.found_failing,
            observe=self.events.append,
            bytes_per_second=bytes_per_second,
        )
        yield scrub
        await scrub.stop()


def test_a_good_replica_is_hashed_once_however_often_it_is_asked_for(storage: Directory, tmp_path: Path) -> None:
    place(storage, LARGE)
    findings = Findings()

    async def scenario() -> None:
        member = Bulkhead(storage)
        async with findings.scrub() as scrub:
            for _ in range(3):
                for _ in range(10):
                    scrub.ask(member, BLOB)
                await eventually(lambda: findings.events == [JobDone("verify", BLOB, len(LARGE))])
                await asyncio.sleep(0.01)
        assert findings.events == [JobDone("verify", BLOB, len(LARGE))]
        member.stop()

    run(scenario())
    assert (findings.bad, findings.failed) == ([], [])
    replica = storage.open(BLOB)
    assert replica is not None
    with replica:
        assert findings.verifier.knows(replica, BLOB)
    assert not descriptors(tmp_path)


def test_what_is_bad_or_cannot_be_read_is_told_and_the_others_are_looked_at(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt, broken, gone = Digest.of(b"spoilt"), Digest.of(b"broken"), Digest.of(b"gone")
    place(storage, LARGE)
    place(storage, LARGE, spoilt)
    break_reads(monkeypatch, place(storage, LARGE, broken))
    findings = Findings()

    async def scenario() -> None:
        member = Bulkhead(storage)
        async with findings.scrub() as scrub:
            for digest in (broken, gone, spoilt, BLOB):
                scrub.ask(member, digest)
            await eventually(lambda: JobDone("verify", BLOB, len(LARGE)) in findings.events)
        member.stop()

    run(scenario())
    assert (findings.bad, findings.failed) == ([spoilt], [broken])
    assert not caplog.records
    assert not descriptors(tmp_path)


def test_a_storage_is_read_one_replica_at_a_time_and_no_faster_than_allowed(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [b"%d" % number + LARGE for number in range(2)]
    for content in contents:
        place(storage, content)
    findings, reading, most = Findings(), set[str](), list[int]()
    real = FileReplica.read

    def read(replica: FileReplica, offset: int, size: int) -> bytes:
        reading.add(replica.path)
        most.append(len(reading))
        data = real(replica, offset, size)
        if offset + size == replica.size:
            reading.remove(replica.path)
        return data

    monkeypatch.setattr(FileReplica, "read", read)

    async def scenario() -> float:
        member = Bulkhead(storage)
        began = time.monotonic()
        async with findings.scrub(READ_SIZE / 0.1) as scrub:
            for content in contents:
                scrub.ask(member, Digest.of(content))
            await eventually(lambda: len(findings.events) == len(contents))
        member.stop()
        return time.monotonic() - began

    assert run(scenario()) >= 0.6  # six reads
    assert most == [1] * 6


def test_no_more_are_noted_than_there_is_room_for(storage: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pystor.scrubbing._WAITING_AT_MOST", 3)
    contents = [b"%d" % number for number in range(10)]
    for content in contents:
        place(storage, content)
    findings = Findings()

    async def scenario() -> None:
        member = Bulkhead(storage)
        async with findings.scrub() as scrub:
            for content in contents:
                scrub.ask(member, Digest.of(content))
            await eventually(lambda: len(findings.events) >= 3)
            await asyncio.sleep(0.02)
            assert len(findings.events) == 3
            scrub.ask(member, Digest.of(contents[9]))
            await eventually(lambda: len(findings.events) == 4)
        member.stop()

    run(scenario())


def test_a_scrub_that_is_stopped_in_the_middle_leaves_nothing_open(storage: Directory, tmp_path: Path) -> None:
    place(storage, LARGE)
    findings = Findings()

    async def scenario() -> None:
        member = Bulkhead(storage)
        async with findings.scrub(READ_SIZE / 10) as scrub:
            scrub.ask(member, BLOB)
            await asyncio.sleep(0.05)
        member.stop()

    run(scenario())
    assert not descriptors(tmp_path)
    assert findings.events == []
