"""Replicas on their way: written where nobody looks, made durable, then published, or gone without a trace.

The rules of a write are upheld here, for one storage; their order over all storages of a set is `pystor.uploads`'.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from pystor import posix, tree
from pystor.blob import Filesystem, Fingerprint
from pystor.digest import Digest
from pystor.errors import StorageError, StorageFull
from pystor.temporary import Temporary

_P = ParamSpec("_P")
_T = TypeVar("_T")

_PUBLISHED_MODE: Final = 0o644
_AT_ONCE: Final = 1 << 20  # bytes that are sent to the disk as soon as they are written
_AHEAD: Final = 2 << 20  # bytes that may be on their way to the disk
_GENTLE: Final = 0.1  # seconds in which a write makes way for others; what is left then goes to the disk at once
_MOMENT: Final = 0.001  # seconds in which no disk is replaced

_A_STEP: Final = 20.0  # seconds
_SLOWEST_DISK: Final = 5e6  # bytes per second


class Root:
    """A storage's root, held open for all that is written below it in one go: who leaves last closes it."""

    def __init__(self, path: str, fd: int, *, durable: bool, filesystem: Filesystem | None = None) -> None:
        """Take over a descriptor of it; `filesystem` is what may be synced as a whole by that.

        `durable`: what is written is synced before it counts as published.
        """
        self.path: Final = path
        self.fd: Final = fd
        self.durable: Final = durable
        self.filesystem: Final = filesystem
        self.made: Final[set[str]] = set()
        """The directories that were made below it."""
        here = os.fstat(fd)
        self._identity: Final = (here.st_dev, here.st_ino)
        self._was_there = -math.inf
        self._users = 1
        self._lock: Final = threading.Lock()

    def is_in_place(self) -> bool:
        """Tell whether its path leads here, or did in this very moment. Raises `OSError`."""
        now = time.monotonic()
        if now - self._was_there > _MOMENT:  # it costs as much as another step of a small upload
            there = os.stat(self.path)
            if (there.st_dev, there.st_ino) != self._identity:
                return False
            self._was_there = now
        return True

    def make_way(self, digest: Digest) -> bool:
        """Make the directory of a blob; False if there is one already. Raises `OSError`."""
        return tree.make_directory(digest.leaf, self.fd, self.made)

    def refusal(self, operation: str, error: OSError) -> StorageError:
        """Tell a directory that refuses the name of a blob from a storage that refuses any.

        Whatever is wrong there, a file in the way or a block of the disk that cannot be read, the storage takes others.
        """
        takes_others = tree.takes_names(self.fd) and tree.takes_changes(self.fd)
        failure = StorageError.from_os(self.path, operation, error, writing=not takes_others, whole=True)
        failure.refused = takes_others
        return failure

    def join(self) -> Root:
        """Count one more user."""
        with self._lock:
            self._users += 1
        return self

    def leave(self) -> None:
        """Count one user less; the last one closes it. To be called once by each."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                with contextlib.suppress(OSError):
                    os.close(self.fd)


def _step(
    operation: str, *, whole: bool = False
) -> Callable[[Callable[Concatenate[StagedFile, _P], _T]], Callable[Concatenate[StagedFile, _P], _T]]:
    """Make a method a step of a replica, during which no other is taken; what fails in it is the storage's failure.

    After a failed fsync what was lost is marked clean: only a probe tells whether to trust the disk again. A name that
    is refused is that of one blob, unless it is one of the storage's own (`whole`), or its root takes none.
    """

    def as_step(method: Callable[Concatenate[StagedFile, _P], _T]) -> Callable[Concatenate[StagedFile, _P], _T]:
        @functools.wraps(method)
        def step(self: StagedFile, *arguments: _P.args, **named: _P.kwargs) -> _T:
            with self._step:
                try:
                    return method(self, *arguments, **named)
                except OSError as error:
                    raise self._failure(operation, error, whole=whole) from error

        return step  # type: ignore[return-value]  # mypy gives `self` a name that callers may use

    return as_step


class StagedFile:
    """One replica that is being written. Leaving its `with` block, or `discard`, removes what was not published.

    Everything is relative to a descriptor of the storage's root, so that a disk that is unmounted meanwhile takes
    the upload along and nothing is written into its mount point. Errors are `StorageError`.
    """

    def __init__(self, root: Root, *, shared: bool = False, left: Callable[[], int] | None = None) -> None:
        """Make the temporary; takes over one use of the root.

        If it is `shared`, syncs of the whole filesystem make it durable, where they can, and it has no name where the
        filesystem has such: that is quicker, but has to be synced again after it got its name, since only then the
        filesystem is to keep it after a crash. `left` measures how many bytes may still be written, for one that
        reserves nothing before its first byte.
        """
        self.filesystem: Final = root.filesystem if shared else None
        self._root: Final = root
        self._root_fd = root.fd  # -1 when it is closed: the number may be another file's by then
        self._left: Final = left
        self._temporary: Temporary | None = None
        self._published = False
        self._written = 0
        self._sent = 0
        # Whoever gives up waiting for a step discards from another thread: not before the step is over.
        self._step: Final = threading.Lock()
        try:
            self._temporary = Temporary(root.fd, nameless=shared and not self._syncs)
        except OSError as error:
            failure = self._failure("create a temporary file", error, whole=True)
            self.discard()
            raise failure from error

    @property
    def _fd(self) -> int:
        return -1 if self._temporary is None else self._temporary.fd

    @property
    def timeout(self) -> float:
        """Seconds that each step may take: an fsync has to write what the kernel still has in memory."""
        return _A_STEP + self._written / _SLOWEST_DISK

    @_step("reserve space")
    def reserve(self, size: int) -> None:
        """Set aside room for `size` bytes; raises `StorageFull` when there is not as much."""
        if size > 0:
            posix.reserve(self._fd, size)

    @_step("write")
    def write(self, data: bytes | bytearray | memoryview, piece: int = 0) -> None:
        """Append all of `data`.

        For others who wait for the disk, what is large goes to it for a while in pieces of `piece` bytes, one by one.
        """
        view = memoryview(data)
        self._make_room(len(view))
        if self._root.filesystem is None or len(view) < _AT_ONCE:
            self._append(view)
        else:
            rest = self._write_gently(view, piece) if piece else view
            if rest:
                self._append(rest)
                self._write_back()

    def _make_room(self, size: int) -> None:
        """Reserve room for what comes next, if none was for all; one upload after the other, in all workers."""
        if self._left is None:
            return
        with tree.alone(self._root_fd):
            if self._left() < size:
                raise StorageFull(self._root.path, "reserve space", "only the reserve is left")
            posix.reserve(self._fd, size, self._written)

    def _write_gently(self, view: memoryview, piece: int) -> memoryview:
        """Write piece by piece, for as long as that may take; returns what is left.

        On a slow disk with many uploads a step would else outlast its timeout, and a healthy disk be taken for dead.
        """
        until = time.monotonic() + _GENTLE
        while view and time.monotonic() < until:
            self._append(view[:piece])
            self._write_out()
            view = view[piece:]
        return view

    def _append(self, view: memoryview) -> None:
        while view:
            count = os.write(self._fd, view)
            self._written += count
            view = view[count:]

    def _write_back(self) -> None:
        """Send the bytes of a large blob to the disk as they come, and do not run far ahead of it.

        Who syncs the whole filesystem waits for whatever is on its way: that is little then.
        """
        posix.write_back(self._fd, self._sent, self._written - self._sent)
        self._sent = self._written
        if self._written > _AHEAD:
            posix.write_back(self._fd, 0, self._written - _AHEAD, wait=True)

    def _write_out(self) -> None:
        """Send the bytes to the disk and wait until they are there, one upload after the other, in all workers."""
        with tree.alone(self._root_fd):
            posix.write_back(self._fd, self._sent, self._written - self._sent, wait=True)
        self._sent = self._written

    @_step("read back")
    def read_back(self, size: int) -> bytes:
        """Read what was written, from its beginning."""
        return os.pread(self._fd, size, 0)

    @_step("utime")
    def date(self, modified: int) -> None:
        """Have it be of another time than now, in nanoseconds since the epoch; no replica is lost for want of that."""
        with contextlib.suppress(OSError):
            os.utime(self._fd, ns=(os.fstat(self._fd).st_atime_ns, modified))

    def sync(self) -> None:
        """Put the bytes on stable storage, unless that is left to a sync of the filesystem.

        To be called once, when all is written: after a failure the kernel forgets what it lost.
        """
        self._chmod()
        if self._syncs:
            self._fsync()

    @property
    def _syncs(self) -> bool:
        """Whether it has to be synced for itself."""
        return self._root.durable and self.filesystem is None

    @_step("chmod")
    def _chmod(self) -> None:
        os.fchmod(self._fd, _PUBLISHED_MODE)

    @_step("fsync", whole=True)
    def _fsync(self) -> None:
        os.fsync(self._fd)

    @property
    def published(self) -> bool:
        """Whether it has its final name, and is over with that: what still syncs its directories may hang."""
        return self._published and not self._step.locked()

    @_step("publish")
    def publish(self, digest: Digest) -> None:
        """Give the replica its final name, durably unless that is left to a sync of the filesystem.

        What stands under that name already is replaced at once; a reader sees the one or the other. On a disk that is
        no longer the storage's that is a failure.
        """
        self._take_name(digest)
        if self._syncs:
            tree.sync_way(digest.leaf, self._root.made, self._root_fd)
        self._see_in_place()
        if self.filesystem is None:
            self._close()

    def _see_in_place(self) -> None:
        """See that what was published is where others find it: the disk may have been replaced since it was begun.

        Else it is not done, and closed as what may hang: the last file of a disk that was unmounted has it synced.
        """
        if self._root_fd < 0 or not self._root.is_in_place():
            raise StorageError(self._root.path, "publish", "another disk was put in its place meanwhile")
        self._published = True

    def _take_name(self, digest: Digest) -> None:
        temporary = self._temporary
        if temporary is None:
            raise _given_up()
        try:
            self._keep(temporary, digest)
        except OSError as error:
            raise self._root.refusal("publish", error) from error
        self._temporary = None
        temporary.close()

    def _keep(self, temporary: Temporary, digest: Digest) -> None:
        try:
            temporary.keep(digest.path)
        except FileNotFoundError:
            self._root.make_way(digest)
            temporary.keep(digest.path)

    @_step("quarantine")
    def set_aside(self, digest: Digest, bad: Fingerprint | None) -> None:
        """Keep what stands under the final name in quarantine, if it is what was found bad; `publish` replaces it."""
        if self._temporary is None:
            raise _given_up()
        try:
            tree.set_aside(digest, bad, self._root_fd)
        except OSError as error:
            raise self._root.refusal("quarantine", error) from error

    def discard(self) -> None:
        """Remove the temporary if it was not published, and give everything back. Never raises."""
        with self._step:
            if self._temporary is not None:
                self._temporary.discard()
            self._close()

    close = discard

    def _close(self) -> None:
        self._temporary = None
        if self._root_fd >= 0:
            self._root_fd = -1
            self._root.leave()

    def _failure(self, operation: str, error: OSError, *, whole: bool) -> StorageError:
        whole = whole or not tree.takes_names(self._root_fd)
        return StorageError.from_os(self._root.path, operation, error, writing=True, whole=whole)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _given_up() -> OSError:
    return OSError(errno.ECANCELED, "the upload was given up")
