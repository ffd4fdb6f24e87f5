"""Threads that keep to one processor, and those that roam. What the kernel says of each is what counts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pystor import processors
from pystor.executor import Executor
from tests.rooms.tools import run

ALL = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def nowhere_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These tests keep threads of their own to a processor, not this process."""
    monkeypatch.setattr(processors, "_all", set())
    yield
    assert os.sched_getaffinity(0) == ALL


def in_a_thread(do: Callable[[], Any]) -> Any:
    """What is changed for a thread goes with it."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(do()))
    thread.start()
    thread.join()
    return results[0]


def where() -> set[int]:
    return os.sched_getaffinity(0)


def roam() -> set[int]:
    processors.roam()
    return where()


@pytest.mark.parametrize("number", [0, 1, len(ALL), 1000])
def test_a_worker_keeps_to_one_processor_with_all_that_it_starts(number: int) -> None:
    def keep() -> tuple[set[int], set[int]]:
        processors.keep_to_one(number)
        return where(), in_a_thread(where)

    mine, its = in_a_thread(keep)
    assert mine == its == {sorted(ALL)[number % len(ALL)]}


def test_a_thread_that_roams_may_run_wherever_the_worker_might() -> None:
    def keep() -> tuple[set[int], set[int]]:
        processors.keep_to_one(0)
        return in_a_thread(roam), where()

    roaming, mine = in_a_thread(keep)
    assert roaming == ALL
    assert len(mine) == 1


def test_where_no_worker_keeps_to_a_processor_nobody_undoes_what_an_operator_has_set() -> None:
    def narrow() -> set[int]:
        os.sched_setaffinity(0, {min(ALL)})
        processors.roam()
        return where()

    assert in_a_thread(narrow) == {min(ALL)}


def test_where_it_is_forbidden_all_threads_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    processors.keep_to_one(0)
    processors.roam()
    assert where() == ALL


def test_processors_are_taken_when_there_is_a_worker_for_each() -> None:
    assert [processors.are_taken_by(len(ALL) + more) for more in (-1, 0, 1)] == [False, True, True]


@pytest.mark.parametrize(("roams", "there"), [(True, ALL), (False, {min(ALL)})])
def test_an_executor_roams_or_stays_with_the_event_loop(roams: bool, there: set[int]) -> None:
    async def scenario() -> set[int]:
        processors.keep_to_one(0)
        executor = Executor("somewhere", 1, roams=roams)
        found = await executor.give(where, ()).future
        executor.stop()
        return found

    assert in_a_thread(lambda: run(scenario())) == there
