"""System calls that Python does not offer, by ctypes, and descriptors for `with` blocks. Linux only.

Constants have the names that the kernel gives them.

Sources: openat2(2), mincore(2), fstat(2), fallocate(2), syncfs(2), sync_file_range(2), linkat(2), inotify(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

_SYS_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_CACHED: Final = 0x20
AT_FDCWD: Final = -100
"""In the place of a directory's descriptor: paths are taken as they are, openat(2)."""

_FALLOC_FL_KEEP_SIZE: Final = 0x01
_NOT_OFFERED: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# PyDLL keeps the interpreter's lock: a look-up in the cache takes a microsecond, handing the lock over takes more.
_quick: Final = ctypes.PyDLL(None, use_errno=True)
_slow: Final = ctypes.CDLL(None, use_errno=True)

_syscall = _quick.syscall  # no argtypes: numbers and bytes go as they are, which is quicker
_syscall.restype = ctypes.c_long

_mmap = _quick.mmap
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_mmap.restype = ctypes.c_void_p
_munmap = _quick.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore = _quick.mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_fstat = _quick.fstat if hasattr(_quick, "fstat") else functools.partial(_quick["__fxstat"], 0)  # glibc before 2.33
_stat_buffer: Final = bytearray(256)  # more than any `struct stat` has
_STAT_BUFFER: Final = ctypes.byref((ctypes.c_char * len(_stat_buffer)).from_buffer(_stat_buffer))

_fallocate = _slow.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int

_waiting_syscall = _slow.syscall
_waiting_syscall.restype = ctypes.c_long

_sync_file_range = _slow.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_sync_file_range.restype = ctypes.c_int
_SYNC_FILE_RANGE_WRITE: Final = 2
_SYNC_FILE_RANGE_WRITE_AND_WAIT: Final = 7

_syncfs = _slow.syncfs
_syncfs.argtypes = (ctypes.c_int,)
_syncfs.restype = ctypes.c_int

_linkat = _slow.linkat  # no argtypes: numbers and bytes go as they are, which is quicker
_linkat.restype = ctypes.c_int
_AT_EMPTY_PATH: Final = 0x1000

_inotify_init1 = _slow.inotify_init1
_inotify_add_watch = _slow.inotify_add_watch
_inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_ATTRIB_MOVED_OR_DELETED: Final = 0x4 | 0x800 | 0x400  # IN_ATTRIB, IN_MOVE_SELF, IN_DELETE_SELF
_IN_DONT_FOLLOW: Final = 0x2000000
EVENT: Final = struct.Struct("@iIII")
"""`struct inotify_event`: the watch, a mask of what happened (see `DISPLACED`), a cookie, and the length of a name that
follows."""
DISPLACED: Final = 0x800 | 0x400 | 0x2000 | 0x4000 | 0x8000
"""IN_MOVE_SELF, IN_DELETE_SELF, IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED: what was watched has another name, is gone or is
not watched any more; or events were lost, and nobody knows."""

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How a directory is opened, for open(2)."""

READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not hang whoever opens it
"""How a file is opened for reading, for open(2)."""

LOOK: Final = _OpenHow(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, 0)
"""How a name is looked for, whatever it is of, for openat2(2)."""

READ_CACHED: Final = _OpenHow(READ | os.O_NOFOLLOW, 0, _RESOLVE_CACHED)
"""How a file is opened from the kernel's caches alone, for openat2(2). A symbolic link fails with ELOOP: one that leads
nowhere is not to be taken for a missing file."""

_ANYWHERE: Final = AT_FDCWD & 0xFFFFFFFF  # ctypes raises and catches an exception for a negative number
_HOW_SIZE: Final = ctypes.sizeof(READ_CACHED)

How: TypeAlias = object
QUIETLY: Final[How] = ctypes.byref(_OpenHow(READ | os.O_NOFOLLOW | os.O_NOATIME, 0, _RESOLVE_CACHED))
"""Reading does not set the time of the last access (O_NOATIME). The kernel refuses this for another user's file."""
PLAINLY: Final[How] = ctypes.byref(READ_CACHED)
"""Reading sets that time, unless the mount is `noatime`; to set it waits for the disk, though the bytes are cached."""

_FOLLOWING: Final = {  # the same two, for a symbolic link
    QUIETLY: ctypes.byref(_OpenHow(READ | os.O_NOATIME, 0, _RESOLVE_CACHED)),
    PLAINLY: ctypes.byref(_OpenHow(READ, 0, _RESOLVE_CACHED)),
}


