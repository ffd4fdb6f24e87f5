"""The order in which the tiers are asked for a blob: the pool and, when there is one, the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import NotFound, Unavailable
from pystor.events import ArchiveMissed, BlobMissing, Observer, nobody
from pystor.pool import FindResult, Pool

TierName = Literal["pool", "archive"]


@dataclass(frozen=True, slots=True)
class Tier:
    """A pool by the part that it plays."""

    name: TierName
    pool: Pool


class Tiers:
    """Several pools, asked one after the other; what is to be known of a replica is asked in the pool of its tier."""

    def __init__(self, tiers: Sequence[Tier], observe: Observer) -> None:
        """`tiers` come in the order in which they are asked; `observe` is told how blobs are found and missed."""
        self.tiers: Final = tuple(tiers)
        self._observe: Final = observe
        self._tier_of: Final = {member.storage.root: tier for tier in tiers for member in tier.pool.members()}

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
