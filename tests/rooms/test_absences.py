"""Who has no replica of a blob, asked of many storages in one go; who is late is left to be asked by himself."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pystor import absences, batches, posix, uring
from pystor.absences import Absences
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import NotFound, StorageError
from pystor.events import Event, LookedUp
from pystor.ingest import store
from pystor.lookups import WaitingLookups
from pystor.watch import Watch
from tests.rooms.tools import adopted, body_of, clean_now, eventually, place, run, running, where
from tests.support.fuse import Fault, FaultyStorage

CONTENT = b"a blob"
BLOB = Digest.of(CONTENT)
OTHERS = [Digest.of(b"%d" % number) for number in range(8)]


@pytest.fixture(autouse=True)
def patient() -> Iterator[pytest.MonkeyPatch]:
    """However busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(absences, "_LATE", 5.0)
        yield patch


def _members(directory: Path, count: int = 5) -> list[Bulkhead]:
    return [Bulkhead(adopted(directory / f"s{number}", local=True)) for number in range(count)]


def _absences(members: list[Bulkhead]) -> Absences:
    return Absences(members, lambda: all(member.storage.is_in_place() for member in members), lambda: 0)


def _names(members: frozenset[Bulkhead]) -> list[str]:
    return sorted(Path(member.storage.root).name for member in members)


async def _of(asked: Absences, digest: Digest) -> list[str]:
    return _names(await asyncio.wait_for(asked.of(digest), 10))


def test_whoever_has_no_such_file_is_told_and_whoever_has_one_of_any_kind_is_not(tmp_path: Path) -> None:
    members = _members(tmp_path, 6)
    place(members[1].storage, CONTENT)  # type: ignore[arg-type]
    for number in (2, 3):
        where(members[number].storage, BLOB).parent.mkdir(parents=True)  # type: ignore[arg-type]
    where(members[2].storage, BLOB).symlink_to("nowhere")  # type: ignore[arg-type]
    (tmp_path / "s4" / BLOB.path[:2]).touch()  # where a directory would be

    async def scenario() -> None:
        asked = _absences(members)
        for _ in range(2):
            assert await _of(asked, BLOB) == ["s0", "s3", "s4", "s5"]
        assert await _of(asked, OTHERS[0]) == [f"s{number}" for number in range(6)]
        asked.stop()

    run(scenario())
    assert all(clean_now(member.storage) for member in members)  # type: ignore[arg-type]


def test_many_are_asked_for_in_one_job_and_what_takes_long_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = _members(tmp_path)
    place(members[1].storage, CONTENT)  # type: ignore[arg-type]
    looked: list[int] = []
    real = WaitingLookups.missing

    def counted(self: WaitingLookups, *arguments: Any) -> frozenset[int]:
        looked.append(threading.get_ident())
        return real(self, *arguments)

    monkeypatch.setattr(WaitingLookups, "missing", counted)
    most = ["s0", "s1", "s2", "s3", "s4"]

    async def scenario(batches: int) -> None:
        asked = _absences(members)
        jobs: list[int] = []
        give = asked._executor.give

        def counted(*arguments: Any, **how: Any) -> Any:
            jobs.append(1)
            return give(*arguments, **how)

        monkeypatch.setattr(asked._executor, "give", counted)
        answers = await asyncio.gather(*(_of(asked, digest) for digest in (BLOB, *OTHERS)))
        assert answers == [["s0", "s2", "s3", "s4"], *[most] * len(OTHERS)]
        assert len(jobs) == batches
        asked.stop()

    monkeypatch.setattr(absences, "_LONG", 10.0)
    run(scenario(1))
    monkeypatch.setattr(absences, "_LONG", 0.0)
    run(scenario(9))
    assert len(looked) == 18


