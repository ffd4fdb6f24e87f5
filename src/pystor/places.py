"""The sets of a pool by their room, as last measured: which one has a blob, and which may take a new one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final

from pystor import placement
from pystor.digest import Digest
from pystor.replicas import ReplicaSet

_FRESH: Final = 1.0
"""Seconds for which a measurement is good enough to place by."""


class Places:
    """Ranks the replica sets of a pool. To be used from one event loop."""

    def __init__(self, sets: Sequence[ReplicaSet]) -> None:
        """Nothing is measured yet."""
        self._sets: Final = tuple(sets)
        self._seeds: Final = [replica_set.seed for replica_set in self._sets]
        self._weights = [1 for _ in self._sets]
        self._measured_at = -math.inf
        self._all_answered = False

    async def measure(self, max_age: float) -> None:
        """Bring up to date what was measured `max_age` seconds ago, or earlier."""
        if time.monotonic() - self._measured_at < max_age:
            return
        answered = await asyncio.gather(*(replica_set.measure() for replica_set in self._sets))
        self._all_answered = all(
            known or not replica_set.writable for known, replica_set in zip(answered, self._sets, strict=True)
        )
        self._weights = [max(replica_set.left, 1) for replica_set in self._sets]
        self._measured_at = time.monotonic()

    @property
    def all_take(self) -> bool:
        """Whether each writable set answered when it was measured, and takes blobs."""
        return self._all_answered and not any(each.writable and not each.takes for each in self._sets)

    # Where a blob is

    def ranked(self, digest: Digest) -> list[ReplicaSet]:
        """Rank the sets for a look-up: all of them, the likeliest first."""
        return [self._sets[index] for index in placement.order(digest, self._seeds, self._weights)]

    def likeliest(self, digest: Digest) -> ReplicaSet:
        """Tell the first of those."""
        return self._sets[placement.best(digest, self._seeds, self._weights)]

    # Where a blob goes

    async def choose(self, digest: Digest, size: int) -> list[ReplicaSet]:
        """Rank the sets that take blobs and have room for one of `size` bytes."""
        await self.measure(_FRESH)
        chosen = self._choose(digest, size)
        if not chosen:
            # What was measured a moment ago may have been freed since: nobody is refused for that.
            await self.measure(0.0)
            chosen = self._choose(digest, size)
        return chosen

    def _choose(self, digest: Digest, size: int) -> list[ReplicaSet]:
        taking = [replica_set for replica_set in self._sets if replica_set.takes]
        left = [replica_set.left - size for replica_set in taking]
        chosen = placement.choose(digest, [replica_set.seed for replica_set in taking], left)
        return [taking[index] for index in chosen]
