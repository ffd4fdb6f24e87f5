"""A look-up in a pool that may wait for disks: in the likeliest replica sets first, then in the others at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from pystor.absences import Absences
from pystor.blob import Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.replicas import ReplicaSet

_LIKELIEST: Final = 4
"""Replica sets that are asked for a blob one after the other, since most blobs are found in the first."""

_AT_ONCE: Final = 16
"""Replica sets of the others that are asked at once."""


@dataclass(slots=True, eq=False)
class Search:
    """The search for one blob."""

    digest: Digest
    without: frozenset[str]
    """The roots of storages that are not asked."""
    absences: Absences
    open_good: Callable[[Bulkhead, Digest], Awaitable[Replica | None]]
    """Opens the replica of a storage, which is good; None if it has none."""
    failed: Callable[[str, Digest, StorageError], None]
    """Is told of each storage, by its root, of which that has raised `StorageError`."""
    found: Replica | None = None
    attempts: int = 0
    """How many storages were asked."""
    missing: list[Bulkhead] = field(default_factory=list)
    """The storages that have no replica."""
    silent: bool = False
    """Whether some storage that was asked did not answer."""

    async def look_through(self, sets: Iterator[ReplicaSet]) -> None:
        """Look in the likeliest sets one after the other, then in several at once: of many most have to be asked."""
        try:
            await self._look_in(next(sets))
            if self.found is None and (others := [*sets]):
                await self._look_through_others(others)
        except BaseException:
            self._close()
            raise

    async def _look_through_others(self, others: Sequence[ReplicaSet]) -> None:
        absent = await self.absences.of(self.digest)
        left = [each for each in others if not absent.issuperset(each.members)]
        self.attempts += sum(len(each.members) for each in set(others).difference(left))
        sets = iter(left)
        for replica_set in islice(sets, _LIKELIEST - 1):
            await self._look_in(replica_set)
            if self.found is not None:
                return
        while self.found is None and (several := list(islice(sets, _AT_ONCE))):
            await asyncio.gather(*map(self._look_in, several))

    async def _look_in(self, replica_set: ReplicaSet) -> None:
        for member in replica_set.in_turn():
            if member.storage.root in self.without:
                continue
            self.attempts += 1
            try:
                replica = await self.open_good(member, self.digest)
            except StorageError as error:
                self.failed(member.storage.root, self.digest, error)
                self.silent = True
                continue
            if replica is None:
                self.missing.append(member)
            else:
                self._close()  # it was in two sets
                self.found = replica
                return

    def _close(self) -> None:
        """Give back what was found."""
        if self.found is not None:
            self.found.close()
