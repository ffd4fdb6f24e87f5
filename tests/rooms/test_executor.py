"""Threads that work off what they are given: one as long as that is quick, more when it is not."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from pystor import executor
from pystor.executor import Executor, Job
from tests.rooms.tools import eventually, no_thread_to_give, run


async def results(jobs: list[Job[Any]]) -> list[Any]:
    return [await job.future for job in jobs]


def test_quick_jobs_are_all_done_by_one_thread_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # However busy the machine is.
    monkeypatch.setattr(executor, "_QUICK", 30.0)
    monkeypatch.setattr(executor, "_DELAY", 30.0)
    done: list[tuple[int, int]] = []

    async def scenario() -> None:
        mine = Executor("quick", 8)
        for _ in range(50):
            begun = len(done)
            await results([mine.give(lambda n: done.append((n, threading.get_ident())), (n,)) for n in range(20)])
            assert [number for number, _ in done[begun:]] == list(range(20))
        mine.stop()

    run(scenario())
    assert len({thread for _, thread in done}) == 1


def test_slow_jobs_have_a_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_DELAY", 30.0)

    async def scenario() -> None:
        mine = Executor("slow", 4)
        for _ in range(8):
            await mine.give(time.sleep, (0.01,)).future
        together = threading.Barrier(4)
        await results([mine.give(together.wait, (5,)) for _ in range(4)])
        mine.stop()

    run(scenario())


@pytest.mark.parametrize(("things", "threads"), [(1, 2), (100, 1)])
def test_a_job_of_many_quick_things_is_quick(monkeypatch: pytest.MonkeyPatch, things: int, threads: int) -> None:
    """A batch takes its time; more threads than one would only wait for the interpreter's lock."""
    monkeypatch.setattr(executor, "_DELAY", 30.0)
    monkeypatch.setattr(executor, "_QUICK", 0.005)
    seen: set[int] = set()

    def work() -> int:
        seen.add(threading.get_ident())
        time.sleep(0.05)
        return things

    async def scenario() -> None:
        mine = Executor("batches", 2)
        for _ in range(8):
            await results([mine.give(work, (), count=int) for _ in range(2)])
        mine.stop()

    run(scenario())
    assert len(seen) == threads


def test_a_job_that_is_known_to_wait_for_the_disk_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_QUICK", 30.0)
    monkeypatch.setattr(executor, "_DELAY", 30.0)
    go_on = threading.Event()

    async def scenario() -> None:
        mine = Executor("waits", 4)
        waiting = [mine.give(go_on.wait, (20,), waits=True) for _ in range(3)]
        async with asyncio.timeout(5):
            await results([mine.give(int, ("5",)) for _ in range(20)])
        go_on.set()
        await results(waiting)
        mine.stop()

    run(scenario())


def test_how_long_jobs_wait_for_the_disk_makes_the_others_no_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_DELAY", 30.0)
    go_on, begun = threading.Event(), list[int]()

    def work() -> None:
        begun.append(1)
        assert go_on.wait(20)

    async def scenario() -> None:
        mine = Executor("waits", 4)
        for _ in range(8):
            await mine.give(time.sleep, (0.01,), waits=True).future
        await eventually(lambda: len(mine._idle) == mine._threads)  # the thread itself may take a moment longer
        jobs = [mine.give(work, ()) for _ in range(2)]
        await eventually(lambda: bool(begun))
        await asyncio.sleep(0.05)
        assert len(begun) == 1  # the other one has no thread of its own
        go_on.set()
        await results(jobs)
        mine.stop()

    run(scenario())


def test_a_job_that_hangs_does_not_hold_up_what_comes_behind_it() -> None:
    go_on = threading.Event()

    async def scenario() -> None:
        mine = Executor("hangs", 4)
        hanging = [mine.give(go_on.wait, (20,)) for _ in range(3)]
        async with asyncio.timeout(5):
            await results([mine.give(int, ("5",)) for _ in range(20)])
        go_on.set()
        await results(hanging)
        mine.stop()

    run(scenario())


def test_a_job_that_comes_in_the_moment_in_which_a_thread_goes_to_rest_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        mine = Executor("moment", 1)
        late = [Job(mine, int, ("5",), certain=False)]

        class Resting(list[None]):
            def append(self, entry: None) -> None:
                while late:
                    mine._jobs.append(late.pop())  # the thread seems to be at work: nobody is sent
                super().append(entry)

        job = late[0]
        monkeypatch.setattr(mine, "_idle", Resting())
        await mine.give(int, ("4",)).future
        async with asyncio.timeout(5):
            assert await job.future == 5
        mine.stop()

    run(scenario())


def test_an_executor_that_rests_wakes_for_each_job() -> None:
    async def scenario() -> None:
        mine = Executor("rests", 2)
        for number in range(3000):
            job = mine.give(int, (number,))
            async with asyncio.timeout(5):
                assert await job.future == number
        mine.stop()

    run(scenario())


def test_an_executor_that_gets_no_thread_has_one_as_soon_as_there_is_one() -> None:
    async def scenario() -> None:
        mine = Executor("none", 2)
        with no_thread_to_give():
            waiting = [mine.give(int, ("5",)) for _ in range(4)]
            await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            assert await results(waiting) == [5, 5, 5, 5]
        assert mine.room > 0
        mine.stop()

    run(scenario())


def test_a_thread_that_is_sent_after_the_end_for_what_waits_ends_as_well() -> None:
    hangs = threading.Event()

    async def scenario() -> None:
        mine = Executor("ends", 2)
        hanging, waiting = mine.give(hangs.wait, (20,)), mine.give(int, ("5",))
        mine.stop()
        async with asyncio.timeout(5):
            assert await waiting.future == 5
        hangs.set()
        await hanging.future
        await eventually(lambda: not any(thread.name == "ends" for thread in threading.enumerate()))

    run(scenario())
