"""Work that is put off: durable queues of digests in the storages, worked off in the background.

Each storage keeps its own entries, so that they are mounted, lost and found together with what they are about. Any
worker may work off what the storages of a replica set have noted, one at a time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Final, NamedTuple, TypeAlias

from pystor.background import Tasks, end, tolerated
from pystor.blob import QueueName, Turn
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import NotFound, StorageError, StorError, Unavailable
from pystor.events import JobDone, Observer, StorageFailed
from pystor.lengths import Lengths
from pystor.pool import Pool
from pystor.replicas import ReplicaSet

DONE: Final = "done"
"""What is told of a blob when all is well with it."""

Tell: TypeAlias = Callable[[Digest, str], None]
"""Is told of each blob how that went."""

_LOOKED_AT: Final = 32
"""Storages that are looked at in a period, in turn: with a thousand of them that would else be all that is done."""
_LONGEST_PAUSE: Final = 5.0  # seconds
_BUSY_FOR: Final = 0.2
"""Seconds after which who waits for the turn of somebody else tries again to have it."""
_LONG: Final = 2
"""Times that it was not to be had: who only looks for entries has it for a moment."""
_YOUNG: Final = 60.0
"""Seconds for which an entry stays whose blob nobody has: its upload notes that before there is a name, which may hang,
and if the upload is killed then, nobody notes it again."""
_AT_ONCE: Final = 10_000
"""Entries that are read from the queue of one storage in one go."""


@dataclass(slots=True)
class _Found:
    """What the storages of a set have noted."""

    noted: dict[Digest, list[Bulkhead]] = field(default_factory=dict)
    """The blobs, and who has noted each."""
    failed: int = 0
    """Storages that did not answer."""
    filled: list[Bulkhead] = field(default_factory=list)
    """Those that may have noted more than is read in one go."""


@dataclass(slots=True)
class _Progress:
    """How far this process is with the entries of one set."""

    index: int
    """Which one of the pool's sets it is."""
    left: int = 0
    """Blobs that waited when it was looked at last."""
    pause: float = 0.0
    """Seconds for which it was left alone last, since something failed."""
    rests_until: float = 0.0
    """When that is over, on the monotonic clock."""
    under_way: bool = False
    """Whether it is being looked after in the background."""


class _Done(NamedTuple):
    """What is left of the entries of a set."""

    left: int
    """Entries, and storages that did not answer, that are to be tried again."""
    more: bool
    """Whether there may be entries that were not read yet."""
    busy: bool = False
    """Whether somebody else is at work on them, so that nothing was done."""


def _tell_nobody(_: Digest, __: str) -> None:
    pass


