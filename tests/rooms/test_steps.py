"""When an operation on one replica is late, by a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pystor import steps
from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.steps import OnReplica
from tests.rooms.tools import run

BLOB = Digest.of(b"a blob")


class Asked:
    """An inquiry that takes note of what it is asked; the storage is always well."""

    def __init__(self) -> None:
        self.since: list[float] = []
        self.late: set[object] = set()

    def ask(self, since: float) -> None:
        self.since.append(since)

    def is_well_but_for(self, of: Replica | Digest, step: object, since: float) -> bool:
        assert (of, since) == (BLOB, self.since[-1])
        self.late.add(step)
        return True

    def has_come(self, step: object) -> None:
        self.late.remove(step)


class Begun:
    """A step whose job does what the test says, and the time, which is 0 when it begins to wait for a thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.inquiry = Asked()
        future = asyncio.get_running_loop().create_future()
        executor = SimpleNamespace(full=True, came_back=0.0)
        job: Any = SimpleNamespace(future=future, began=None, done=False, late=None, executor=executor)
        member: Any = SimpleNamespace(storage=SimpleNamespace(root="/a", answers_since=lambda _: False))
        inquiry: Any = self.inquiry
        self.job = job
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: self.now))
            self.step: OnReplica[bytes] = OnReplica(member, job, "read", 2.0, of=BLOB, inquiry=inquiry)

    def look(self, now: float) -> None:
        """Have the step look at the clock, as its timer does."""
        self.step._patience.cancel()
        self.now = now
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: self.now))
            self.step._expire()


@contextmanager
def begun() -> Iterator[Begun]:
    made = Begun()
    try:
        yield made
    finally:
        made.step._patience.cancel()


def test_a_storage_is_asked_for_something_else_when_half_of_the_time_since_a_thread_began_is_over() -> None:
    async def scenario() -> None:
        with begun() as late:
            late.look(1.0)
            assert late.inquiry.since == [0.0]  # there is no thread yet
            late.job.began = 1.5
            late.look(2.0)
            assert late.inquiry.since == [0.0]
            late.look(2.5)
            assert late.inquiry.since == [0.0, 1.5]
            assert not late.job.future.done()
            late.look(3.5)
            error = late.job.future.exception()
            assert isinstance(error, StorageError)
            assert (error.unreadable, error.dead, late.inquiry.late) == (True, False, {late.step})
            late.job.late(None)
            assert late.inquiry.late == set()

    run(scenario())


def test_what_has_come_before_anybody_waits_for_it_is_not_late() -> None:
    async def scenario() -> None:
        with begun() as come:
            come.job.began = 0.0
            come.look(1.0)
            come.job.future.set_result(b"read")
            come.look(2.0)
            assert (come.job.future.result(), come.inquiry.late) == (b"read", set())

    run(scenario())
