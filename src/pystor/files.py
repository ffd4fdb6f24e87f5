"""A replica that is a file."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from pystor import posix
from pystor.blob import Again, Fingerprint
from pystor.errors import StorageError


def close_now(fd: int) -> None:
    """Close a descriptor; a dead mount may refuse, and there is nothing to lose by reading."""
    try:  # noqa: SIM105  this is done for each answer, and the other form takes longer than the closing
        os.close(fd)
    except OSError:
        pass


def how_to_read(root: str) -> posix.How:
    """Tell how files of a filesystem are opened so that to read them writes nothing there; raises `OSError`.

    To note when a file was last read, a filesystem may have to wait for its journal, and so for the disk.
    """
    notes_nothing = os.statvfs(root).f_flag & (os.ST_NOATIME | os.ST_RDONLY)
    return posix.PLAINLY if notes_nothing else posix.QUIETLY


def open_to_read(path: str, how: posix.How) -> tuple[int, posix.How | None]:
    """Open a file, in a thread. Raises `OSError`; a link that leads nowhere is not a file that is missing.

    Tells besides how it can be opened without waiting; None if to read it writes something, as it does if the file is
    another user's and `how` is quietly.
    """
    try:
        return _open(path, how, posix.READ | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    try:
        return _open(path, how, posix.READ)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OSError(errno.ELOOP, "Symbolic link that leads nowhere") from error


def _open(path: str, how: posix.How, flags: int) -> tuple[int, posix.How | None]:
    if how is posix.QUIETLY:
        try:
            return os.open(path, flags | os.O_NOATIME), how
        except PermissionError:
            return os.open(path, flags), None
    return os.open(path, flags), how


class Closer:
    """Closes descriptors one after the other in a thread of its own, which lives as long as there is something to do.

    On a filesystem of a network or of another process that may take as long as that does. However many files are open
    when it hangs, it is one thread that hangs.
    """

    def __init__(self) -> None:
        self._waiting: Final[deque[int]] = deque()
        self._lock: Final = threading.Lock()
        self._works = False

    def __call__(self, fd: int) -> None:
        """Have a descriptor closed, soon."""
        with self._lock:
            self._waiting.append(fd)
            if self._works:
                return
            try:
                threading.Thread(target=self._work, name="stor closes", daemon=True).start()
            except RuntimeError:  # the system has none to give now: whoever closes the next one tries again
                return
            self._works = True

    def _work(self) -> None:
        while (fd := self._next()) is not None:
            close_now(fd)

    def _next(self) -> int | None:
        with self._lock:
            self._works = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None


class FileReplica:
    """An open replica: what was checked by `fstat` is what is read. Closing it twice is harmless."""

    __slots__ = ("_close", "_how", "_owner", "fd", "fingerprint", "modified", "path", "size", "storage")

    def __init__(self, storage: str, path: str, fd: int, how: posix.How | None, close: Callable[[int], None]) -> None:
        """Take over the descriptor; raises `StorageError`, and closes it, if it is not a regular file.

        `how` the file can be opened without waiting, and then read without waiting from the page cache; None: it
        cannot. `close` closes a descriptor, soon: a `Closer` does where that may take long.
        """
        self._how: Final = how
        self._close: Final = close
        self.storage: Final = storage
        self.path: Final = path
        self.fd = fd
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise StorageError(storage, "open", f"{path} is not a regular file", unreadable=True)
        except BaseException:
            self.close()
            raise
        self._owner: Final = info.st_uid
        self.size: Final = info.st_size
        self.modified: Final = int(info.st_mtime)
        self.fingerprint: Final[Fingerprint] = _fingerprint(info)

    def refuse_link(self) -> None:
        """Raise `StorageError` if its name is a symbolic link: what that leads to may be the only copy."""
        if os.path.islink(self.path):
            reason = "is a symbolic link: what it leads to may be the only copy"
            raise StorageError(self.storage, f"open {self.path}", reason, unreadable=True)

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly `size` bytes; raises `StorageError` if the disk refuses or the file has become shorter."""
        try:
            data = os.pread(self.fd, size, offset)
            while 0 < len(data) < size:
                more = os.pread(self.fd, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise StorageError.from_os(self.storage, f"read {self.path}", error) from error
        if len(data) != size:
            raise StorageError(
                self.storage, f"read {self.path}", f"ends at {offset + len(data)} bytes", unreadable=True
            )
        return data

    def read_cached(self, offset: int, room: memoryview) -> bool:
        """Fill the room with the bytes from `offset` on; False if a disk would have to be asked, or the file ends.

        False also if the filesystem is not local: nobody knows how long that takes.
        """
        if self._how is None:
            return False
        try:
            return os.preadv(self.fd, (room,), offset, os.RWF_NOWAIT) == len(room)
        except OSError:
            return False  # not cached, or a filesystem that cannot tell: the patient way finds out what it is

    def send_cached(self, socket: int, offset: int, size: int) -> int:
        """Send bytes over a socket, straight from the page cache; none if a disk would have to be asked for any."""
        # Of others' files the kernel does not tell what is cached, and of some filesystems nobody can.
        if self._how is None or self._owner != os.geteuid():
            return 0
        try:
            if posix.is_cached(self.fd, offset, size):
                return os.sendfile(socket, self.fd, offset, size)
        except OSError:
            pass  # the socket is full or gone, or the file is: whoever reads and writes finds out which
        return 0

    @property
    def again(self) -> Again | None:
        """How to read of it again, from the same file, without waiting; None also if it has changed meanwhile."""
        how = self._how
        if how is None:
            return None
        try:
            told = posix.stat(self.fd)
            is_same = _fingerprint(os.fstat(self.fd)) == self.fingerprint
        except OSError:
            return None
        return partial(_read_again, os.fsencode(self.path), how, told) if is_same else None

    def pause(self) -> None:
        """Do nothing: a file holds nothing but its descriptor."""

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._close(fd)

    def __enter__(self) -> FileReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fingerprint(info: os.stat_result) -> Fingerprint:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _read_again(path: bytes, how: posix.How, told: bytes, offset: int, room: memoryview) -> bool:
    fd = posix.open_cached(path, how)
    if fd < 0:
        return False
    try:
        if not posix.has_stat(fd, told):
            return False
        return not room or os.preadv(fd, (room,), offset, os.RWF_NOWAIT) == len(room)
    except OSError:
        return False
    finally:
        os.close(fd)
