"""One mounted directory that keeps one replica of each of its blobs. Plain synchronous POSIX."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

from pystor import commit, mounts, posix, temporary, tree
from pystor.blob import Filesystem, QueueName, Space, Timeouts, Turn
from pystor.digest import Digest, digests_in
from pystor.entries import Entries
from pystor.errors import StorageError, StorageFull, translated
from pystor.files import Closer, FileReplica, close_now, how_to_read, open_to_read
from pystor.marker import Homes, Marker
from pystor.open_directory import OpenDirectory, measure, try_out
from pystor.presence import Presence
from pystor.staging import Root, StagedFile
from pystor.watch import Watch

_NO_SUCH_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_LARGEST_RESERVE: Final = 64 << 20


class Directory:
    """A directory of replicas.

    Every operation raises `StorageError` when the storage does not do it, `StorageFull` when for lack of room. A
    storage that is not mounted, or is not the one it was, does nothing at all.
    """

    def __init__(
        self,
        root: str,
        *,
        writable: bool = True,
        durable: bool = True,
        reserve: int | None = None,
        require_mount: bool | None = None,
        replica_set: str | None = None,
        local: bool | None = None,
        watch: Watch | None = None,
        homes: Homes | None = None,
    ) -> None:
        """Describe a storage; nothing is touched yet.

        `reserve` bytes stay free (None: one percent, at most 64 MiB). `require_mount`: whether it must be a mount of
        its own (None: if it was one when it was adopted). `replica_set`: that of the disks which are taken for it
        (None: that of the first one). `local`: whether it is a disk of this machine (None: as the mount table says).
        `watch` tells when paths may lead elsewhere; without it, each miss looks at the marker. `homes` are those of
        all storages of this process.
        """
        self.root: Final = root
        self.writable: Final = writable
        self.timeouts: Final = Timeouts()
        self.local = False
        self._is_local: Final = local
        self._durable: Final = durable
        self._how: posix.How = posix.QUIETLY
        self._commits = False
        self._reserve: Final = reserve
        self._closer = Closer()
        self._prefix: Final = os.fsencode(root) + b"/"
        self._presence: Final = Presence(
            root,
            writable=writable,
            require_mount=require_mount,
            replica_set=replica_set,
            watch=watch,
            homes=Homes() if homes is None else homes,
        )

    def answers_since(self, began: float) -> bool:  # noqa: ARG002  that of the protocol
        """Never: a disk of which a part hangs may hang as a whole."""
        return False

    # Identity

    @property
    def may_be_plain(self) -> bool:
        """Whether it is said that the storage needs no mount of its own."""
        return self._presence.may_be_plain

    @property
    def watched(self) -> bool:
        """Whether a `Watch` would notice if another storage, or none, were put in its place."""
        return self._presence.watched

    def look(self) -> Marker | None:
        """Read the marker of what is in the storage's place, and touch nothing; None: it has none."""
        return self._presence.look()

    def attach(self) -> Marker:
        """Find the storage in its place and remember it; raises `StorageError` that says what to do."""
        found = self._presence.find()
        with translated(self.root, "attach"):
            if self.writable:
                tree.prepare(self.root)
            kind = mounts.filesystem_of(self.root)
            self.local = mounts.is_local(kind) if self._is_local is None else self._is_local
            self._how = how_to_read(self.root)
            self._commits = self._durable and self.local and commit.is_told(kind)
        if self._presence.settle(found):
            self._closer = Closer()  # the old one may hang in what was there before
        return found.marker

    def adopt(self, replica_set: str) -> Marker:
        """Make a directory that has no marker a storage of a replica set; one that has a marker keeps it."""
        self._presence.mark(replica_set)
        return self.attach()

    def check(self) -> Space:
        """See that the storage is in its place, and measure its room in bytes."""
        with translated(self.root, "stat"):
            self._guard()
            return measure(self.root)

    def probe(self) -> None:
        """Write, read and remove something, to see whether the storage does what it should."""
        with translated(self.root, "probe"), suppress(StorageFull):  # a full disk reads as well as ever
            if not self.writable:
                self._guard()
                os.listdir(self.root)
                return
            with self.open_for_writing() as opened:
                opened.probe()

    def try_out(self) -> None:
        """Write, read and remove something in a directory that is no storage yet; nothing is left there."""
        with translated(self.root, "probe"):
            self._presence.refuse_bare_mount_point()
            try_out(self.root)

    def _guard(self, root_fd: int | None = None) -> None:
        """See that the storage is the one that was attached; one that came back is attached again.

        The marker file tells, better than the root: another disk may have the same device and inode numbers there.
        """
        if self._presence.is_known(root_fd):
            return
        self.attach()
        if not self._presence.is_known(root_fd):
            # What is in its place by now is the right one; what the descriptor is of, is not.
            raise StorageError(self.root, "attach", "was changed in this moment: try again")

    # Reading

    def locate(self, digest: Digest) -> str:
        """Tell where the replica of a blob lies, or would."""
        return f"{self.root}/{digest.path}"

    def open(self, digest: Digest) -> FileReplica | None:
        """Open the replica of a blob; None only when this very storage has no such file."""
        path = f"{self.root}/{digest.path}"
        try:
            try:
                fd, how = open_to_read(path, self._how)
            except (FileNotFoundError, NotADirectoryError):
                if self._lacks(digest):
                    return None
                fd, how = open_to_read(path, self._how)  # it has come in this moment
            return FileReplica(self.root, path, fd, how if self.local else None, self._close)
        except OSError as error:
            failure = StorageError.from_os(self.root, f"open {path}", error)
            failure.unreadable |= error.errno == errno.EACCES and os.path.lexists(path)  # it, and not what is above it
            raise failure from error

    def _lacks(self, digest: Digest) -> bool:
        """Tell whether this very storage has no such file: an empty mount point, which it was under, has none either.

        What is in its place before and after may be away in between, so it is held while it is asked.
        """
        with posix.opened(self.root, os.O_PATH | os.O_DIRECTORY) as root_fd:
            self._guard(root_fd)
            with suppress(FileNotFoundError, NotADirectoryError):
                os.stat(digest.path, dir_fd=root_fd, follow_symlinks=False)
                return False
            return True

    def open_own(self, digest: Digest) -> FileReplica | None:
        """Open the replica as `open` does, and see that it lies on this very storage.

        That is neither through a symbolic link, nor in the mount point of a disk that is gone.
        """
        replica = self.open(digest)
        if replica is not None:
            try:
                self.check()
                replica.refuse_link()
            except StorageError:
                replica.close()
                raise
        return replica

    def open_own_cached(self, digest: Digest) -> FileReplica | Literal[False] | None:
        """Open the replica as `open_own` does, but without waiting; False when that is not possible."""
        found = self.open_cached(digest)
        if not found or (self.is_in_place() and not os.path.islink(found.path)):
            return found
        found.close()
        return False

    def open_cached(self, digest: Digest) -> FileReplica | Literal[False] | None:
        """Open the replica as `open` does, but without waiting; False when that is not possible, or when it failed."""
        before = self._presence.changes
        found = self.open_cached_path(digest.path.encode(), self._close)
        if found is not None:
            return found
        return None if self.is_in_place() and self._presence.changes == before else False

    def open_cached_path(
        self, path: bytes, close: Callable[[int], None] = close_now
    ) -> FileReplica | Literal[False] | None:
        """Open the replica by `Digest.path`, without waiting; None counts only if the storage `is_in_place` afterwards.

        Unless another `close` is given, the replica is to be closed before the event loop goes on.
        """
        if not self.local:
            return False
        how = self._how
        fd = posix.open_cached(self._prefix + path, how)
        if fd < 0:
            return None if -fd in _NO_SUCH_FILE else False
        try:
            return FileReplica(self.root, f"{self.root}/{path.decode()}", fd, how, close)
        except (OSError, StorageError):  # whoever asks again, patiently, gets the reason
            return False

    def _close(self, fd: int) -> None:
        """Close a descriptor without waiting: in a thread if it may be the last one of a filesystem that was unmounted.

        To close that ends the filesystem, which writes out all that it has in memory.
        """
        if self.local and self._presence.holds(fd):
            close_now(fd)
        else:
            self._closer(fd)

    def is_in_place(self) -> bool:
        """Tell without waiting whether the storage is where it was attached; at once if nothing has changed since."""
        return self._presence.is_in_place()

    def scan(self, failed: Callable[[StorageError], None]) -> Iterator[Digest]:
        """Go through all blobs that have a replica here, in the order of their digests.

        `failed` is told of directories that cannot be read; the others are gone through.
        """

        def told(error: OSError) -> None:
            failed(StorageError.from_os(self.root, f"scan {error.filename}", error))

        self.check()
        for names in tree.leaves(self.root, told):
            yield from digests_in(name.removesuffix(".dat") for name in names)

    def confirm(self, digest: Digest) -> None:
        """See that a replica that has just come, from whomever, is on stable storage, and its name is."""
        if not self._durable:
            return
        try:
            tree.confirm(self.root, digest)
        except OSError as error:
            failure = StorageError.from_os(self.root, "confirm", error, writing=True)
            failure.unwritable |= isinstance(failure, StorageFull)  # what was written before is lost for lack of room
            raise failure from error

    # Writing

    @property
    def syncs(self) -> bool:
        """Whether what is written is synced before it is acknowledged."""
        return self._durable

    @property
    def prompt(self) -> bool:
        """Whether small blobs are written and named without waiting for the disk: that is left to a shared sync."""
        return self._commits or (self.local and not self._durable)

    def open_for_writing(self) -> OpenDirectory:
        """See that the storage is in its place, and hold it open for what is written there now."""
        return OpenDirectory(self._open_root(), left=self.left)

    def stage(self, size: int) -> StagedFile:
        """Begin a replica of `size` bytes (0: unknown): they are reserved before the first one is written."""
        with self.open_for_writing() as opened:
            return opened.stage(size) if size else opened.stage_unsized()

    def _open_root(self) -> Root:
        try:
            fd = os.open(self.root, posix.DIRECTORY)
            try:
                opened = time.monotonic()
                self._guard(fd)
                filesystem = Filesystem(os.fstat(fd).st_dev, fd, opened) if self._commits else None
                return Root(self.root, fd, durable=self._durable, filesystem=filesystem)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise StorageError.from_os(self.root, "open", error) from error

    def left(self, space: Space) -> int:
        """Bytes that may be written before only the reserve is left; negative when it is touched already."""
        reserve = min(space.total // 100, _LARGEST_RESERVE) if self._reserve is None else self._reserve
        return space.free - reserve

    def sweep(self) -> int:
        """Remove the temporaries of dead processes; returns how many there were."""
        with translated(self.root, "sweep"):
            self._guard()
            return temporary.sweep(self.root)

    # Queues

    def enqueue(self, queue: QueueName, digest: Digest) -> None:
        """Note a blob durably, for later."""
        with self._queue(queue) as entries:
            entries.add(digest)

    def take_turn(self, queue: QueueName) -> Turn | None:
        """Keep all others, in all processes, from working on a queue; None if somebody does already."""
        with self._queue(queue) as entries:
            return entries.take_turn()

    def pending(self, queue: QueueName, most: int, beyond: int = 0) -> list[Digest]:
        """Tell the blobs that are noted, at most `most`, leaving out the first `beyond`, in an order that stays."""
        with self._queue(queue) as entries:
            return entries.list(most, beyond)

    def dequeue(self, queue: QueueName, digest: Digest, noted_before: float) -> None:
        """Forget a blob, unless it was noted anew since a moment, in seconds since the epoch."""
        with self._queue(queue) as entries:
            entries.remove(digest, noted_before)

    @contextmanager
    def _queue(self, queue: QueueName) -> Iterator[Entries]:
        with translated(self.root, f"queue {queue}"):
            self._guard()
            if self.writable:
                tree.prepare(self.root, (tree.QUEUES[queue],))  # somebody may have tidied up
            yield Entries(f"{self.root}/{tree.QUEUES[queue]}")
