"""The blobs that some storage of a replica set has and another has not, found by going through all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Final

from pystor.bulkhead import WRITE_TIMEOUT, Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import Observer, StorageFailed
from pystor.pool import Pool
from pystor.replicas import ReplicaSet

_AT_ONCE: Final = 100
"""Names that are read in one go: each may be a directory of its own, and one seek of a slow disk."""


async def missing_in(
    pool: Pool, unread: Callable[[StorageError], None], unfilled: Callable[[ReplicaSet], None]
) -> AsyncIterator[Digest]:
    """Go through the blobs that some directory of a set has and another has not.

    What fails is told to the pool's observer; a storage that fails as a whole is passed over. `unread` is told of each
    directory that cannot be read on a storage that is well otherwise, `unfilled` of each set that lacks something and
    takes no writes: that is not given to other sets instead, which would have to take in whole disks.
    """
    for replica_set in pool.sets:
        async with aclosing(_Comparison(replica_set, pool.observe, unread).missing()) as digests:
            async for digest in digests:
                if not replica_set.writable:
                    unfilled(replica_set)
                    break
                yield digest


class _Comparison:
    """The directories of one replica set, compared with each other."""

    def __init__(self, replica_set: ReplicaSet, observe: Observer, unread: Callable[[StorageError], None]) -> None:
        self._members: Final = [each for each in replica_set.members if isinstance(each.storage, Directory)]
        self._left: Final = set(self._members)
        """Those that have not failed as a whole."""
        self._observe: Final = observe
        self._unread: Final = unread

    async def missing(self) -> AsyncGenerator[Digest, None]:
        """Go through the blobs that one of them has and another has not."""
        for member in self._members:
            async for digest in self._names(member):
                if await self._is_lacked(digest, by_other_than=member):
                    yield digest

    async def _names(self, member: Bulkhead) -> AsyncIterator[Digest]:
        assert isinstance(member.storage, Directory)
        faults: list[StorageError] = []
        names = member.storage.scan(faults.append)
        while member in self._left:
            try:
                some = await member.run(_take, names, timeout=WRITE_TIMEOUT)
                if faults:
                    await member.check()  # it is one directory that fails
            except StorageError as error:
                self._pass_over(member, error)
                return
            while faults:
                self._unread(faults.pop(0))
            if not some:
                return
            for digest in some:
                yield digest

    async def _is_lacked(self, digest: Digest, *, by_other_than: Bulkhead) -> bool:
        for member in self._members:
            if member is by_other_than or member not in self._left:
                continue
            try:
                replica = await member.begin_open_own(digest).result()
            except StorageError as error:
                if error.unreadable:
                    return True
                await self._doubt(member, error, digest)
                continue
            if replica is None:
                return True
            replica.close()
        return False

    async def _doubt(self, member: Bulkhead, error: StorageError, digest: Digest) -> None:
        """Report a storage that did not tell of one blob; pass it over if it fails as a whole."""
        try:
            await member.check()
        except StorageError as worse:
            self._pass_over(member, worse)
        else:
            self._observe(StorageFailed(error, digest))

    def _pass_over(self, member: Bulkhead, error: StorageError) -> None:
        self._observe(StorageFailed(error))
        self._left.discard(member)


def _take(names: Iterator[Digest]) -> list[Digest]:
    return list(islice(names, _AT_ONCE))
