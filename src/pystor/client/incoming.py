"""The body of an answer, as it comes: kept for whoever reads it, and waited for as long as something moves.

It is read in batches. When more than `_AHEAD` bytes wait, no more are taken, so memory does not grow with a blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pystor.client.errors import late

_AHEAD: Final = 1 << 20
_WORTHWHILE: Final = 512 << 10  # bytes for which the reader is woken at once; for less it is at the next tick


class Incoming:
    """What comes from `origin`."""

    __slots__ = (
        "_done",
        "_failure",
        "_go_on",
        "_idle",
        "_longest",
        "_origin",
        "_paused",
        "_pieces",
        "_ready",
        "_stalled",
        "_timeout",
        "_waiter",
        "_waiting",
    )

    def __init__(self, origin: str, timeout: float, tick: float, go_on: Callable[[], object]) -> None:
        """Something has to move within `timeout` seconds; `tick` is called every `tick` seconds.

        `go_on` is called to have more brought after `take` has refused some.
        """
        self._origin = origin
        self._timeout = timeout
        self._longest = timeout / tick
        self._go_on = go_on
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._paused = False
        self._ready = False
        self._done = False
        self._stalled = False
        self._idle = 0
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    # Who brings it

    def take(self, piece: bytes) -> bool:
        """Keep a piece; false when enough is waiting: then it is to be brought again when that was read."""
        self._idle = 0
        if self._waiting >= _AHEAD:
            self._paused = True
            return False
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._waiting >= _WORTHWHILE:
            self._wake()
        return True

    def moved(self) -> None:
        """Note that something moves in the other direction."""
        self._idle = 0

    def tick(self) -> None:
        """Count the time: when too much goes by without a byte, it is given up."""
        self._idle += 0 if self._paused else 1
        self._stalled = self._idle > self._longest
        if self._stalled or self._pieces:
            self._wake()

    def end(self, failure: BaseException | None) -> None:
        """Note that nothing more comes, and what that is to be told as, if it is no good end."""
        self._failure = failure
        self._done = True
        self._wake()

    def _wake(self) -> None:
        self._ready = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._done

    @property
    def failed(self) -> bool:
        """Whether it came to a bad end, or nothing moves for too long."""
        return self._stalled or self._failure is not None

    # Who reads it

    async def begun(self) -> None:
        """Wait until something has come, or the end; raises `Unavailable` when it does not, and what it failed with."""
        await self._woken()
        if self._done and not self._pieces:
            self._raise_what_failed()

    async def whole(self) -> bytes | None:
        """Return all if it comes at once; it can be read piece by piece nevertheless.

        None when it takes longer, or fails; what there is to say of that is said to those who read.
        """
        if not self._ready:
            await self._waken()
        return self._joined() if self._done and self._failure is None else None

    async def batch(self) -> bytes:
        """Return what has come; nothing at the end. Raises as `begun` does."""
        while True:
            await self._woken()
            if self._pieces:
                return self._all_pieces()
            if self._done:
                self._raise_what_failed()
                return b""
            self._ready = False

    def drop(self) -> None:
        """Forget what was not read."""
        self._pieces = []

    def _joined(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def _all_pieces(self) -> bytes:
        self._ready = self._done
        batch, self._pieces = self._joined(), []
        self._waiting = 0
        if self._paused:
            self._paused, self._idle = False, 0
            if not self._done:
                self._go_on()
        return batch

    async def _woken(self) -> None:
        if not self._ready:
            await self._waken()
        if self._stalled:
            raise late(self._origin, self._timeout)

    async def _waken(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _raise_what_failed(self) -> None:
        if self._failure is not None:
            raise self._failure
