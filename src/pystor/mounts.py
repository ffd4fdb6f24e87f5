"""What is mounted where, as the system's tables have it: disks that are missing, and the types of filesystems."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final, NamedTuple

FSTAB: Final = "/etc/fstab"
"""The system's table of what belongs where."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # how the tables of mounts write white space
_LOCAL_TYPES: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"}
)


def is_mount(root: str) -> bool:
    """Tell whether a directory is a mount of its own. Raises `OSError` when it is not there."""
    here, above = os.stat(root), os.stat(os.path.join(root, os.pardir))
    return here.st_dev != above.st_dev or here.st_ino == above.st_ino


def unmounted(root: str) -> str | None:
    """Tell which directory, on the way to a root, has an entry in the system's table and nothing mounted there.

    None when there is none. Raises `OSError`.
    """
    path = os.path.realpath(root)
    points, way = set(_points()), (path, *map(str, PurePath(path).parents))
    return next((each for each in way if each in points and not _is_mounted(each)), None)


def _is_mounted(point: str) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return is_mount(point)
    return False


def _points() -> Iterator[str]:
    with contextlib.suppress(OSError), open(FSTAB, encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split()
            if len(fields) > 1 and not line.lstrip().startswith("#"):
                yield os.path.normpath(_unescaped(fields[1]))


def is_local(kind: str) -> bool:
    """Tell whether a filesystem of this type lies on a disk of this machine.

    Such a disk answers or fails; it does not wait for a network or for another process.
    """
    return kind in _LOCAL_TYPES


def filesystem_of(root: str) -> str:
    """Tell by the mount table the type of the filesystem in which a directory lies; empty where there is no table.

    Raises `OSError`.
    """
    try:
        above = mounts_above(os.path.realpath(root))
    except FileNotFoundError:  # /proc is not mounted
        return ""
    # What is mounted over something else in the same place comes behind it.
    return max(reversed(above), key=lambda mount: len(mount.point)).kind if above else ""


class Mount(NamedTuple):
    """A line of the mount table."""

    point: str
    """The directory."""
    kind: str
    """The type of the filesystem."""
    line: str
    """All of it, which is another one for whatever is mounted there next."""


def mounts_above(path: str) -> list[Mount]:
    """Give the lines of the mount table for an absolute path and for those above it, none of which is touched.

    Raises `OSError`.
    """
    mounts = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            point = _unescaped(before.split()[4])
            if path == point or path.startswith(point.rstrip("/") + "/"):
                mounts.append(Mount(point, after.split()[0], line))
    return mounts


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), field)
