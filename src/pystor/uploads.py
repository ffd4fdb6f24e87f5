"""One blob on its way to the storages of a replica set: on all of them, or on none that anybody is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pystor import moments
from pystor.blob import Fingerprint, QueueName, Staged
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.small_uploads import NOW, SmallUpload, SmallUploads, discard
from pystor.steps import Step, outcomes

_GENTLY: Final = 256 << 10
"""Bytes that a large upload has the disk write at a time, and waits for, while small uploads wait for the same disk."""


class Upload:
    """The replicas of one blob on their way to some storages of a set: published everywhere, or discarded.

    To be used as `async with`; leaving it discards whatever was not published. Methods raise `StorageError`.
    """

    def __init__(self, staged: dict[Bulkhead, Staged]) -> None:
        """Take over replicas that are staged; see `stage`."""
        self._staged: Final = staged
        self._began: Final = moments.now()

    @property
    def members(self) -> list[Bulkhead]:
        """The storages that it is on its way to."""
        return list(self._staged)

    @property
    def named(self) -> list[Bulkhead]:
        """Those of them where it has its final name."""
        return [member for member, staged in self._staged.items() if staged.published]

    @classmethod
    async def stage(cls, members: Sequence[Bulkhead], size: int) -> Upload:
        """Begin a blob of `size` bytes (0: unknown) that comes in pieces, on one storage after the other.

        Of uploads that compete for the last room, those that get it on the first storage get it on all.
        """
        staged: dict[Bulkhead, Staged] = {}
        try:
            for member in members:
                staged[member] = await member.run(member.storage.stage, size, writing=True, waits=True)
        except BaseException:
            await asyncio.shield(discard(staged))
            raise
        return cls(staged)

    async def write(self, data: bytes | bytearray) -> None:
        """Append to every replica at once; where small uploads are under way, which wait for the same disk, gently."""
        await _all(
            {
                member: self._begin(member, staged.write, data, _GENTLY if member.switch.hurried else 0)
                for member, staged in self._staged.items()
            }
        )

    async def sync(self, times: Mapping[Bulkhead, int] = NOW) -> None:
        """Put every replica on stable storage, before the first one gets its name.

        Those in `times` are to be of another time than now, in nanoseconds since the epoch; the others are of one.
        """
        if moments.is_over(self._began):
            times = {**dict.fromkeys(self._staged, moments.now()), **times}
        dated = self._staged.keys() & times.keys()
        await _all({member: self._begin(member, self._staged[member].date, times[member]) for member in dated})
        await _all({member: self._begin(member, staged.sync) for member, staged in self._staged.items()})

    async def publish(self, digest: Digest, keep: Mapping[Bulkhead, Fingerprint | None]) -> None:
        """Give every replica its final name; what was found bad on the members in `keep` goes to quarantine.

        If only some storages do it, their good replicas stay and the digest is put on their repair queues; what is
        raised keeps anybody from acknowledging it.
        """
        if keep:
            aside = {member: self._staged[member].set_aside for member in keep}
            await _all({member: self._begin(member, aside[member], digest, bad) for member, bad in keep.items()})
        failures = await self._name(digest)
        if not failures:
            return
        for member in self._staged:
            if member not in failures:
                with suppress(StorageError):  # the other failure is the one to tell
                    await member.enqueue("repair", digest)
        raise next(iter(failures.values()))

    async def _name(self, digest: Digest) -> dict[Bulkhead, Exception]:
        """Give every replica its final name, durably; tells where that failed."""
        steps = [self._begin(member, staged.publish, digest) for member, staged in self._staged.items()]
        results = zip(self._staged, await outcomes(steps), strict=True)
        return {member: result for member, result in results if isinstance(result, Exception)}

    async def note(self, queue: QueueName, digest: Digest) -> None:
        """Put the blob on a queue of all its storages: whichever are lost, one that is left knows."""
        noting = [member.enqueue(queue, digest) for member in self._staged]
        for outcome in await asyncio.gather(*noting, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _begin(self, member: Bulkhead, step: Callable[..., None], *arguments: object) -> Step[None]:
        return member.begin(step, *arguments, timeout=self._staged[member].timeout, waits=True)

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(self, *_: object) -> None:
        left = {}
        for member, staged in self._staged.items():
            if staged.published:
                staged.close()  # a descriptor of a directory at most, of a disk that has just done its work
            else:
                left[member] = staged
        if left:
            # Shielded: whoever is cancelled must leave nothing behind either.
            await asyncio.shield(discard(left))


class _Batched(Upload):
    """A small one, which is written already, and is named with others unless it has its name."""

    def __init__(self, uploads: SmallUploads, upload: SmallUpload) -> None:
        super().__init__(upload.staged)
        self._uploads: Final = uploads
        self._upload: Final = upload

    async def _name(self, digest: Digest) -> dict[Bulkhead, Exception]:
        if self._upload.name is None:
            await self._uploads.name(self._upload, digest)
        return self._upload.failed

    def __aexit__(self, *_: object) -> Coroutine[Any, Any, None]:
        self._uploads.leave()
        return super().__aexit__()


async def send(uploads: SmallUploads, upload: SmallUpload) -> Upload:
    """Begin a small blob, with others if there are any: it is on stable storage when this returns.

    That is as after `sync`. If its name is known, it was given that as well, and `publish` tells how that went. Raises
    as `SmallUploads.write` does.
    """
    await uploads.write(upload)
    return _Batched(uploads, upload)


async def _all(steps: Mapping[Bulkhead, Step[object]]) -> None:
    """Wait for all steps, then raise the first failure: nothing goes on behind the caller's back."""
    for outcome in await outcomes(steps.values()):
        if isinstance(outcome, Exception):
            raise outcome
