"""Blobs that were read from the archive are stored in the pool, so that the next reader finds them there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from pystor.background import Tasks, end, tolerated
from pystor.copying import copy
from pystor.digest import Digest
from pystor.errors import NoSpace, StorageError, StorageFull, StorError, Unavailable
from pystor.events import BlobServed, Event, PromotionFailed, StorageFailed
from pystor.pool import Pool
from pystor.tiers import Tiers

_WAITING_AT_MOST: Final = 1000
_REST_SECONDS: Final = 30.0
"""For so long nothing is promoted once the pool took nothing: what it does not take is fetched all the same."""


class Promotion:
    """An `Observer` of what is served; what comes from the archive is copied in the background, one at a time."""

    def __init__(self, tiers: Tiers, pool: Pool) -> None:
        self._tiers: Final = tiers
        self._pool: Final = pool
        self._waiting: Final[asyncio.Queue[Digest]] = asyncio.Queue(_WAITING_AT_MOST)
        self._noted: Final[set[Digest]] = set()
        self._tasks: Final = Tasks()
        self._rests_until = 0.0

    def __call__(self, event: Event) -> None:
        """Note a blob; one too many is noted when it is read again."""
        if not isinstance(event, BlobServed) or event.tier != "archive" or event.head:  # who only looks reads nothing
            return
        if event.digest not in self._noted and not self._waiting.full():
            self._noted.add(event.digest)
            self._waiting.put_nowait(event.digest)

    def listener(self, kind: type[Event]) -> Callable[[Any], None] | None:
        """Listen to what is served."""
        return self if kind is BlobServed else None

    async def start(self) -> None:
        """Begin to copy."""
        self._tasks.begin(self._run())

    async def stop(self) -> None:
        """End; what was not copied is when it is read again."""
        await end(self._tasks)

    async def _run(self) -> None:
        while True:
            digest = await self._waiting.get()
            if time.monotonic() >= self._rests_until:
                with tolerated(f"The promotion of {digest.hex}"):
                    await self._promote(digest)
            self._noted.discard(digest)

    async def _promote(self, digest: Digest) -> None:
        try:
            await copy(self._tiers, self._pool, digest)
        except StorError as error:
            if isinstance(error, NoSpace | StorageFull | Unavailable):
                self._rests_until = time.monotonic() + _REST_SECONDS
            if isinstance(error, StorageError):
                self._pool.observe(StorageFailed(error, digest))
            else:
                self._pool.observe(PromotionFailed(digest, error))
