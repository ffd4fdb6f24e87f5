"""The bytes of a blob on their way out: verified, in bounded memory, from another replica when one fails."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Final

from pystor.blob import Replica
from pystor.digest import Digest
from pystor.errors import StorageError, Unavailable
from pystor.pool import Pool
from pystor.tiers import Tiers

PIECE: Final = 64 << 10
"""Bytes that are held in memory for each reader."""

_AT_ONCE: Final = 1 << 20
"""Bytes that the kernel is asked to send in one go: the event loop waits for as long as it copies them."""

_WRONG_SO_FAR: Final = "What was sent before the replica failed was not right"


class Reading:
    """The bytes from `start` up to `stop` of a blob, to be iterated once and closed in any case.

    A whole blob that is not verified yet is hashed on its way: its last piece comes only if the digest agrees; one of
    which only a part is read is verified in the background. When a replica fails, another, verified, goes on at the
    same offset. Iterating raises `StorError` when no replica can go on: what was produced is then not to be taken for
    the whole.
    """

    def __init__(self, tiers: Tiers, digest: Digest, replica: Replica, start: int, stop: int) -> None:
        """Take over an open replica."""
        self._tiers: Final = tiers
        self._digest: Final = digest
        self._replica = replica
        self._offset = start
        self._stop: Final = stop
        self._failed: frozenset[str] = frozenset()
        whole, known = start == 0 and stop == replica.size, self._pool.verifier.knows(replica, digest)
        self._hasher: Final = hashlib.sha256() if whole and not known else None
        if not whole and not known:
            self._pool.verify_later(replica, digest)

    @property
    def _pool(self) -> Pool:
        """That in which the replica was found."""
        return self._tiers.tier_of(self._replica).pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Produce the bytes, piece by piece."""
        while self._offset < self._stop:
            piece = await self._read(self._offset, min(PIECE, self._stop - self._offset))
            self._offset += len(piece)
            if self._hasher is not None:
                self._hasher.update(piece)
                if self._offset == self._stop:
                    self._conclude(self._hasher.hexdigest())
            yield piece

    def send_directly(self, socket: int) -> int:
        """Have the kernel send what comes next, if it need not be hashed; returns how many bytes went without waiting.

        Every error is left to whoever iterates.
        """
        size = min(_AT_ONCE, self._stop - self._offset)
        if self._hasher is not None or size == 0:
            return 0
        sent = self._replica.send_cached(socket, self._offset, size)
        self._offset += sent
        return sent

    def pause(self) -> None:
        """Have the replica give back what it has read ahead."""
        self._replica.pause()

    async def aclose(self) -> None:
        """Give the replica back."""
        self._replica.close()

    async def _read(self, offset: int, size: int) -> bytes:
        while True:
            try:
                return await self._pool.read(self._replica, offset, size)
            except StorageError as error:
                self._give_up(error)
            await self._change_over()

    def _give_up(self, error: StorageError) -> None:
        self._pool.verifier.doubt(self._replica, self._digest, error)
        self._pool.failed(self._replica.storage, self._digest, error)
        self._failed |= {self._replica.storage}
        self._replica.close()

    async def _change_over(self) -> None:
        """Open another replica to go on from; it is verified first, since its beginning will not be seen here."""
        size = self._replica.size
        while True:
            self._replica = replica = await self._tiers.find(self._digest, without=self._failed)
            try:
                good = await self._pool.verify(replica, self._digest)
            except StorageError as error:
                self._give_up(error)
                continue
            if not good:
                self._give_up(self._pool.distrust(replica, self._digest))
            elif replica.size != size:
                raise Unavailable(_WRONG_SO_FAR)
            else:
                return

    def _conclude(self, found: str) -> None:
        if found == self._digest.hex:
            if not self._failed:
                self._pool.verifier.remember(self._replica, self._digest)
        elif self._failed:
            # The one that went on was verified: it is the one before that was bad, and is to be repaired already.
            raise Unavailable(_WRONG_SO_FAR)
        else:
            raise self._pool.distrust(self._replica, self._digest)
