"""Replicas of which only a part is read are verified in the background: one at a time a storage, and not in a hurry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pystor.background import end, tolerated
from pystor.blob import Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.events import JobDone, Observer
from pystor.verification import Verifier

_WAITING_AT_MOST: Final = 1000
"""Blobs of a storage that are noted; one too many is noted when it is read again."""


class Scrub:
    """The replicas that are to be verified, for each storage, and the tasks that do it."""

    def __init__(
        self,
        verifier: Verifier,
        *,
        found_bad: Callable[[Replica, Digest], object],
        failed: Callable[[str, Digest, StorageError], object],
        observe: Observer,
        bytes_per_second: float,
    ) -> None:
        """Tell `found_bad` of replicas that are not their blob, and `failed` of those that could not be read.

        Each storage is read at `bytes_per_second` at most.
        """
        self._verifier: Final = verifier
        self._found_bad: Final = found_bad
        self._failed: Final = failed
        self._observe: Final = observe
        self._bytes_per_second: Final = bytes_per_second
        self._waiting: Final[dict[Bulkhead, dict[Digest, None]]] = {}
        self._tasks: Final[dict[Bulkhead, asyncio.Task[None]]] = {}

    def ask(self, member: Bulkhead, digest: Digest) -> None:
        """Have the replica of a blob verified, soon."""
        waiting = self._waiting.setdefault(member, {})
        if len(waiting) < _WAITING_AT_MOST:
            waiting[digest] = None
        if member not in self._tasks:
            self._tasks[member] = asyncio.create_task(self._work(member, waiting))

    async def stop(self) -> None:
        """End; what was not verified is when it is read again."""
        await end(self._tasks.values())

    async def _work(self, member: Bulkhead, waiting: dict[Digest, None]) -> None:
        try:
            while waiting:
                digest = next(iter(waiting))
                with tolerated(f"Verifying {digest.hex}"):
                    await self._look(member, digest)
                del waiting[digest]
        finally:
            del self._tasks[member]

    async def _look(self, member: Bulkhead, digest: Digest) -> None:
        try:
            replica = await member.open(digest)
            if replica is None:
                return
            with replica:
                if not self._verifier.knows(replica, digest):
                    await self._verify(member, replica, digest)
        except StorageError as error:
            self._failed(member.storage.root, digest, error)

    async def _verify(self, member: Bulkhead, replica: Replica, digest: Digest) -> None:
        good = await self._verifier.hash(member, replica, digest, self._bytes_per_second)
        self._observe(JobDone("verify", digest, replica.size))
        if not good:
            self._found_bad(replica, digest)
