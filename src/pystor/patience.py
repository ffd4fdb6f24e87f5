"""How long somebody is waited for, by a process that may itself be paused meanwhile, with its machine or alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PUNCTUAL: Final = 0.25
"""Seconds by which a timer may be late in a busy event loop; one that is later tells that the process was paused."""


class Patience:
    """A timer of the running event loop that waits anew, once, when it comes late.

    What has come in time is then told behind it: loops look at their timers first.
    """

    __slots__ = ("_call", "_due", "_loop", "_seconds", "_timer", "more")  # one is made for each operation of a storage

    def __init__(self, call: Callable[[], None], seconds: float) -> None:
        """Call when so many seconds are over."""
        self.more = 0.0
        """Seconds by which it waited longer than it was told to."""
        self._call = call
        self._loop: Final = asyncio.get_running_loop()
        self.start(seconds)

    def start(self, seconds: float) -> None:
        """Wait for so long, from now on; not to be called while it waits."""
        self._seconds, self._due = seconds, self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._end)

    def cancel(self) -> None:
        """Wait no more, and let go of what was to be called: it has this, and would only be freed with all garbage."""
        self._timer.cancel()
        self._call = _nothing

    def _end(self) -> None:
        late = self._loop.time() - self._due
        if late < PUNCTUAL or self.more:
            self._call()
        else:
            again = max(late, self._seconds)
            self.more = late + again
            self.start(again)


def _nothing() -> None:
    pass
