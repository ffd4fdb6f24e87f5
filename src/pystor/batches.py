"""Batches that form by themselves: what comes while one is under way is the next.

Alone, nothing waits. The more comes at once, the more goes in one batch, and the less each one costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from pystor.background import Tasks

_T = TypeVar("_T")

_MOST: Final = 64
"""How many go together."""

_TIMEOUT: Final = 0.02
"""Seconds after which the next batch goes though the one before is not through: it may hang."""


class Batches(Generic[_T]):
    """What is to be done with many things of a kind, done with as many at once as there are."""

    def __init__(self, do: Callable[[list[_T], Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
        """`do` does it with a batch, never raises, and calls what it is given when the next batch may begin."""
        self._do: Final = do
        self._waiting: list[_T] = []
        self._gate: object | None = None
        """The batch that is on its way through, and keeps the others waiting."""
        self._under_way: Final = Tasks()

    def join(self, item: _T) -> None:
        """Go with the next batch, which is begun when a turn of the event loop has brought no more."""
        self._waiting.append(item)
        if self._gate is None:
            self._gate = self
            self._gather(0)

    def _gather(self, before: int) -> None:
        if before < len(self._waiting) < _MOST:
            asyncio.get_running_loop().call_soon(self._gather, len(self._waiting))
        else:
            self._begin()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        self._gate = gate = batch or None
        if gate is None:
            return
        timer = asyncio.get_running_loop().call_later(_TIMEOUT, self._open, gate)

        def through() -> None:
            timer.cancel()
            self._open(gate)

        self._under_way.begin(self._do(batch, through))

    def _open(self, gate: object) -> None:
        if self._gate is gate:
            self._begin()