class Queue:
    """The entries of one queue in all storages of a pool, and what is to be done about them."""

    def __init__(
        self,
        name: QueueName,
        pool: Pool,
        job: Callable[[Digest], Awaitable[int]],
        *,
        observe: Observer,
        period: float = 1.0,
        files_per_second: float = 100.0,
        bytes_per_second: float = 100e6,
        lengths: Lengths | None = None,
    ) -> None:
        """Look for entries every `period` seconds, in some of many sets; work no faster than the two rates.

        `job` does what is to be done about a blob; it returns how many bytes that took, and raises `StorError` to be
        tried again; what is `NotFound` is for a minute only. `lengths` is shared with all processes that work on the
        queue.
        """
        self.name: Final = name
        self._pool: Final = pool
        self._job: Final = job
        self._observe: Final = observe
        self._period: Final = period
        self._files_per_second: Final = files_per_second
        self._bytes_per_second: Final = bytes_per_second
        self._tasks: Final = Tasks()
        self._lengths: Final = Lengths(None, len(pool.sets)) if lengths is None else lengths
        self._progress: Final = {replica_set: _Progress(index) for index, replica_set in enumerate(pool.sets)}
        self._beyond: Final[dict[Bulkhead, int]] = {}  # entries that failed, behind which the next are read
        storages = sum(len(replica_set.members) for replica_set in pool.sets)
        self._at_a_time: Final = math.ceil(len(pool.sets) * min(1.0, _LOOKED_AT / max(1, storages)))
        self._rotation: Final = cycle(pool.sets)

    @property
    def length(self) -> int:
        """Blobs that wait, as whichever process looked last at each set has found."""
        return self._lengths.total()

    async def start(self) -> None:
        """Begin to work in the background."""
        self._tasks.begin(self._run())

    async def stop(self) -> None:
        """End; what was begun is begun again by whoever comes next."""
        await end(self._tasks)

    async def _run(self) -> None:
        while True:
            now = time.monotonic()
            for replica_set in self._next_sets():
                progress = self._progress[replica_set]
                if not progress.under_way and progress.rests_until <= now:
                    progress.under_way = True
                    self._tasks.begin(self._look_after(replica_set, progress))
            await asyncio.sleep(self._period)

    async def _look_after(self, replica_set: ReplicaSet, progress: _Progress) -> None:
        """Do what there is to do for a set, however long that takes: others are looked after meanwhile."""
        try:
            left = 1
            with tolerated(f"The queue {self.name}"):
                left = (await self._work_off_set(replica_set, _tell_nobody)).left
            # What failed a moment ago fails again: ask less often, but what is new must not wait long.
            progress.pause = min((progress.pause or self._period) * 2, _LONGEST_PAUSE) if left else 0.0
            progress.rests_until = time.monotonic() + progress.pause
        finally:
            progress.under_way = False

    def _next_sets(self) -> Collection[ReplicaSet]:
        """Choose some sets in turn, and those of which it is known that something is to be done."""
        known = [replica_set for replica_set in self._pool.sets if self._is_known_to_wait(replica_set)]
        return dict.fromkeys([*known, *islice(self._rotation, self._at_a_time)])

    def _is_known_to_wait(self, replica_set: ReplicaSet) -> bool:
        return self._progress[replica_set].left > 0 or any(self.name in each.noted for each in replica_set.members)

    async def work_off(self, tell: Tell = _tell_nobody, wait: Callable[[ReplicaSet], None] | None = None) -> int:
        """Do what there is to do now, however much that is; returns how many entries are left because they failed.

        A set that somebody else is at work on is left to him, or waited for if `wait` is given, which is told of each
        for which that takes a while.
        """
        return sum(await asyncio.gather(*(self._finish(each, tell, wait) for each in self._pool.sets)))

    async def _finish(self, replica_set: ReplicaSet, tell: Tell, wait: Callable[[ReplicaSet], None] | None) -> int:
        """Do what there is to do for a set, in as many goes as that takes; returns how many entries have failed."""
        left = waited = 0
        while True:
            done = await self._work_off_set(replica_set, tell)
            left += done.left
            if done.busy and wait is not None:
                waited += 1
                if waited == _LONG:
                    wait(replica_set)
                await asyncio.sleep(_BUSY_FOR)
            elif not done.more:
                return left

    async def do(self, digest: Digest, tell: Tell, noted_by: Sequence[Bulkhead] = ()) -> bool:
        """Do what is to be done about a blob, and wait as the rates want it, which holds for what fails, too."""
        began = time.monotonic()
        size, outcome = await self._try(noted_by, digest, tell)
        pause = max(1 / self._files_per_second, size / self._bytes_per_second) - (time.monotonic() - began)
        await asyncio.sleep(max(0.0, pause))
        return outcome == DONE

    async def _work_off_set(self, replica_set: ReplicaSet, tell: Tell) -> _Done:
        """Do what any storage of a set has noted: once, though all of them may have noted it."""
        failed = []
        async with AsyncExitStack() as turns:
            found = await self._look_at(replica_set, turns)
            if found is None:
                return _Done(0, more=False, busy=True)
            progress = self._progress[replica_set]
            self._leave(progress, len(found.noted))
            for digest, members in found.noted.items():
                if await self.do(digest, tell, members):
                    self._leave(progress, progress.left - 1)
                else:
                    failed.append(digest)
        self._pass_over(replica_set, found, failed)
        return _Done(len(failed) + found.failed, more=bool(found.filled))

    def _leave(self, progress: _Progress, left: int) -> None:
        """Take note of how many wait, and tell all who work on the queue."""
        progress.left = left
        self._lengths.tell(progress.index, left)

    def _pass_over(self, replica_set: ReplicaSet, found: _Found, failed: Sequence[Digest]) -> None:
        """Read on behind what failed, however much that is; from the beginning again after the last one."""
        for member in replica_set.members:
            stuck = sum(member in found.noted[digest] for digest in failed)
            self._beyond[member] = self._beyond.get(member, 0) + stuck if member in found.filled else 0

    async def _look_at(self, replica_set: ReplicaSet, turns: AsyncExitStack) -> _Found | None:
        """See what is noted; None if somebody else has the turn of one of the storages."""
        found = _Found()
        news = [member for member in replica_set.members if self.name in member.noted]
        for member in filter(self._is_worked_on, replica_set.members):
            member.noted.discard(self.name)
            try:
                turn = await member.run(member.storage.take_turn, self.name)
                if turn is None:
                    for each in news:  # whoever has the turn may have looked already
                        each.noted.add(self.name)
                    return None
                turns.push_async_callback(self._end_turn, member, turn)
                beyond = self._beyond.get(member, 0)
                # A directory of millions, cold or behind many that fail, takes a disk that is well long.
                digests = await member.run(member.storage.pending, self.name, _AT_ONCE, beyond, waits=True)
            except StorageError as error:
                self._observe(StorageFailed(error))
                found.failed += 1
                continue
            if len(digests) == _AT_ONCE:
                found.filled.append(member)
            for digest in digests:
                found.noted.setdefault(digest, []).append(member)
        return found

    def _is_worked_on(self, member: Bulkhead) -> bool:
        """Tell whether it is: what takes no writes is not mended, but may be on its way out, and is mirrored before."""
        return member.storage.writable or self.name == "mirror"

    async def _end_turn(self, member: Bulkhead, turn: Turn) -> None:
        """End it in a thread, as all that may take as long as the storage does; also when this is cancelled."""
        try:
            await member.run(turn.close, certain=True)
        except StorageError as error:
            self._observe(StorageFailed(error))

    async def _try(self, members: Sequence[Bulkhead], digest: Digest, tell: Tell) -> tuple[int, str]:
        """Do it, and tell how that went; gives the bytes that took, and what was told."""
        size, outcome = 0, "failed unexpectedly; the log says how"
        with tolerated(f"The queue {self.name}, blob {digest.hex},"):
            size, outcome = await self._attempt(members, digest)
        tell(digest, outcome)
        return size, outcome

    async def _attempt(self, members: Sequence[Bulkhead], digest: Digest) -> tuple[int, str]:
        """Do it, and forget the entry unless it is news by then."""
        before, size = time.time(), None
        try:
            try:
                size = await self._job(digest)
            except NotFound:
                before -= _YOUNG
            for member in members:
                await member.run(member.storage.dequeue, self.name, digest, before, waits=True)
        except StorError as error:
            if isinstance(error, StorageError):
                self._observe(StorageFailed(error, digest))
            return error.copied if isinstance(error, Unavailable) else 0, str(error)
        if size is not None:
            self._observe(JobDone(self.name, digest, size))
        return size or 0, DONE