def test_disks_that_take_their_time_are_asked_for_many_blobs_at_once_and_nobody_is_overtaken_by_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = WaitingLookups.missing
    looking: list[int] = []
    most_at_once = 0

    def slow(self: WaitingLookups, *arguments: Any) -> frozenset[int]:
        nonlocal most_at_once
        looking.append(1)
        most_at_once = max(most_at_once, len(looking))
        time.sleep(0.021)
        looking.pop()
        return real(self, *arguments)

    monkeypatch.setattr(WaitingLookups, "missing", slow)
    answered, overtaken = 0, 0

    async def client(asked: Absences, name: int) -> None:
        nonlocal answered, overtaken
        for number in range(8):
            before = answered
            assert len(await _of(asked, Digest.of(b"%d %d" % (name, number)))) == 5
            overtaken = max(overtaken, answered - before)
            answered += 1

    async def scenario() -> None:
        asked = _absences(_members(tmp_path))
        await asyncio.gather(*(client(asked, name) for name in range(16)))
        asked.stop()

    run(scenario())
    assert most_at_once > 4
    assert overtaken < 3 * 16


def test_what_is_not_in_its_place_has_not_said_anything(tmp_path: Path) -> None:
    members = _members(tmp_path)

    async def scenario() -> None:
        asked = _absences(members)
        (tmp_path / "s2").rename(tmp_path / "elsewhere")
        assert await _of(asked, BLOB) == ["s0", "s1", "s3", "s4"]
        (tmp_path / "elsewhere").rename(tmp_path / "s2")
        assert await _of(asked, BLOB) == ["s0", "s1", "s2", "s3", "s4"]
        asked.stop()

    run(scenario())


def test_who_was_away_while_he_was_asked_has_not_said_anything_though_he_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch()
    members = [Bulkhead(adopted(tmp_path / f"s{number}", local=True, watch=watch)) for number in range(5)]
    place(members[2].storage, CONTENT)  # type: ignore[arg-type]
    real = WaitingLookups.missing

    def while_away(self: WaitingLookups, *arguments: Any) -> frozenset[int]:
        (tmp_path / "s2").rename(tmp_path / "elsewhere")
        try:
            return real(self, *arguments)
        finally:
            (tmp_path / "elsewhere").rename(tmp_path / "s2")

    async def scenario() -> None:
        asked = Absences(members, lambda: all(member.storage.is_in_place() for member in members), watch.changes)
        assert await _of(asked, BLOB) == ["s0", "s1", "s3", "s4"]
        with monkeypatch.context() as patch:
            patch.setattr(WaitingLookups, "missing", while_away)
            assert await _of(asked, BLOB) == []
        assert await _of(asked, BLOB) == ["s0", "s1", "s3", "s4"]
        asked.stop()

    run(scenario())


def test_who_is_slow_or_out_or_not_on_a_disk_of_this_machine_is_not_asked(tmp_path: Path) -> None:
    members = _members(tmp_path, 6)
    members[0].storage.local = False  # type: ignore[misc]
    members[1].note(StorageError(members[1].storage.root, "open", "no answer", dead=True))
    members[2].note_time(10.0)

    async def scenario() -> None:
        asked = _absences(members)
        assert await _of(asked, BLOB) == ["s3", "s4", "s5"]
        members[3].note_time(10.0)
        assert await _of(asked, BLOB) == []  # two are asked as quickly each by himself
        asked.stop()

    run(scenario())


def test_those_that_are_quick_again_are_asked_again_however_often_they_were_not(tmp_path: Path) -> None:
    members = _members(tmp_path, 3)
    members[0].note_time(1.0)

    async def scenario() -> None:
        asked = _absences(members)
        for _ in range(2 * absences._MOST):
            assert await _of(asked, BLOB) == []
        assert len(asked._lookups) == 1
        while members[0].slow:
            members[0].note_time(0.0)
        assert await _of(asked, BLOB) == ["s0", "s1", "s2"]
        asked.stop()

    run(scenario())


def test_two_storages_are_never_asked_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        asked = _absences(_members(tmp_path, 2))
        assert await _of(asked, BLOB) == []
        assert asked._executor._threads == 0

    run(scenario())


@pytest.mark.parametrize("number", ["_SYS_SETUP", "_SYS_REGISTER"])
def test_where_there_is_no_io_uring_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setattr(uring, number, 9999)

    async def scenario() -> None:
        asked = _absences(_members(tmp_path))
        assert await _of(asked, BLOB) == []
        monkeypatch.undo()
        assert await _of(asked, BLOB) == []  # it is not tried again
        assert asked._executor._threads == 0

    run(scenario())


