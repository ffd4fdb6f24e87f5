"""The asynchronous face of one storage: a few threads of its own, so that a slow disk is slow for itself alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from pystor.blob import Filesystem, Replica, Space, Storage
from pystor.breaker import OwnSwitch, State, Switch
from pystor.commit import Committers
from pystor.crew import Crew
from pystor.digest import Digest
from pystor.errors import StorageError, StorageFull

_T = TypeVar("_T")

_PACE_WEIGHT: Final = 0.2  # of the newest time in the running average
_SLOW: Final = 0.05  # seconds; a disk under load may take a few of its seeks

READ_DEADLINE: Final = 2.0
"""Seconds within which a storage opens or reads, or is taken to have failed."""
WRITE_DEADLINE: Final = 20.0
"""Seconds for a step of a write: an fsync may have much to do."""


class _TooLate(Exception):
    """An operation did not come back in time."""


class Bulkhead:
    """One storage and the threads that wait for it."""

    def __init__(
        self,
        storage: Storage,
        *,
        threads: int = 8,
        switch: Switch | None = None,
        committers: Committers | None = None,
    ) -> None:
        """Begin with no thread at all; at most `threads` are started, as work comes.

        `switch` is shared with all who have the same storage, in other processes too; `committers` with the other
        storages of this process, some of which may lie on one filesystem.
        """
        self.storage: Final = storage
        self.uploads = 0
        """Uploads of small blobs to this storage that are under way."""
        self._committers: Final = Committers() if committers is None else committers
        self._switch: Final = switch or OwnSwitch()
        self._pace = 0.0
        self.last_error: str | None = None
        """What the storage last failed with, for operators."""
        self.space: Space | None = None
        """Its room as last measured; None if it did not answer."""
        self._crew: Final = Crew(f"stor {storage.root}", threads)

    async def run(
        self,
        operation: Callable[..., _T],
        *arguments: object,
        deadline: float = READ_DEADLINE,
        certain: bool = False,
        probing: bool = False,
        writing: bool = False,
    ) -> _T:
        """Run a synchronous operation in a thread of this storage.

        Raises what the operation raises, and `StorageError` when there is no answer within `deadline` seconds. What
        comes after that, or after a cancellation, is closed if it can be. An operation that has not begun by then does
        not, unless it is `certain`. While the storage is out, only a probe of it is run, and nothing that is
        `writing` while it is unwritable.
        """
        if self._switch.get() >= (State.UNWRITABLE if writing else State.OUT) and not (probing or certain):
            raise StorageError(self.storage.root, _name(operation), f"is out: {self.last_error or 'it failed'}")
        began = time.monotonic()
        job = self._crew.give(operation, arguments, certain=certain)
        bell = asyncio.get_running_loop().call_later(deadline, job.expire, _TooLate())
        try:
            result = await job.future
        except _TooLate:
            raise self._note(self._unanswered(_name(operation), deadline)) from None
        except StorageError as error:
            self._note(error)
            raise
        except BaseException:
            job.abandon()
            raise
        finally:
            bell.cancel()
        self._pace += (time.monotonic() - began - self._pace) * _PACE_WEIGHT
        return result

    async def commit(self, filesystem: Filesystem) -> None:
        """Wait until all that was written to the storage's filesystem before is on stable storage.

        Raises `StorageError`. It is not tried again: the kernel marks clean what it lost.
        """
        try:
            async with asyncio.timeout(WRITE_DEADLINE):
                await self._committers.commit(filesystem)
        except TimeoutError:
            raise self._note(self._unanswered("syncfs", WRITE_DEADLINE)) from None
        except OSError as error:
            failure = StorageError.from_os(self.storage.root, "syncfs", error)
            failure.unwritable = not isinstance(failure, StorageFull)
            raise self._note(failure) from error

    def _unanswered(self, operation: str, deadline: float) -> StorageError:
        return StorageError(self.storage.root, operation, f"no answer within {deadline:g} s", dead=True)

    def _note(self, error: StorageError) -> StorageError:
        self.last_error = error.describe()
        if error.dead:
            self._switch.set(State.OUT)
        elif error.unwritable and self._switch.get() == State.IN:
            self._switch.set(State.UNWRITABLE)
        return error

    @property
    def state(self) -> int:
        """How far the storage is out."""
        return self._switch.get()

    @property
    def out(self) -> bool:
        """Whether the storage is left alone, because it hung or failed as a whole."""
        return self._switch.get() == State.OUT

    @property
    def unwritable(self) -> bool:
        """Whether the storage is left alone by writes at least."""
        return self._switch.get() != State.IN

    @property
    def slow(self) -> bool:
        """Whether its answers take so long that another storage is better asked first."""
        return self._pace > _SLOW or self._switch.get() == State.OUT

    async def recover(self) -> None:
        """Probe the storage if it is out, and take it in again if it does all it should; see how a slow one does."""
        if self.unwritable:
            try:
                await self.run(self.storage.probe, probing=True)
            except StorageError as error:
                if error.unwritable and not error.dead:
                    self._switch.set(State.UNWRITABLE)  # it reads again, at least
                return
            self._switch.set(State.IN)
        elif self.slow:
            with suppress(StorageError):
                await self.check()

    def stop(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._crew.stop()
        self._committers.stop()

    async def open(self, digest: Digest) -> Replica | None:
        """Open the replica of a blob; at once if the storage is local and the names are in the kernel's cache."""
        found = self.storage.open_cached(digest) if self.storage.local else False
        return await self.run(self.storage.open, digest) if found is False else found

    async def read(self, replica: Replica, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes of a replica; at once if they are in the page cache of a local storage."""
        data = replica.read_cached(offset, size) if self.storage.local else None
        return await self.run(replica.read, offset, size) if data is None else data

    async def check(self) -> Space:
        """Measure the storage's room, and see that it is there."""
        try:
            self.space = await self.run(self.storage.check)
        except StorageError:
            self.space = None
            raise
        return self.space


def _name(operation: Callable[..., object]) -> str:
    return getattr(operation, "__name__", "operation").strip("_")
