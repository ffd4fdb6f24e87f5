"""One replica set: the storages that all keep the same blobs. Written all or nothing."""

from __future__ import annotations

import asyncio
import enum
import operator
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from pystor import placement
from pystor.blob import QueueName, Replica, Space, Staged, Storage
from pystor.bulkhead import WRITE_DEADLINE, Bulkhead, Step
from pystor.crew import close
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.events import Observer, ReplicaBad, StorageFailed
from pystor.verification import Verifier

_T = TypeVar("_T")

_FRESH: Final = 900.0  # seconds; what is older was written out since, by whom it came from or by the kernel
_is_slow: Final = operator.attrgetter("slow")


class State(enum.Enum):
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

    @property
    def takes(self) -> bool:
        """Whether it is writable, and none of its members is left alone by writes."""
        return self.writable and not any(member.unwritable for member in self.members)

    def in_turn(self) -> Sequence[Bulkhead]:
        """Go through the members, beginning with any: reads are spread over all. Slow ones come last."""
        start = int(self._dice() * len(self.members))
        turn = self.members[start:] + self.members[:start]
        if any(map(_is_slow, turn)):
            return sorted(turn, key=_is_slow)
        return turn

    def pick(self) -> Bulkhead:
        """Take the member that `in_turn` would begin with."""
        member = self.members[int(self._dice() * len(self.members))]
        return self.in_turn()[0] if member.slow else member

    async def differing(self, member: Bulkhead, replica: Replica, digest: Digest) -> list[Bulkhead]:
        """Tell which members have a blob in another size than the replica of one has, as far as they answer quickly."""

        async def differs(other: Bulkhead) -> bool:
            with suppress(StorageError):  # who wants to read there is told
                found = await other.open(digest)
                if found is not None:
                    with found:
                        return found.size != replica.size
            return False

        others = [other for other in self.members if other is not member and not other.slow]
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

        async def look(member: Bulkhead, opened: Replica | Exception | None) -> State:
            if opened is None:
                return State.MISSING
            try:
                good = await _is_good(member, opened, digest, verifier)
            except StorageError as error:
                observe(StorageFailed(error, digest))
                return State.BAD if error.unreadable and await _answers(member) else State.UNKNOWN
            if not good:
                observe(ReplicaBad(digest, member.storage.root))
            return State.GOOD if good else State.BAD

        opened = await _outcomes([member.begin_open(digest) for member in self.members])
        if opened.count(None) == len(opened):
            return Survey(self, dict.fromkeys(self.members, State.MISSING))
        try:
            states = await asyncio.gather(*map(look, self.members, opened))
        finally:
            for replica in opened:
                close(replica)  # again, unless this is cancelled before anybody has looked
        return Survey(self, dict(zip(self.members, states, strict=True)))


async def _is_good(member: Bulkhead, opened: Replica | Exception, digest: Digest, verifier: Verifier) -> bool:
    """Tell whether a replica is the blob, and see that it is there to stay."""
    if isinstance(opened, Exception):
        raise opened
    with opened as replica:
        good = await verifier.verify(member, replica, digest)
    if good and time.time() - replica.fingerprint[4] / 1e9 < _FRESH:
        await member.run(member.storage.confirm, digest, deadline=WRITE_DEADLINE, writing=True)
    return good


async def _answers(member: Bulkhead) -> bool:
    try:
        await member.check()
    except StorageError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Survey:
    """What each member of a replica set has of one blob."""

    replica_set: ReplicaSet
    states: dict[Bulkhead, State]

    @property
    def complete(self) -> bool:
        """Whether every member has it."""
        return all(state is State.GOOD for state in self.states.values())

    @property
    def mendable(self) -> bool:
        """Whether some member has it, or had, and the others can be given it."""
        found = any(state in (State.GOOD, State.BAD) for state in self.states.values())
        return found and self.replica_set.writable and State.UNKNOWN not in self.states.values()

    def mendable_by(self, upload: Upload) -> bool:
        """Whether an upload that is under way already goes to this set, and mends it."""
        return self.mendable and list(self.states) == upload.members

    def lacking(self) -> list[Bulkhead]:
        """The members without a good replica."""
        return [member for member, state in self.states.items() if state is not State.GOOD]

    def having(self) -> list[Bulkhead]:
        """The members with a good replica."""
        return [member for member, state in self.states.items() if state is State.GOOD]

    def having_bad(self) -> list[Bulkhead]:
        """The members with a replica that is not the blob."""
        return [member for member, state in self.states.items() if state is State.BAD]


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
        results = dict(zip(self._staged, await _outcomes(steps), strict=True))
        named = {member: self._staged[member] for member, result in results.items() if result is None}
        commits = self._commits(named)
        results.update(zip(commits, await _outcomes(commits.values()), strict=True))
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
    outcomes = await _outcomes(steps)
    staged = {
        member: outcome
        for member, outcome in zip(company.members, outcomes, strict=True)
        if not isinstance(outcome, Exception)
    }
    failure = next((outcome for outcome in outcomes if isinstance(outcome, Exception)), None)
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
    await _outcomes([step for member, step in steps.items() if not member.out])


async def _all(steps: Mapping[Bulkhead, Step[object]]) -> None:
    """Wait for all steps, then raise the first failure: nothing goes on behind the caller's back."""
    for outcome in await _outcomes(steps.values()):
        if isinstance(outcome, Exception):
            raise outcome


async def _outcomes(steps: Iterable[Step[_T]]) -> list[_T | Exception]:
    """Wait for all steps, which have begun, and give what each returned or raised."""
    begun = tuple(steps)
    try:
        return [await step.outcome() for step in begun]
    except BaseException:
        for step in begun:
            step.abandon()
        raise
