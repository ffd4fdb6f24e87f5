"""Whether a replica is the blob that it is named after; what was found good is not hashed again."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from typing import Final

from pystor.blob import READ_SIZE, Fingerprint, Replica
from pystor.bulkhead import Bulkhead
from pystor.digest import HASHED_AT_ONCE, Digest
from pystor.errors import StorageError
from pystor.marks import Marks

_MOST_BAD: Final = 65_536
_SUSPECTED: Final = 5.0  # seconds


class Verifier:
    """Hashes replicas and remembers the good ones, each for as long as its fingerprint stays the same."""

    def __init__(self, *, enabled: bool = True) -> None:
        """`enabled` false: every replica is taken for good."""
        self._enabled: Final = enabled
        self._good: Final = Marks()
        self.doubts = 0
        """How often a replica that may have been found good was not any more, since it could not be read."""
        # Ordered: the first entry of a plain dict is the harder to find the more were deleted before it.
        self._bad: Final[OrderedDict[Fingerprint, float]] = OrderedDict()
        self._under_way: Final[dict[tuple[Fingerprint, Digest], asyncio.Future[bool]]] = {}

    def knows(self, replica: Replica, digest: Digest) -> bool:
        """Tell whether the replica was found good before, or need not be."""
        return not self._enabled or self._good.has(replica.fingerprint, digest.hex)

    def remember(self, replica: Replica, digest: Digest) -> None:
        """Take note that the replica's bytes have this digest."""
        self._good.add(replica.fingerprint, digest.hex)
        self._bad.pop(replica.fingerprint, None)

    def suspect(self, replica: Replica) -> bool:
        """Take note that the replica was found bad: it is not looked at again for a while.

        Returns whether that is news.
        """
        if self._was_just_bad(replica):
            return False
        is_news = not self.suspects(replica)
        if len(self._bad) >= _MOST_BAD and replica.fingerprint not in self._bad:
            self._bad.popitem(last=False)
        self._bad[replica.fingerprint] = time.monotonic()
        return is_news

    def suspects(self, replica: Replica) -> bool:
        """Tell whether the replica was found bad before: it is not sent without being verified first."""
        return replica.fingerprint in self._bad

    def _was_just_bad(self, replica: Replica) -> bool:
        """Tell whether it was found bad a moment ago. Later it is hashed again: it may have been the disk's cable."""
        return time.monotonic() - self._bad.get(replica.fingerprint, -_SUSPECTED) < _SUSPECTED

    def vouch(self, replica: Replica, content: bytes | memoryview, digest: Digest) -> bool:
        """Tell whether the whole content that was just read from a replica is the blob, and remember it if so."""
        good = self.knows(replica, digest) or Digest.of(content) == digest
        if good:
            self.remember(replica, digest)
        return good

    async def verify(self, member: Bulkhead, replica: Replica, digest: Digest) -> bool:
        """Tell whether a replica is good, hashing it if that is not known; raises `StorageError`."""
        if self.knows(replica, digest):
            return True
        if self._was_just_bad(replica):
            return False
        return await self._hash_once(member, replica, digest)

    async def _hash_once(self, member: Bulkhead, replica: Replica, digest: Digest) -> bool:
        """Hash a replica, or wait for whoever does already: two hundred readers may need it at the same time."""
        which = replica.fingerprint, digest
        while (other := self._under_way.get(which)) is not None:
            await asyncio.wait((other,))
            if not other.cancelled():
                return other.result()
        self._under_way[which] = told = asyncio.get_running_loop().create_future()
        try:
            good = await self.hash(member, replica, digest)
        except Exception as error:
            told.set_exception(error)
            told.exception()  # maybe nobody else wants to know
            raise
        else:
            told.set_result(good)
            return good
        finally:
            told.cancel()  # of no effect but for who is cancelled: another goes on
            del self._under_way[which]

    async def hash(
        self, member: Bulkhead, replica: Replica, digest: Digest, bytes_per_second: float = math.inf
    ) -> bool:
        """Tell whether a replica is good by hashing it, a large one at most so quickly; raises `StorageError`."""
        try:
            if replica.size <= HASHED_AT_ONCE:
                return self.vouch(replica, await member.read(replica, 0, replica.size), digest)
            good = await _hash(member, replica, bytes_per_second) == digest
        except StorageError as error:
            self.doubt(replica, digest, error)
            raise
        if good:
            self.remember(replica, digest)
        return good

    def doubt(self, replica: Replica, digest: Digest, error: StorageError) -> None:
        """Take note that a replica could not be read.

        If the disk took long for that, nobody waits for it again for a while: it is as one that was found bad.
        """
        if error.unreadable:
            self._unlearn(replica, digest)
        if error.sequel is None:
            return
        if error.unreadable:
            self.suspect(replica)

        def learn(sequel: asyncio.Future[StorageError]) -> None:
            if sequel.result().unreadable:
                self._unlearn(replica, digest)
                self.suspect(replica)

        error.sequel.add_done_callback(learn)

    def _unlearn(self, replica: Replica, digest: Digest) -> None:
        self._good.drop(replica.fingerprint, digest.hex)
        self.doubts += 1


async def _hash(member: Bulkhead, replica: Replica, bytes_per_second: float) -> Digest:
    """Hash a large replica.

    Each piece takes its turn at a thread, so that several large replicas at once are in nobody's way.
    """
    hasher = hashlib.sha256()

    def verify(offset: int) -> None:
        hasher.update(replica.read(offset, min(READ_SIZE, replica.size - offset)))

    for offset in range(0, replica.size, READ_SIZE):
        began = time.monotonic()
        await member.run(verify, offset, timeout=member.storage.timeouts.whole(READ_SIZE), of=replica)
        pause = READ_SIZE / bytes_per_second - (time.monotonic() - began)
        if pause > 0:
            await asyncio.sleep(pause)
    return Digest(hasher.hexdigest())