def test_when_io_uring_fails_or_does_a_part_nothing_is_known_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posix.call_and_wait

    def fails(*_: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def does_a_part(number: int, fd: int, count: int, least: int, *rest: object) -> int:
        return real(number, fd, count - 1, least - 1, *rest)

    async def scenario(broken: Any) -> None:
        asked = _absences(members)
        assert len(await _of(asked, BLOB)) == 5
        monkeypatch.setattr(posix, "call_and_wait", broken)
        assert await _of(asked, BLOB) == []
        monkeypatch.setattr(posix, "call_and_wait", real)
        assert await _of(asked, BLOB) == []
        asked.stop()

    members = _members(tmp_path)
    run(scenario(fails))
    run(scenario(does_a_part))


def test_what_a_ring_that_failed_was_asked_is_no_answer_to_the_next_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = _members(tmp_path)
    place(members[1].storage, CONTENT)  # type: ignore[arg-type]
    monkeypatch.setattr(batches, "_TIMEOUT", 30.0)  # however busy the machine is
    begun, goes_on = threading.Event(), threading.Event()
    real = posix.call_and_wait

    def does_a_part(number: int, fd: int, count: int, least: int, *rest: object) -> int:
        monkeypatch.setattr(posix, "call_and_wait", real)
        begun.set()
        assert goes_on.wait(10)
        return real(number, fd, count - 1, least - 1, *rest)

    monkeypatch.setattr(posix, "call_and_wait", does_a_part)

    async def scenario() -> None:
        asked = _absences(members)
        first = asyncio.create_task(_of(asked, OTHERS[0]))
        await eventually(begun.is_set)
        then = asyncio.create_task(_of(asked, BLOB))
        await asyncio.sleep(0)
        goes_on.set()
        assert [await first, await then] == [[], []]
        asked.stop()

    run(scenario())


def test_without_a_thread_to_spare_nobody_waits_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(absences, "_PATIENCE", 0.05)
    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def scenario() -> None:
        asked = _absences(_members(tmp_path))
        assert await _of(asked, BLOB) == []
        monkeypatch.undo()
        assert len(await _of(asked, BLOB)) == 5
        asked.stop()

    run(scenario())


# One that hangs


@pytest.fixture
def hanging(tmp_path: Path, patient: pytest.MonkeyPatch) -> Iterator[FaultyStorage]:
    patient.setattr(absences, "_LATE", 0.2)
    made = FaultyStorage(tmp_path / "hanging")
    yield made
    made.close()


def test_one_that_hangs_holds_up_nobody_and_is_asked_again_when_it_has_answered(
    tmp_path: Path, hanging: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absences, "_LONG", 10.0)
    members = [Bulkhead(adopted(hanging.point, local=True)), *_members(tmp_path)]
    for digest in (BLOB, OTHERS[7]):
        path = hanging.source / digest.path
        path.parent.mkdir(parents=True)
        path.touch()
    others = [f"s{number}" for number in range(5)]

    async def scenario() -> None:
        asked = Absences(members, lambda: True, lambda: 0)
        assert await _of(asked, OTHERS[0]) == ["point", *others]
        hanging.fail(Fault(operations=("getattr",), path=r"\.dat|^/.[^s]", hang=True))
        assert await asyncio.gather(*(_of(asked, digest) for digest in (BLOB, *OTHERS[1:6]))) == [others] * 6
        assert await _of(asked, OTHERS[6]) == others
        rings = list(asked._lookups)
        assert len(rings) > 1  # another for each thread
        assert [sorted(ring.late) for ring in rings if ring.late] == [[0]]
        assert 0 not in asked._to_be_asked()
        hanging.heal()
        async with asyncio.timeout(10):
            while any(ring.late for ring in rings):
                assert (await _of(asked, OTHERS[3]))[-5:] == others
        assert await _of(asked, OTHERS[3]) == ["point", *others]
        assert await _of(asked, OTHERS[7]) == others  # it has that
        asked.stop()

    run(scenario())
    assert clean_now(members[0].storage)  # type: ignore[arg-type]  # what was found too late is closed


def test_what_was_found_too_late_is_closed_though_nobody_asks_any_more(
    tmp_path: Path, hanging: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absences, "_PAUSE", 0.05)
    members = [Bulkhead(adopted(hanging.point, local=True)), *_members(tmp_path, 2)]
    path = hanging.source / BLOB.path
    path.parent.mkdir(parents=True)
    path.touch()

    async def scenario() -> None:
        asked = Absences(members, lambda: True, lambda: 0)
        hanging.fail(Fault(operations=("getattr",), path=r"\.dat", hang=True))
        assert await _of(asked, BLOB) == ["s0", "s1"]
        assert await _of(asked, OTHERS[0]) == []  # two are asked as quickly each by himself
        hanging.heal()
        await eventually(lambda: not asked._numbers_late())
        await eventually(lambda: clean_now(members[0].storage))  # type: ignore[arg-type]
        assert await _of(asked, OTHERS[0]) == ["point", "s0", "s1"]
        asked.stop()

    run(scenario())


def test_there_are_never_more_rings_than_a_few(
    tmp_path: Path, hanging: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absences, "_MOST", 2)
    members = [Bulkhead(adopted(hanging.point, local=True)), *_members(tmp_path)]

    async def scenario() -> None:
        asked = Absences(members, lambda: True, lambda: 0)
        monkeypatch.setattr(asked, "_to_be_asked", lambda: range(6))
        hanging.fail(Fault(operations=("getattr",), path=r"\.dat|^/.[^s]", hang=True))
        for digest in OTHERS[:2]:
            assert len(await _of(asked, digest)) == 5
        assert await _of(asked, OTHERS[2]) == []
        assert len(asked._lookups) == 2
        hanging.heal()
        asked.stop()

    run(scenario())


# What the pool makes of it


def test_a_look_through_many_sets_takes_a_job_of_each_storage_of_the_likeliest_alone(tmp_path: Path) -> None:
    storages = [adopted(tmp_path / f"s{number}", local=True) for number in range(8)]
    sets = [storages[number : number + 2] for number in range(0, 8, 2)]
    seen: list[Event] = []

    async def scenario() -> None:
        async with running(*sets, events=seen) as pool:
            await eventually(lambda: all(each.space is not None for each in pool.members()))
            given: list[str] = []
            for member in pool.members():
                real = member._executor.give

                def counted(
                    call: Any, *rest: Any, real: Any = real, root: str = member.storage.root, **how: Any
                ) -> Any:
                    if call.__name__ in ("open", "_open", "open_own"):
                        given.append(root)
                    return real(call, *rest, **how)

                member._executor.give = counted  # type: ignore[method-assign]
            seen.clear()
            with pytest.raises(NotFound):
                await pool.find(BLOB)
            assert [event.attempts for event in seen if isinstance(event, LookedUp)] == [8]
            assert given.count("open") <= 2
            given.clear()
            surveys = await pool.survey(OTHERS[0])
            assert "_open" not in given
            assert [survey.replica_set for survey in surveys] == pool._places.ranked(OTHERS[0])
            assert all(survey is survey.replica_set.nothing for survey in surveys)

    run(scenario())


@pytest.mark.parametrize("number", range(8))
def test_a_blob_is_found_and_known_to_be_stored_wherever_it_is(tmp_path: Path, number: int) -> None:
    storages = [adopted(tmp_path / f"s{number}", local=True) for number in range(8)]
    sets = [storages[number : number + 2] for number in range(0, 8, 2)]
    pair = sets[number // 2]

    async def scenario() -> None:
        for storage in pair:
            place(storage, CONTENT)
        async with running(*sets) as pool:
            with await pool.find(BLOB) as found:
                assert found.storage in [storage.root for storage in pair]
            where(pair[1 - number % 2], BLOB).unlink()
            with await pool.find(BLOB) as found:
                assert found.storage == storages[number].root
            stored = await store(pool, body_of(CONTENT), BLOB, await pool.survey(BLOB))
            assert stored.paths == tuple(storage.locate(BLOB) for storage in pair)
            assert not stored.created

    run(scenario())
