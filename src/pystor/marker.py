"""The marker: a file that tells a storage from the empty mount point below it, and one disk from another."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from typing import Final, TypeAlias

from pystor import posix
from pystor.mounts import is_mount

HOME: Final = ".stor"
"""The dot-directory of a storage: everything that is kept beside the blobs lies in it."""

NAME: Final = f"{HOME}/storage.json"
"""The marker file, below the storage's root."""

_LONGEST: Final = 64 << 10
"""Bytes that are read of it. It has two hundred; what is longer is no marker, and may be as long as the disk."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The identity of a storage, as its marker file holds it."""

    id: str
    """Random; made when the storage was adopted."""
    replica_set: str
    """The same for all storages of one replica set: who misses a marker that its peers know is not new."""
    own_device: bool
    """Whether the storage was a mount of its own when it was adopted, and must be one from then on."""


Sign: TypeAlias = tuple[int, int, int]
"""Device, inode and ctime of the file or directory by which a storage is recognised: its marker, or its root.

They stay the same as long as it is the same storage, in the same place.
"""


def sign(path: str | int, dir_fd: int | None = None) -> Sign:
    """Look at the file or directory, which may be open, by which a storage is recognised. Raises `OSError`."""
    info = os.stat(path, dir_fd=dir_fd)
    return info.st_dev, info.st_ino, info.st_ctime_ns


class Homes:
    """Where the disks of several storages are: one disk that is mounted in two places is one copy, and not two."""

    def __init__(self) -> None:
        self._paths: Final[dict[tuple[int, int], str]] = {}

    def claim(self, path: str, seen: Sign) -> str | None:
        """Note a storage's sign; returns the path of another storage that has the same one. Raises `OSError`."""
        key = seen[:2]
        other = self._paths.setdefault(key, path)
        if other != path:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if sign(other)[:2] == key:
                    return other
            self._paths[key] = path  # it is not there any more
        return None


def new_id() -> str:
    """Make an identity that no other storage has."""
    return uuid.uuid4().hex


def read(root: str) -> Marker | None:
    """Read a storage's marker; None when there is none. Raises `OSError`, also for a damaged one."""
    try:
        content = json.loads(_beginning(os.path.join(root, NAME)).decode("utf-8"))
        return Marker(str(content["id"]), str(content["replica_set"]), bool(content["own_device"]))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        refusal = f"Stor's user may not read {NAME}: give it the directory and its {HOME}"
        raise PermissionError(error.errno, refusal) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise OSError(f"the marker {NAME} is damaged: restore it from a backup, or remove and adopt") from error


def _beginning(path: str) -> bytes:
    with posix.opened(path, posix.READ) as fd:
        return os.read(fd, _LONGEST)


def stand_in(root: str) -> Marker | None:
    """Tell the identity of a disk that is mounted read-only, so that it takes no marker: its device and its root.

    None for anything else. Raises `OSError`.
    """
    if not is_mount(root) or not os.statvfs(root).f_flag & os.ST_RDONLY:
        return None
    device, inode, _ = sign(root)
    identity = f"{device:x}:{inode:x}"
    return Marker(identity, identity, own_device=True)


def write(root: str, marker: Marker) -> None:
    """Mark a storage: the file appears whole and is on stable storage when this returns. Raises `OSError`."""
    os.makedirs(os.path.join(root, HOME), mode=0o700, exist_ok=True)
    with posix.opened(os.path.join(root, HOME)) as home_fd:
        temporary = f"storage.json.{new_id()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=home_fd)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(asdict(marker), file)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, "storage.json", src_dir_fd=home_fd, dst_dir_fd=home_fd)
        os.fsync(home_fd)
    with posix.opened(root) as root_fd:
        os.fsync(root_fd)
