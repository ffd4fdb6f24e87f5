"""The blobs that some storage of a replica set has and another has not, found by going through all of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Final

from pystor.bulkhead import WRITE_TIMEOUT, Bulkhead
from pystor.digest import Digest
from pystor.directory import Directory
from pystor.errors import StorageError
from pystor.events import StorageFailed
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
        async with aclosing(_missing_in_set(replica_set, pool, unread)) as digests:
            async for digest in digests:
                if not replica_set.writable:
                    unfilled(replica_set)
                    break
                yield digest


async def _missing_in_set(
    replica_set: ReplicaSet, pool: Pool, unread: Callable[[StorageError], None]
) -> AsyncGenerator[Digest, None]:
    members = [member for member in replica_set.members if isinstance(member.storage, Directory)]
    left = set(members)
    for member in members:
        async for digest in _names(member, pool, left, unread):
            if await _is_lacked([other for other in members if other is not member], digest, pool, left):
                yield digest


async def _names(
    member: Bulkhead, pool: Pool, left: set[Bulkhead], unread: Callable[[StorageError], None]
) -> AsyncIterator[Digest]:
    assert isinstance(member.storage, Directory)
    faults: list[StorageError] = []
    names = member.storage.scan(faults.append)
    while member in left:
        try:
            some = await member.run(_take, names, timeout=WRITE_TIMEOUT)
            if faults:
                await member.check()  # it is one directory that fails
        except StorageError as error:
            _pass_over(member, error, pool, left)
            return
        while faults:
            unread(faults.pop(0))
        if not some:
            return
        for digest in some:
            yield digest


def _take(names: Iterator[Digest]) -> list[Digest]:
    return list(islice(names, _AT_ONCE))


async def _is_lacked(members: Sequence[Bulkhead], digest: Digest, pool: Pool, left: set[Bulkhead]) -> bool:
    for member in members:
        if member not in left:
            continue
        try:
            replica = await member.begin_open_own(digest).result()
        except StorageError as error:
            if error.unreadable:
                return True
            await _doubt(member, error, digest, pool, left)
            continue
        if replica is None:
            return True
        replica.close()
    return False


async def _doubt(member: Bulkhead, error: StorageError, digest: Digest, pool: Pool, left: set[Bulkhead]) -> None:
    """Tell a blob that one storage cannot tell of from a storage that fails."""
    try:
        await member.check()
    except StorageError as worse:
        _pass_over(member, worse, pool, left)
    else:
        pool.observe(StorageFailed(error, digest))


def _pass_over(member: Bulkhead, error: StorageError, pool: Pool, left: set[Bulkhead]) -> None:
    pool.observe(StorageFailed(error))
    left.discard(member)
