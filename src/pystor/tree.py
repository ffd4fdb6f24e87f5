"""The directories of a storage: those of its blobs, and those beside them; how they are made and made durable."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Final

from pystor import marker, posix
from pystor.blob import Fingerprint, QueueName
from pystor.digest import Digest
from pystor.temporary import TEMPORARIES

QUARANTINE: Final = f"{marker.HOME}/quarantine"
QUEUES: Final[dict[QueueName, str]] = {"mirror": f"{marker.HOME}/mirror", "repair": f"{marker.HOME}/repair"}

_OWN: Final = (TEMPORARIES, QUARANTINE, *QUEUES.values())
_TRIED: Final = f"{TEMPORARIES}/tried"
_BRANCH: Final = re.compile(r"[0-9A-F]{2}")
_FRESH: Final = 600.0
"""Seconds. A directory that changed longer ago than this was written out since, by who changed it or by the kernel."""


def make_directory(directory: str, root_fd: int, made: set[str]) -> bool:
    """Make a directory below a root, and what is missing above it, and note what was `made`.

    False if it is there already, maybe by another upload, just now. Raises `OSError`.
    """
    above = directory.rpartition("/")[0]
    while True:
        try:
            os.mkdir(directory, dir_fd=root_fd)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not above:
                raise  # the root itself is gone, or what is above is a link that leads nowhere
            make_directory(above, root_fd, made)
            above = ""
        else:
            made.add(directory)
            return True


def takes_names(root_fd: int) -> bool:
    """Tell whether directories may be made in a root at all."""
    return _may_change(".", root_fd)


def _may_change(directory: str, dir_fd: int | None = None) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, dir_fd=dir_fd, effective_ids=True)


def refuse_foreign(root: str) -> None:
    """See that names may be made in Stor's own directories, and in those of blobs right below a root.

    Raises `OSError` with the name of the first one in which they may not: it may be another user's.
    """
    own = [name for name in _OWN if os.path.lexists(f"{root}/{name}")]
    for name in (*own, *sorted(filter(_BRANCH.fullmatch, os.listdir(root)))):
        directory = f"{root}/{name}"
        if not _may_change(directory):
            number = errno.EACCES if os.path.isdir(directory) else errno.ENOTDIR
            raise OSError(number, os.strerror(number), name)


def takes_changes(root_fd: int) -> bool:
    """Tell whether a storage can be changed, by making a directory beside its temporaries; a full one counts, too."""
    try:
        try_changes(root_fd)
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return True


def try_changes(root_fd: int) -> None:
    """Make a directory in a directory of the storage's own, and remove it. Raises `OSError`."""
    with contextlib.suppress(FileExistsError):  # by another, who tries now or was killed in it
        os.mkdir(_TRIED, 0o700, dir_fd=root_fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(_TRIED, dir_fd=root_fd)


def sync_way(leaf: str, made: AbstractSet[str], root_fd: int) -> None:
    """Sync a leaf, where a name is new, and each directory above it in which one was `made`. Raises `OSError`.

    Another upload may have made a directory a moment ago and not synced its parent yet: a fresh parent is synced as
    well, whoever changed it.
    """
    changed = True
    for directory in (leaf, leaf[:5], leaf[:2], "."):
        fd = os.open(directory, posix.DIRECTORY, dir_fd=root_fd)
        try:  # without `opened`: who uploads alone comes by four times for each replica
            if changed or _is_fresh(fd):
                os.fsync(fd)
        finally:
            os.close(fd)
        changed = directory in made


def confirm(root: str, digest: Digest) -> None:
    """Sync a replica and the directories on its way, unless it is old enough to be on stable storage anyway.

    Raises `OSError`. Whoever made it may have been killed between giving it its name and syncing that.
    """
    with posix.opened(f"{root}/{digest.path}", posix.READ) as fd:
        if time.time() - os.fstat(fd).st_ctime > _FRESH:
            return
        os.fsync(fd)
    for directory in PurePath(digest.path).parents:
        sync(f"{root}/{directory}")


def _is_fresh(fd: int) -> bool:
    age = time.time() - os.fstat(fd).st_mtime
    return age < _FRESH


def sync(name: str, root_fd: int | None = None) -> None:
    """Sync a directory, below a root if that is given. Raises `OSError`."""
    with posix.opened(name, dir_fd=root_fd) as fd:
        os.fsync(fd)


def leaves(directory: str, failed: Callable[[OSError], None], depth: int = 3) -> Iterator[list[str]]:
    """Go through the directories `AA/BB/CC` below a root, in order, and give the names in each.

    `failed` is told of those that cannot be read.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        failed(error)
        return
    if depth == 0:
        yield names
        return
    for name in filter(_BRANCH.fullmatch, names):
        yield from leaves(f"{directory}/{name}", failed, depth - 1)


def set_aside(digest: Digest, bad: Fingerprint | None, root_fd: int) -> None:
    """Keep what stands under a blob's name in quarantine as well, durably, if it was found bad. Raises `OSError`.

    Nothing is done if nothing stands there any more, or what another upload has put there since.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(QUARANTINE, 0o700, dir_fd=root_fd)  # somebody has tidied up
    try:
        if _is_other(digest.path, bad, root_fd):
            return
        _keep(digest.path, f"{QUARANTINE}/{digest.hex.upper()}.{secrets.token_hex(4)}.dat", bad, root_fd)
    except FileNotFoundError:
        if _is_there(digest.path, root_fd):
            raise
        return
    sync(QUARANTINE, root_fd)
    sync(marker.HOME, root_fd)


def _keep(name: str, kept: str, bad: Fingerprint | None, root_fd: int) -> None:
    try:
        # A second name, so that there is no moment without the first.
        os.link(name, kept, src_dir_fd=root_fd, dst_dir_fd=root_fd, follow_symlinks=False)
    except PermissionError:
        os.rename(name, kept, src_dir_fd=root_fd, dst_dir_fd=root_fd)  # a directory, or another user's file
        return
    if _is_other(kept, bad, root_fd):  # it was replaced in this very moment
        os.unlink(kept, dir_fd=root_fd)


def _is_other(name: str, bad: Fingerprint | None, root_fd: int) -> bool:
    """Tell whether something else has a name than the file that was found bad, or than what could not be opened.

    The file may have become longer since: it is the same.
    """
    if bad is not None:
        info = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        return (info.st_dev, info.st_ino) != bad[:2]
    try:
        fd = os.open(name, posix.READ | os.O_NOFOLLOW, dir_fd=root_fd)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _is_there(name: str, root_fd: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=root_fd, follow_symlinks=False)
        return True
    return False


def prepare(root: str, names: Iterable[str] = _OWN) -> None:
    """Make the directories that are kept beside the blobs, durably, if there are none. Raises `OSError`."""
    missing = [name for name in names if not os.path.isdir(os.path.join(root, name))]
    for name in missing:
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(root, name), 0o700)  # and not what is above: that may be a mount point by now
    if missing:
        sync(os.path.join(root, marker.HOME))


@contextlib.contextmanager
def alone(root_fd: int) -> Iterator[None]:
    """Keep all others, in other processes too, from doing the same with this storage at the same time.

    The lock is that of a directory of Stor's own: the root may be locked by whoever copies or checks the disk.
    """
    with contextlib.ExitStack() as locked:
        with contextlib.suppress(OSError):  # where there are no locks, whoever comes too late gets ENOSPC
            fcntl.flock(locked.enter_context(posix.opened(marker.HOME, dir_fd=root_fd)), fcntl.LOCK_EX)
        yield
