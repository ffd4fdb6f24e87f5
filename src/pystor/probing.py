"""The threads that probe a storage: one at a time, and none behind those that wait for the storage.

A probe tells a storage that hangs from one of which a single replica is late.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pystor import mounts
from pystor.background import Tasks
from pystor.blob import Replica
from pystor.digest import Digest
from pystor.executor import Executor

_AGAIN_AFTER: Final = 3.0
"""Seconds after which another probe is sent beside the first one that hangs; then after twice as long, and so on."""

_A_MOMENT: Final = 0.5
"""Seconds within which a thread that has told the result may not rest yet."""

_MOST_LATE: Final = 3
"""Replicas that may be late at once of a storage that is well: more bad sectors than that are a bad disk."""


class Probes:
    """The thread for the probes of one storage, and another if that hangs. To be used from one event loop."""

    def __init__(self, root: str) -> None:
        """Begin without a thread; `root` is where the storage lies."""
        self._root: Final = root
        self._again_after = _AGAIN_AFTER
        self._began = 0.0
        self._mounts: list[str] = []
        self.executor = self._new_executor()
        """The thread for the next probe."""

    def _new_executor(self) -> Executor:
        return Executor(f"stor probes {self._root}", 1)

    def may_begin(self) -> bool:
        """Tell whether to probe now: not while the last probe hangs, for so would the next.

        But it may hang in what is not there any more. So another is sent when something else is mounted, and else every
        now and then: each time that takes twice as long, so a storage that hangs for a day has some fifteen threads.
        """
        now, mounts = time.monotonic(), _mounts_at(self._root)
        since = now - self._began
        if self.executor.room > 0 or since < _A_MOMENT:
            self._again_after = _AGAIN_AFTER
        elif since < self._again_after and mounts == self._mounts:
            return False
        else:
            self.executor.stop()
            self.executor = self._new_executor()
            self._again_after *= 2
        self._began, self._mounts = now, mounts
        return True

    def stop(self) -> None:
        """Let the thread end when it can."""
        self.executor.stop()


class Inquiry:
    """Finds out by a probe whether a storage is well while operations on some of its replicas are late.

    To be used from one event loop.
    """

    def __init__(self, probes: Probes, probe: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """`probe` sends a probe to a thread of the `probes`, and tells in the end whether the storage did it."""
        self._probes: Final = probes
        self._probe: Final = probe
        self._under_way: Final = Tasks()
        self._sent = 0.0
        self._answered = 0.0  # when the last probe was sent that was answered
        self._late: Final[dict[object, Replica | Digest]] = {}  # the steps that are late, and of which replica

    def send(self) -> bool:
        """Send a probe; False if it would hang as the last one does."""
        if not self._probes.may_begin():
            return False
        self._sent = time.monotonic()
        self._under_way.begin(self._go(self._sent))
        return True

    async def _go(self, sent: float) -> None:
        if await self._probe():
            self._answered = sent

    async def is_heard_within(self, seconds: float) -> bool:
        """Wait until a probe is back, or the last one is silent for so long; False if one still is under way."""
        left = self._sent + seconds - time.monotonic()
        if self._under_way and left > 0:
            await asyncio.wait(self._under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return not self._under_way

    def ask(self, since: float) -> None:
        """Send a probe, unless one is under way, or was answered since a moment on the monotonic clock."""
        if not self._under_way and self._answered < since:
            self.send()

    def is_well_but_for(self, of: Replica | Digest, step: object, since: float) -> bool:
        """Take note that `step`, an operation on a replica, is late until it `has_come`; then do as `is_well_since`."""
        self._late[step] = of
        return self.is_well_since(since)

    def is_well_since(self, since: float) -> bool:
        """Tell whether a probe sent after `since` (monotonic clock) was answered, and only few replicas are late."""
        names = {os.path.basename(of.path) for of in self._late.values()}
        return self._answered >= since and len(names) <= _MOST_LATE

    def hangs(self, replica: Replica) -> bool:
        """Tell whether an operation on this very file is late: what is begun on it now would hang as well."""
        files = (of for of in self._late.values() if not isinstance(of, Digest))
        return any(file.fingerprint == replica.fingerprint for file in files)

    def has_come(self, step: object) -> None:
        """Take note that a step that was late is over."""
        self._late.pop(step, None)

    def forget_late(self) -> None:
        """Count what is late no more: it hangs in the disk that was there before."""
        self._late.clear()

    def stop(self) -> None:
        """Wait for no probe any more."""
        for task in tuple(self._under_way):
            task.cancel()


def _mounts_at(root: str) -> list[str]:
    """Tell what is mounted where a storage is, and above that; a link on the way is not followed, since it may hang."""
    try:
        return [mount.line for mount in mounts.mounts_above(os.path.abspath(root))]
    except OSError:
        return []
