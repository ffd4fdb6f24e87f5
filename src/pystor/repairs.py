"""Asking for repairs: what a read finds missing or bad goes on the repair queue of its storage, once in a while."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pystor.background import Tasks, end
from pystor.bulkhead import Bulkhead
from pystor.digest import Digest
from pystor.errors import StorageError
from pystor.events import Observer, StorageFailed

_ASKED_AT_MOST: Final = 10_000
"""Blobs for which no second repair is asked while the first may be under way."""
_ASKED_FOR: Final = 10.0
"""Seconds for which that is so: another worker may have repaired it since, and it may be bad again."""

_TRIED_FOR: Final = 10
"""Seconds for which a storage that is out may come back to note one."""


class Repairs:
    """The repairs that this process has asked for."""

    def __init__(self, observe: Observer) -> None:
        """`observe` is told of storages that cannot note one."""
        self._observe: Final = observe
        self._asked: Final[dict[Digest, float]] = {}
        self._noting: Final = Tasks()
        self._stopped = False  # what was late may come after that

    def ask(self, member: Bulkhead, digest: Digest) -> None:
        """Put a blob on the repair queue of a storage, in the background, unless that was done just now."""
        now = time.monotonic()
        if self._stopped or not member.storage.writable or now - self._asked.get(digest, -math.inf) < _ASKED_FOR:
            return
        if len(self._asked) >= _ASKED_AT_MOST:
            self._asked.clear()
        self._asked[digest] = now
        self._noting.begin(self._note(member, digest))

    async def _note(self, member: Bulkhead, digest: Digest) -> None:
        for _ in range(_TRIED_FOR):
            if not member.out:
                break
            await asyncio.sleep(1.0)  # a sector that cannot be read may keep the whole disk busy until now
        try:
            await member.enqueue("repair", digest)
        except StorageError as error:
            self._observe(StorageFailed(error, digest))
            self._asked.pop(digest, None)

    @contextmanager
    def under_way(self, digest: Digest) -> Iterator[None]:
        """Ask no repair of a blob that is being looked after; when it is found bad after that, it is news."""
        self._asked[digest] = math.inf
        try:
            yield
        finally:
            self._asked.pop(digest, None)

    async def stop(self) -> None:
        """End what is being noted: the next who reads it finds out again."""
        self._stopped = True
        await end(self._noting)
