"""Whether a storage has a blob, asked for many blobs in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pystor.batches import Batches
from pystor.blob import Replica, Storage
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.executor import close
from pystor.rounds import Done, one_by_one
from pystor.steps import Known, Step, outcomes


class _Look(Step[Replica | None]):
    """The look for one blob."""

    def __init__(self, digest: Digest) -> None:
        self.digest: Final = digest
        self.found: Final[asyncio.Future[Replica | None]] = asyncio.get_running_loop().create_future()

    async def result(self) -> Replica | None:
        return await self.found

    def abandon(self) -> None:
        if not self.found.cancel() and not self.found.cancelled() and self.found.exception() is None:
            close(self.found.result())

    def settle(self, outcome: Replica | Exception | None) -> None:
        """Tell what was found; what nobody waits for any more is closed."""
        if self.found.done():
            close(outcome)
        elif isinstance(outcome, Exception):
            self.found.set_exception(outcome)
        else:
            self.found.set_result(outcome)


class Looks:
    """The looks that wait for one storage. To be used from one event loop."""

    def __init__(self, member: Bulkhead) -> None:
        """Begin without any."""
        self._member: Final = member
        self._batches: Final = Batches(self._look)

    def begin(self, digest: Digest) -> Step[Replica | None]:
        """Begin to open its own replica of a blob: at once if the kernel knows, else with all who look there now."""
        if not self._member.storage.local:
            return self._member.begin_open_own(digest)
        found = self._member.storage.open_own_cached(digest)
        if found is not False:
            return Known(found)
        look = _Look(digest)
        self._batches.join(look)
        return look

    async def _look(self, batch: list[_Look], through: Callable[[], None]) -> None:
        try:
            done = await self._open(batch)
            through()
            rest = [self._member.begin_open_own(look.digest) for look in batch[len(done) :]]
            done += await outcomes(rest)
            for look, outcome in zip(batch, done, strict=True):
                look.settle(outcome)
        finally:
            for look in batch:
                look.found.cancel()

    async def _open(self, batch: Sequence[_Look]) -> Done:
        member, digests = self._member, [look.digest for look in batch]
        step = member.begin(_open, member.storage, digests, count=len, of=digests[0])
        outcome = await step.outcome()
        if isinstance(outcome, StorageError) and outcome.unreadable and len(batch) > 1:
            return Done()  # nobody knows which of them is late
        if isinstance(outcome, Exception):
            return Done([outcome] * len(batch))
        for each in outcome:
            if isinstance(each, StorageError):
                member.note(each)
        return outcome


def _open(storage: Storage, digests: Sequence[Digest]) -> Done:
    """Open replicas, in a thread."""
    return one_by_one(storage.open_own, digests)
