"""A directory that was found in its place and is held open: what is written there goes there and nowhere else."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from typing import Final

from pystor import tree
from pystor.blob import UNKNOWN_ROOM, Space
from pystor.digest import Digest
from pystor.errors import StorageError, StorageFull
from pystor.staging import Root, StagedFile

_AT_ONCE: Final = 1 << 20  # what is written in one go needs no reservation: the write itself finds out
_BESIDE: Final = 16 << 10  # bytes that a small file may take beside its own: its last block, and new directories
_PROBE: Final = b"Stor was here\n"
"""What is written to see whether a disk takes something and gives it back."""


class OpenDirectory:
    """A storage that was found in its place, and is held open. For one thread; errors are `StorageError`."""

    def __init__(self, root: Root, *, left: Callable[[Space], int]) -> None:
        """Take over the root; `left` tells how much of its room may be used."""
        self._root: Final = root
        self._left_of: Final = left
        self._left: int | None = None

    def make_way(self, digest: Digest) -> bool:
        """Make the directory of a blob if there is none; False if something stands under the blob's name.

        In a new directory there is nothing to look for; most are new, until there are millions of blobs.
        """
        if self._room() < 0:
            raise self._full()
        try:
            return self._root.make_way(digest) or not self._has(digest)
        except OSError as error:
            raise self._root.refusal("make a directory", error) from error

    def _has(self, digest: Digest) -> bool:
        try:
            os.stat(digest.path, dir_fd=self._root.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StorageError.from_os(self._root.path, "look", error) from error
        return True

    def probe(self) -> None:
        """Write, read and remove something, and see that directories may be made."""
        with self.stage(len(_PROBE)) as staged:
            staged.write(_PROBE)
            staged.sync()
            if staged.read_back(len(_PROBE)) != _PROBE:
                raise _deceives(self._root.path)
        if not tree.takes_names(self._root.fd):
            refusal = PermissionError(errno.EACCES, "Stor may not make directories in it: give it to Stor's user")
            raise StorageError.from_os(self._root.path, "probe", refusal, writing=True, whole=True)
        try:
            tree.try_changes(self._root.fd)
        except OSError as error:
            raise StorageError.from_os(self._root.path, "make a directory", error, writing=True, whole=True) from error

    def stage(self, size: int, *, shared: bool = False) -> StagedFile:
        """Begin a replica of `size` bytes: they are reserved before the first one is written.

        `shared` is whether a sync of the whole filesystem makes its name durable, if anything does.
        """
        if size <= _AT_ONCE:
            self._take_room(size)
            return StagedFile(self._root.join(), shared=shared)
        # One at a time, in all workers: what one upload is promised, no other is.
        with tree.alone(self._root.fd):
            if self._measure() < size:
                raise self._full()
            staged = StagedFile(self._root.join())
            try:
                staged.reserve(size)
            except BaseException:
                staged.discard()
                raise
            return staged

    def stage_unsized(self) -> StagedFile:
        """Begin a replica of which nobody knows how large it will be: room is reserved for each write of it."""
        self._take_room(0)
        return StagedFile(self._root.join(), left=self._measure)

    def _take_room(self, size: int) -> None:
        """Count what is written as used: the room is measured once for all that comes in one go."""
        left = self._room()
        if left < size:
            raise self._full()
        self._left = left - size - _BESIDE

    def _room(self) -> int:
        if self._left is None:
            self._left = self._measure()
        return self._left

    def _measure(self) -> int:
        try:
            return self._left_of(measure(self._root.fd))
        except OSError as error:
            raise StorageError.from_os(self._root.path, "stat", error) from error

    def _full(self) -> StorageFull:
        return StorageFull(self._root.path, "reserve space", "only the reserve is left")

    def __enter__(self) -> OpenDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self._root.leave()


def measure(place: str | int) -> Space:
    """Tell the room of the filesystem of a path or descriptor: none if it has no inodes left. Raises `OSError`.

    A filesystem without a size, as some of FUSE are, and a tmpfs without a limit, does not tell its room.
    """
    room = os.statvfs(place)
    full = room.f_files > 0 and room.f_favail == 0  # who counts none makes them as they are needed
    if room.f_blocks == 0 and not full:
        return UNKNOWN_ROOM
    return Space(room.f_blocks * room.f_frsize, 0 if full else room.f_bavail * room.f_frsize)


def try_out(directory: str) -> None:
    """Write, read and remove something in a directory that is no storage; nothing is left. Raises `OSError` as well."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(_PROBE)
        os.fsync(file.fileno())
        if os.pread(file.fileno(), len(_PROBE), 0) != _PROBE:
            raise _deceives(directory)


def _deceives(place: str) -> StorageError:
    return StorageError(place, "probe", "gives back something else than was written")
