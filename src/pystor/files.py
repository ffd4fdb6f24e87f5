"""A replica that is a file."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import suppress
from functools import partial
from typing import Final

from pystor import posix
from pystor.blob import READ_SIZE, Again, Fingerprint
from pystor.digest import Digest
from pystor.errors import StorageError


class FileReplica:
    """An open replica: what was checked by `fstat` is what is read. Closing it twice is harmless."""

    __slots__ = ("_local", "fd", "fingerprint", "modified", "path", "size", "storage")

    def __init__(self, storage: str, path: str, fd: int, *, local: bool = True) -> None:
        """Take over the descriptor; raises `StorageError`, and closes it, if it is not a regular file.

        `local` false: closing it may take as long as a network or another process does.
        """
        self._local: Final = local
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
        self.size: Final = info.st_size
        self.modified: Final = int(info.st_mtime)
        self.fingerprint: Final[Fingerprint] = _fingerprint(info)

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

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """Read exactly `size` bytes if the page cache has them all; None if the disk would have to be asked."""
        return _read_cached(self.fd, offset, size)

    @property
    def again(self) -> Again | None:
        """How to read the whole once more, from the same file of a local filesystem."""
        return partial(_read_again, os.fsencode(self.path), self.fingerprint) if self._local else None

    def digest(self) -> Digest:
        """Hash the whole replica; takes as long as the disk does."""
        hasher = hashlib.sha256()
        for offset in range(0, self.size, READ_SIZE):
            hasher.update(self.read(offset, min(READ_SIZE, self.size - offset)))
        return Digest(hasher.hexdigest())

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        if fd >= 0 and self._local:
            _close(fd)
        elif fd >= 0:
            threading.Thread(target=_close, args=(fd,), name=f"close {self.path}", daemon=True).start()

    def __enter__(self) -> FileReplica:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fingerprint(info: os.stat_result) -> Fingerprint:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _read_cached(fd: int, offset: int, size: int) -> bytes | None:
    buffer = bytearray(size)
    try:
        if os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT) == size:
            return bytes(buffer)
    except OSError:
        pass  # not cached, or a filesystem that cannot tell: the patient way finds out what it is
    return None


def _read_again(path: bytes, fingerprint: Fingerprint) -> bytes | None:
    fd = posix.open_cached(path)
    if fd < 0:
        return None
    try:
        same = _fingerprint(os.fstat(fd)) == fingerprint
        return _read_cached(fd, 0, fingerprint[2]) if same else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _close(fd: int) -> None:
    with suppress(OSError):  # of a dead mount; there is nothing to lose by reading
        os.close(fd)
