"""A few threads that work off what an event loop gives them.

As long as jobs are quick, one thread at a time is the quickest: more of them would only wait for the interpreter's
lock, each at every system call. When jobs take their time, or one hangs, there are as many threads as jobs, up to a
limit. A job that is known to wait for the disk has one of its own at once; a few are kept for those that do not wait.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

from pystor import processors

_T = TypeVar("_T")

_QUICK: Final = 0.002  # seconds for each thing that a job does; what takes longer is waited for by a thread of its own
_WEIGHT: Final = 0.2  # of the newest time in the running average
_DELAY: Final = 0.005  # seconds for which a job stays first in the queue before another thread is called
_KEPT: Final = 4  # one thread of so many is for jobs that do not wait for the disk


def one(_: object) -> int:
    """Tell that one thing was done."""
    return 1


@dataclass(slots=True, eq=False)
class Job(Generic[_T]):
    """One call, and the future that learns its result. What comes when nobody waits any more is closed."""

    executor: Executor
    """Whose threads do it, and close what comes too late."""
    _call: Callable[..., _T]
    _arguments: tuple[object, ...]
    certain: bool
    """Whether it is done even if nobody waits any more when it begins."""
    waits: bool = False
    """Whether it waits for the disk, and is not in the way of others while it does."""
    count: Callable[[_T], int] = one
    """Tells of a result how many things were done for it, one after the other."""
    things: int = 1
    """How many it did."""
    seconds: float = field(default_factory=lambda: -time.monotonic())  # to which the end is added
    """How long it took from being given until its result was there."""
    began: float | None = None
    """When a thread began it, on the monotonic clock; None while it waits for one."""
    done: bool = False
    """Whether a thread is through with it: then it is about to be told, as soon as the event loop comes to that."""
    failed: float = math.inf
    """When it raised, on the monotonic clock; its thread may have begun another job since, before that is known."""
    late: Callable[[BaseException | None], None] | None = None
    """Called with what it raised, or None, if it ends when the future is done already; to be set before that."""
    future: asyncio.Future[_T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def run(self) -> None:
        """Do it, in whichever thread."""
        if self.future.done() and not self.certain:
            return
        result, error = None, None
        try:
            result = self._call(*self._arguments)
            self.things = max(1, self.count(result))
        except BaseException as raised:  # noqa: BLE001  whatever it is belongs to whoever waits for it
            error = raised
            self.failed = time.monotonic()
        self.done = True
        if self.future.done():
            close(result)
            if self.late is None:
                return
            result = None
        try:
            self.future.get_loop().call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            close(result)

    def abandon(self) -> None:
        """Wait no more; what has come, perhaps in this very moment, is closed."""
        self.future.cancel()
        if self.future.done() and not self.future.cancelled() and self.future.exception() is None:
            self.executor.dispose(self.future.result())

    def _settle(self, result: Any, error: BaseException | None) -> None:
        self.seconds += time.monotonic()
        if self.future.done():
            self.executor.dispose(result)
            if self.late is not None:
                self.late(error)
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def close(result: Any) -> None:
    """Close what can be closed."""
    if hasattr(result, "close"):
        result.close()


def _take(entries: list[None]) -> bool:
    """Take one of so many entries; False if none is left. No two threads get the same."""
    try:
        entries.pop()
    except IndexError:
        return False
    return True


class Executor:
    """Threads of one name, started as work comes. To be given work from an event loop."""

    def __init__(self, name: str, limit: int, *, roams: bool = True) -> None:
        """Begin with no thread at all; there are never more than `limit`, nor do all of them wait for the disk at once.

        `roams`: they run on any processor, or else where the event loop runs.
        """
        self._name: Final = name
        self._roams: Final = roams
        self._limit: Final = limit
        self._threads = 0
        self._pace = 0.0
        self._jobs: Final[deque[Job[Any]]] = deque()
        self._idle: Final[list[None]] = []  # an entry for each thread that waits to be called
        self._most_waiting: Final = max(1, limit - max(1, limit // _KEPT))
        self._may_wait: Final = [None] * self._most_waiting  # an entry for each further job that may wait for the disk
        self._held: Final[deque[Job[Any]]] = deque()  # those that wait for the disk, until they may
        self._calls: Final[SimpleQueue[bool]] = SimpleQueue()
        self._watched = False
        self._stopped = False
        self.came_back = 0.0
        """When a thread was last through with a job, on the monotonic clock."""

    @property
    def room(self) -> int:
        """How many more jobs of any kind would find a thread, even if none that is at work now ever came back."""
        idle = self._limit - (self._threads - len(self._idle)) - len(self._jobs)
        return min(idle, len(self._may_wait) - len(self._held))

    @property
    def full(self) -> bool:
        """Whether it has all the threads that it may have, or all that may wait for the disk do."""
        return self._threads == self._limit or bool(self._held)

    def give(
        self,
        call: Callable[..., _T],
        arguments: tuple[object, ...],
        *,
        certain: bool = False,
        waits: bool = False,
        ahead: bool = False,
        count: Callable[[_T], int] = one,
    ) -> Job[_T]:
        """Have a call done, in its turn; `certain`: even if nobody waits any more before it begins.

        `waits`: it is known to wait for the disk. `ahead`: it comes before all that no thread has begun. `count` tells
        of the result how many things were done: the job was quick if each of them was.
        """
        job = Job(self, call, arguments, certain=certain, waits=waits, count=count)
        self._submit(job, ahead=ahead)
        return job

    def dispose(self, result: object) -> None:
        """Close what came in the very moment in which nobody wanted it any more, in a thread: it may take long."""
        if hasattr(result, "close"):
            self.give(close, (result,), certain=True)

    def _submit(self, job: Job[Any], *, ahead: bool) -> None:
        queue = self._held if job.waits else self._jobs
        if ahead:
            queue.appendleft(job)
        else:
            queue.append(job)
        if job.waits and not self._let_one_wait():
            return
        waiting = self._most_waiting - len(self._may_wait)  # for the disk, and not for the interpreter
        if self._pace > _QUICK or len(self._idle) + waiting >= self._threads:
            self._call_one()
        else:
            self._watch()

    def _let_one_wait(self) -> bool:
        """Let the next job that waits for the disk be begun, if it may.

        To be asked by whoever has added one, and by whoever is through with one: one of them sees what the other did.
        """
        while self._held:
            if not _take(self._may_wait):
                return False
            try:
                self._jobs.append(self._held.popleft())
            except IndexError:
                self._may_wait.append(None)
            else:
                return True
        return False

    def _call_one(self) -> None:
        """Call a thread that is idle, or start another if there may be one more."""
        started = not _take(self._idle)
        if started and not (self._threads < self._limit and self._start_thread()):
            return
        self._calls.put(True)
        if started and self._stopped:
            self._calls.put(False)

    def _start_thread(self) -> bool:
        """Start a thread; False if the system has none to give now, which is tried again in a moment."""
        try:
            # A thread that hangs in a dead mount must not keep the process from ending: hence daemons.
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:
            self._watch()
            return False
        self._threads += 1
        return True

    def _watch(self) -> None:
        """Look in a moment whether the threads get on."""
        if self._watched:
            return
        self._watched = True
        asyncio.get_running_loop().call_later(_DELAY, self._look, self._jobs[0] if self._jobs else None)

    def _look(self, first: Job[Any] | None) -> None:
        """Call another thread if the job that was the `first` to wait still is."""
        self._watched = False
        jobs = tuple(self._jobs)
        if not jobs:
            return
        if jobs[0] is first:
            self._call_one()
        self._watch()

    def _run(self) -> None:
        """Live as a thread: do what there is at each call, until the call to end."""
        if self._roams:
            processors.roam()
        goes_on = True
        while goes_on:
            goes_on = self._calls.get()
            self._work_off()  # also after the call to end, which may have been meant for a thread that hangs

    def _work_off(self) -> None:
        """Do what there is. Whoever adds a job meanwhile sees this thread at work, or this thread sees the job."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                self._idle.append(None)
                if not (self._jobs and _take(self._idle)):
                    return  # all that were idle, and so this thread, have been called to what has come meanwhile
                continue
            job.began = began = time.monotonic()
            job.run()
            self.came_back = now = time.monotonic()
            if job.waits:
                self._may_wait.append(None)
                self._let_one_wait()  # it is for this thread, or for the one that was called for what this one takes
            else:
                self._pace += ((now - began) / job.things - self._pace) * _WEIGHT

    def stop(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._stopped = True
        for _ in range(self._threads):
            self._calls.put(False)
