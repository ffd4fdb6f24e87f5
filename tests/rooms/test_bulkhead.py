"""One storage's threads: what hangs in them hangs for that storage alone."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import uvloop

from pystor import breaker, probing
from pystor import bulkhead as bulkhead_
from pystor.blob import Space, Timeouts
from pystor.breaker import SharedSwitches, State
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.files import FileReplica
from pystor.marker import NAME
from pystor.steps import OnReplica, outcomes
from tests.rooms.tools import (
    adopted,
    break_disk,
    descriptors,
    eventually,
    no_thread_to_give,
    open_below,
    place,
    run,
    temporaries,
)
from tests.support import needs
from tests.support.mounts import Mounts

CONTENT = b"a blob"
BLOB = Digest.of(CONTENT)


@pytest.fixture
def storage(tmp_path: Path) -> Directory:
    storage = adopted(tmp_path / "a")
    place(storage, CONTENT)
    return storage


@pytest.fixture
def bulkhead(storage: Directory) -> Iterator[Bulkhead]:
    """The threads of the storage, which end with the test."""
    bulkhead = Bulkhead(storage)
    yield bulkhead
    bulkhead.stop()


class Hang:
    """Operations that take until they are let go."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, then: Callable[[], object] = lambda: None) -> object:
        with self._lock:
            self.begun += 1
        assert self.over.wait(20)
        try:
            return then()
        finally:
            self.ended += 1

    async def until(self, count: int) -> None:
        await eventually(lambda: self.begun >= count)


