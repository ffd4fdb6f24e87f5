"""Several small things that one thread does one after the other, as long as that is quick, on all storages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from pystor.blob import Storage
from pystor.bulkhead import Bulkhead
from pystor.errors import StorageError
from pystor.executor import Executor, close
from pystor.steps import Awaited, Running, Step

_T = TypeVar("_T")

_LONG: Final = 0.05
"""Seconds after which what is left of a batch is no longer done one after the other, but each by a thread."""


class Done(list[Any]):
    """What became of things, in their order, each a result or an exception; the rest were not begun."""

    def close(self) -> None:
        """Close what can be closed, since nobody wants it any more."""
        for each in self:
            close(each)


def one_by_one(do: Callable[[_T], object], things: Sequence[_T]) -> Done:
    """Go through things, as long as that is quick; at least one is done."""
    done = Done()
    until = time.monotonic() + _LONG
    for each in things:
        try:
            done.append(do(each))
        except Exception as error:  # noqa: BLE001  it belongs to whoever waits for this one
            done.append(error)
        if time.monotonic() > until:
            break
    return done


Work: TypeAlias = Callable[[Bulkhead, Sequence[_T]], Done]


class Round:
    """A work that goes from storage to storage in one thread: handing it to a thread of each costs more than the work.

    It is the `Member` of its step, and stands for the storage that it is at: that is to blame if it takes too long.
    """

    def __init__(self, members: Sequence[Bulkhead]) -> None:
        """Go from the first storage to the last."""
        self.done: Final[list[Done]] = []
        """What became of the things on each storage that it is through with."""
        self._members: Final = members
        self._seconds: Final[list[float]] = []  # for one of the things on each storage

    def begin(self, executor: Executor, work: Work[_T], things: Sequence[_T], timeout: float) -> Step[Done]:
        """Have it done; the result is `done`. All of it may take `timeout` seconds."""
        job = executor.give(self._go, (work, things), count=_how_many)
        step = Running(self, job, work.__name__.strip("_"), timeout)
        for member in self._members:
            member.remember(step)
        return step

    def _go(self, work: Work[_T], things: Sequence[_T]) -> Done:
        for member in self._members:
            began = time.monotonic()
            done = work(member, things)
            self._seconds.append((time.monotonic() - began) / max(1, len(done)))
            self.done.append(done)
        return Done(self.done)

    @property
    def _at(self) -> Bulkhead:
        return self._members[min(len(self.done), len(self._members) - 1)]

    @property
    def storage(self) -> Storage:
        """Where it is."""
        return self._at.storage

    def note(self, error: StorageError) -> StorageError:
        """Take note of a failure of the storage where it is."""
        return self._at.note(error)

    def has_answered_since(self, since: float) -> bool:
        """Tell whether the storage where it is answers probes."""
        return self._at.has_answered_since(since)

    def let_go(self, since: float) -> None:
        """Give up what waits for a thread of the storage where it is."""
        self._at.let_go(since)

    def note_time(self, _: float) -> None:
        """Tell each storage how long one of the things took there."""
        for member, seconds in zip(self._members, self._seconds, strict=True):
            member.note_time(seconds)

    def forget(self, step: Awaited[Any]) -> None:
        """Have no storage give up the step any more: nobody waits for it."""
        for member in self._members:
            member.forget(step)


def _how_many(done: Done) -> int:
    return sum(map(len, done))
