"""The sets of a pool by their room, as last measured: which one has a blob, and which may take a new one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Final

from pystor import placement
from pystor.background import end
from pystor.digest import Digest
from pystor.placement import PLENTY, ROOMY
from pystor.replicas import ReplicaSet

_FRESH: Final = 1.0
"""Seconds for which a measurement is good enough to place by."""

_MOMENT: Final = 0.05
"""Seconds for which an upload waits for newer measurements: most take less, and the last ones will do."""


class Places:
    """Ranks the replica sets of a pool. To be used from one event loop."""

    def __init__(self, sets: Sequence[ReplicaSet]) -> None:
        """Nothing is measured yet."""
        self._sets: Final = tuple(sets)
        self._seeds: Final = [replica_set.seed for replica_set in self._sets]
        self._weights = [1 for _ in self._sets]
        self._measured_at = [-math.inf for _ in self._sets]
        self._answered = [False for _ in self._sets]
        self._measuring: Final[dict[int, asyncio.Task[None]]] = {}

    async def measure(self, max_age: float) -> None:
        """Bring up to date what was measured `max_age` seconds ago, or earlier."""
        self._begin_to_measure(max_age)
        # Shielded: others may wait for it, too.
        await asyncio.gather(*map(asyncio.shield, self._measuring.values()))

    def _begin_to_measure(self, max_age: float) -> list[asyncio.Task[None]]:
        """Measure in the background; returns what was not under way before. No set has to wait for a slow one."""
        now = time.monotonic()
        old = [index for index, measured_at in enumerate(self._measured_at) if now - measured_at >= max_age]
        begun = {index: asyncio.create_task(self._measure(index)) for index in old if index not in self._measuring}
        self._measuring.update(begun)
        return list(begun.values())

    async def _measure(self, index: int) -> None:
        try:
            replica_set = self._sets[index]
            self._answered[index] = await replica_set.measure()
            self._weights[index] = max(replica_set.left, 1)
            self._measured_at[index] = time.monotonic()
        finally:
            del self._measuring[index]

    async def stop(self) -> None:
        """End what is under way."""
        await end(self._measuring.values())

    @property
    def all_take(self) -> bool:
        """Whether each writable set answered when it was measured, and takes blobs."""
        sets = zip(self._sets, self._answered, strict=True)
        return all(answered and each.takes for each, answered in sets if each.writable)

    # Where a blob is

    def ranked(self, digest: Digest) -> list[ReplicaSet]:
        """Rank the sets for a look-up: all of them, the likeliest first."""
        return [self._sets[index] for index in placement.order(digest, self._seeds, self._weights)]

    def likeliest(self, digest: Digest) -> ReplicaSet:
        """Tell the first of those."""
        return self._sets[placement.best(digest, self._seeds, self._weights)]

    # Where a blob goes

    async def choose(self, digest: Digest, size: int) -> list[ReplicaSet]:
        """Rank the sets that take blobs and have room for one of `size` bytes; 0: nobody knows that yet."""
        if begun := self._begin_to_measure(_FRESH):
            await asyncio.wait(begun, timeout=_MOMENT)
        chosen = self._choose(digest, size)
        if not chosen:
            # What was measured a moment ago may have been freed since: nobody is refused for that.
            await self.measure(0.0)
            chosen = self._choose(digest, size)
        return chosen

    def _choose(self, digest: Digest, size: int) -> list[ReplicaSet]:
        taking = [replica_set for replica_set in self._sets if replica_set.takes]
        left = [replica_set.left - size for replica_set in taking]
        chosen = placement.choose(digest, [replica_set.seed for replica_set in taking], left, ROOMY if size else PLENTY)
        return [taking[index] for index in chosen]
