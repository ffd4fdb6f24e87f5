"""All replica sets: where a blob is looked for, and where a new one goes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pystor.absences import Absences
from pystor.blob import Replica, root_in
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import NoSpace, NotFound, StorageError, StorageFull, Unavailable
from pystor.events import LookedUp, Observer, ReplicaBad, StorageFailed
from pystor.executor import Executor
from pystor.hints import Hints
from pystor.nonblocking import NonBlockingLookup
from pystor.places import Places
from pystor.repairs import Repairs
from pystor.replicas import ReplicaSet, Survey
from pystor.scrubbing import Scrub
from pystor.search import Search
from pystor.small_uploads import NOW, SmallUpload, SmallUploads
from pystor.upkeep import Upkeep
from pystor.uploads import Upload, send
from pystor.verification import Verifier
from pystor.watch import Watch

_THREADS: Final = 8
"""How many at most write small uploads to a set, near the event loop."""


class FindResult(NamedTuple):
    """What could be told of a blob without waiting: an open replica, or that there is none."""

    replica: Replica | None
    hinted: bool | None
    """Whether the location cache knew of it; None: it was found without asking the shared level of that."""
    attempts: int
    """How many storages were asked."""


class Pool:
    """The replica sets of a service."""

    def __init__(
        self,
        sets: Sequence[ReplicaSet],
        *,
        verifier: Verifier,
        verify_first: int,
        hints: Hints,
        sweep_period: float,
        verify_bytes_per_second: float = 100e6,
        mirrored: bool = False,
        watch: Watch | None = None,
        observe: Observer,
    ) -> None:
        """Gather the sets. A replica of up to `verify_first` bytes is verified before it is handed out.

        Temporaries of dead processes are swept every `sweep_period` seconds. In the background, each storage is read at
        `verify_bytes_per_second` at most to verify what was read in part. If the pool is `mirrored`, each blob that
        is stored is put on the mirror's queue before that is acknowledged. `watch` is that of the storages.
        """
        self._lookup: Final = NonBlockingLookup(sets, watch)
        self.mirrored: Final = mirrored
        self._hints: Final = hints
        self.sets: Final = tuple(sets)
        self.verifier: Final = verifier
        self.observe: Final = observe
        self._verify_first: Final = verify_first
        self._places: Final = Places(sets)
        self._nowhere: Final = FindResult(None, hinted=False, attempts=sum(len(each.members) for each in sets))
        self._member_of: Final = {member.storage.root: member for member in self.members()}
        self._set_of: Final = {
            member.storage.root: replica_set for replica_set in self.sets for member in replica_set.members
        }
        self._small_uploads: Final = {
            each: SmallUploads(each.members, Executor(f"stor {each.name}", _THREADS, roams=False)) for each in self.sets
        }
        self._absences: Final = Absences([*self.members()], self._lookup.is_all_in_place, self._lookup.changes)
        self._upkeep: Final = Upkeep([*self.members()], self._places, sweep_period=sweep_period, observe=observe)
        self.repairs: Final = Repairs(observe)
        self._scrub: Final = Scrub(
            verifier,
            found_bad=self.distrust,
            failed=self.failed,
            observe=observe,
            bytes_per_second=verify_bytes_per_second,
        )

    def members(self) -> Iterator[Bulkhead]:
        """Go through all storages."""
        return (member for replica_set in self.sets for member in replica_set.members)

    def set_of(self, replica: Replica) -> ReplicaSet:
        """Tell which set a replica belongs to."""
        return self._set_of[replica.storage]

    async def start(self) -> None:
        """Begin to look after the storages; one that does not answer at once is used as soon as it does."""
        await self._upkeep.start()

    async def stop(self) -> None:
        """End what goes on in the background, and let the threads go."""
        await asyncio.gather(self._upkeep.stop(), self.repairs.stop(), self._scrub.stop(), return_exceptions=True)
        self._absences.stop()
        for uploads in self._small_uploads.values():
            uploads.stop()
        for member in self.members():
            member.stop()

    # Looking up

    def _hinted(self, digest: Digest, hint: str | None) -> ReplicaSet | None:
        """Tell the set that a hint speaks of."""
        return None if hint is None else self._set_of.get(root_in(hint, digest))

    def _in_order(self, digest: Digest, hint: str | None) -> Iterator[ReplicaSet]:
        """Go through all sets, that which is hinted at first: a wrong hint costs nothing more."""
        hinted = self._hinted(digest, hint)
        if hinted is not None:
            yield hinted
        for replica_set in self._places.ranked(digest):
            if replica_set is not hinted:
                yield replica_set

    async def find(
        self, digest: Digest, *, without: frozenset[str] = frozenset(), tell: Observer | None = None
    ) -> Replica:
        """Open a good replica of a blob; the caller closes it. `tell` (by default all) learns how it was looked up.

        Raises `NotFound` when every storage answered that it has none, and `Unavailable` when one did not answer, had
        a bad replica, or is in `without` (the roots of storages that failed the caller already).
        """
        tell = tell or self.observe
        hint = await self._hints.get(digest, tell)
        began = time.perf_counter()
        search = Search(digest, without, self._absences, open_good=self._open_good, failed=self.failed)
        await search.look_through(self._in_order(digest, hint))
        tell(LookedUp(search.attempts, time.perf_counter() - began))
        self._note(digest, search.found, search.missing)
        if search.found is not None:
            return search.found
        if search.silent or without:
            raise Unavailable("A storage did not answer and no other has the file; try again later")
        raise NotFound(digest.hex)

    def failed(self, root: str, digest: Digest, error: StorageError) -> None:
        """Report a storage that did not give a blob; a replica that cannot be read is to be repaired.

        If that was late, what comes of it in the end counts as well.
        """
        self.observe(StorageFailed(error, digest))
        if error.unreadable:
            self.repairs.ask(self._member_of[root], digest)
        if error.sequel is not None:
            error.sequel.add_done_callback(lambda sequel: self.failed(root, digest, sequel.result()))

    async def _open_good(self, member: Bulkhead, digest: Digest) -> Replica | None:
        replica = await member.open(digest)
        if replica is None:
            return None
        try:
            if await self._may_go(member, replica, digest):
                return replica
        except BaseException:
            replica.close()
            raise
        replica.close()
        raise self.distrust(replica, digest)

    async def _may_go(self, member: Bulkhead, replica: Replica, digest: Digest) -> bool:
        """Tell whether a replica is handed out: it is good, or large, to be verified while it is sent.

        That is too late for one that was found bad before, or that another storage of the set has in another size: the
        length is told before the first byte.
        """
        if self.verifier.knows(replica, digest):
            return True
        if replica.size <= self._verify_first or self.verifier.suspects(replica):
            return await self.verifier.verify(member, replica, digest)
        differing = await self._set_of[replica.storage].differing(member, replica, digest)
        good = not differing or await self.verifier.verify(member, replica, digest)
        if good and differing:
            self.repairs.ask(differing[0], digest)
        return good

    def distrust(self, replica: Replica, digest: Digest) -> StorageError:
        """Report a replica that is not its blob, and remember it; returns the error for whoever wanted to read it."""
        self.repairs.ask(self._member_of[replica.storage], digest)
        if self.verifier.suspect(replica):
            self.observe(ReplicaBad(digest, replica.storage))
        reason = "it is not what it is named after, or could not be read a moment ago"
        return StorageError(replica.storage, f"verify {replica.path}", reason)

    def find_now(self, digest: Digest) -> FindResult | None:
        """Open a replica, which is not verified yet, or learn that there is none; None if that takes waiting."""
        hint = self._hints.get_now(digest)
        seen = self._lookup.look(digest, self._begin_at(digest, hint))
        if seen is None:
            return None
        if seen.replica is None and hint is None:
            return self._nowhere
        self._note(digest, seen.replica, seen.missing)
        unasked = hint is None and seen.replica is not None and not self._hints.whole
        return FindResult(seen.replica, None if unasked else hint is not None, seen.attempts)

    def _begin_at(self, digest: Digest, hint: str | None) -> ReplicaSet:
        """Choose the set that has a blob most likely."""
        if len(self.sets) == 1:
            return self.sets[0]
        return self._hinted(digest, hint) or self._places.likeliest(digest)

    def _note(self, digest: Digest, found: Replica | None, missing: Iterable[Bulkhead]) -> None:
        """Take note of where a blob was found, and of the storages of the same set where it is missing."""
        if found is None:
            self._hints.drop(digest)
            return
        if len(self.sets) > 1:
            self._correct(digest, found)
        self._hints.put(digest, found.path)
        for member in missing:
            if member in self._set_of[found.storage].members:
                self.repairs.ask(member, digest)

    def _correct(self, digest: Digest, found: Replica) -> None:
        """Forget a hint at another set than that in which a blob was found: it would mislead for ever."""
        hint = self._hints.get_now(digest)
        if hint is not None and self._hinted(digest, hint) is not self._set_of[found.storage]:
            self._hints.drop(digest)

    async def read(self, replica: Replica, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes of a replica; raises `StorageError`."""
        return await self._member_of[replica.storage].read(replica, offset, size)

    async def verify(self, replica: Replica, digest: Digest) -> bool:
        """Tell whether a replica is the blob; raises `StorageError`."""
        return await self.verifier.verify(self._member_of[replica.storage], replica, digest)

    def verify_later(self, replica: Replica, digest: Digest) -> None:
        """Have a replica verified in the background."""
        self._scrub.ask(self._member_of[replica.storage], digest)

    # Storing

    @property
    def looks_while_staging(self) -> bool:
        """Whether those storages that take a blob are all that may have it, so that they look before they write."""
        return len(self.sets) == 1

    async def survey(self, digest: Digest) -> list[Survey]:
        """See what every storage has of a blob."""
        ranked = self._places.ranked(digest)
        absent = await self._absences.of(digest)
        asked = [each for each in ranked if not absent.issuperset(each.members)]
        surveys = await asyncio.gather(*(each.survey(digest, self.verifier, self.observe) for each in asked))
        seen = dict(zip(asked, surveys, strict=True))
        return [seen.get(each, each.nothing) for each in ranked]

    async def stage(
        self,
        digest: Digest | None,
        size: int,
        content: bytes | None,
        unseen: Digest | None = None,
        times: Mapping[Bulkhead, int] = NOW,
        without: frozenset[Bulkhead] = frozenset(),
    ) -> Upload:
        """Begin a new blob on the replica set that placement chooses, or on the next one if that fails.

        The digest decides the place; None: it is not known yet, and any other is as good a dice.
        `content` is the whole blob, or None for one that comes in pieces; `size` is its length in bytes, 0 if that is
        not known. What is `unseen` is to be looked for; if nothing stands under its name it gets that at once, unless
        something is to be noted before. `times` are as for `Upload.sync`. Sets of storages in `without`
        are passed over. Raises `NoSpace`, or `Unavailable` if a storage that might have had room did not answer, and
        `AlreadyThere` if something stands there.
        """
        ranked = await self._places.choose(digest or Digest.of(os.urandom(32)), size)
        failed = False
        for replica_set in ranked:
            if not without.isdisjoint(replica_set.members):
                continue
            try:
                if content is None:
                    return await Upload.stage(replica_set.members, size)
                name = None if self.mirrored else unseen
                return await send(self._small_uploads[replica_set], SmallUpload(content, unseen, name, times))
            except StorageError as error:
                self.observe(StorageFailed(error, digest))
                failed = failed or not isinstance(error, StorageFull)
        if failed or not self._places.all_take:
            raise Unavailable("No replica set could take the file, and a storage did not answer; try again later")
        if not any(replica_set.writable for replica_set in self.sets):
            raise NoSpace("No replica set takes new blobs; mend writable_pairs_regex, which no whole set matches")
        raise NoSpace(f"No replica set has room for {f'{size} bytes' if size else 'more'}; add storages or free some")
