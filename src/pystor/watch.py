"""A watch over where paths lead: it tells, for the price of one system call, that nothing there has changed.

"No such file" means something only while the storage is in its place. To look at its marker each time costs more than
the look-up; the kernel tells by itself when a mount comes or goes (poll of the mount table, proc_pid_mountinfo(5)), and
when a name on the way to the marker is moved or removed (inotify(7)).
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from pathlib import PurePath
from typing import Final

from pystor import posix

_EVENTS: Final = 1 << 16  # bytes of them that are read at once


class Watch:
    """Counts the changes that may make a path lead elsewhere. For local filesystems."""

    def __init__(self) -> None:
        """Watch no path yet. Raises `OSError`."""
        self._changes = 0
        self.displaced = 0
        """How often, as `changes` has told, something that is followed got another name, was removed or unmounted.

        What was followed before that is to be followed again: the kernel may have dropped it, or something else be on
        the way to it.
        """
        self._lock: Final = threading.Lock()  # what one thread has learnt from the kernel, no other does
        self._mounts: Final = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._notifier: Final = posix.notifier()
        poll = select.poll()
        poll.register(self._mounts, select.POLLPRI)
        poll.register(self._notifier, select.POLLIN)
        self._poll: Final = poll.poll

    def follow(self, path: str) -> bool:
        """Watch all names on the way to a file; False if that cannot be done, and who asks has to look for himself."""
        if os.path.realpath(path) != path:
            return False  # there are links on the way, and what they lead through is not to be seen
        with suppress(OSError):
            # From above: a name that is watched cannot be moved away unseen while those below it are added.
            for name in (*reversed(PurePath(path).parents), path):
                posix.watch(self._notifier, str(name))
            return True
        return False

    def changes(self) -> int:
        """Tell how many there were until now; while that stays the same, all paths lead where they did."""
        with self._lock:
            if self._poll(0):
                self._changes += 1
                with suppress(BlockingIOError):
                    while events := os.read(self._notifier, _EVENTS):
                        self.displaced += _displace(events)
            return self._changes

    def __del__(self) -> None:
        for fd in (getattr(self, "_mounts", -1), getattr(self, "_notifier", -1)):
            if fd >= 0:
                os.close(fd)


def _displace(events: bytes) -> bool:
    at = 0
    while at < len(events):
        _, happened, _, length = posix.EVENT.unpack_from(events, at)
        if happened & posix.DISPLACED:
            return True
        at += posix.EVENT.size + length
    return False
