"""One replica set: the storages that all keep the same blobs, and what each of them has of one."""

from __future__ import annotations

import asyncio
import enum
import operator
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pystor import placement
from pystor.blob import Fingerprint, Replica, Space
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.events import Observer, ReplicaBad, StorageFailed
from pystor.executor import close
from pystor.looking import Looks
from pystor.steps import outcomes
from pystor.verification import Verifier

_FRESH: Final = 900.0  # seconds; what is older was written out since, by whom it came from or by the kernel
_is_slow: Final = operator.attrgetter("slow")


class ReplicaState(enum.Enum):
    """What a storage has of a blob."""

    GOOD = enum.auto()
    BAD = enum.auto()
    MISSING = enum.auto()
    UNKNOWN = enum.auto()


class ReplicaSet:
    """An n-tuple of storages, n from 1 up."""

    def __init__(self, members: Sequence[Bulkhead], dice: Callable[[], float] = random.random) -> None:
        """Group storages that keep the same blobs; `dice` gives a number in [0, 1)."""
        self.members: Final = tuple(members)
        self.name: Final = "|".join(member.storage.root for member in members)
        self.seed: Final = placement.seed(self.name)
        self.writable: Final = all(member.storage.writable for member in members)
        self.left = 0
        """Bytes that may still be written, as last measured: those of the fullest member."""
        self._dice: Final = dice
        self._turns: Final = tuple(self.members[start:] + self.members[:start] for start in range(len(self.members)))
        self._turn = self._turns[0]
        self.advance()
        self._looks: Final = [Looks(member) for member in members]
        self.nothing: Final = Survey(self, dict.fromkeys(self.members, ReplicaState.MISSING), {})
        """What is seen of a blob that no member has."""

    @property
    def takes(self) -> bool:
        """Whether it is writable, and none of its members is left alone by writes."""
        if not self.writable:
            return False
        for member in self.members:  # noqa: SIM110  a generator takes three times as long, and every upload comes by
            if member.unwritable:
                return False
        return True

    def in_turn(self) -> Sequence[Bulkhead]:
        """Go through the members, beginning with any: reads are spread over all. Slow ones come last."""
        turn = self._turn
        self.advance()
        for member in turn:  # a generator for any() takes three times as long, and every look-up comes by
            if member.slow:
                return sorted(turn, key=_is_slow)
        return turn

    @property
    def first(self) -> Bulkhead:
        """The member that `in_turn` begins with the next time."""
        member = self._turn[0]
        return min(self._turn, key=_is_slow) if member.slow else member

    def advance(self) -> None:
        """Choose by chance which member is the first from now on."""
        self._turn = self._turns[int(self._dice() * len(self._turns))]

    async def differing(self, member: Bulkhead, replica: Replica, digest: Digest) -> list[Bulkhead]:
        """Tell which members have a blob in another size than the replica of one has, as far as they answer."""

        async def differs(other: Bulkhead) -> bool:
            with suppress(StorageError):  # who wants to read there is told
                found = await other.open(digest)
                if found is not None:
                    with found:
                        return found.size != replica.size
            return False

        others = [other for other in self.members if other is not member and not other.out]
        answers = await asyncio.gather(*map(differs, others))
        return [other for other, answer in zip(others, answers, strict=True) if answer]

    async def measure(self) -> bool:
        """Bring `left` up to date; False, and nothing left, if a member does not answer."""
        measured = await asyncio.gather(*(member.check() for member in self.members), return_exceptions=True)
        rooms = [
            member.storage.left(space)
            for member, space in zip(self.members, measured, strict=True)
            if isinstance(space, Space)
        ]
        answered = len(rooms) == len(self.members)
        self.left = min(rooms) if answered else 0
        return answered

    async def survey(self, digest: Digest, verifier: Verifier, observe: Observer) -> Survey:
        """See what each member has of a blob. Never raises for a storage that fails: that member's is unknown."""

        async def look(member: Bulkhead, opened: Replica | Exception | None) -> ReplicaState:
            if opened is None:
                return ReplicaState.MISSING
            try:
                good = await _is_good(member, opened, digest, verifier)
            except StorageError as error:
                observe(StorageFailed(error, digest))
                return ReplicaState.BAD if error.unreadable and await _answers(member) else ReplicaState.UNKNOWN
            if not (good or isinstance(opened, Exception)) and verifier.suspect(opened):
                observe(ReplicaBad(digest, member.storage.root))
            return ReplicaState.GOOD if good else ReplicaState.BAD

        opened = await outcomes([looks.begin(digest) for looks in self._looks])
        if opened.count(None) == len(opened):
            return self.nothing
        try:
            states = await asyncio.gather(*map(look, self.members, opened))
        finally:
            for replica in opened:
                close(replica)  # again, unless this is cancelled before anybody has looked
        prints = dict(zip(self.members, map(_fingerprint_of, opened), strict=True))
        seen = dict(zip(self.members, states, strict=True))
        bad = {member: prints[member] for member, state in seen.items() if state is ReplicaState.BAD}
        good = [found for member, found in prints.items() if found and seen[member] is ReplicaState.GOOD]
        return Survey(self, seen, bad, min((found[3] for found in good), default=None))


