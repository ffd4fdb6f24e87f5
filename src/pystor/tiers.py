"""The order in which the tiers are asked for a blob: the pool and, when there is one, the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import NotFound, StorageError, Unavailable
from pystor.events import ArchiveMissed, BlobMissing, Observer, nobody
from pystor.pool import FindResult, Pool
from pystor.shortcuts import Shortcut

_T = TypeVar("_T")

TierName = Literal["pool", "archive"]


@dataclass(frozen=True, slots=True)
class Tier:
    """A pool by the part that it plays."""

    name: TierName
    pool: Pool


class Tiers:
    """Several pools, asked one after the other; what holds for a replica of one of them is asked there."""

    def __init__(self, tiers: Sequence[Tier], observe: Observer) -> None:
        """`tiers` come in the order in which they are asked; `observe` is told how blobs are found and missed."""
        self.tiers: Final = tuple(tiers)
        self._observe: Final = observe
        self._tier_of: Final = {member.storage.root: tier for tier in tiers for member in tier.pool.members()}
        self._pool_of: Final = {root: tier.pool for root, tier in self._tier_of.items()}

    def quietly(self) -> Tiers:
        """Make the same tiers for work in the background: what is asked for there is not counted as asked for."""
        return Tiers(self.tiers, nobody)

    def tier_of(self, replica: Replica) -> Tier:
        """Tell which tier a replica was found in."""
        return self._tier_of[replica.storage]

    async def find(self, digest: Digest, *, without: frozenset[str] = frozenset()) -> Replica:
        """Open a good replica of a blob, of the first tier that has one; the caller closes it.

        Raises `NotFound` only when every tier answered that it has none, and `Unavailable` otherwise. `without` are
        the roots of storages that failed the caller already.
        """
        doubt: Unavailable | None = None
        for tier in self.tiers:
            try:
                # Look-ups and the location cache are counted for the pool; the archive has an event of its own.
                tell = nobody if tier.name == "archive" else self._observe
                return await tier.pool.find(digest, without=without, tell=tell)
            except NotFound:
                if tier.name == "archive":
                    self._observe(ArchiveMissed(digest))
            except Unavailable as error:
                doubt = error
        if doubt is not None:
            raise doubt
        self._observe(BlobMissing(digest))
        raise NotFound(digest.hex)

    def find_now(self, digest: Digest) -> FindResult | None:
        """Open a replica, which is not verified yet, or learn that there is none; None if that takes waiting."""
        result: FindResult | None = None
        for tier in self.tiers:
            result = tier.pool.find_now(digest)
            if result is None or result.replica is not None:
                break
        return result

    def shortcut(self, replica: Replica) -> Shortcut[_T]:
        """Begin a way back to a blob, through a replica of it."""
        pool = self._pool_of[replica.storage]
        return Shortcut(pool.set_of(replica), pool.verifier)

    def knows(self, replica: Replica, digest: Digest) -> bool:
        """Tell whether a replica was found good before, or need not be."""
        return self._pool_of[replica.storage].verifier.knows(replica, digest)

    def vouch(self, replica: Replica, content: bytes | memoryview, digest: Digest) -> bool:
        """Tell whether the whole content that was just read from a replica is the blob."""
        return self._pool_of[replica.storage].verifier.vouch(replica, content, digest)

    def remember(self, replica: Replica, digest: Digest) -> None:
        """Take note that a replica is good."""
        self._pool_of[replica.storage].verifier.remember(replica, digest)

    def distrust(self, replica: Replica, digest: Digest) -> StorageError:
        """Report a replica that is not its blob; returns the error for whoever wanted to read it."""
        return self._pool_of[replica.storage].distrust(replica, digest)

    def failed(self, replica: Replica, digest: Digest, error: StorageError) -> None:
        """Report a replica that could not be read."""
        pool = self._pool_of[replica.storage]
        pool.verifier.doubt(replica, digest, error)
        pool.failed(replica.storage, digest, error)

    def verify_later(self, replica: Replica, digest: Digest) -> None:
        """Have a replica verified in the background."""
        self._pool_of[replica.storage].verify_later(replica, digest)

    async def read(self, replica: Replica, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes of a replica; raises `StorageError`."""
        return await self._pool_of[replica.storage].read(replica, offset, size)

    async def verify(self, replica: Replica, digest: Digest) -> bool:
        """Tell whether a replica is the blob; raises `StorageError`."""
        return await self._pool_of[replica.storage].verify(replica, digest)
