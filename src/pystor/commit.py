"""Group commit: one sync of a whole filesystem makes durable what many uploads have written to it.

A sync that is under way may have passed what is written now. So whoever asks waits for the first sync that begins
after that, and all who ask while one is under way share the next: nobody waits for more than two. The next one waits
for a moment, never longer than the last one took, for those who are about to ask, too: with many uploads at once that
saves nearly every other sync, and who has just missed one does not wait for two.

The kernel tells of a failed write once to each descriptor that was open by then, and says "success" the next time. So
each sync is done by a descriptor that was open before any of those who share it began to write: whatever they lost,
it tells. One that has told something tells no more: it is not used again, and whoever relied on it learns what it told.
(Linux tells at all since 5.8, and of a journal that failed since 5.18.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from queue import SimpleQueue
from typing import Final

from pystor import posix
from pystor.blob import Filesystem

_TELLS_ALL: Final = (5, 18)
_TELLING: Final = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs"})
"""Filesystems whose own sync tells what it lost. One that lies upon another does not."""


def is_told(kind: str, release: str | None = None) -> bool:
    """Tell whether a sync of a filesystem of this type, with this kernel (None: ours), tells all that it lost."""
    found = re.match(r"(\d+)\.(\d+)", release or os.uname().release)
    return kind in _TELLING and found is not None and (int(found[1]), int(found[2])) >= _TELLS_ALL


_MOMENT: Final = 0.005
"""Seconds for which a sync waits at most for those who are about to ask for one."""


def no_others() -> bool:
    """Tell that no other upload is about to ask for a sync."""
    return False


@dataclass(frozen=True, slots=True)
class _Waiter:
    filesystem: Filesystem
    future: asyncio.Future[None]
    others: Callable[[], bool]
    """Whether others are about to ask for the same."""


@dataclass(frozen=True, slots=True)
class _Round:
    fd: int
    filesystem: Filesystem
    waiters: list[_Waiter]
    began: float = field(default_factory=time.monotonic)


class Committer:
    """The syncs of one filesystem, one after the other, in a thread of its own. To be used from one event loop."""

    def __init__(self, sync: Callable[[int], None] | None = None) -> None:
        """`sync` puts the filesystem of a descriptor on stable storage, or raises `OSError`."""
        self._sync: Final = sync or _sync
        self._waiting: list[_Waiter] = []
        self._running = False
        self._took = 0.0  # seconds, the last sync
        self._timer: asyncio.TimerHandle | None = None
        self._rounds: Final[SimpleQueue[_Round | None]] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self, filesystem: Filesystem, others: Callable[[], bool] = no_others) -> asyncio.Future[None]:
        """Give a future that is done when a sync that began after this call has ended.

        It is an `OSError` if that sync failed, or tells that something was lost before. The descriptor stays open
        until then. `others` tells whether others are about to ask, too.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(filesystem, loop.create_future(), others)
        self._waiting.append(waiter)
        loop.call_soon(self._gather)  # those who ask in the same moment, for another storage there, share it
        return waiter.future

    def _start(self) -> None:
        """See that there is a thread; raises `OSError` if the system has none to give now."""
        if self._loop is not None:
            return
        try:
            # A thread that hangs in a dead disk must not keep the process from ending: hence a daemon.
            threading.Thread(target=self._work, name="stor commit", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        self._loop = asyncio.get_running_loop()

    def _gather(self) -> None:
        """Let a sync begin when none is under way and all have come who are expected, or after a moment."""
        if self._running or not self._waiting:
            return
        if not any(waiter.others() for waiter in self._waiting):
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(min(self._took, _MOMENT), self._begin)

    def _begin(self) -> None:
        """Let one sync begin for all who wait now, and have not given up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if waiter.filesystem.failure is not None:
                _tell(waiter, waiter.filesystem.failure)
        waiters = [waiter for waiter in waiting if not waiter.future.done()]
        self._running = bool(waiters)
        if not waiters:
            return
        first = min((waiter.filesystem for waiter in waiters), key=attrgetter("since"))
        try:
            self._start()
            # Of our own: who gives up closes his, and its number may be another file's by the time it is used.
            fd = os.dup(first.fd)
        except OSError as error:
            self._end(waiters, error)
        else:
            self._rounds.put(_Round(fd, first, waiters))

    def _end(self, waiters: list[_Waiter], error: OSError | None, filesystem: Filesystem | None = None) -> None:
        if filesystem is not None:
            filesystem.failure = error
        for waiter in waiters:
            _tell(waiter, error)
        self._running = False
        self._gather()

    def _work(self) -> None:
        while (now := self._rounds.get()) is not None:
            failure: OSError | None = None
            try:
                self._sync(now.fd)
            except OSError as error:
                failure = error
            finally:
                os.close(now.fd)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                assert self._loop is not None
                self._took = time.monotonic() - now.began
                self._loop.call_soon_threadsafe(self._end, now.waiters, failure, now.filesystem)

    def stop(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._rounds.put(None)


def _tell(waiter: _Waiter, error: OSError | None) -> None:
    if waiter.future.done():
        return
    if error is None:
        waiter.future.set_result(None)
    else:
        waiter.future.set_exception(OSError(error.errno, error.strerror))


def _sync(fd: int) -> None:
    posix.syncfs(fd)
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        # It failed and protected itself, and nothing may have been left to be synced.
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


class Committers(defaultdict[int, Committer]):
    """The committers of a process, one for each device."""

    def __init__(self) -> None:
        super().__init__(Committer)

    def join(self, filesystem: Filesystem, others: Callable[[], bool] = no_others) -> asyncio.Future[None]:
        """Join those who wait for a sync of this filesystem."""
        return self[filesystem.device].join(filesystem, others)

    def stop(self) -> None:
        """Let the threads end."""
        for committer in self.values():
            committer.stop()
        self.clear()