async def _is_good(member: Bulkhead, opened: Replica | Exception, digest: Digest, verifier: Verifier) -> bool:
    """Tell whether a replica is the blob, and see that it is there to stay."""
    if isinstance(opened, Exception):
        raise opened
    with opened as replica:
        good = await verifier.verify(member, replica, digest)
    if good and time.time() - replica.fingerprint[4] / 1e9 < _FRESH:
        await member.run(member.storage.confirm, digest, writing=True, waits=True)
    return good


def _fingerprint_of(opened: Replica | Exception | None) -> Fingerprint | None:
    return None if opened is None or isinstance(opened, Exception) else opened.fingerprint


async def _answers(member: Bulkhead) -> bool:
    try:
        await member.check()
    except StorageError:
        return False
    return True


@dataclass(frozen=True)
class Survey:
    """What each member of a replica set has of one blob."""

    replica_set: ReplicaSet
    states: dict[Bulkhead, ReplicaState]
    bad: Mapping[Bulkhead, Fingerprint | None]
    """The members with a replica that is not the blob, and which one that is; None: one that could not be opened."""
    modified: int | None = None
    """Since when it has been stored, in nanoseconds since the epoch; None if nobody knows."""

    @cached_property
    def complete(self) -> bool:
        """Whether every member has it."""
        return all(state is ReplicaState.GOOD for state in self.states.values())

    @cached_property
    def mendable(self) -> bool:
        """Whether some member has it, or had, and the others can be given it."""
        found = any(state in (ReplicaState.GOOD, ReplicaState.BAD) for state in self.states.values())
        return found and self.replica_set.writable and ReplicaState.UNKNOWN not in self.states.values()

    @cached_property
    def wanting(self) -> bool:
        """Whether some member has it, or had, and some other is to be given it."""
        return self.mendable and not self.complete

    @property
    def answered(self) -> Survey:
        """The same without the members of which it is not known."""
        known: dict[Bulkhead, ReplicaState] = {
            member: state for member, state in self.states.items() if state is not ReplicaState.UNKNOWN
        }
        return replace(self, states=known)

    def mended_by(self, members: Sequence[Bulkhead]) -> bool:
        """Whether an upload that is on its way to these storages goes to this set, and mends it."""
        return self.wanting and list(self.states) == list(members)

    def lacking(self) -> list[Bulkhead]:
        """The members without a good replica."""
        return [member for member, state in self.states.items() if state is not ReplicaState.GOOD]

    def having(self) -> list[Bulkhead]:
        """The members with a good replica."""
        return [member for member, state in self.states.items() if state is ReplicaState.GOOD]
