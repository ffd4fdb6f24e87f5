"""Files without a name: gone with whoever has them open, unless they are given one. Linux: open(2), linkat(2)."""

from __future__ import annotations

import errno
import os
from typing import Final

from pystor import posix

_FLAG: Final = getattr(os, "O_TMPFILE", None) if os.path.isdir("/proc/self/fd") else None
_NONE_THERE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""What a filesystem without such files says; a directory that is not there is told by whatever is tried next."""


def make(directory: str, mode: int, dir_fd: int | None = None) -> int | None:
    """Make a file without a name in the filesystem of a directory; None where there are none. Raises `OSError`.

    Returns a descriptor to write and read.
    """
    if _FLAG is None:
        return None
    try:
        return os.open(directory, _FLAG | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _NONE_THERE:
            raise
        return None


def link(fd: int, path: str, dir_fd: int | None = None) -> bool:
    """Give one its name; False, and nothing is done, if something has that name. Raises `OSError`."""
    try:
        if not posix.link(fd, path, dir_fd):
            # Before Linux 6.10 only root may name a descriptor; the path to it, which leads through a symbolic link,
            # takes twice as long. (Python follows that link if it is given a directory, which is not used here.)
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, dst_dir_fd=dir_fd)
    except FileExistsError:
        return False
    return True