def clock(monkeypatch: pytest.MonkeyPatch, room: ModuleType) -> list[float]:
    """Give a room a clock that is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_what_an_operation_returns_or_raises_passes(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        assert await bulkhead.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await bulkhead.run(divmod, 7, 0)
        assert bulkhead.switch.reason is None

    run(scenario())


def test_a_failure_of_the_storage_is_remembered_for_operators(bulkhead: Bulkhead) -> None:
    def fail() -> None:
        raise StorageError("/a", "fsync", "broken")

    async def scenario() -> None:
        with pytest.raises(StorageError, match="A storage failed"):
            await bulkhead.run(fail)
        assert bulkhead.switch.reason == "/a: fsync: broken"

    run(scenario())


def test_an_operation_that_hangs_is_a_failure_after_the_timeout(bulkhead: Bulkhead) -> None:
    hang = Hang()

    async def scenario() -> None:
        began = time.monotonic()
        with pytest.raises(StorageError) as failure:
            await bulkhead.run(hang, timeout=0.05)
        assert 0.04 < time.monotonic() - began < 2
        assert failure.value.reason == "no answer within 0.05 s"
        assert bulkhead.switch.reason == failure.value.describe()
        hang.over.set()

    run(scenario())


def test_a_hanging_operation_holds_up_nobody_as_long_as_there_are_threads(storage: Directory) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=3)
        hanging = [asyncio.create_task(bulkhead.run(hang)) for _ in range(2)]
        await hang.until(2)
        for _ in range(5):
            assert await bulkhead.run(int, "5", timeout=1) == 5
        hang.over.set()
        await asyncio.gather(*hanging)
        bulkhead.stop()

    run(scenario())


def test_no_more_threads_than_allowed_and_the_rest_waits_in_turn(storage: Directory) -> None:
    hang, done = Hang(), list[int]()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=3)
        before = threading.active_count()
        working = [
            asyncio.create_task(bulkhead.run(hang, lambda number=number: done.append(number))) for number in range(20)
        ]
        await hang.until(3)
        await asyncio.sleep(0.02)
        assert (hang.begun, threading.active_count() - before) == (3, 3)
        with pytest.raises(StorageError):
            await bulkhead.run(int, timeout=0.02)
        hang.over.set()
        await asyncio.gather(*working)
        assert threading.active_count() - before == 3
        bulkhead.stop()
        await eventually(lambda: threading.active_count() == before)

    run(scenario())
    assert sorted(done) == list(range(20))


def test_one_after_another_needs_one_thread(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        before = threading.active_count()
        for _ in range(20):
            await bulkhead.run(int, probing=True)
            await asyncio.sleep(0.001)
        assert threading.active_count() - before <= 2

    run(scenario())


# More at once than there are threads


def test_the_time_in_which_a_storage_is_to_answer_begins_when_a_thread_does(storage: Directory) -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        await asyncio.gather(*(bulkhead.run(time.sleep, 0.6, timeout=1) for _ in range(2)))
        bulkhead.stop()

    run(scenario())


def test_what_finds_no_thread_in_time_is_refused_and_the_storage_stays_in_as_long_as_it_answers_others(
    storage: Directory,
) -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=2)
        asked = (bulkhead.run(time.sleep, 0.5, timeout=1.2) for _ in range(20))
        results = await asyncio.gather(*asked, return_exceptions=True)
        refused = [result for result in results if isinstance(result, StorageError)]
        assert results[:2] == [None, None]
        assert {error.reason for error in refused} == {"no thread was free within 1.2 s"}
        assert 8 < len(refused) < 18
        assert not bulkhead.out
        bulkhead.stop()

    run(scenario())


def test_a_storage_of_which_no_thread_comes_back_is_out_as_soon_as_somebody_has_waited_for_one(
    storage: Directory,
) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        writing = asyncio.create_task(bulkhead.run(hang, timeout=20, writing=True))
        await hang.until(1)
        with pytest.raises(StorageError):
            await bulkhead.run(int, timeout=0.05)
        assert bulkhead.out
        hang.over.set()
        await writing
        bulkhead.stop()

    run(scenario())


def test_what_waits_for_the_disk_leaves_threads_for_what_does_not_however_much_it_is(bulkhead: Bulkhead) -> None:
    hang, done = Hang(), list[int]()

    async def scenario() -> None:
        writing = [
            bulkhead.begin(hang, partial(done.append, number), timeout=20, writing=True, waits=True)
            for number in range(20)
        ]
        await hang.until(6)
        for _ in range(5):
            assert await bulkhead.run(int, "5", timeout=0.2) == 5
        assert (hang.begun, is_out(bulkhead)) == (6, False)
        hang.over.set()
        await asyncio.gather(*(step.result() for step in writing))

    run(scenario())
    assert sorted(done) == list(range(20))


def test_who_may_not_wait_for_the_disk_yet_is_refused_in_time_and_that_is_no_fault_of_it(storage: Directory) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=4)
        writing = [bulkhead.begin(hang, timeout=20, waits=True) for _ in range(3)]
        await hang.until(3)
        late = bulkhead.begin(hang, timeout=0.2, waits=True)
        assert await bulkhead.run(int, "5") == 5
        with pytest.raises(StorageError) as failure:
            await late.result()
        assert failure.value.reason == "no thread was free within 0.2 s"
        assert not is_out(bulkhead)
        hang.over.set()
        await outcomes(writing)
        assert hang.begun == 3
        bulkhead.stop()

    run(scenario())


def test_a_process_that_gets_no_thread_says_nothing_of_the_storage(storage: Directory) -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=2)
        with no_thread_to_give(), pytest.raises(StorageError) as failure:
            await bulkhead.run(int, timeout=0.05)
        assert failure.value.reason == "no thread could be started within 0.05 s"
        assert not bulkhead.out
        assert await bulkhead.run(int, "5") == 5
        bulkhead.stop()

    run(scenario())


def test_what_was_done_while_the_event_loop_was_held_up_is_no_fault_of_the_storage(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        step = bulkhead.begin(int, "5", timeout=0.1)
        time.sleep(0.5)  # noqa: ASYNC251  as if the machine had been paused
        assert await step.result() == 5
        assert bulkhead.switch.reason is None

    uvloop.run(scenario())  # as in a worker: what has come is told after the timers


def test_what_was_done_in_time_counts_however_late_a_busy_event_loop_comes_to_it(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        step = bulkhead.begin(time.sleep, 0.8, timeout=0.1)
        for _ in range(2):
            time.sleep(0.6)  # noqa: ASYNC251
            await asyncio.sleep(0)
        await step.result()
        assert bulkhead.switch.reason is None

    uvloop.run(scenario())


def test_what_hangs_is_found_though_the_event_loop_was_held_up(storage: Directory) -> None:
    async def scenario() -> None:
        bulkhead, heal = Bulkhead(storage), threading.Event()
        step = bulkhead.begin(heal.wait, timeout=0.1)
        time.sleep(0.5)  # noqa: ASYNC251
        with pytest.raises(StorageError):
            await asyncio.wait_for(step.result(), 1)
        assert bulkhead.out
        heal.set()
        bulkhead.stop()

    uvloop.run(scenario())


def test_who_waits_for_a_thread_behind_what_hangs_waits_no_longer_when_that_is_found_but_for_an_upload(
    storage: Directory,
) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        hanging = asyncio.create_task(bulkhead.run(hang, timeout=0.1))
        await hang.until(1)
        reading = [asyncio.create_task(bulkhead.run(int, "5")) for _ in range(3)]
        writing = asyncio.create_task(bulkhead.run(int, "5", timeout=20, writing=True))
        async with asyncio.timeout(1):
            results = await asyncio.gather(hanging, *reading, return_exceptions=True)
        reasons = [result.reason for result in results if isinstance(result, StorageError)]
        assert [reason.partition(":")[0] for reason in reasons] == ["no answer within 0.1 s", *["is out"] * 3]
        assert not writing.done()
        hang.over.set()
        assert await writing == 5
        bulkhead.stop()

    run(scenario())


def test_who_got_the_thread_of_one_that_found_the_storage_dead_waits_no_longer_either(storage: Directory) -> None:
    hang, first = Hang(), Hang()

    def fail() -> None:
        raise StorageError(storage.root, "get", "no answer in time", dead=True)

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        failing = bulkhead.begin(first, fail)
        await first.until(1)
        behind = bulkhead.begin(hang)
        first.over.set()
        while not hang.begun:
            time.sleep(0.001)  # noqa: ASYNC251  the loop does not learn of the failure before
        async with asyncio.timeout(1):
            outcomes = [await step.outcome() for step in (failing, behind)]
        reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, StorageError)]
        assert [reason.partition(":")[0] for reason in reasons] == ["no answer in time", "is out"]
        hang.over.set()
        bulkhead.stop()

    run(scenario())


def test_who_had_a_thread_before_a_storage_was_found_dead_waits_for_what_it_does(storage: Directory) -> None:
    hang = Hang()

    def fail() -> None:
        raise StorageError(storage.root, "get", "no answer in time", dead=True)

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=2)
        reading = bulkhead.begin(hang, lambda: 5)
        await hang.until(1)
        with pytest.raises(StorageError):
            await bulkhead.run(fail)
        assert bulkhead.out
        hang.over.set()
        assert await reading.result() == 5
        bulkhead.stop()

    run(scenario())


def test_who_finds_no_thread_beside_replicas_that_are_late_takes_no_storage_out_that_answers_probes(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        monkeypatch.setattr(bulkhead._inquiry, "_answered", math.inf)  # however busy the machine is
        reading = bulkhead.begin(hang, timeout=20, of=BLOB)
        await hang.until(1)
        with pytest.raises(StorageError) as failure:
            await bulkhead.run(int, timeout=0.05)
        assert failure.value.reason == "no thread was free within 0.05 s"
        assert not is_out(bulkhead)
        hang.over.set()
        await reading.result()
        bulkhead.stop()

    run(scenario())


def test_whether_a_storage_is_well_is_found_out_before_all_that_waits_for_a_thread(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, done = Hang(), list[str]()
    for name in ("check", "probe"):
        monkeypatch.setattr(storage, name, partial(done.append, name))

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        work = [bulkhead.begin(hang), *(bulkhead.begin(done.append, "read") for _ in range(3))]
        await hang.until(1)
        checking = asyncio.create_task(bulkhead.check())
        await bulkhead.run(storage.probe, probing=True)
        hang.over.set()
        await asyncio.gather(checking, *(step.result() for step in work))
        bulkhead.stop()

    run(scenario())
    assert done[:2] == ["probe", "check"]


def test_what_is_late_is_no_fault_of_a_storage_that_answers_what_was_asked_later(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    monkeypatch.setattr(storage, "answers_since", lambda _: True)

    async def scenario() -> None:
        with pytest.raises(StorageError) as failure:
            await bulkhead.run(hang, timeout=0.05)
        assert failure.value.reason == "no answer within 0.05 s"
        assert not bulkhead.out
        hang.over.set()

    run(scenario())


# One replica that is late


def unreadable() -> None:
    raise StorageError("/a", "read", "Input/output error", unreadable=True)


def test_a_replica_that_is_late_while_its_storage_answers_a_probe_is_unreadable_and_says_nothing_of_the_storage(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    monkeypatch.setattr(storage, "probe", lambda: None)  # however busy the machine is

    async def scenario() -> None:
        began = time.monotonic()
        with pytest.raises(StorageError) as failure:
            await bulkhead.run(hang, unreadable, timeout=0.3, of=BLOB)
        assert time.monotonic() - began < 2
        assert (failure.value.unreadable, failure.value.dead, is_out(bulkhead)) == (True, False, False)
        assert failure.value.sequel is not None
        assert not failure.value.sequel.done()
        hang.over.set()
        assert (await failure.value.sequel).reason == "Input/output error"

    run(scenario())


def test_a_replica_that_is_never_read_holds_one_thread_however_often_it_is_tried_and_one_in_its_place_is_read(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    path = place(storage, CONTENT)

    async def scenario() -> None:
        monkeypatch.setattr(bulkhead._inquiry, "_answered", math.inf)  # however busy the machine is
        bad = storage.open(BLOB)
        assert bad is not None
        with bad, pytest.raises(StorageError):
            await bulkhead.run(hang, timeout=0.1, of=bad)
        for _ in range(20):
            with pytest.raises(StorageError) as failure:
                await bulkhead.run(hang, timeout=0.1, of=bad)
            assert failure.value.unreadable
        assert hang.begun == 1
        path.rename(path.with_name("kept"))
        place(storage, CONTENT)
        replica = storage.open(BLOB)
        assert replica is not None
        with replica:
            assert await bulkhead.run(lambda: "read", of=replica) == "read"
        hang.over.set()
        await eventually(lambda: hang.ended == 1)
        await asyncio.sleep(0.01)  # the loop learns of it
        assert await bulkhead.run(lambda: "read", of=bad) == "read"

    run(scenario())


@pytest.mark.parametrize("silent", ["probe", "read only", "without syncs"])
def test_a_replica_that_is_late_takes_its_storage_out_in_time_unless_that_answers_a_probe_that_proves_something(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    hang = Hang()
    match silent:
        case "probe":
            monkeypatch.setattr(storage, "probe", hang)
        case "read only":
            monkeypatch.setattr(storage, "writable", False)
        case _:
            monkeypatch.setattr(Directory, "syncs", False)

    async def scenario() -> None:
        began = time.monotonic()
        with pytest.raises(StorageError) as failure:
            await bulkhead.run(hang, unreadable, timeout=0.2, of=BLOB)
        assert time.monotonic() - began < 2
        assert (failure.value.unreadable, is_out(bulkhead)) == (False, True)
        hang.over.set()
        if failure.value.sequel is not None:
            assert (await failure.value.sequel).unreadable
        await eventually(lambda: hang.ended == hang.begun)

    run(scenario())


def test_several_replicas_that_are_late_at_once_take_their_storage_out_though_it_answers_probes(
    bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, blobs = Hang(), [Digest.of(bytes([number])) for number in range(4)]

    async def scenario() -> None:
        monkeypatch.setattr(bulkhead._inquiry, "_answered", math.inf)  # however busy the machine is
        begun = []
        for count, digest in enumerate(blobs[:3] * 2, start=1):
            begun.append(bulkhead.begin(hang, timeout=0.3, of=digest))
            await hang.until(count)
        few = await outcomes(begun)
        assert [isinstance(error, StorageError) and error.unreadable for error in few] == [True] * 6
        assert not is_out(bulkhead)
        with pytest.raises(StorageError):
            await bulkhead.run(hang, timeout=0.3, of=blobs[3])
        assert is_out(bulkhead)
        hang.over.set()
        await eventually(lambda: hang.ended == 7)
        await bulkhead.recover()
        monkeypatch.setattr(bulkhead._inquiry, "_answered", math.inf)
        for digest in blobs:
            again = Hang()
            with pytest.raises(StorageError):
                await bulkhead.run(again, timeout=0.2, of=digest)
            assert not is_out(bulkhead)
            again.over.set()
            await eventually(lambda again=again: again.ended == 1)  # type: ignore[misc]
            await asyncio.sleep(0.01)  # the loop learns of it

    run(scenario())


# What comes too late


def test_what_comes_after_the_timeout_is_closed(storage: Directory, bulkhead: Bulkhead, tmp_path: Path) -> None:
    hang = Hang()

    async def scenario() -> None:
        with pytest.raises(StorageError):
            await bulkhead.run(hang, lambda: storage.open(BLOB), timeout=0.02)
        hang.over.set()
        await bulkhead.run(int, probing=True)
        await eventually(lambda: not open_below(tmp_path))

    run(scenario())


def test_what_comes_after_a_cancellation_is_closed(storage: Directory, bulkhead: Bulkhead, tmp_path: Path) -> None:
    hang = Hang()

    async def scenario() -> None:
        task = asyncio.create_task(bulkhead.run(hang, lambda: storage.stage(5)))
        await hang.until(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hang.over.set()
        await eventually(lambda: hang.ended == 1)
        await eventually(lambda: not open_below(tmp_path) and not temporaries(storage))

    run(scenario())
    assert not temporaries(storage)


def test_of_several_steps_that_nobody_waits_for_any_more_each_is_closed(
    storage: Directory, bulkhead: Bulkhead, tmp_path: Path
) -> None:
    hang = Hang()

    async def scenario() -> None:
        steps = [bulkhead.begin(hang), bulkhead.begin(storage.open, BLOB), bulkhead.begin(storage.open, BLOB)]
        waiting = asyncio.create_task(outcomes(steps))
        await eventually(lambda: len(open_below(tmp_path)) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hang.over.set()

    run(scenario())
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("turns", [0, 1])
def test_what_comes_in_the_very_moment_of_a_cancellation_is_closed(
    storage: Directory, bulkhead: Bulkhead, tmp_path: Path, turns: int
) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(bulkhead.run(storage.stage, 5))
        await asyncio.sleep(0)  # the operation is on its way
        time.sleep(0.2)  # noqa: ASYNC251  the loop is busy, and the answer waits for it
        for _ in range(turns):
            await asyncio.sleep(0)  # the answer is there; who waits for it has not been told
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bulkhead.run(int, probing=True)

    run(scenario())
    assert not descriptors(tmp_path)
    assert not temporaries(storage)


def test_what_comes_when_the_loop_is_gone_is_closed(storage: Directory, tmp_path: Path) -> None:
    hang = Hang()
    threads = set(threading.enumerate())

    async def scenario() -> None:
        task = asyncio.create_task(Bulkhead(storage, threads=1).run(hang, lambda: storage.open(BLOB)))
        await hang.until(1)
        task.cancel()

    run(scenario())
    (worker,) = set(threading.enumerate()) - threads
    hang.over.set()
    worker.join(0.2)

    assert not descriptors(tmp_path)


def test_what_hangs_when_it_is_closed_holds_up_nobody_though_it_came_in_the_moment_of_a_cancellation(
    bulkhead: Bulkhead,
) -> None:
    closing = Hang()

    class Late:
        def close(self) -> None:
            closing()

    async def scenario() -> None:
        task = asyncio.create_task(bulkhead.run(Late))
        await asyncio.sleep(0)  # the operation is on its way
        time.sleep(0.2)  # noqa: ASYNC251  the loop is busy, and the answer waits for it
        await asyncio.sleep(0)  # the answer is there; who waits for it has not been told
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closing.until(1)
        await bulkhead.run(int, probing=True)
        closing.over.set()
        await eventually(lambda: closing.ended == 1)

    run(scenario())


def test_nobody_waits_any_longer_for_a_storage_whose_probe_is_not_answered_either(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.05))
    monkeypatch.setattr(storage, "probe", hang)

    async def scenario() -> None:
        writing = asyncio.create_task(bulkhead.run(hang, timeout=20, writing=True))
        with pytest.raises(StorageError, match="A storage failed"):
            await bulkhead.run(hang)
        assert not writing.done()
        first = bulkhead.switch.reason
        await bulkhead.recover()
        with pytest.raises(StorageError) as failure:
            await asyncio.wait_for(writing, 1)
        assert "is out" in failure.value.reason
        assert first is not None
        assert bulkhead.switch.reason == first
        hang.over.set()

    run(scenario())


def test_reads_are_waited_for_though_a_storage_that_takes_no_writes_answers_no_probe(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, probing = Hang(), Hang()
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.05))
    monkeypatch.setattr(storage, "probe", probing)
    failure = StorageError(storage.root, "fsync", "Input/output error")
    failure.unwritable = True

    async def scenario() -> None:
        bulkhead.note(failure)
        reading = bulkhead.begin(hang, lambda: CONTENT, timeout=10, of=BLOB)
        writing = bulkhead.begin(hang, timeout=10, waits=True)
        await hang.until(2)
        await bulkhead.recover()
        with pytest.raises(StorageError, match="A storage failed"):
            await asyncio.wait_for(writing.result(), 1)
        hang.over.set()
        assert await reading.result() == CONTENT
        probing.over.set()
        await eventually(lambda: not bulkhead.unwritable)

    run(scenario())


def test_a_storage_whose_probe_takes_as_long_as_a_write_is_used_again_when_it_answers(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, probing = Hang(), Hang()
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.05))
    monkeypatch.setattr(storage, "probe", probing)

    async def scenario() -> None:
        writing = asyncio.create_task(bulkhead.run(hang, timeout=20, writing=True))
        bulkhead.note(StorageError(storage.root, "open", "hangs", dead=True))
        await bulkhead.recover()
        with pytest.raises(StorageError, match="A storage failed"):
            await asyncio.wait_for(writing, 1)
        assert (probing.begun, is_out(bulkhead)) == (1, True)
        probing.over.set()
        await eventually(lambda: not is_out(bulkhead))
        await bulkhead.recover()
        assert await bulkhead.run(int, "5") == 5
        hang.over.set()

    run(scenario())


def test_what_is_under_way_is_waited_for_while_a_storage_answers_its_probes(bulkhead: Bulkhead) -> None:
    hang = Hang()

    async def scenario() -> None:
        writing = asyncio.create_task(bulkhead.run(hang, lambda: "written", timeout=20, writing=True))
        with pytest.raises(StorageError):
            await bulkhead.run(hang, timeout=0.02)
        await bulkhead.recover()
        assert not writing.done()
        hang.over.set()
        assert await writing == "written"

    run(scenario())


def test_a_storage_that_came_back_is_written_though_all_syncs_hang_in_what_was_there(storage: Directory) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=4)
        await outcomes([bulkhead.begin(hang, timeout=0.1, waits=True) for _ in range(4)])
        assert (hang.begun, is_out(bulkhead)) == (3, True)
        await bulkhead.recover()
        assert await bulkhead.run(int, "5", timeout=1, waits=True) == 5
        hang.over.set()
        bulkhead.stop()

    run(scenario())


def test_a_storage_whose_threads_all_hang_in_what_was_there_is_used_again_by_all_who_share_it(
    storage: Directory,
) -> None:
    hang, switch = Hang(), SharedSwitches(None, 1).switch(0)

    async def scenario() -> None:
        members = [Bulkhead(storage, threads=2, switch=switch) for _ in range(2)]
        for member in members:
            hanging = [member.begin(hang, timeout=0.1, certain=True) for _ in range(2)]
            await outcomes(hanging)
        await hang.until(4)
        assert is_out(members[0])
        for member in reversed(members):
            await member.recover()
            assert await member.run(int, "5", timeout=1) == 5
        hang.over.set()
        for member in members:
            member.stop()
        await eventually(lambda: hang.ended == 4)
        await eventually(lambda: f"stor {storage.root}" not in [thread.name for thread in threading.enumerate()])

    run(scenario())


def test_a_storage_that_only_failed_to_write_gets_no_more_threads_than_it_has(storage: Directory) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=2)
        busy = [bulkhead.begin(hang, timeout=10.0) for _ in range(2)]
        await hang.until(2)
        bulkhead.note(StorageError.from_os(storage.root, "fsync", OSError(errno.EIO, "broken"), writing=True))
        await bulkhead.recover()
        assert not is_unwritable(bulkhead)
        with pytest.raises(StorageError, match="A storage failed"):
            await bulkhead.run(int, timeout=0.1)
        hang.over.set()
        await outcomes(busy)
        bulkhead.stop()

    run(scenario())


def test_the_room_of_a_storage_that_does_not_answer_any_more_is_not_known(
    storage: Directory, bulkhead: Bulkhead
) -> None:
    marker = Path(storage.root, NAME)

    async def scenario() -> list[Space | None]:
        seen: list[Space | None] = [await bulkhead.check(), bulkhead.space]
        os.unlink(marker)
        with pytest.raises(StorageError):
            await bulkhead.check()
        return [*seen, bulkhead.space]

    measured, before, after = run(scenario())
    assert (before, after) == (measured, None)


def test_one_probe_hangs_at_a_time_and_another_is_sent_when_something_else_is_mounted_or_after_a_while(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    now, mounts = clock(monkeypatch, probing), ["one"]
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.05))
    monkeypatch.setattr(storage, "probe", hang)
    monkeypatch.setattr(probing, "_mounts_at", lambda _: mounts[:])

    async def scenario() -> None:
        bulkhead.note(StorageError("/a", "open", "hangs", dead=True))
        begun = []
        expected = [1, 1, 2, 2, 3, 4]
        when = [(1, "one"), (1, "one"), (3, "one"), (4, "one"), (3, "one"), (1, "two")]
        for probes, (seconds, mounted) in zip(expected, when, strict=True):
            now[0] += seconds
            mounts[0] = mounted
            await bulkhead.recover()
            await hang.until(probes)  # however busy the machine is
            begun.append(hang.begun)
        assert begun == expected
        assert await bulkhead.run(int, "5", certain=True) == 5
        hang.over.set()
        await eventually(lambda: hang.ended == 4)
        name = f"stor probes {storage.root}"
        await eventually(lambda: [thread.name for thread in threading.enumerate()].count(name) == 1)

    run(scenario())


def test_a_probe_that_hangs_in_what_was_there_says_nothing_of_a_storage_that_came_back(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, mounts, switch = Hang(), ["one"], SharedSwitches(None, 1).switch(0)
    monkeypatch.setattr(bulkhead_, "WRITE_TIMEOUT", 0.4)
    monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.05))
    monkeypatch.setattr(storage, "probe", hang)
    monkeypatch.setattr(probing, "_A_MOMENT", 0.0)
    monkeypatch.setattr(probing, "_mounts_at", lambda _: mounts[:])

    async def scenario() -> None:
        members = [Bulkhead(storage, switch=switch) for _ in range(2)]
        members[0].note(StorageError("/a", "open", "hangs", dead=True))
        for member in members:
            await member.recover()
        assert (hang.begun, is_out(members[0])) == (2, True)
        mounts[0] = "two"
        monkeypatch.setattr(storage, "probe", lambda: None)
        await members[0].recover()
        for _ in range(50):
            assert not is_out(members[0])
            await asyncio.sleep(0.01)
        await eventually(lambda: not any(member._inquiry._under_way for member in members))  # others may be sent
        hang.over.set()
        await eventually(lambda: hang.ended == 2)
        for member in members:
            member.stop()

    run(scenario())


@pytest.mark.parametrize("name", ["disk", "a disk"])
def test_what_is_mounted_in_the_place_of_a_storage_is_noticed_whatever_its_path(
    tmp_path: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    now, over = clock(monkeypatch, probing), threading.Event()

    async def scenario() -> None:
        probes = probing.Probes(str(tmp_path / name / "storage"))
        assert probes.may_begin()
        probes.executor.give(over.wait, (20,))
        now[0] += 1
        assert not probes.may_begin()
        mounts.tmpfs(1 << 20, at=tmp_path / name)
        assert probes.may_begin()
        over.set()
        probes.stop()

    run(scenario())


def test_what_was_cancelled_in_the_queue_is_not_begun(storage: Directory) -> None:
    hang, begun = Hang(), list[int]()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        hanging = asyncio.create_task(bulkhead.run(hang))
        await hang.until(1)
        with pytest.raises(StorageError):
            await bulkhead.run(begun.append, 1, timeout=0.02)
        hang.over.set()
        await hanging
        await bulkhead.run(int, probing=True)
        bulkhead.stop()

    run(scenario())
    assert not begun


def test_what_hangs_in_what_a_storage_was_keeps_nobody_from_reading_when_it_is_back(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    place(storage, CONTENT)

    async def scenario() -> None:
        monkeypatch.setattr(bulkhead._inquiry, "_answered", math.inf)  # however busy the machine is
        replica = storage.open(BLOB)
        assert replica is not None
        with replica:
            with pytest.raises(StorageError):
                await bulkhead.run(hang, timeout=0.05, of=replica)
            bulkhead.note(StorageError(storage.root, "open", "unmounted", dead=True))
            await bulkhead.recover()
            assert not is_out(bulkhead)
            assert await bulkhead.run(lambda: "read", of=replica) == "read"
        hang.over.set()

    run(scenario())


def test_a_write_that_fails_while_a_storage_is_probed_is_not_forgotten(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang()
    monkeypatch.setattr(storage, "probe", hang)

    async def scenario() -> None:
        bulkhead._inquiry.ask(time.monotonic())
        await hang.until(1)
        failed = OSError(errno.EIO, os.strerror(errno.EIO))
        bulkhead.note(StorageError.from_os(storage.root, "fsync", failed, writing=True))
        hang.over.set()
        assert await bulkhead._inquiry.is_heard_within(20)
        assert (bulkhead.unwritable, bulkhead.out) == (True, False)

    run(scenario())


def test_what_came_in_time_is_looked_after_no_more(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        step = bulkhead.begin(int, "5", of=BLOB)
        assert await step.result() == 5
        assert isinstance(step, OnReplica)
        assert step._patience._timer.cancelled()  # it would ask the storage for something else for each read

    run(scenario())


def test_a_failure_that_comes_too_late_bothers_nobody(storage: Directory) -> None:
    hang = Hang()

    async def scenario() -> None:
        bulkhead = Bulkhead(storage, threads=1)
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(StorageError):
            await bulkhead.run(hang, lambda: 1 / 0, timeout=0.02)
        hang.over.set()
        await bulkhead.run(int, probing=True)
        assert not complaints
        bulkhead.stop()

    run(scenario())


# Reading


@pytest.mark.parametrize("local", [True, False])
def test_a_blob_is_opened_and_read_from_any_storage(
    storage: Directory, bulkhead: Bulkhead, tmp_path: Path, *, local: bool
) -> None:
    storage.local = local

    async def scenario() -> None:
        replica = await bulkhead.open(BLOB)
        assert isinstance(replica, FileReplica)
        with replica:
            assert await bulkhead.read(replica, 0, 6) == CONTENT
        assert await bulkhead.open(Digest.of(b"another")) is None
        assert await bulkhead.open(Digest.of(b"another")) is None
        assert (await bulkhead.check()).total > 0

    run(scenario())
    assert not descriptors(tmp_path)


@pytest.mark.parametrize("size", [6, 64 << 10, (64 << 10) + 1])
def test_a_local_storage_needs_no_thread_for_what_is_in_the_cache(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    content = random.Random(size).randbytes(2 * size)
    place(storage, content)

    async def scenario() -> None:
        bulkhead = Bulkhead(storage)
        monkeypatch.setattr(bulkhead._executor, "give", lambda *_: pytest.fail("a thread was asked"))
        replica = await bulkhead.open(Digest.of(content))
        assert replica is not None
        with replica:
            pieces = [await bulkhead.read(replica, offset, size) for offset in (0, size)]
        assert b"".join(pieces) == content

    storage.local = True
    run(scenario())


# The breaker


def is_out(bulkhead: Bulkhead) -> bool:
    return bulkhead.out


def is_unwritable(bulkhead: Bulkhead) -> bool:
    return bulkhead.unwritable


def is_slow(bulkhead: Bulkhead) -> bool:
    return bulkhead.slow


def test_a_storage_that_hangs_is_out_for_all_who_share_its_switch_until_a_probe_succeeds(
    storage: Directory, tmp_path: Path
) -> None:
    hang = Hang()
    switches = [SharedSwitches(str(tmp_path / "switches"), 2) for _ in range(2)]

    async def scenario() -> None:
        one, other = (Bulkhead(storage, switch=shared.switch(1)) for shared in switches)
        unconcerned = Bulkhead(storage, switch=switches[1].switch(0))
        with pytest.raises(StorageError, match="A storage failed"):
            await one.run(hang, int, timeout=0.02)
        assert (is_out(one), is_out(other), is_out(unconcerned)) == (True, True, False)
        for bulkhead in (one, other):
            with pytest.raises(StorageError) as failure:
                await bulkhead.run(storage.check)
            assert "is out" in failure.value.reason
        hang.over.set()
        await other.recover()
        assert not is_out(one)
        await one.run(storage.check)
        for bulkhead in (one, other):
            bulkhead.stop()

    run(scenario())


@pytest.mark.parametrize("root", ["/a", "/ä\udcff" + "x" * 300, "/" + "y" * 4000], ids=["short", "bytes", "long"])
def test_all_who_share_a_switch_know_what_the_storage_failed_with_last(tmp_path: Path, root: str) -> None:
    switches = [SharedSwitches(str(tmp_path / "s"), 3) for _ in range(2)]
    before, one, after = (switches[0].switch(index) for index in range(3))
    other = switches[1].switch(1)
    for state in State:
        one.set(state)
    one.hurry()
    assert [each.reason for each in (one, other)] == [None, None]

    for reason in ("another that is much longer than what comes then", "Input/output error"):
        one.blame(f"{root}: {reason}")
        shown = f"{root}: {reason}".encode(errors="replace")[:1020].decode()
        assert [each.reason for each in (one, other, before, after)] == [shown, shown, None, None]
    assert (one.get(), before.get(), after.get()) == (State.OUT, State.IN, State.IN)
    assert (one.hurried, before.hurried, after.hurried) == (True, False, False)


def test_a_reason_that_two_wrote_at_once_is_not_shown(tmp_path: Path) -> None:
    switches = SharedSwitches(str(tmp_path / "s"), 1)
    switch = switches.switch(0)
    switch.blame("/a: fsync: broken")
    at = switches.memory.find(b"fsync")
    switches.memory[at : at + 5] = b"write"
    assert switch.reason is None


def test_without_room_for_what_is_shared_each_has_switches_of_its_own(tmp_path: Path, mounts: Mounts) -> None:
    full = mounts.tmpfs(8 << 10)
    (full / "fill").write_bytes(bytes(8 << 10))
    for directory in (full, tmp_path / "gone"):
        switches = SharedSwitches(str(directory / "s"), 20)
        for index in range(20):
            switches.switch(index).set(State.OUT)
            switches.switch(index).blame(f"{index}: Input/output error")
        assert switches.switch(19).reason == "19: Input/output error"
        assert SharedSwitches(str(directory / "s"), 20).switch(0).get() == State.IN


def test_all_who_share_a_switch_know_for_a_moment_that_somebody_waits_for_the_disk(
    storage: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Bulkhead(storage, switch=SharedSwitches(str(tmp_path / "s"), 2).switch(1)) for _ in range(2))
    unconcerned = Bulkhead(storage, switch=SharedSwitches(str(tmp_path / "s"), 2).switch(0))
    alone = Bulkhead(storage)
    assert not other.switch.hurried
    one.switch.hurry()
    unconcerned.note(StorageError("there", "write", "hangs", dead=True))
    assert [each.switch.hurried for each in (one, other, unconcerned, alone)] == [True, True, False, False]
    assert (is_out(one), is_out(other), is_out(unconcerned)) == (False, False, True)
    alone.switch.hurry()
    assert alone.switch.hurried
    later = time.monotonic() + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert not any(each.switch.hurried for each in (one, other, alone))


def test_a_storage_that_fails_to_write_is_read_and_not_written_until_a_probe_succeeds(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        break_disk(monkeypatch, "fsync", storage.root)
        with pytest.raises(StorageError):
            await bulkhead.run(storage.probe)
        assert is_unwritable(bulkhead)
        assert not is_out(bulkhead)
        with pytest.raises(StorageError):
            await bulkhead.run(int, writing=True)
        assert await bulkhead.run(int) == 0
        await bulkhead.recover()
        assert is_unwritable(bulkhead)
        monkeypatch.undo()
        await bulkhead.recover()
        assert not is_unwritable(bulkhead)

    run(scenario())


def test_a_storage_that_is_out_is_not_read_since_a_write_that_was_under_way_fails_as_well(
    storage: Directory, bulkhead: Bulkhead
) -> None:
    async def scenario() -> None:
        bulkhead.note(StorageError(storage.root, "open", "hangs", dead=True))
        bulkhead.note(StorageError.from_os(storage.root, "write", OSError(errno.EIO, "broken"), writing=True))
        assert is_out(bulkhead)

    run(scenario())


def test_a_storage_that_was_out_and_fails_to_write_is_read_again(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        bulkhead.note(StorageError(storage.root, "open", "hangs", dead=True))
        break_disk(monkeypatch, "fsync", storage.root)
        await bulkhead.recover()
        assert (is_out(bulkhead), is_unwritable(bulkhead)) == (False, True)

    run(scenario())


def test_a_storage_whose_root_takes_no_directories_is_not_written_until_it_does(mounts: Mounts) -> None:
    needs.tool("chattr")
    storage = adopted(mounts.ext4())

    def publish() -> None:
        with storage.stage(6) as staged:
            staged.write(b"a blob")
            staged.publish(Digest.of(b"a blob"))

    def change(flag: str) -> None:
        subprocess.run(["chattr", flag, storage.root], check=True)

    async def scenario() -> None:
        bulkhead = Bulkhead(storage)
        change("+i")
        try:
            with pytest.raises(StorageError):
                await bulkhead.run(publish)
            assert is_unwritable(bulkhead)
            await bulkhead.recover()
            assert is_unwritable(bulkhead)
            assert "give it to Stor's user" in str(bulkhead.switch.reason)
        finally:
            change("-i")
        await bulkhead.recover()
        assert not is_unwritable(bulkhead)
        await bulkhead.run(publish)
        bulkhead.stop()

    run(scenario())


def test_a_full_disk_is_not_out(storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        break_disk(monkeypatch, "write", storage.root, errno.ENOSPC)
        await bulkhead.run(storage.probe)
        assert not is_out(bulkhead)

    run(scenario())


def test_a_storage_that_is_slow_is_asked_last_and_forgiven_when_it_is_quick_again(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        await bulkhead.run(time.sleep, 0.5)
        assert is_slow(bulkhead)
        for _ in range(30):
            await bulkhead.recover()
        assert not is_slow(bulkhead)

    run(scenario())


def test_how_long_a_sync_takes_makes_no_storage_slow(bulkhead: Bulkhead) -> None:
    async def scenario() -> None:
        await bulkhead.begin(time.sleep, 0.5, waits=True).result()
        assert not is_slow(bulkhead)

    run(scenario())


@pytest.mark.parametrize("name", ["prove", "recover", "enqueue"])
def test_a_step_that_syncs_makes_no_storage_slow_and_a_note_or_a_probe_has_the_time_of_a_write(
    storage: Directory, bulkhead: Bulkhead, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def take_long(*_: object) -> None:
        time.sleep(0.4)

    monkeypatch.setattr(storage, "probe", take_long)
    monkeypatch.setattr(storage, "enqueue", take_long)

    async def scenario() -> None:
        match name:
            case "prove":
                monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.2))
                await bulkhead.prove(0.0)  # it counts from here
                await bulkhead.prove(0.0)
            case "recover":
                bulkhead.note(StorageError("/a", "open", "hangs", dead=True))
                await bulkhead.recover()
            case "enqueue":
                monkeypatch.setattr(storage, "timeouts", Timeouts(answer=0.2))
                await bulkhead.enqueue("repair", BLOB)
        assert not is_slow(bulkhead)

    run(scenario())


def test_a_disk_that_hangs_is_out_though_nobody_asks_it_for_anything(
    storage: Directory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hang = Hang()
    monkeypatch.setattr(storage, "probe", hang)
    monkeypatch.setattr(bulkhead_, "WRITE_TIMEOUT", 0.05)
    now = clock(monkeypatch, breaker)
    switches = [SharedSwitches(str(tmp_path / "switches"), 1).switch(0) for _ in range(2)]

    async def scenario() -> None:
        members = [Bulkhead(storage, switch=switch) for switch in switches]
        for member in members * 2:
            await member.prove(60)  # there is time
        assert hang.begun == 0
        now[0] += 60
        with pytest.raises(StorageError):
            await members[1].prove(60)
        await members[0].prove(0.0)
        assert hang.begun == 1
        assert is_out(members[0])
        hang.over.set()
        for member in members:
            member.stop()

    run(scenario())


def test_a_disk_is_proved_by_one_of_all_and_only_if_it_is_local_writable_and_in_use(
    storage: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = list[int]()
    monkeypatch.setattr(storage, "probe", lambda: probed.append(1))
    switch, now = SharedSwitches(None, 1).switch(0), clock(monkeypatch, breaker)

    async def scenario() -> None:
        members = [Bulkhead(storage, switch=switch) for _ in range(2)]
        await members[0].prove(60)  # from now on
        assert probed == []
        now[0] += 60
        for member in members:
            await member.prove(60)
        assert len(probed) == 1
        for name in ("local", "writable"):
            with monkeypatch.context() as other:
                other.setattr(storage, name, False)
                await members[0].prove(0.0)
        switch.set(State.UNWRITABLE)
        await members[0].prove(0.0)
        assert len(probed) == 1
        for member in members:
            member.stop()

    run(scenario())


def test_a_read_only_storage_is_probed_by_reading(tmp_path: Path) -> None:
    adopted(tmp_path / "a")
    storage = Directory(str(tmp_path / "a"), writable=False)
    before = sorted(tmp_path.rglob("*"))
    storage.attach()
    storage.probe()
    assert sorted(tmp_path.rglob("*")) == before
