"""One blob on its way to the storages of a replica set: on all of them, or on none that anybody is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from pystor.blob import QueueName, Staged, Storage
from pystor.bulkhead import WRITE_DEADLINE, Bulkhead, Step, outcomes
from pystor.digest import Digest
from pystor.errors import StorageError


class Upload:
    """The replicas of one blob on their way to some storages of a set: published everywhere, or discarded.

    To be used as `async with`; leaving it discards whatever was not published. Methods raise `StorageError`.
    """

    def __init__(self, staged: dict[Bulkhead, Staged], company: Company | None = None) -> None:
        """Take over replicas that are staged; see `stage`."""
        self._staged: Final = staged
        self._company: Final = company or Company(())

    @property
    def members(self) -> list[Bulkhead]:
        """The storages that it is on its way to."""
        return list(self._staged)

    @classmethod
    async def stage(cls, members: Iterable[Bulkhead], size: int, content: bytes | None) -> Upload:
        """Begin a blob of `size` bytes (0: unknown); `content` is all of it if it does not come in pieces.

        What is in memory is on stable storage when this returns, as after `sync`.
        """
        if content is None:
            return await cls._stage_in_turn(members, size)
        company = Company(tuple(members))
        try:
            upload = cls(await _stage_whole(company, content), company)
        except BaseException:
            company.leave()
            raise
        try:
            await _all(upload._commits(upload._staged))
        except BaseException:
            await upload.__aexit__()
            raise
        return upload

    @classmethod
    async def _stage_in_turn(cls, members: Iterable[Bulkhead], size: int) -> Upload:
        """Reserve room on one storage after the other.

        Of uploads that compete for the last room, those that get it on the first storage get it on all.
        """
        staged: dict[Bulkhead, Staged] = {}
        try:
            for member in members:
                staged[member] = await member.run(member.storage.stage, size, deadline=WRITE_DEADLINE, writing=True)
        except BaseException:
            await asyncio.shield(_discard(staged))
            raise
        return cls(staged)

    async def write(self, data: bytes | bytearray) -> None:
        """Append to every replica at once."""
        await self._each("write", data)

    async def sync(self) -> None:
        """Put every replica on stable storage, before the first one gets its name."""
        await self._each("sync")

    async def publish(self, digest: Digest, *, keep: Iterable[Bulkhead] = ()) -> None:
        """Give every replica its final name; what stood there on the members in `keep` goes to quarantine.

        If only some storages do it, their good replicas stay and the digest is put on their repair queues; what is
        raised keeps anybody from acknowledging it.
        """
        await _all({member: member.begin(self._staged[member].set_aside, digest) for member in keep})
        results = await self._publish_on_all(digest)
        failures = [result for result in results if isinstance(result, BaseException)]
        if not failures:
            return
        for member, result in zip(self._staged, results, strict=True):
            if result is None:
                with suppress(StorageError):  # the other failure is the one to tell
                    await member.run(member.storage.enqueue, "repair", digest)
        raise failures[0]

    async def _publish_on_all(self, digest: Digest) -> list[Exception | None]:
        steps = [
            member.begin(staged.name, digest, deadline=staged.patience)
            if self._shares(staged)
            else member.begin(staged.publish, digest, deadline=staged.patience, waits=True)
            for member, staged in self._staged.items()
        ]
        results = dict(zip(self._staged, await outcomes(steps), strict=True))
        named = {member: self._staged[member] for member, result in results.items() if result is None}
        commits = self._commits(named)
        results.update(zip(commits, await outcomes(commits.values()), strict=True))
        return list(results.values())

    def _shares(self, staged: Staged) -> bool:
        """Whether its syncs are left to those of its whole filesystem."""
        return self._company.grouped and staged.filesystem is not None

    def _commits(self, written: Mapping[Bulkhead, Staged]) -> dict[Bulkhead, Step[None]]:
        """Begin to wait for syncs of what was written until now and does not sync for itself."""
        return {
            member: member.commit(staged.filesystem)
            for member, staged in written.items()
            if staged.filesystem is not None and self._company.grouped
        }

    async def note(self, queue: QueueName, digest: Digest) -> None:
        """Put the blob on a queue of all its storages: whichever are lost, one that is left knows."""
        await _all(
            {
                member: member.begin(member.storage.enqueue, queue, digest, deadline=WRITE_DEADLINE)
                for member in self._staged
            }
        )

    async def _each(self, operation: str, *arguments: object) -> None:
        steps = {
            member: member.begin(getattr(staged, operation), *arguments, deadline=staged.patience, waits=True)
            for member, staged in self._staged.items()
        }
        await _all(steps)

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._company.leave()
        left = {}
        for member, staged in self._staged.items():
            if staged.published:
                staged.close()  # a descriptor of a directory at most, of a disk that has just done its work
            else:
                left[member] = staged
        if left:
            # Shielded: whoever is cancelled must leave nothing behind either.
            await asyncio.shield(_discard(left))


class Company:
    """The small uploads that are under way to the same storages as one of them.

    One that is alone is done sooner by syncs of its own; several are by syncs that they share.
    """

    def __init__(self, members: Sequence[Bulkhead]) -> None:
        """Count an upload, until it leaves."""
        self.members: Final = members
        for member in members:
            member.uploads += 1
        self.grouped: Final = any(member.uploads > 1 for member in members)

    def leave(self) -> None:
        """Count it no more. To be called once."""
        for member in self.members:
            member.uploads -= 1


async def _stage_whole(company: Company, content: bytes) -> dict[Bulkhead, Staged]:
    """Write a blob that is in memory to all storages, or to none. One that is alone is synced in the same go."""
    alone = not company.grouped
    step = _stage_synced if alone else _stage_written
    steps = [
        member.begin(step, member.storage, content, deadline=WRITE_DEADLINE, writing=True, waits=alone)
        for member in company.members
    ]
    found = await outcomes(steps)
    staged = {
        member: outcome
        for member, outcome in zip(company.members, found, strict=True)
        if not isinstance(outcome, Exception)
    }
    failure = next((outcome for outcome in found if isinstance(outcome, Exception)), None)
    if failure is not None:
        await asyncio.shield(_discard(staged))
        raise failure
    return staged


def _stage_synced(storage: Storage, content: bytes) -> Staged:
    return _written(storage, content, lambda staged: staged.sync())


def _stage_written(storage: Storage, content: bytes) -> Staged:
    """Write a blob; it is synced here only if that cannot be left to a sync of its whole filesystem."""
    return _written(storage, content, lambda staged: staged.seal() if staged.filesystem else staged.sync())


def _written(storage: Storage, content: bytes, finish: Callable[[Staged], None]) -> Staged:
    staged = storage.stage(len(content))
    try:
        staged.write(content)
        finish(staged)
    except BaseException:
        staged.discard()
        raise
    return staged


async def _discard(staged: Mapping[Bulkhead, Staged]) -> None:
    steps = {member: member.begin(replica.discard, certain=True) for member, replica in staged.items()}
    for member, step in steps.items():
        if member.out:
            step.abandon()  # it is done when the storage does something again
    await outcomes([step for member, step in steps.items() if not member.out])


async def _all(steps: Mapping[Bulkhead, Step[object]]) -> None:
    """Wait for all steps, then raise the first failure: nothing goes on behind the caller's back."""
    for outcome in await outcomes(steps.values()):
        if isinstance(outcome, Exception):
            raise outcome
