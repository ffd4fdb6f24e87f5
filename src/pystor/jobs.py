"""Work that is put off: durable queues of digests in the storages, worked off in the background.

Each storage keeps its own entries, so that they are mounted, lost and found together with what they are about. Any
worker may work a storage's queue off, one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from pystor.blob import QueueName
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError, StorError
from pystor.events import JobDone, Observer, StorageFailed
from pystor.pool import Pool

Job: TypeAlias = Callable[[Digest], Awaitable[int]]
"""Does what is to be done about a blob; returns how many bytes that took. Raises `StorError` to be tried again."""

_LONGEST_PAUSE: Final = 5.0  # seconds
_AT_ONCE: Final = 10_000
"""Entries that are read from a queue in one go."""


class Queue:
    """The entries of one queue in all storages of a pool, and what is to be done about them."""

    def __init__(
        self,
        name: QueueName,
        pool: Pool,
        job: Job,
        *,
        observe: Observer,
        period: float = 1.0,
        files_per_second: float = 100.0,
        bytes_per_second: float = 100e6,
    ) -> None:
        """Look for entries every `period` seconds; work no faster than the two rates."""
        self._name: Final = name
        self._pool: Final = pool
        self._job: Final = job
        self._observe: Final = observe
        self._period: Final = period
        self._files_per_second: Final = files_per_second
        self._bytes_per_second: Final = bytes_per_second
        self._task: asyncio.Task[None] | None = None
        self._more = False
        self.length = 0
        """Entries that were left when they were last looked at, those of this process's turn."""

    async def start(self) -> None:
        """Begin to work in the background."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what was begun is begun again by whoever comes next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = self._period
        while True:
            left = await self.work_off()
            # What failed a moment ago fails again: ask less often, but what is new must not wait long.
            pause = min(pause * 2, _LONGEST_PAUSE) if left else self._period
            await asyncio.sleep(pause)

    async def work_off(self, tell: Callable[[Digest, str], None] = lambda *_: None) -> int:
        """Do what there is to do now; returns how many entries are left because they failed."""
        members = [member for member in self._pool.members() if member.storage.writable]
        left = await asyncio.gather(*(self._work_off_one(member, tell) for member in members))
        self.length = sum(left)
        return self.length

    async def work_off_all(self, tell: Callable[[Digest, str], None]) -> int:
        """Do the same, again as long as a queue holds more than is read in one go."""
        self._more = True
        left = 0
        while self._more:
            self._more = False
            left = await self.work_off(tell)
        return left

    async def _work_off_one(self, member: Bulkhead, tell: Callable[[Digest, str], None]) -> int:
        try:
            turn = await member.run(member.storage.take_turn, self._name)
            if turn is None:
                return 0
            try:
                digests = await member.run(member.storage.pending, self._name, _AT_ONCE)
                done = sum([await self._do(member, digest, tell) for digest in digests])
                self._more |= done > 0 and len(digests) == _AT_ONCE
                return len(digests) - done
            finally:
                # In a thread, as all that may take as long as the storage does; also when this is ended.
                await asyncio.shield(member.run(turn.close, certain=True))
        except StorageError as error:
            self._observe(StorageFailed(error))
            return 1

    async def _do(self, member: Bulkhead, digest: Digest, tell: Callable[[Digest, str], None]) -> bool:
        began = time.monotonic()
        try:
            size = await self._job(digest)
            await member.run(member.storage.dequeue, self._name, digest)
        except StorError as error:
            tell(digest, str(error))
            return False
        tell(digest, "done")
        self._observe(JobDone(self._name, digest, size))
        pause = max(1 / self._files_per_second, size / self._bytes_per_second) - (time.monotonic() - began)
        await asyncio.sleep(max(0.0, pause))
        return True
