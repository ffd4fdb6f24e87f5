"""The threads that probe a storage: one at a time, and none behind those that wait for the storage."""

from __future__ import annotations

import os
import time
from typing import Final

from pystor import marker
from pystor.executor import Executor

_AGAIN_AFTER: Final = 3.0
"""Seconds after which another probe is sent beside the first one that hangs; then after twice as long, and so on."""

_A_MOMENT: Final = 0.5
"""Seconds within which a thread that has told the result may not rest yet."""


class Probes:
    """To be used from one event loop."""

    def __init__(self, root: str) -> None:
        """Begin without a thread; `root` is where the storage lies."""
        self._root: Final = root
        self._again_after = _AGAIN_AFTER
        self._began = 0.0
        self._mounts: list[str] = []
        self.executor = self._one()
        """The thread for the next probe."""

    def _one(self) -> Executor:
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
            self.executor = self._one()
            self._again_after *= 2
        self._began, self._mounts = now, mounts
        return True

    def stop(self) -> None:
        """Let the thread end when it can."""
        self.executor.stop()


def _mounts_at(root: str) -> list[str]:
    """Tell what is mounted where a storage is, and above that; a link on the way is not followed, since it may hang."""
    try:
        return [mount.line for mount in marker.mounts_above(os.path.abspath(root))]
    except OSError:
        return []
