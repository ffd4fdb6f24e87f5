"""A file on its way into a storage: how it is made, how it gets its name, and how those of the dead are swept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from typing import Final

from pystor import marker, posix, unnamed

TEMPORARIES: Final = f"{marker.HOME}/tmp"

_FOREIGN_AGE: Final = 7 * 86400.0
"""Seconds after which a temporary goes on a filesystem that cannot tell by a lock whether its writer lives."""


class Temporary:
    """A file that is not to stay yet. Its methods raise `OSError`, but for `discard`."""

    def __init__(self, root_fd: int, *, nameless: bool) -> None:
        """Make it below a storage's root, which stays the caller's; without a name if that is wanted and possible."""
        self._root_fd: Final = root_fd
        self._name: str | None = None
        fd = unnamed.make(TEMPORARIES, 0o600, root_fd) if nameless else None
        self.fd = self._make_named() if fd is None else fd

    def _make_named(self) -> int:
        # The lock tells the sweep that the writer lives. A sweep between the creation and the lock has removed the
        # file, which its link count tells, or is about to, which the refused lock tells.
        while True:
            name = _random_name()
            fd = self._open_new(name)
            try:
                if _lock(fd) and _has_a_name(fd):
                    self._name = name
                    return fd
            finally:
                if self._name is None:
                    os.close(fd)

    def _open_new(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(name, flags, 0o600, dir_fd=self._root_fd)
        except FileNotFoundError:
            # Somebody has tidied up; the marker was there a moment ago, so this is the right place.
            with contextlib.suppress(FileExistsError):  # others need it, too
                os.mkdir(TEMPORARIES, 0o700, dir_fd=self._root_fd)
            return os.open(name, flags, 0o600, dir_fd=self._root_fd)

    def keep(self, target: str) -> None:
        """Give it its final name, below the root, in the place of what has that now."""
        if self._name is not None or not unnamed.link(self.fd, target, self._root_fd):
            os.rename(self._name or self._name_it(), target, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        self._name = None

    def _name_it(self) -> str:
        """Give it a name that can be renamed: a link replaces nothing."""
        name = _random_name()
        _lock(self.fd)  # before there is something to sweep
        unnamed.link(self.fd, name, self._root_fd)
        self._name = name
        return name

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):
            if self._name is not None:
                os.unlink(self._name, dir_fd=self._root_fd)
        with contextlib.suppress(OSError):
            self.close()

    def close(self) -> None:
        """Close it; without a name it is gone then."""
        fd, self.fd = self.fd, -1
        os.close(fd)


def _random_name() -> str:
    return f"{TEMPORARIES}/{secrets.token_hex(16)}"


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a filesystem without locks: the sweep goes by age there
    return True


def _has_a_name(fd: int) -> bool:
    try:
        return os.fstat(fd).st_nlink > 0
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return False  # of a network or another process, which know files by their names


def sweep(root: str) -> int:
    """Remove the temporaries whose writers are dead, however old; returns how many. Raises `OSError`.

    A living writer holds a lock, so neither the clock nor the process's number can mislead.
    """
    directory = os.path.join(root, TEMPORARIES)
    return sum(_sweep_one(os.path.join(directory, name)) for name in os.listdir(directory))


def _sweep_one(path: str) -> bool:
    # What cannot be opened is just published or discarded, or nothing that Stor has made.
    with contextlib.suppress(OSError), posix.opened(path, posix.READ | os.O_NOFOLLOW) as fd:
        if _is_abandoned(fd):
            os.unlink(path)
            return True
    return False


def _is_abandoned(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(fd).st_ctime > _FOREIGN_AGE  # a copy has the mtime of what it was made of
    return True