@contextlib.contextmanager
def opened(path: str, flags: int = DIRECTORY, dir_fd: int | None = None) -> Iterator[int]:
    """Hold a file or directory open within the block; a file that is made is its owner's alone. Raises `OSError`."""
    fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def open_cached(path: bytes, how: How) -> int:
    """Open a file for reading if that needs no disk: every name on its path is in the kernel's cache.

    Returns a descriptor, or minus the errno: `-EAGAIN` when the disk would have to be asked, `-ENOENT` when it is
    known that there is no such file, `-ELOOP` when it is a symbolic link that cannot be opened. A number and no
    exception, since a miss is as usual as a hit.
    """
    fd: int = _syscall(_SYS_OPENAT2, _ANYWHERE, path, how, _HOW_SIZE)
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code == errno.ELOOP:
        fd = _syscall(_SYS_OPENAT2, _ANYWHERE, path, _FOLLOWING[how], _HOW_SIZE)
    return fd if fd >= 0 else -code


def stat(fd: int) -> bytes:
    """Return the `struct stat` of an open file as bytes, to be compared by `has_stat`; raises `OSError`."""
    _check(_fstat(fd, _STAT_BUFFER))
    return bytes(_stat_buffer)


def has_stat(fd: int, seen: bytes) -> bool:
    """Tell whether `stat` would return the same again; half the instructions of `os.fstat`.

    Both use one buffer, so they are for one thread.
    """
    return _fstat(fd, _STAT_BUFFER) == 0 and _stat_buffer == seen


def is_cached(fd: int, offset: int, size: int) -> bool:
    """Tell whether `size` bytes of a file, at least one, are all in the page cache and up to date; raises `OSError`.

    For another user's file the kernel always says yes. Only `preadv2` with `RWF_NOWAIT` tells for any file, by reading.
    """
    before = offset % mmap.PAGESIZE
    length = before + size
    pages = -(-length // mmap.PAGESIZE)
    present = ctypes.create_string_buffer(pages)
    at = _mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset - before)
    _check(-(at == _MAP_FAILED))
    try:
        _check(_mincore(at, length, present))
    finally:
        _munmap(at, length)
    return present.raw.count(b"\1") == pages


def call(number: int, *arguments: object) -> int:
    """Make a system call that does not wait, by its number; raises `OSError`."""
    return _check(_syscall(number, *arguments))


def call_and_wait(number: int, *arguments: object) -> int:
    """Make a system call during which other threads go on, by its number; raises `OSError`."""
    return _check(_waiting_syscall(number, *arguments))


def reserve(fd: int, size: int, offset: int = 0) -> None:
    """Set aside `size` bytes for a file, from an offset on, without changing its length.

    Raises `OSError` when there is no room.

    A filesystem that cannot do so reserves nothing, and the write finds out.
    """
    try:
        _check(_fallocate(fd, _FALLOC_FL_KEEP_SIZE, offset, size))
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def syncfs(fd: int) -> None:
    """Put all that was written to the filesystem of a descriptor on stable storage.

    Raises `OSError`, also for what failed to be written since the descriptor was opened; each descriptor tells of that
    once.
    """
    _check(_syncfs(fd))


def write_back(fd: int, offset: int, size: int, *, wait: bool = False) -> None:
    """Begin to write a part of a file to the disk, or `wait` until it is there.

    That replaces no fsync: the metadata by which the bytes are found after a crash is not written. Raises `OSError`,
    also for what failed to be written before, which an fsync does not tell again.
    """
    flags = _SYNC_FILE_RANGE_WRITE_AND_WAIT if wait else _SYNC_FILE_RANGE_WRITE
    _check(_sync_file_range(fd, offset, size, flags))


def link(fd: int, path: str, dir_fd: int | None = None) -> bool:
    """Give the file of a descriptor a name; False if the kernel does not let us.

    Raises `OSError`: `FileExistsError` if something has that name, `FileNotFoundError` if there is no such directory;
    and `ValueError` for a path with a NUL.
    """
    if _linkat(fd, b"", AT_FDCWD if dir_fd is None else dir_fd, _encoded(path), _AT_EMPTY_PATH) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.ENOENT and not _lets_us_link():
        return False
    raise OSError(code, os.strerror(code), path)


@functools.cache
def _lets_us_link() -> bool:
    """Tell whether the kernel lets us give descriptors names. If not, every attempt fails with ENOENT.

    If it does, the attempt to name the root directory, which cannot succeed, fails with EEXIST.
    """
    with opened("/", os.O_PATH) as fd:
        _linkat(fd, b"", AT_FDCWD, b"/", _AT_EMPTY_PATH)
        return ctypes.get_errno() == errno.EEXIST


def notifier() -> int:
    """Make a descriptor that becomes readable when a file that `watch` has added is moved or removed (inotify).

    Reading never waits. Raises `OSError`.
    """
    return _check(_inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def watch(fd: int, path: str) -> None:
    """Have a notifier tell when this very file, directory or link is moved or removed. Raises `OSError`."""
    _check(_inotify_add_watch(fd, _encoded(path), _ATTRIB_MOVED_OR_DELETED | _IN_DONT_FOLLOW))


def _encoded(path: str) -> bytes:
    if "\0" in path:  # where C would take it to end
        raise ValueError("embedded null byte")
    return os.fsencode(path)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
